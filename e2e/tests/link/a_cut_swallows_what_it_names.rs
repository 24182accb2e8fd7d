//! A cut swallows what it names of either family of addresses, and nothing else: one way or both, one port or all, some of
//! a hundred or each.

use e2e::lab::{Cut, Lab, Nodes, Way, real_or_skip};

use crate::rig::{Ends, Links, NODE, Place, SERIES, datagrams, receive, send};

/// The number of the datagram that is sent after the healing: what had not been swallowed came before it.
const LAST: u32 = SERIES;

/// How many of a series pass from one place to the other while `cut` holds.
fn passed(links: &Links, cut: impl FnOnce(u16) -> Cut, from: &Place, to: &Place) -> usize {
    let (sender, receiver) = datagrams(from, to);
    let port = receiver.local_addr().expect("bound").port();
    links.lab.cut_partly(&Nodes::from(NODE), &cut(port)).expect("cut");
    for number in 0..SERIES {
        let sent = sender.send(&number.to_be_bytes()).map(drop);
        // The node's own kernel tells a sender of datagrams that a rule has swallowed one; TCP sends again in silence.
        let refused = sent.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
        assert!(sent.is_ok() || refused, "{sent:?}");
    }
    links.heal();
    send(&sender, LAST..LAST + 1);
    let next = || receive(&receiver, 1)[0];
    let came: Vec<u32> = std::iter::from_fn(|| Some(next()).filter(|number| *number != LAST)).collect();
    assert!(came.is_sorted(), "{came:?}");
    came.len()
}

fn one_family(links: &Links, Ends { cloud, node, other }: &Ends) {
    let all = usize::try_from(SERIES).expect("small");
    for (from, to, way, back) in [(node, cloud, Way::Out, Way::In), (cloud, node, Way::In, Way::Out)] {
        let whole = |way: Way| move |_| Cut { way, ..Cut::default() };
        assert_eq!(passed(links, whole(Way::Both), from, to), 0);
        assert_eq!(passed(links, whole(way), from, to), 0);
        assert_eq!(passed(links, whole(back), from, to), all, "the other way is open");
        assert_eq!(passed(links, |port| Cut { port: Some(port), ..Cut::default() }, from, to), 0);
        assert_eq!(passed(links, |_| Cut { port: Some(1), ..Cut::default() }, from, to), all);
        let half = passed(links, |_| Cut { percent: 50, ..Cut::default() }, from, to);
        eprintln!("{half} of {SERIES} passed a cut of 50 %");
        // All or none, by chance, would be one run in 10^60.
        assert!((1..all).contains(&half), "{half}");
    }
    assert_eq!(passed(links, |_| Cut::default(), other, node), all, "a cut is one from the cloud");
}

#[test]
fn a_cut_swallows_what_it_names() {
    if real_or_skip("a_cut_swallows_what_it_names", false).is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let dir = folder.path().join("lab");
    let links = Links::up(&dir);
    links.families.iter().for_each(|ends| one_family(&links, ends));
    Lab::down(&dir).expect("down");
}
