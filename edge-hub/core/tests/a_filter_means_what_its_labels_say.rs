//! Each filter by the labels and annotations that OpenYurt's users write, in both encodings, and twice: what a filter
//! gave it leaves as it is.

#[path = "support/trees.rs"]
mod trees;
#[path = "support/two_pools.rs"]
mod two_pools;

use edge_hub_core::filter::{
    BUCKET_POOL_LABEL, Chain, DISCARD, Filter, Inputs, NODE_POOL_LABEL, NODE_PORT_LISTEN, Outcome, Policy,
    Subject, ZONE_LABEL,
};
use edge_hub_core::identity::Principal;
use proptest::prelude::*;
use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::Format;
use proto_kube::object::ObjectKey;
use trees::{Tree, is_same, message, metadata, strings, text};
use two_pools::{EVERYWHERE, FORMATS, asking, bare, core, hub, node, pooled, service, slice, slices};

/// What the filter makes of the object, the same in both encodings and in a second go.
enum Want<'a> {
    Kept,
    Dropped,
    Changed(&'a Tree),
}

fn check(
    why: &str,
    filter: Filter,
    gvr: &GroupVersionResource,
    inputs: &Inputs,
    tree: &Tree,
    want: Want<'_>,
) {
    let chain = Chain::new(gvr, [filter]);
    assert_eq!(chain.filters().collect::<Vec<_>>(), [filter], "{why}: the filter is for this resource");
    for format in FORMATS {
        let object = tree.object(format);
        let subject = Subject { gvr, format, key: &object.key, raw: &object.raw };
        let outcome = chain.apply(inputs, &subject).expect("a good object");
        match (&want, &outcome) {
            (Want::Kept, Outcome::Keep) | (Want::Dropped, Outcome::Drop) => {}
            (Want::Changed(tree), Outcome::Replace(raw)) => {
                assert!(
                    is_same(format.encoding, raw, tree),
                    "{why}: {format:?} {}",
                    String::from_utf8_lossy(raw)
                );
                let again = chain.apply(inputs, &Subject { raw, ..subject }).expect("its own outcome");
                assert_eq!(again, Outcome::Keep, "{why}: {format:?} a second time");
            }
            _ => panic!("{why}: {format:?} gave {outcome:?}"),
        }
    }
}

#[test]
fn the_api_servers_service_leads_to_the_hub() {
    let (gvr, filter) = (core("services"), Filter::MasterService);
    let given = |name, ip, ports: &[(&str, u64)]| service(name, &[], "ClusterIP", ip, ports);
    let name = ("default", "kubernetes");
    let before = given(name, "10.96.0.1", &[("https", 443)]);
    let after = given(name, "169.254.2.1", &[("https", 10268)]);
    check("the service of the API server", filter, &gvr, &bare(), &before, Want::Changed(&after));
    let before = given(name, "10.96.0.1", &[("metrics", 443), ("https", 443)]);
    let after = given(name, "169.254.2.1", &[("metrics", 443), ("https", 10268)]);
    check("only the port https", filter, &gvr, &bare(), &before, Want::Changed(&after));
    check("the hub's own address", filter, &gvr, &bare(), &after, Want::Kept);
    for other in [("default", "web"), ("kube-system", "kubernetes")] {
        let other = given(other, "10.96.0.1", &[("https", 443)]);
        check("another service", filter, &gvr, &bare(), &other, Want::Kept);
    }
    check("no address of the hub", filter, &gvr, &Inputs::new("here", None), &before, Want::Kept);
}

#[test]
fn services_for_the_cloud_only_are_dropped() {
    let (gvr, filter) = (core("services"), Filter::DiscardCloudService);
    let (yes, no): (&[_], &[_]) = (&[(DISCARD, "true")], &[(DISCARD, "false")]);
    let cases = [
        ("discarded", ("ns", "lb"), yes, "LoadBalancer", true),
        ("not discarded", ("ns", "lb"), no, "LoadBalancer", false),
        ("a load balancer", ("ns", "lb"), &[][..], "LoadBalancer", false),
        ("of another type", ("ns", "web"), yes, "ClusterIP", false),
        ("the tunnel's", ("kube-system", "x-tunnel-server-internal-svc"), &[], "ClusterIP", true),
        ("like the tunnel's", ("ns", "x-tunnel-server-internal-svc"), &[], "ClusterIP", false),
    ];
    for (why, name, annotations, kind, dropped) in cases {
        let tree = service(name, annotations, kind, "10.96.0.9", &[]);
        check(why, filter, &gvr, &bare(), &tree, if dropped { Want::Dropped } else { Want::Kept });
    }
}

#[test]
fn node_ports_are_opened_in_the_pools_that_are_named() {
    let (gvr, filter) = (core("services"), Filter::NodePortIsolation);
    for (listen, shown) in [
        ("hangzhou", true),
        ("shanghai", false),
        ("-hangzhou", false),
        ("*", true),
        ("-shanghai,*", true),
        ("-hangzhou,*", false),
        ("*,-hangzhou", false),
        ("-hangzhou,hangzhou", false),
        ("hangzhou, -hangzhou", true),
        (" shanghai , hangzhou ", true),
        ("hangzhou, shanghai", true),
        ("hangzhou, *", true),
        ("-hangzhou,-shanghai", false),
        ("", false),
        (" ", false),
        (",-,", false),
    ] {
        for (kind, isolated) in [("NodePort", true), ("LoadBalancer", true), ("ClusterIP", false)] {
            let tree = service(("ns", "web"), &[(NODE_PORT_LISTEN, listen)], kind, "10.96.0.9", &[]);
            let want = || if shown || !isolated { Want::Kept } else { Want::Dropped };
            check(&format!("{kind} {listen:?}"), filter, &gvr, &pooled(), &tree, want());
            check("outside of all pools", filter, &gvr, &bare(), &tree, Want::Kept);
        }
    }
    let silent = service(("ns", "web"), &[], "NodePort", "10.96.0.9", &[]);
    check("no annotation", filter, &gvr, &pooled(), &silent, Want::Kept);
}

#[test]
fn endpoints_are_as_near_as_their_service_asks() {
    let (gvr, filter) = (slices(), Filter::ServiceTopology);
    let all = slice("web", &EVERYWHERE);
    for (reach, kept) in [
        ("kubernetes.io/hostname", &[0][..]),
        ("openyurt.io/nodepool", &[0, 1]),
        ("kubernetes.io/zone", &[0, 1]),
        ("topology.kubernetes.io/zone", &[0, 2]),
    ] {
        let left: Vec<_> = kept.iter().map(|index| EVERYWHERE[*index]).collect();
        let want = slice("web", &left);
        check(reach, filter, &gvr, &asking(pooled(), reach), &all, Want::Changed(&want));
        let distant = slice("web", &[("10.0.0.4", "lone", "z3")]);
        let empty = slice("web", &[]);
        check(
            "an emptied slice stays",
            filter,
            &gvr,
            &asking(pooled(), reach),
            &distant,
            Want::Changed(&empty),
        );
        // A node outside of all pools and zones reaches itself.
        let own = slice("web", &EVERYWHERE[..1]);
        check("alone", filter, &gvr, &asking(bare(), reach), &all, Want::Changed(&own));
    }
    let twice = [("10.0.0.1", "here", ""), ("10.0.0.2", "near", ""), ("10.0.0.7", "here", "")];
    let near = asking(pooled(), "kubernetes.io/hostname");
    let left = slice("web", &[twice[0], twice[2]]);
    check("two here", filter, &gvr, &near, &slice("web", &twice), Want::Changed(&left));
    check("a key that nobody knows", filter, &gvr, &asking(pooled(), "example.org/rack"), &all, Want::Kept);
    check("a service that asks for nothing", filter, &gvr, &pooled(), &all, Want::Kept);
    let near = asking(pooled(), "kubernetes.io/hostname");
    check("another service's slice", filter, &gvr, &near, &slice("other", &EVERYWHERE), Want::Kept);
}

fn custom(kind: &str, json: &str) -> (GroupVersionResource, edge_hub_core::collection::Object) {
    let raw = bytes::Bytes::copy_from_slice(json.as_bytes());
    let meta = proto_kube::object::scan(Format::JSON, &raw).expect("an object");
    let object = edge_hub_core::collection::Object {
        key: meta.key(),
        uid: "u".into(),
        resource_version: 1,
        raw: raw.clone(),
    };
    (GroupVersionResource::new("apps.openyurt.io", "v1beta2", kind), object)
}

#[test]
fn pools_and_buckets_name_the_nodes_that_are_not_held() {
    let (gvr, filter) = (slices(), Filter::ServiceTopology);
    let all = slice("web", &EVERYWHERE);
    let two = slice("web", &EVERYWHERE[..2]);
    let pool = r#"{"metadata":{"name":"hangzhou"},"status":{"nodes":["here","near"],"readyNodeNum":2}}"#;
    let bucket = format!(
        r#"{{"metadata":{{"name":"b-1","labels":{{"{BUCKET_POOL_LABEL}":"hangzhou"}}}},"nodes":[{{"name":"here"}},{{"name":"near"}}]}}"#
    );
    for (kind, json) in [("nodepools", pool), ("nodebuckets", &bucket)] {
        let mut inputs = asking(bare(), "openyurt.io/nodepool");
        let (source, object) = custom(kind, json);
        inputs.put(&source, Format::JSON, &object).expect("a good object");
        check(kind, filter, &gvr, &inputs, &all, Want::Changed(&two));
        // A node's own label counts first.
        let moved = node("near", &[(NODE_POOL_LABEL, "shanghai")]).object(Format::PROTOBUF);
        inputs.put(&core("nodes"), Format::PROTOBUF, &moved).expect("a node");
        check("moved", filter, &gvr, &inputs, &all, Want::Changed(&slice("web", &EVERYWHERE[..1])));
        inputs.remove(&core("nodes"), &moved.key);
        check("back", filter, &gvr, &inputs, &all, Want::Changed(&two));
        inputs.remove(&source, &object.key);
        check("gone", filter, &gvr, &inputs, &all, Want::Changed(&slice("web", &EVERYWHERE[..1])));
        inputs.remove(&core("services"), &ObjectKey { namespace: "ns".into(), name: "web".into() });
        check("not asked any more", filter, &gvr, &inputs, &all, Want::Kept);
    }
    // A large pool is cut into buckets.
    let mut inputs = asking(bare(), "openyurt.io/nodepool");
    for (name, pool, node) in
        [("b-1", "hangzhou", "here"), ("b-2", "hangzhou", "near"), ("b-3", "shanghai", "far")]
    {
        let json = format!(
            r#"{{"metadata":{{"name":"{name}","labels":{{"{BUCKET_POOL_LABEL}":"{pool}"}}}},"nodes":[{{"name":"{node}"}}]}}"#
        );
        let (source, object) = custom("nodebuckets", &json);
        inputs.put(&source, Format::JSON, &object).expect("a good object");
    }
    check("several buckets", filter, &gvr, &inputs, &all, Want::Changed(&two));
    let (source, broken) = custom("nodepools", r#"{"metadata":{"name":"p"},"status":{"nodes":[1]}}"#);
    let mut inputs = pooled();
    inputs.put(&source, Format::JSON, &broken).expect_err("a name is a string");
    assert_eq!(inputs, pooled(), "what cannot be read changes nothing");
}

#[test]
fn the_api_servers_endpoints_are_the_hub() {
    let (gvr, filter) = (slices(), Filter::ForwardKubeSvcTraffic);
    let given = |namespace: &str, name: &str, family: &str, endpoints: Tree, port: u64| {
        message([
            metadata(namespace, name, 9, &[], &[]),
            (2, "endpoints", endpoints),
            (
                3,
                "ports",
                Tree::List(vec![message([(1, "name", text("https")), (3, "port", Tree::Number(port))])]),
            ),
            (4, "addressType", text(family)),
        ])
    };
    let endpoint = |address: &str| {
        let conditions = message([(1, "ready", Tree::Bool(true))]);
        message([(1, "addresses", Tree::List(vec![text(address)])), (2, "conditions", conditions)])
    };
    let masters = Tree::List(vec![endpoint("10.0.0.1"), endpoint("10.0.0.2")]);
    let before = given("default", "kubernetes", "IPv4", masters.clone(), 6443);
    let after = given("default", "kubernetes", "IPv4", Tree::List(vec![endpoint("169.254.2.1")]), 10268);
    check("three servers", filter, &gvr, &bare(), &before, Want::Changed(&after));
    check("the other family", filter, &gvr, &Inputs::new("here", hub("fd00::2:1")), &before, Want::Kept);
    let six = given("default", "kubernetes", "IPv6", masters.clone(), 6443);
    let after = given("default", "kubernetes", "IPv6", Tree::List(vec![endpoint("fd00::2:1")]), 10268);
    check("IPv6", filter, &gvr, &Inputs::new("here", hub("fd00::2:1")), &six, Want::Changed(&after));
    check(
        "another slice",
        filter,
        &gvr,
        &bare(),
        &given("default", "web", "IPv4", masters, 6443),
        Want::Kept,
    );
}

#[test]
fn kube_proxy_is_told_to_use_its_pods_credential() {
    let (gvr, filter) = (core("configmaps"), Filter::InClusterConfig);
    let given = |namespace: &str, name: &str, file: &str, value: &str| {
        let data = strings(&[("a", "kubeconfig: stays"), (file, value)]);
        message([metadata(namespace, name, 5, &[], &[]), (2, "data", data)])
    };
    let ours = |value| given("kube-system", "kube-proxy", "config.conf", value);
    let before =
        "clientConnection:\n  burst: 0\n  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\n  qps: 0\n";
    let after =
        "clientConnection:\n  burst: 0\n  #kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\n  qps: 0\n";
    check("kubeadm's", filter, &gvr, &bare(), &ours(before), Want::Changed(&ours(after)));
    check("no such line", filter, &gvr, &bare(), &ours("mode: ipvs\n"), Want::Kept);
    for (namespace, name, file) in [
        ("kube-system", "kube-proxy", "kubeconfig.conf"),
        ("kube-system", "coredns", "config.conf"),
        ("ns", "kube-proxy", "config.conf"),
    ] {
        check("another file", filter, &gvr, &bare(), &given(namespace, name, file, before), Want::Kept);
    }
}

#[test]
fn the_hubs_authority_stands_beside_the_clusters() {
    let (gvr, filter) = (core("configmaps"), Filter::RootCertificates);
    let given = |name: &str, key: &str, value: &str| {
        let data = strings(&[("a", "cluster\n"), (key, value)]);
        message([metadata("ns", name, 5, &[], &[]), (2, "data", data)])
    };
    let ours = |value| given("kube-root-ca.crt", "ca.crt", value);
    let known = bare().with_authority(Some("hub\n".into()));
    check("appended", filter, &gvr, &known, &ours("cluster\n"), Want::Changed(&ours("cluster\nhub\n")));
    check("no last line end", filter, &gvr, &known, &ours("cluster"), Want::Changed(&ours("cluster\nhub\n")));
    check("there already", filter, &gvr, &known, &ours("hub\ncluster\n"), Want::Kept);
    check("none of its own", filter, &gvr, &bare(), &ours("cluster\n"), Want::Kept);
    check("another name", filter, &gvr, &known, &given("kube-root", "ca.crt", "cluster\n"), Want::Kept);
    check("another key", filter, &gvr, &known, &given("kube-root-ca.crt", "ca", "cluster\n"), Want::Kept);
}

#[test]
fn explicit_addresses_of_the_api_server_in_a_pod_lead_to_the_hub() {
    let (gvr, filter) = (core("pods"), Filter::ServiceEnvUpdater);
    let variable =
        |(name, value): &(&str, &str)| message([(1, "name", text(name)), (2, "value", text(value))]);
    let container = |env: &[(&str, &str)]| {
        message([(1, "name", text("c")), (7, "env", Tree::List(env.iter().map(variable).collect()))])
    };
    let pod = |containers: Vec<Tree>, init: Vec<Tree>| {
        let spec =
            message([(2, "containers", Tree::List(containers)), (20, "initContainers", Tree::List(init))]);
        message([metadata("ns", "p", 5, &[], &[]), (2, "spec", spec)])
    };
    const HOST: &str = "KUBERNETES_SERVICE_HOST";
    const PORT: &str = "KUBERNETES_SERVICE_PORT";
    let before = container(&[("A", "1"), (HOST, "10.96.0.1"), (PORT, "443")]);
    let after = container(&[("A", "1"), (HOST, "169.254.2.1"), (PORT, "10268")]);
    let host = container(&[(HOST, "10.96.0.1")]);
    let host_after = container(&[(HOST, "169.254.2.1")]);
    let none = container(&[("KUBERNETES_SERVICE_PORT_HTTPS", "443")]);
    let given = pod(vec![before.clone(), none.clone(), host], vec![before]);
    let want = pod(vec![after.clone(), none.clone(), host_after], vec![after.clone()]);
    check("every container", filter, &gvr, &bare(), &given, Want::Changed(&want));
    let port = container(&[("A", "1"), (PORT, "443")]);
    let port_after = container(&[("A", "1"), (PORT, "10268")]);
    let given = pod(vec![port.clone()], vec![]);
    check(
        "the port alone",
        filter,
        &gvr,
        &bare(),
        &given,
        Want::Changed(&pod(vec![port_after.clone()], vec![])),
    );
    check("the hub's own port", filter, &gvr, &bare(), &pod(vec![port_after], vec![]), Want::Kept);
    check("the hub's own address", filter, &gvr, &bare(), &pod(vec![after], vec![]), Want::Kept);
    check("no such variable", filter, &gvr, &bare(), &pod(vec![none], vec![]), Want::Kept);
    check("no containers", filter, &gvr, &bare(), &node("p", &[]), Want::Kept);

    // A reference cannot stand beside a value, and an ephemeral container nests its fields in protobuf only.
    let source = message([(1, "fieldRef", message([(2, "fieldPath", text("status.hostIP"))]))]);
    let referred = message([(1, "name", text(HOST)), (3, "valueFrom", source)]);
    let valued = message([(1, "name", text(HOST)), (2, "value", text("169.254.2.1"))]);
    let debugger = |format: Format, variable: &Tree| {
        let env = (7, "env", Tree::List(vec![variable.clone()]));
        let container = match format {
            Format::PROTOBUF => message([(1, "", message([env])), (2, "targetContainerName", text("c"))]),
            _ => message([env, (2, "targetContainerName", text("c"))]),
        };
        let spec = message([(34, "ephemeralContainers", Tree::List(vec![container]))]);
        message([metadata("ns", "p", 5, &[], &[]), (2, "spec", spec)])
    };
    for format in FORMATS {
        let object = debugger(format, &referred).object(format);
        let subject = Subject { gvr: &gvr, format, key: &object.key, raw: &object.raw };
        let outcome = Chain::new(&gvr, [filter]).apply(&bare(), &subject).expect("a good object");
        let Outcome::Replace(raw) = outcome else { panic!("{format:?}: the reference is replaced") };
        assert!(is_same(format.encoding, &raw, &debugger(format, &valued)), "{format:?}");
    }
}

#[test]
fn noise_is_left_out_and_nothing_else() {
    let condition = |beat: Option<u64>| {
        let mut fields = vec![(1, "type", text("Ready")), (2, "status", text("True"))];
        if let Some(beat) = beat {
            fields.push((3, "lastHeartbeatTime", message([(1, "seconds", Tree::Number(beat))])));
        }
        fields.push((6, "message", text("fine")));
        Tree::Message(fields)
    };
    let node = |beat| {
        let conditions = Tree::List(vec![condition(beat), condition(beat)]);
        message([metadata("", "n", 5, &[], &[]), (3, "status", message([(4, "conditions", conditions)]))])
    };
    let beats = Filter::NodeHeartbeats;
    check("heartbeats", beats, &core("nodes"), &bare(), &node(Some(17)), Want::Changed(&node(None)));
    check("none", beats, &core("nodes"), &bare(), &node(None), Want::Kept);
    // As the API server writes a time that is not set.
    let (gvr, object) = (core("nodes"), node(Some(17)).object(Format::JSON));
    let subject = Subject { gvr: &gvr, format: Format::JSON, key: &object.key, raw: &object.raw };
    let shown = Chain::new(&gvr, [beats]).apply(&bare(), &subject).expect("a node");
    let Outcome::Replace(raw) = shown else { panic!("{shown:?}") };
    assert!(String::from_utf8_lossy(&raw).contains(r#""lastHeartbeatTime":null"#), "{raw:?}");

    let managed = |with: bool| {
        let (number, name, meta) = metadata("ns", "p", 5, &[("app", "a")], &[]);
        let Tree::Message(mut fields) = meta else { panic!("metadata is a message") };
        if with {
            let entry = || message([(1, "manager", text("kubelet")), (2, "operation", text("Update"))]);
            fields.push((17, "managedFields", Tree::List(vec![entry(), entry()])));
        }
        message([(number, name, Tree::Message(fields)), (2, "spec", message([(10, "nodeName", text("n"))]))])
    };
    let filter = Filter::ManagedFields;
    check("managed", filter, &core("pods"), &bare(), &managed(true), Want::Changed(&managed(false)));
    check("unmanaged", filter, &core("pods"), &bare(), &managed(false), Want::Kept);
}

#[test]
fn a_chain_is_chosen_by_who_asks_and_for_what() {
    let policy = Policy::usual("here");
    let account = Principal::service_account;
    let proxy = account("kube-system", "kube-proxy");
    use Filter::*;
    let cases: [(&Principal, GroupVersionResource, &[Filter]); 10] = [
        (&Principal::node("here"), core("services"), &[MasterService]),
        (&Principal::node("here"), core("configmaps"), &[InClusterConfig, RootCertificates]),
        (&Principal::node("here"), core("pods"), &[ServiceEnvUpdater]),
        (&Principal::node("here"), core("secrets"), &[]),
        (&Principal::node("elsewhere"), core("services"), &[]),
        (&proxy, core("services"), &[DiscardCloudService, NodePortIsolation, ManagedFields]),
        (&proxy, slices(), &[ServiceTopology, ForwardKubeSvcTraffic, ManagedFields]),
        (&account("kube-system", "coredns"), slices(), &[ServiceTopology, ManagedFields]),
        (&account("kube-flannel", "flannel"), core("nodes"), &[NodeHeartbeats, ManagedFields]),
        (&account("ns", "kube-proxy"), slices(), &[]),
    ];
    for (principal, gvr, filters) in cases {
        let chain = policy.chain(principal, &gvr);
        assert_eq!(chain.filters().collect::<Vec<_>>(), filters, "{} {gvr}", principal.user);
        let backwards = Chain::new(&gvr, filters.iter().rev().copied());
        assert_eq!(backwards, chain, "the order is the same however it is written");
    }
}

#[test]
fn a_filter_has_nothing_to_do_with_other_kinds() {
    for (gvr, filters) in [
        (
            core("services"),
            vec![Filter::DiscardCloudService, Filter::NodePortIsolation, Filter::MasterService],
        ),
        (slices(), vec![Filter::ServiceTopology, Filter::ForwardKubeSvcTraffic]),
        (core("configmaps"), vec![Filter::InClusterConfig, Filter::RootCertificates]),
        (core("pods"), vec![Filter::ServiceEnvUpdater]),
        (core("nodes"), vec![Filter::NodeHeartbeats]),
        (core("endpoints"), vec![]),
        (GroupVersionResource::new("example.org", "v1", "services"), vec![]),
    ] {
        let chain = Chain::new(&gvr, Filter::ALL);
        let want: Vec<Filter> = filters.into_iter().chain([Filter::ManagedFields]).collect();
        assert_eq!(chain.filters().collect::<Vec<_>>(), want, "{gvr}");
    }
}

#[test]
fn a_pool_by_configuration_counts_before_everything_else() {
    let (gvr, filter) = (core("services"), Filter::NodePortIsolation);
    let tree = service(("ns", "web"), &[(NODE_PORT_LISTEN, "shanghai")], "NodePort", "10.96.0.9", &[]);
    check("by label", filter, &gvr, &pooled(), &tree, Want::Dropped);
    let configured = pooled().with_own_pool(Some("shanghai".into()));
    check("by configuration", filter, &gvr, &configured, &tree, Want::Kept);
    let far = slice("web", &[EVERYWHERE[0], EVERYWHERE[2]]);
    let reach = asking(configured, "openyurt.io/nodepool");
    let all = slice("web", &EVERYWHERE);
    check("its new neighbours", Filter::ServiceTopology, &slices(), &reach, &all, Want::Changed(&far));
}

#[test]
fn what_cannot_be_read_is_not_shown() {
    let gvr = core("services");
    let chain = Chain::new(&gvr, [Filter::DiscardCloudService, Filter::MasterService]);
    let key = ObjectKey { namespace: "default".into(), name: "kubernetes".into() };
    for (format, raw) in [
        (Format::JSON, &br#"{"metadata":{},"spec":{"clusterIP":"#[..]),
        (Format::JSON, br#"{"metadata":{},"spec":7}"#),
        (Format::JSON, br#"{"metadata":{},"spec":{"type":7}}"#),
        (Format::PROTOBUF, b"\x0a\x00\x12\x7f"),
        (Format::PROTOBUF, b"\x0a\x00\x12\x02\x22\x09"),
    ] {
        let subject = Subject { gvr: &gvr, format, key: &key, raw };
        assert!(chain.apply(&bare(), &subject).is_err(), "{format:?} {}", String::from_utf8_lossy(raw));
    }
}

/// A service or a slice that some filter may have to do with.
fn any_object() -> impl Strategy<Value = (GroupVersionResource, Tree)> {
    let name = prop::sample::select(vec![
        ("default", "kubernetes"),
        ("ns", "web"),
        ("kube-system", "x-tunnel-server-internal-svc"),
    ]);
    let annotation = prop::sample::select(vec![
        (DISCARD, "true"),
        (NODE_PORT_LISTEN, "hangzhou"),
        (NODE_PORT_LISTEN, "-hangzhou,*"),
    ]);
    let kind = prop::sample::select(vec!["ClusterIP", "NodePort", "LoadBalancer"]);
    let ports =
        prop::collection::vec((prop::sample::select(vec!["https", "metrics"]), 1..u64::from(u16::MAX)), 0..3);
    let services = (name, annotation, kind, ports).prop_map(|(name, annotation, kind, ports)| {
        (core("services"), service(name, &[annotation], kind, "10.96.0.1", &ports))
    });
    let endpoints = prop::collection::vec(prop::sample::select(EVERYWHERE.to_vec()), 0..6);
    let of_web = endpoints.prop_map(|endpoints| (slices(), slice("web", &endpoints)));
    prop_oneof![services, of_web]
}

fn any_inputs() -> impl Strategy<Value = Inputs> {
    let reach = prop::sample::select(vec!["", "kubernetes.io/hostname", "openyurt.io/nodepool", ZONE_LABEL]);
    (any::<bool>(), reach)
        .prop_map(|(is_pooled, reach)| asking(if is_pooled { pooled() } else { bare() }, reach))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_second_application_changes_nothing((gvr, tree) in any_object(), inputs in any_inputs()) {
        let chain = Chain::new(&gvr, Filter::ALL);
        for format in FORMATS {
            let object = tree.object(format);
            let subject = Subject { gvr: &gvr, format, key: &object.key, raw: &object.raw };
            if let Outcome::Replace(raw) = chain.apply(&inputs, &subject).expect("a good object") {
                let again = chain.apply(&inputs, &Subject { raw: &raw, ..subject });
                prop_assert_eq!(again.expect("its own outcome"), Outcome::Keep);
            }
        }
    }

    #[test]
    fn bytes_from_outside_never_panic(
        (gvr, tree) in any_object(),
        inputs in any_inputs(),
        at in any::<prop::sample::Index>(),
        byte: u8,
        cut: bool,
    ) {
        for format in FORMATS {
            let object = tree.object(format);
            let mut raw = object.raw.to_vec();
            let at = at.index(raw.len());
            raw[at] = byte;
            raw.truncate(if cut { at } else { raw.len() });
            for filter in Filter::ALL {
                let subject = Subject { gvr: &gvr, format, key: &object.key, raw: &raw };
                // Whatever it is, it is said; the assertion is that this returns.
                let _ = Chain::new(&gvr, [filter]).apply(&inputs, &subject);
            }
        }
    }
}
