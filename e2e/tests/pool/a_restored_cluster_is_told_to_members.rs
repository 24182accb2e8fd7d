//! After etcd was restored from a backup a coordinator goes on with the restored state, and so do all hubs that it feeds:
//! kube-apiserver says nothing of it on a watch that was opened above its own version.

use std::collections::BTreeMap;

use e2e::cloud::LinkState;
use e2e::cloud::model::Gvr;
use edge_hub::pool::Pool;
use proto::coordinator::{Frame, Said};
use proto_kube::media_type::Format;
use proto_kube::object::scan;
use serde_json::Value;

use crate::rig::{Rig, eventually, run};

/// Versions by name: what a member holds after the frames that it was sent.
#[derive(Default)]
struct Held {
    objects: BTreeMap<String, String>,
    filling: BTreeMap<String, String>,
    rollbacks: usize,
}

impl Held {
    fn take(&mut self, frame: Frame) {
        let named = |raw: &[u8]| {
            let meta = scan(Format::PROTOBUF, raw).expect("an object");
            (meta.key().name.to_string(), meta.resource_version.to_string())
        };
        match frame.said.expect("of this version") {
            Said::Snapshot(part) => {
                self.filling.extend(part.objects.iter().map(|raw| named(raw)));
                if part.last {
                    self.objects = std::mem::take(&mut self.filling);
                }
            }
            Said::Changes(changes) => {
                for change in changes.changes {
                    let (name, version) = named(&change.object);
                    match change.kind() {
                        proto::coordinator::Kind::Deleted => self.objects.remove(&name),
                        _ => self.objects.insert(name, version),
                    };
                }
            }
            Said::Rollback(_) => self.rollbacks += 1,
            Said::Start(_) | Said::Progress(_) => {}
            Said::Refused(refused) => panic!("{refused:?}"),
        }
    }
}

/// The same of the cloud itself.
fn truth(rig: &Rig) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    rig.cloud.look(|cloud| {
        let objects = cloud.store().objects(&Gvr::core("services"));
        objects
            .map(|(_, object)| &object["metadata"])
            .map(|meta| (text(&meta["name"]), text(&meta["resourceVersion"])))
            .collect()
    })
}

async fn restored(while_cut: bool) {
    let mut rig = Rig::new();
    rig.start_coordinator().await;
    let files = rig.pool.issue(rig.path(), "good", "eyot://a/n9");
    let coordinator = rig.dial(&files, "eyot://a/n1");
    let spec = Pool::new("a", Vec::new()).specs()[0].clone();
    let mut stream = coordinator.subscribe(&spec, 0).await.expect("a stream");
    let mut held = Held::default();
    let mut until = async |held: &mut Held, wanted: &BTreeMap<String, String>| {
        while held.objects != *wanted {
            held.take(stream.message().await.expect("it stands").expect("it goes on"));
        }
    };
    until(&mut held, &truth(&rig)).await;
    let backup = rig.cloud.look(|cloud| cloud.store().clone());
    let of_the_backup = truth(&rig);
    rig.put("a", "2");
    rig.put("c", "1");
    rig.remove("b");
    until(&mut held, &truth(&rig)).await;
    if while_cut {
        rig.cloud.set_link(0, LinkState::Refused).await;
    }
    rig.cloud.restore(backup);
    if while_cut {
        rig.cloud.set_link(0, LinkState::Up).await;
    }
    until(&mut held, &of_the_backup).await;
    assert_eq!(held.rollbacks, 1, "told so once");
    // The sequence passes the versions of before; what they stood for never comes back.
    for turn in 3..9 {
        rig.put("a", &turn.to_string());
        until(&mut held, &truth(&rig)).await;
    }
    assert_eq!((held.objects.len(), held.rollbacks), (2, 1));
}

#[test]
fn members_are_told_that_the_cloud_was_set_back_and_what_follows_it() {
    run(async {
        for while_cut in [false, true] {
            restored(while_cut).await;
        }
    });
}

#[test]
fn a_new_connection_costs_the_coordinator_one_small_question_for_each_kind_and_no_list() {
    run(async {
        let rig = Rig::whole().await;
        let mut informer = rig.informer(1);
        informer.until(&[("a", "1"), ("b", "1")]).await;
        let mark = rig.cloud.mark();
        rig.cloud.set_link(0, LinkState::Refused).await;
        rig.cloud.set_link(0, LinkState::Up).await;
        rig.put("a", "2");
        informer.until(&[("a", "2"), ("b", "1")]).await;
        let asked = eventually(async || {
            let [_, asked] = rig.asked(mark);
            (asked.1 >= 8).then_some(asked)
        })
        .await;
        assert_eq!(asked, (0, 8), "a question of at most one object and a watch for each kind");
    });
}

#[test]
fn informers_behind_fed_hubs_see_the_restored_state_and_what_follows_it() {
    run(async {
        let rig = Rig::whole().await;
        let mut informers = [rig.informer(0), rig.informer(1)];
        for informer in &mut informers {
            informer.may_sync_again = true;
            informer.until(&[("a", "1"), ("b", "1")]).await;
        }
        let backup = rig.cloud.look(|cloud| cloud.store().clone());
        rig.put("a", "2");
        rig.put("c", "1");
        rig.remove("b");
        for informer in &mut informers {
            informer.until(&[("a", "2"), ("c", "1")]).await;
        }
        rig.cloud.restore(backup);
        for informer in &mut informers {
            informer.until(&[("a", "1"), ("b", "1")]).await;
        }
        for turn in 3..9 {
            let value = turn.to_string();
            rig.put("a", &value);
            for informer in &mut informers {
                informer.until(&[("a", &value), ("b", "1")]).await;
            }
        }
        assert!(informers.iter().all(|informer| informer.full_syncs == 2), "told once to list again");
        assert_eq!(rig.asked(0)[0].0, 0, "no hub lists");
    });
}
