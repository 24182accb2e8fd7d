//! What the kubelet says of a pod changes the address and the conditions of that pod's endpoints on this node, in both
//! encodings, and nothing else; and it ends when the cloud knows better.

#[path = "support/slices.rs"]
mod slices;
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use edge_hub_core::collection::Object;
use edge_hub_core::overlay::{Amendments, CloudPod, GRACE, PATIENCE, PodMemory, publishes_unready};
use edge_hub_core::record::RecordChange;
use proto_kube::media_type::{Encoding, Form, Format};
use proto_kube::wire;
use slices::{Endpoint, NODE, endpoints, own_pod, slice, status_patch};
use support::{at, key, pod_of_life};

const FORMATS: [Format; 2] = [Format::PROTOBUF, Format::JSON];

fn memory_of(name: &str, ip: Option<&str>, ready: bool) -> PodMemory {
    let mut memory = PodMemory::new(NODE);
    let changes =
        memory.hear(Format::PROTOBUF, &own_pod(name, 5, "10.0.0.1", true), &status_patch(name, ip, ready));
    assert_eq!(changes.expect("a readable patch").len(), 1, "one record of what was said");
    memory
}

fn amendments_of(name: &str, ip: Option<&str>, ready: bool) -> Amendments {
    memory_of(name, ip, ready).amendments(BTreeSet::new())
}

fn endpoint(node: &str, pod: &str, address: &str, ready: bool) -> Endpoint {
    let (node, pod, address) = (node.to_owned(), pod.to_owned(), address.to_owned());
    Endpoint { node, pod, address, ready, serving: ready }
}

fn three(family: &str, format: Format) -> Object {
    let held = [
        endpoint("n2", "a", "10.0.0.1", true),
        endpoint(NODE, "a", "10.0.0.1", true),
        endpoint(NODE, "b", "10.0.0.2", true),
    ];
    slice(format, "s", 9, family, &held, Some("web"))
}

fn shown(amendments: &Amendments, format: Format, slice: &Object) -> Option<Vec<Endpoint>> {
    amendments.amend(format, slice).map(|raw| endpoints(format.encoding, &raw))
}

#[test]
fn a_new_address_and_readiness_reach_the_pods_own_endpoint_alone() {
    for format in FORMATS {
        let amendments = amendments_of("a", Some("10.0.9.9"), false);
        let expected = vec![
            endpoint("n2", "a", "10.0.0.1", true),
            endpoint(NODE, "a", "10.0.9.9", false),
            endpoint(NODE, "b", "10.0.0.2", true),
        ];
        assert_eq!(shown(&amendments, format, &three("IPv4", format)), Some(expected));
    }
}

#[test]
fn each_family_is_told_the_pods_address_of_that_family() {
    let of_both = [endpoint(NODE, "a", "fd00::1", true), endpoint(NODE, "b", "fd00::2", true)];
    let (v4, v6) = ("10.0.9.9", "fd00::99");
    for (ips, shown_v4, shown_v6) in [
        (vec![v4, v6], Some(v4), Some(v6)),
        // The second family may be the first of the pod.
        (vec![v6, v4], Some(v4), Some(v6)),
        (vec![v4], Some(v4), None),
    ] {
        let list: Vec<_> = ips.iter().map(|ip| serde_json::json!({ "ip": ip })).collect();
        let status = serde_json::json!({ "podIP": ips[0], "podIPs": list, "$setElementOrder/podIPs": list });
        let mut patch = serde_json::json!({ "metadata": { "uid": "a" }, "status": status });
        let gone = serde_json::json!({ "$patch": "delete", "ip": "10.0.0.1" });
        patch["status"]["podIPs"].as_array_mut().expect("a list").push(gone);
        let mut memory = PodMemory::new(NODE);
        let held = own_pod("a", 5, "10.0.0.1", true);
        memory.hear(Format::PROTOBUF, &held, patch.to_string().as_bytes()).expect("readable");
        let amendments = memory.amendments(BTreeSet::new());
        for format in FORMATS {
            let of_a = |family: &str, held: &[Endpoint]| {
                let shown = shown(&amendments, format, &slice(format, "s", 9, family, held, Some("web")));
                let shown = shown.expect("amended");
                shown.into_iter().find(|endpoint| endpoint.pod == "a").map(|endpoint| endpoint.address)
            };
            let held_v4 = [endpoint(NODE, "a", "10.0.0.1", true)];
            assert_eq!(of_a("IPv4", &held_v4).as_deref(), shown_v4, "{ips:?}");
            assert_eq!(of_a("IPv6", &of_both).as_deref(), shown_v6, "{ips:?}");
        }
    }
}

#[test]
fn everything_else_of_the_slice_stays_byte_for_byte() {
    for format in FORMATS {
        let mut before = three("IPv4", format);
        if format.encoding == Encoding::Protobuf {
            let mut raw = before.raw.to_vec();
            wire::put_bytes(&mut raw, 200, b"of a later version");
            before.raw = raw.into();
        }
        // The same length, so that no length around it changes either.
        let after = amendments_of("a", Some("10.0.0.7"), true).amend(format, &before).expect("amended");
        let differing = before.raw.iter().zip(&after).filter(|(one, other)| one != other).count();
        assert_eq!((before.raw.len(), differing), (after.len(), 1));
    }
}

#[test]
fn an_endpoint_without_a_pod_behind_it_is_left_out() {
    for format in FORMATS {
        let left = vec![endpoint("n2", "a", "10.0.0.1", true), endpoint(NODE, "b", "10.0.0.2", true)];
        let without_address = amendments_of("a", None, false);
        assert_eq!(shown(&without_address, format, &three("IPv4", format)), Some(left.clone()));
        let mut memory = PodMemory::new(NODE);
        let ended = br#"{"metadata":{"uid":"a"},"status":{"phase":"Succeeded"}}"#;
        memory.hear(Format::PROTOBUF, &own_pod("a", 5, "10.0.0.1", true), ended).expect("readable");
        assert_eq!(shown(&memory.amendments(BTreeSet::new()), format, &three("IPv4", format)), Some(left));
    }
}

#[test]
fn slices_of_names_other_pods_and_other_forms_are_left_alone() {
    for format in FORMATS {
        let amendments = amendments_of("a", Some("10.0.9.9"), true);
        assert_eq!(shown(&amendments, format, &three("FQDN", format)), None);
        assert_eq!(shown(&amendments_of("c", Some("10.0.9.9"), true), format, &three("IPv4", format)), None);
        let metadata = Format { form: Form::PartialMetadata, ..format };
        assert_eq!(amendments.amend(metadata, &three("IPv4", format)), None);
        let said_already = amendments_of("a", Some("10.0.0.1"), false);
        let same = slice(format, "s", 9, "IPv4", &[endpoint(NODE, "a", "10.0.0.1", false)], None);
        assert_eq!(shown(&said_already, format, &same), None);
        let broken = Object { raw: b"\xff{".as_slice().into(), ..three("IPv4", format) };
        assert_eq!(amendments.amend(format, &broken), None);
    }
}

#[test]
fn a_service_that_publishes_unready_addresses_goes_on_to_do_so() {
    let json = |spec: &str| Object {
        raw: format!(r#"{{"metadata":{{}},"spec":{spec}}}"#).into(),
        ..pod_of_life(Format::JSON, "web", 1, "a", 0)
    };
    assert!(publishes_unready(Format::JSON, &json(r#"{"publishNotReadyAddresses":true}"#)));
    assert!(!publishes_unready(Format::JSON, &json(r#"{"publishNotReadyAddresses":false}"#)));
    assert!(!publishes_unready(Format::JSON, &json("{}")));
    let mut spec = Vec::new();
    wire::put_varint_field(&mut spec, 13, 1);
    let mut raw = Vec::new();
    wire::put_bytes(&mut raw, 2, &spec);
    assert!(publishes_unready(Format::PROTOBUF, &Object { raw: raw.into(), ..json("{}") }));
    for format in FORMATS {
        let amendments = memory_of("a", Some("10.0.9.9"), false).amendments([key("ns", "web")].into());
        let shown = shown(&amendments, format, &three("IPv4", format)).expect("amended");
        assert_eq!((shown[1].ready, shown[1].serving), (true, false));
    }
}

#[test]
fn what_the_cloud_writes_after_it_knew_the_pod_counts() {
    let mut memory = memory_of("a", Some("10.0.9.9"), true);
    let unchanged = own_pod("a", 5, "10.0.0.1", true);
    assert!(
        memory
            .compare(at(0), Format::PROTOBUF, |_| Some(CloudPod::Present(Arc::new(unchanged.clone()))))
            .is_empty()
    );
    let told = own_pod("a", 30, "10.0.9.9", true);
    assert_eq!(
        memory.compare(at(0), Format::PROTOBUF, |_| Some(CloudPod::Present(Arc::new(told.clone())))).len(),
        1
    );
    let amendments = memory.amendments(BTreeSet::new());
    for format in FORMATS {
        let older = slice(format, "s", 30, "IPv4", &[endpoint(NODE, "a", "10.0.0.1", true)], None);
        assert!(shown(&amendments, format, &older).is_some(), "written before the cloud knew");
        let newer = |address, ready| {
            let written = slice(format, "s", 31, "IPv4", &[endpoint(NODE, "a", address, ready)], None);
            shown(&amendments, format, &written)
        };
        assert_eq!(newer("10.0.7.7", true), None, "what nobody here has seen");
        assert_eq!(newer("10.0.9.9", true), None);
        // The controller read the pod before it wrote another endpoint of the slice.
        let due = Some(vec![endpoint(NODE, "a", "10.0.9.9", true)]);
        assert_eq!(newer("10.0.0.1", true), due);
        assert_eq!(newer("10.0.9.9", false), due);
    }
}

#[test]
fn the_overlay_ends_some_time_after_the_cloud_knew_or_should_have() {
    let told = own_pod("a", 30, "10.0.9.9", true);
    let mut known = memory_of("a", Some("10.0.9.9"), true);
    let mut unknown = memory_of("a", Some("10.0.9.9"), true);
    for memory in [&mut known, &mut unknown] {
        assert!(
            memory.tick(at(0), false).is_empty() && memory.next_tick().is_none(),
            "nothing ends while cut"
        );
        assert!(memory.tick(at(1000), true).is_empty(), "the time counts from the heal");
    }
    assert_eq!(
        known.compare(at(1005), Format::PROTOBUF, |_| Some(CloudPod::Present(Arc::new(told.clone())))).len(),
        1
    );
    for (memory, due) in [(known, 1005 + GRACE.as_secs()), (unknown, 1000 + PATIENCE.as_secs())] {
        let mut memory = memory;
        assert_eq!(memory.next_tick(), Some(at(due).monotonic));
        assert!(memory.tick(at(due - 1), true).is_empty());
        assert_eq!(memory.tick(at(due), true), [RecordChange::Remove { key: b"a".to_vec() }]);
        assert!(memory.is_empty());
    }
}

#[test]
fn what_was_said_outlives_the_process() {
    let memory = memory_of("a", Some("10.0.9.9"), false);
    let mut next = PodMemory::new(NODE);
    for (uid, value) in memory.records() {
        next.restore(&uid, &value).expect("own record");
    }
    assert_eq!(next.amendments(BTreeSet::new()), memory.amendments(BTreeSet::new()));
    assert!(next.restore(b"a", b"{").is_err());
    let again = status_patch("a", Some("10.0.9.9"), false);
    let again = next.hear(Format::PROTOBUF, &own_pod("a", 5, "10.0.0.1", true), &again);
    assert!(again.expect("readable").is_empty(), "what is known already is not written again");
}

/// The pod of a life `a` at a version; `reason` is what the condition gives as its reason.
fn pod_at(version: u64, ip: &str, ready: bool, reason: &str) -> Arc<Object> {
    let raw = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "ns", "uid": "a", "resourceVersion": version.to_string()},
        "status": {
            "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }, "reason": reason}],
        },
    });
    let (key, raw) = (key("ns", "a"), raw.to_string().into());
    Arc::new(Object { key, uid: "a".into(), resource_version: version, raw })
}

fn show(memory: &PodMemory, version: u64, address: &str, ready: bool) -> Option<Vec<Endpoint>> {
    let held = slice(Format::JSON, "s", version, "IPv4", &[endpoint(NODE, "a", address, ready)], None);
    shown(&memory.amendments(BTreeSet::new()), Format::JSON, &held)
}

#[test]
fn a_pod_that_was_ready_at_the_cut_is_so_until_its_kubelet_says_otherwise() {
    let cloud = |pod: &Arc<Object>| Some(CloudPod::Present(Arc::clone(pod)));
    let ready = |address| Some(vec![endpoint(NODE, "a", address, true)]);
    let mut memory = PodMemory::new(NODE);
    assert!(memory.cut(Format::JSON, &[pod_at(5, "10.0.0.1", true, "")]).is_empty());
    assert!(memory.cut(Format::JSON, &[]).is_empty(), "once in a cut");
    assert_eq!((memory.told(), memory.is_empty(), memory.records().len()), (0, false, 0));
    assert_eq!(show(&memory, 9, "10.0.0.1", true), None, "nothing to change");
    memory.tick(at(100), true);
    // Healed: first what the cloud had written of the node's pods, then what it had before.
    let given_up = pod_at(20, "10.0.0.1", false, "");
    for pod in [&pod_at(5, "10.0.0.1", true, ""), &given_up] {
        memory.compare(at(100), Format::JSON, |_| cloud(pod));
        assert_eq!(show(&memory, 21, "10.0.0.1", false), ready("10.0.0.1"));
    }
    // The kubelet repairs it; a slice may be written by a controller that has not read that yet.
    memory.compare(at(104), Format::JSON, |_| cloud(&pod_at(30, "10.0.0.1", true, "")));
    assert_eq!(show(&memory, 31, "10.0.0.1", false), ready("10.0.0.1"));
    assert_eq!(show(&memory, 32, "10.0.0.1", true), None);
    // Then it is not ready indeed.
    memory.compare(at(105), Format::JSON, |_| cloud(&pod_at(40, "10.0.0.1", false, "ContainersNotReady")));
    assert_eq!(show(&memory, 41, "10.0.0.1", false), None);
    assert_eq!(show(&memory, 39, "10.0.0.1", true), Some(vec![endpoint(NODE, "a", "10.0.0.1", false)]));
    memory.tick(at(104 + GRACE.as_secs()), true);
    assert!(memory.is_empty());
}

/// A patch of the kubelet's reached the cloud as the cut began, and neither its answer nor its event came back. After the heal
/// the watch tells of it first, and only then that the cloud gave the pod up.
#[test]
fn what_the_kubelet_had_told_just_before_the_cut_is_not_taken_for_its_repair_after_it() {
    let cloud = |pod: &Arc<Object>| Some(CloudPod::Present(Arc::clone(pod)));
    let ready = Some(vec![endpoint(NODE, "a", "10.0.0.1", true)]);
    let held = pod_at(5, "10.0.0.1", true, "");
    let mut silent = PodMemory::new(NODE);
    silent.cut(Format::JSON, &[Arc::clone(&held)]);
    // The same, where the kubelet tried again in the cut: what it tells is that its pod is not ready, and is again.
    let mut retried = PodMemory::new(NODE);
    retried.cut(Format::JSON, &[Arc::clone(&held)]);
    for is_ready in [false, true] {
        let told = status_patch("a", Some("10.0.0.1"), is_ready);
        retried.hear(Format::JSON, &held, &told).expect("readable");
    }
    for (mut memory, name) in [(silent, "silent"), (retried, "retried")] {
        memory.tick(at(100), true);
        memory.compare(at(100), Format::JSON, |_| cloud(&pod_at(6, "10.0.0.1", true, "")));
        // The slice that says so may come before its pod, and after.
        assert_eq!(show(&memory, 21, "10.0.0.1", false), ready, "{name}");
        memory.compare(at(100), Format::JSON, |_| cloud(&pod_at(20, "10.0.0.1", false, "")));
        assert_eq!(show(&memory, 21, "10.0.0.1", false), ready, "{name}");
        memory.tick(at(100 + GRACE.as_secs()), true);
        assert!(!memory.is_empty(), "{name}: the repair is waited for");
        memory.compare(at(104), Format::JSON, |_| cloud(&pod_at(30, "10.0.0.1", true, "")));
        assert_eq!(show(&memory, 31, "10.0.0.1", true), None, "{name}");
        memory
            .compare(at(105), Format::JSON, |_| cloud(&pod_at(40, "10.0.0.1", false, "ContainersNotReady")));
        assert_eq!(show(&memory, 41, "10.0.0.1", false), None, "{name}: it is not ready indeed");
    }
}

#[test]
fn a_kubelet_that_says_why_its_pod_is_not_ready_is_believed_at_once_and_an_end_too() {
    let cloud = |pod: &Arc<Object>| Some(CloudPod::Present(Arc::clone(pod)));
    let mut memory = PodMemory::new(NODE);
    memory.cut(Format::JSON, &[pod_at(5, "10.0.0.1", true, "")]);
    memory.tick(at(100), true);
    memory.compare(at(100), Format::JSON, |_| cloud(&pod_at(20, "10.0.0.1", false, "ContainersNotReady")));
    assert_eq!(show(&memory, 21, "10.0.0.1", false), None);
    // One that moved while cut is where its kubelet had it, whatever the cloud gave up.
    let mut moved = memory_of("a", Some("10.0.9.9"), true);
    moved.cut(Format::PROTOBUF, &[]);
    moved.tick(at(100), true);
    let mut given_up =
        serde_json::from_slice::<serde_json::Value>(&pod_at(20, "10.0.0.1", false, "").raw).expect("JSON");
    given_up["metadata"]["deletionTimestamp"] = "2026-11-30T12:00:00Z".into();
    let given_up =
        Object { raw: given_up.to_string().into(), ..(*pod_at(20, "10.0.0.1", false, "")).clone() };
    moved.compare(at(100), Format::JSON, |_| cloud(&pod_at(19, "10.0.0.1", false, "")));
    assert_eq!(show(&moved, 21, "10.0.0.1", false), Some(vec![endpoint(NODE, "a", "10.0.9.9", true)]));
    moved.compare(at(101), Format::JSON, |_| cloud(&Arc::new(given_up.clone())));
    let ending = Endpoint { serving: true, ..endpoint(NODE, "a", "10.0.9.9", false) };
    assert_eq!(show(&moved, 21, "10.0.0.1", false), Some(vec![ending]), "it serves until it has ended");
    moved.tick(at(100 + PATIENCE.as_secs()), true);
    assert!(moved.is_empty(), "a kubelet that never came back is waited for no longer");
}
