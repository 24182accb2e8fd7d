//! A cluster of two pools as filters see it: services, endpoints on nodes of either, and what is known of the nodes.

use edge_hub_core::filter::{HubAddress, Inputs, NODE_POOL_LABEL, TOPOLOGY_KEYS, ZONE_LABEL};
use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::Format;

use crate::trees::{Tree, message, metadata, text};

pub(crate) const FORMATS: [Format; 2] = [Format::JSON, Format::PROTOBUF];

pub(crate) fn core(resource: &str) -> GroupVersionResource {
    GroupVersionResource::new("", "v1", resource)
}

pub(crate) fn slices() -> GroupVersionResource {
    GroupVersionResource::new("discovery.k8s.io", "v1", "endpointslices")
}

pub(crate) fn hub(host: &str) -> Option<HubAddress> {
    Some(HubAddress { host: host.parse().expect("an address"), port: 10268 })
}

/// The hub's node is `here`; nothing else is known.
pub(crate) fn bare() -> Inputs {
    Inputs::new("here", hub("169.254.2.1"))
}

pub(crate) fn service(
    name: (&str, &str),
    annotations: &[(&str, &str)],
    kind: &str,
    ip: &str,
    ports: &[(&str, u64)],
) -> Tree {
    let port = |(name, number): &(&str, u64)| {
        message([(1, "name", text(name)), (2, "protocol", text("TCP")), (3, "port", Tree::Number(*number))])
    };
    let spec = [
        (1, "ports", Tree::List(ports.iter().map(port).collect())),
        (3, "clusterIP", text(ip)),
        (4, "type", text(kind)),
        (18, "clusterIPs", Tree::List(vec![text(ip)])),
        (99, "aFieldOfTomorrow", text("stays")),
    ];
    message([metadata(name.0, name.1, 7, &[], annotations), (2, "spec", message(spec))])
}

pub(crate) fn node(name: &str, labels: &[(&str, &str)]) -> Tree {
    message([metadata("", name, 3, labels, &[])])
}

/// `here` and `near` are in pool `hangzhou`, `far` in `shanghai`, `lone` in none.
pub(crate) fn pooled() -> Inputs {
    let mut inputs = bare();
    for (name, labels) in [
        ("here", &[(NODE_POOL_LABEL, "hangzhou"), (ZONE_LABEL, "z1")][..]),
        ("near", &[(NODE_POOL_LABEL, "hangzhou")]),
        ("far", &[(NODE_POOL_LABEL, "shanghai")]),
        ("lone", &[]),
    ] {
        for format in FORMATS {
            inputs.put(&core("nodes"), format, &node(name, labels).object(format)).expect("a node");
        }
    }
    inputs
}

/// A slice of the service `ns/web` with one endpoint for each (address, node, zone); empty is absent.
pub(crate) fn slice(service: &str, endpoints: &[(&str, &str, &str)]) -> Tree {
    let endpoint = |(address, node, zone): &(&str, &str, &str)| {
        let mut fields = vec![(1, "addresses", Tree::List(vec![text(address)]))];
        if !node.is_empty() {
            fields.push((6, "nodeName", text(node)));
        }
        if !zone.is_empty() {
            fields.push((7, "zone", text(zone)));
        }
        Tree::Message(fields)
    };
    message([
        metadata("ns", "web-x", 9, &[("kubernetes.io/service-name", service)], &[]),
        (2, "endpoints", Tree::List(endpoints.iter().map(endpoint).collect())),
        (3, "ports", Tree::List(vec![message([(1, "name", text("http")), (3, "port", Tree::Number(80))])])),
        (4, "addressType", text("IPv4")),
    ])
}

pub(crate) const EVERYWHERE: [(&str, &str, &str); 6] = [
    ("10.0.0.1", "here", "z1"),
    ("10.0.0.2", "near", "z2"),
    ("10.0.0.3", "far", "z1"),
    ("10.0.0.4", "lone", "z3"),
    ("10.0.0.5", "unknown", ""),
    ("10.0.0.6", "", ""),
];

pub(crate) fn asking(mut inputs: Inputs, reach: &str) -> Inputs {
    let tree = service(("ns", "web"), &[(TOPOLOGY_KEYS, reach)], "ClusterIP", "10.96.0.9", &[]);
    inputs.put(&core("services"), Format::PROTOBUF, &tree.object(Format::PROTOBUF)).expect("a service");
    inputs
}
