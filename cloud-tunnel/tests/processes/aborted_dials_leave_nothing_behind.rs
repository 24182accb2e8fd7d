//! Clients that leave at any moment cost nothing afterwards: no stream, no descriptor, no buffer, and not the link.

use std::io::{Read as _, Write as _};

use crate::rig::{Process, Rig, echo, exchange, kubelet, wait_for};

fn descriptors(process: Option<&Process>) -> usize {
    let id = process.expect("it runs").0.id();
    std::fs::read_dir(format!("/proc/{id}/fd")).expect("ours").count()
}

#[test]
fn two_thousand_aborted_dials_leave_nothing_behind() {
    let rig = Rig::linked();
    kubelet(&rig, echo);
    exchange(&mut rig.connected(), "warm\n");
    let counts = || (descriptors(rig.server.as_ref()), descriptors(rig.agent.as_ref()));
    let idle =
        || rig.metric("server.sock", "tunnel_streams") + rig.metric("agent.sock", "tunnel_streams") == 0.0;
    wait_for("the first is gone", || idle().then_some(()));
    let (before, link) = (counts(), rig.link_id());
    for number in 0..2000_u32 {
        let mut client = rig.knock();
        // Some leave in the head, some with the dial under way, some with the answer unread, some in the middle of bytes.
        let head: &[u8] = b"CONNECT node-1:10250 HTTP/1.1\r\n\r\n";
        let part = if number % 4 == 0 { &head[..20] } else { head };
        client.write_all(part).expect("the door is open");
        if number % 4 == 2 {
            client.read_exact(&mut [0; 12]).expect("an answer begins");
        } else if number % 4 == 3 {
            client.write_all(b"bytes behind the head").expect("taken");
            client.read_exact(&mut [0; 30]).expect("the answer, and what comes back");
        }
    }
    wait_for("every stream is gone", || idle().then_some(()));
    wait_for("every descriptor, too", || {
        let now = counts();
        (now.0 <= before.0 && now.1 <= before.1).then_some(())
    });
    assert_eq!(rig.metric("server.sock", "tunnel_buffered_bytes"), 0.0);
    assert_eq!(rig.link_id(), link, "the link stands: {}", rig.log("server"));
    exchange(&mut rig.connected(), "others go on\n");
}
