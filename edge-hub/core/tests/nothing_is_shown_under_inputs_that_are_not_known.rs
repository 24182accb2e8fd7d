//! Filters at their edges: before the inputs of filters are known, after they changed between a list of the cloud's and the
//! watch that follows it, and over a restart.

#[path = "support/trees.rs"]
mod trees;

use std::sync::Arc;
use std::time::Duration;

use edge_hub_core::clock::Now;
use edge_hub_core::collection::{
    Collection, CollectionSpec, Envelope, Limits, Lookup, Object, Refusal, Selection,
};
use edge_hub_core::filter::{Chain, Filter, HubAddress, Inputs, NODE_POOL_LABEL, NODE_PORT_LISTEN};
use edge_hub_core::view::{Step, WatchRequest, WatchView, open_filtered};
use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::Format;
use proto_kube::object::{ObjectKey, TypeMeta, scan};
use proto_kube::watch::{EventType, WatchDecoder};
use trees::{message, metadata, text};

fn at(seconds: u64) -> Now {
    Now { monotonic: Duration::from_secs(seconds), unix: Duration::from_secs(1_800_000_000 + seconds) }
}

fn services() -> GroupVersionResource {
    GroupVersionResource::new("", "v1", "services")
}

fn hub() -> Option<HubAddress> {
    Some(HubAddress { host: [169, 254, 2, 1].into(), port: 10261 })
}

fn in_pool(pool: &str) -> Arc<Inputs> {
    let mut inputs = Inputs::new("here", hub());
    let node = message([metadata("", "here", 1, &[(NODE_POOL_LABEL, pool)], &[])]).object(Format::JSON);
    inputs.put(&GroupVersionResource::new("", "v1", "nodes"), Format::JSON, &node).expect("a node");
    Arc::new(inputs)
}

fn pending() -> Arc<Inputs> {
    Arc::new(Inputs::pending("here", hub()))
}

/// A service whose node ports are for one pool.
fn service(name: &str, pool: &str, version: u64) -> Object {
    let meta = metadata("ns", name, version, &[], &[(NODE_PORT_LISTEN, pool)]);
    message([meta, (2, "spec", message([(4, "type", text("NodePort"))]))]).object(Format::JSON)
}

fn api_server(version: u64) -> Object {
    let meta = metadata("default", "kubernetes", version, &[], &[]);
    message([meta, (2, "spec", message([(3, "clusterIP", text("10.96.0.1"))]))]).object(Format::JSON)
}

/// The API server's service, `one` for pool p1 and `two` for pool p2, at version 20.
fn collection() -> Collection {
    collection_of(services(), vec![api_server(11), service("one", "p1", 12), service("two", "p2", 13)])
}

fn collection_of(gvr: GroupVersionResource, objects: Vec<Object>) -> Collection {
    let spec = CollectionSpec {
        gvr,
        namespace: None,
        labels: Default::default(),
        fields: Default::default(),
        format: Format::JSON,
    };
    let mut collection = Collection::new(spec, Limits::default());
    let envelope = Envelope {
        type_meta: TypeMeta::new("v1", "Service"),
        list_kind: "ServiceList".into(),
        columns: None,
    };
    collection.replace(at(0), 20, envelope, objects).expect("the first list");
    collection
}

fn chain(filter: Filter) -> Chain {
    Chain::new(&services(), [filter])
}

fn watch(collection: &Collection, filter: Filter, since: u64) -> Result<WatchView, Refusal> {
    let chain = Chain::new(&collection.spec().gvr, [filter]);
    let request = WatchRequest {
        selection: Selection::default(),
        resource_version: Some(since),
        send_initial_events: None,
        allow_bookmarks: false,
        timeout: Duration::from_secs(3600),
        format: Format::JSON,
    };
    open_filtered(collection, request, chain, at(1))
}

/// What a stream says now: type, name and version. Where nobody knows what a client saw it is told MODIFIED, which it
/// takes for a creation too.
fn words(view: &mut WatchView, collection: &Collection) -> Vec<String> {
    let (mut words, mut decoder) = (Vec::new(), WatchDecoder::new(Format::JSON, 1 << 20));
    while let Step::Frame(frame) = view.poll(collection, at(1)) {
        decoder.push(&frame);
        let event = decoder.next().expect("well formed").expect("whole");
        let meta = scan(Format::JSON, &event.raw).expect("an object");
        words.push(format!("{} {}@{}", event.event_type.as_str(), meta.name, meta.resource_version));
    }
    words
}

#[test]
fn only_what_depends_on_nothing_but_the_hubs_address_is_shown_at_once() {
    let mut collection = collection();
    let isolated = chain(Filter::NodePortIsolation);
    let key = ObjectKey { namespace: "default".into(), name: "kubernetes".into() };
    for inputs in [None, Some(pending())] {
        if let Some(inputs) = &inputs {
            collection.set_filter_inputs(inputs);
        }
        let listed = collection.list_filtered(&Selection::default(), &isolated);
        assert_eq!(listed.err(), Some(Refusal::Incomplete));
        assert_eq!(collection.get_filtered(&key, &isolated).err(), Some(Refusal::Incomplete));
        let exact = collection.state_at_filtered(20, &Selection::default(), &isolated);
        assert_eq!(exact.err(), Some(Refusal::Incomplete));
        assert_eq!(watch(&collection, Filter::NodePortIsolation, 20).err(), Some(Refusal::Incomplete));
    }
    let Lookup::Found(found) =
        collection.get_filtered(&key, &chain(Filter::MasterService)).expect("the address is known")
    else {
        panic!("it is held")
    };
    assert!(found.raw.windows(11).any(|window| window == b"169.254.2.1"));
    let mut kubelet = watch(&collection, Filter::MasterService, 20).expect("the address is known");

    collection.apply(at(1), EventType::Modified, service("one", "p1", 21));
    collection.set_filter_inputs(&in_pool("p1"));
    assert_eq!(words(&mut kubelet, &collection), ["MODIFIED one@21"], "its view is the same as before");
    let listed = collection.list_filtered(&Selection::default(), &isolated).expect("known");
    assert_eq!(listed.objects.len(), 2, "two is hidden");
    // Nobody was shown anything through this filter at 20.
    let refused = watch(&collection, Filter::NodePortIsolation, 20).err();
    assert!(matches!(refused, Some(Refusal::Expired { requested: 20, .. })), "{refused:?}");
    watch(&collection, Filter::NodePortIsolation, 21).expect("known since then");
}

#[test]
fn who_listed_at_the_cloud_is_told_of_a_change_before_its_watch() {
    for noted in [true, false] {
        let mut collection = collection();
        collection.set_filter_inputs(&in_pool("p1"));
        // The cloud's list at 30 went through the filter; the collection has not come that far.
        if noted {
            collection.note_filtered_answer(30);
        }
        collection.set_filter_inputs(&in_pool("p2"));
        let mut view = watch(&collection, Filter::NodePortIsolation, 30).expect("the client waits");
        assert_eq!(words(&mut view, &collection), [""; 0], "ahead of the collection");
        collection.bookmark(at(1), 31);
        let told = words(&mut view, &collection);
        if noted {
            assert_eq!(told, ["DELETED one@30", "MODIFIED two@30"]);
        } else {
            assert_eq!(told, [""; 0], "what came after the change was made under the new inputs");
        }
    }
}

#[test]
fn a_restart_keeps_what_each_client_was_shown() {
    let mut before = collection();
    before.set_filter_inputs(&in_pool("p1"));
    before.bookmark(at(1), 25);
    before.set_filter_inputs(&in_pool("p2"));
    let record = before.filter_inputs_record().expect("a small record");
    let mut after = collection();
    after.bookmark(at(1), 25);
    after.restore_filter_inputs(&record).expect("its own record");
    assert!(!after.set_filter_inputs(&pending()), "what was known counts on");
    let listed = after.list_filtered(&Selection::default(), &chain(Filter::NodePortIsolation));
    assert_eq!(listed.expect("by what was known").objects.len(), 2);
    assert!(!after.set_filter_inputs(&in_pool("p2")), "nothing has changed");
    // This client was cut before the change.
    let mut view = watch(&after, Filter::NodePortIsolation, 22).expect("known");
    assert_eq!(words(&mut view, &after), ["DELETED one@22", "MODIFIED two@22"]);
    for damaged in [&b""[..], b"{}\n", &record[..record.len() / 2]] {
        after.restore_filter_inputs(damaged).expect_err("damaged");
    }
}

#[test]
fn a_record_stays_small_at_the_cost_of_what_is_oldest() {
    let slices = GroupVersionResource::new("discovery.k8s.io", "v1", "endpointslices");
    let mut collections = [collection(), collection_of(slices, Vec::new())];
    let pools = GroupVersionResource::new("apps.openyurt.io", "v1beta2", "nodepools");
    let crowded = |name: &str, nodes: usize| {
        let list: Vec<String> = (0..nodes).map(|node| format!("\"{name}-{node:0>40}\"")).collect();
        let raw = format!(r#"{{"metadata":{{"name":"{name}"}},"status":{{"nodes":[{}]}}}}"#, list.join(","));
        let key = ObjectKey { namespace: "".into(), name: name.into() };
        let object = Object { key, uid: "u".into(), resource_version: 1, raw: raw.into() };
        let mut inputs = (*in_pool(name)).clone();
        inputs.put(&pools, Format::JSON, &object).expect("a pool");
        Arc::new(inputs)
    };
    for collection in &mut collections {
        for (version, name) in [(21, "p1"), (22, "p2"), (23, "p3")] {
            collection.bookmark(at(1), version);
            collection.set_filter_inputs(&crowded(name, 2000));
        }
        let record = collection.filter_inputs_record().expect("the present fits");
        assert!(record.len() <= 256 * 1024, "{}", record.len());
        collection.restore_filter_inputs(&record).expect("its own record");
    }
    let [services, mut slices] = collections;
    watch(&services, Filter::NodePortIsolation, 21)
        .expect("services depend on little, and all of that is kept");
    watch(&slices, Filter::ServiceTopology, 23).expect("the present is known");
    let refused = watch(&slices, Filter::ServiceTopology, 21).err();
    assert!(matches!(refused, Some(Refusal::Expired { .. })), "{refused:?}");
    slices.set_filter_inputs(&crowded("p4", 9000));
    assert_eq!(slices.filter_inputs_record(), None, "too large to be kept");
}
