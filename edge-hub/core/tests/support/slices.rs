//! EndpointSlices and pods with what the endpoint overlay reads of them, and a reader of its own.
#![allow(dead_code, reason = "each test file uses its own part")]

use bytes::Bytes;
use edge_hub_core::collection::{CollectionSpec, Envelope, Object};
use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::{Encoding, Format};
use proto_kube::object::TypeMeta;
use proto_kube::selector::{FieldSelector, LabelSelector};
use proto_kube::wire;

use super::support::key;

/// The node whose pods are amended; every slice has an endpoint of the same pod on another node, too.
pub(crate) const NODE: &str = "n1";

pub(crate) fn slices(format: Format) -> CollectionSpec {
    CollectionSpec {
        gvr: GroupVersionResource::new("discovery.k8s.io", "v1", "endpointslices"),
        namespace: None,
        labels: LabelSelector::default(),
        fields: FieldSelector::default(),
        format,
    }
}

pub(crate) fn slice_envelope() -> Envelope {
    Envelope {
        type_meta: TypeMeta::new("discovery.k8s.io/v1", "EndpointSlice"),
        list_kind: "EndpointSliceList".into(),
        columns: None,
    }
}

/// An endpoint as far as the overlay has to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) node: String,
    pub(crate) pod: String,
    pub(crate) address: String,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
}

pub(crate) fn slice(
    format: Format,
    name: &str,
    version: u64,
    family: &str,
    endpoints: &[Endpoint],
    service: Option<&str>,
) -> Object {
    let uid = format!("{name}-uid");
    let raw: Bytes = match format.encoding {
        Encoding::Json => {
            let endpoints: Vec<serde_json::Value> = endpoints
                .iter()
                .map(|endpoint| {
                    serde_json::json!({
                        "addresses": [endpoint.address],
                        "conditions": {"ready": endpoint.ready, "serving": endpoint.serving, "terminating": false},
                        "nodeName": endpoint.node,
                        "targetRef": {"kind": "Pod", "namespace": "ns", "uid": endpoint.pod},
                        "zone": "z",
                    })
                })
                .collect();
            let labels = service.map(|service| serde_json::json!({"kubernetes.io/service-name": service}));
            let slice = serde_json::json!({
                "metadata": {
                    "name": name, "namespace": "ns", "uid": uid, "resourceVersion": version.to_string(),
                    "labels": labels,
                },
                "addressType": family,
                "endpoints": endpoints,
                "ports": [{"name": "http", "port": 80}],
            });
            slice.to_string().into()
        }
        Encoding::Protobuf => protobuf_slice(name, &uid, version, family, endpoints, service).into(),
    };
    Object { key: key("ns", name), uid: uid.into(), resource_version: version, raw }
}

fn protobuf_slice(
    name: &str,
    uid: &str,
    version: u64,
    family: &str,
    endpoints: &[Endpoint],
    service: Option<&str>,
) -> Vec<u8> {
    let mut meta = Vec::new();
    wire::put_bytes(&mut meta, 1, name.as_bytes());
    wire::put_bytes(&mut meta, 3, b"ns");
    wire::put_bytes(&mut meta, 5, uid.as_bytes());
    wire::put_bytes(&mut meta, 6, version.to_string().as_bytes());
    if let Some(service) = service {
        let mut label = Vec::new();
        wire::put_bytes(&mut label, 1, b"kubernetes.io/service-name");
        wire::put_bytes(&mut label, 2, service.as_bytes());
        wire::put_bytes(&mut meta, 11, &label);
    }
    let mut out = Vec::new();
    wire::put_bytes(&mut out, 1, &meta);
    for endpoint in endpoints {
        let mut conditions = Vec::new();
        wire::put_varint_field(&mut conditions, 1, endpoint.ready.into());
        wire::put_varint_field(&mut conditions, 2, endpoint.serving.into());
        wire::put_varint_field(&mut conditions, 3, 0);
        let mut target = Vec::new();
        wire::put_bytes(&mut target, 1, b"Pod");
        wire::put_bytes(&mut target, 2, b"ns");
        wire::put_bytes(&mut target, 4, endpoint.pod.as_bytes());
        let mut message = Vec::new();
        wire::put_bytes(&mut message, 1, endpoint.address.as_bytes());
        wire::put_bytes(&mut message, 2, &conditions);
        wire::put_bytes(&mut message, 4, &target);
        wire::put_bytes(&mut message, 6, endpoint.node.as_bytes());
        wire::put_bytes(&mut message, 7, b"z");
        wire::put_bytes(&mut out, 2, &message);
    }
    let mut port = Vec::new();
    wire::put_bytes(&mut port, 1, b"http");
    wire::put_varint_field(&mut port, 3, 80);
    wire::put_bytes(&mut out, 3, &port);
    wire::put_bytes(&mut out, 4, family.as_bytes());
    out
}

/// The endpoints of a slice, read without the code under test.
pub(crate) fn endpoints(encoding: Encoding, raw: &[u8]) -> Vec<Endpoint> {
    match encoding {
        Encoding::Json => {
            let slice: serde_json::Value = serde_json::from_slice(raw).expect("JSON");
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let list = slice["endpoints"].as_array().cloned().unwrap_or_default();
            list.iter()
                .map(|endpoint| Endpoint {
                    node: text(&endpoint["nodeName"]),
                    pod: text(&endpoint["targetRef"]["uid"]),
                    address: text(&endpoint["addresses"][0]),
                    ready: endpoint["conditions"]["ready"].as_bool().expect("ready"),
                    serving: endpoint["conditions"]["serving"].as_bool().expect("serving"),
                })
                .collect()
        }
        Encoding::Protobuf => wire::fields(raw)
            .map(|found| found.expect("well formed"))
            .filter(|found| found.number == 2)
            .map(|found| protobuf_endpoint(found.bytes().expect("a message")))
            .collect(),
    }
}

fn protobuf_endpoint(raw: &[u8]) -> Endpoint {
    let bytes = |message: &[u8], number| -> Vec<u8> {
        let found = wire::last(message, number).expect("well formed");
        found.map(|found| found.bytes().expect("bytes").to_vec()).unwrap_or_default()
    };
    let text = |message: &[u8], number| String::from_utf8(bytes(message, number)).expect("UTF-8");
    let conditions = bytes(raw, 2);
    let flag = |number| {
        let found = wire::last(&conditions, number).expect("well formed").expect("the condition is set");
        found.value == wire::Value::Varint(1)
    };
    Endpoint {
        node: text(raw, 6),
        pod: text(&bytes(raw, 4), 4),
        address: text(raw, 1),
        ready: flag(1),
        serving: flag(2),
    }
}

/// A pod of this node as the cloud has it, in protobuf.
pub(crate) fn own_pod(name: &str, version: u64, ip: &str, ready: bool) -> Object {
    let mut meta = Vec::new();
    wire::put_bytes(&mut meta, 1, name.as_bytes());
    wire::put_bytes(&mut meta, 3, b"ns");
    wire::put_bytes(&mut meta, 5, name.as_bytes());
    wire::put_bytes(&mut meta, 6, version.to_string().as_bytes());
    let mut condition = Vec::new();
    wire::put_bytes(&mut condition, 1, b"Ready");
    wire::put_bytes(&mut condition, 2, if ready { b"True" } else { b"False" });
    let mut address = Vec::new();
    wire::put_bytes(&mut address, 1, ip.as_bytes());
    let mut status = Vec::new();
    wire::put_bytes(&mut status, 1, b"Running");
    wire::put_bytes(&mut status, 2, &condition);
    wire::put_bytes(&mut status, 6, ip.as_bytes());
    wire::put_bytes(&mut status, 12, &address);
    let mut raw = Vec::new();
    wire::put_bytes(&mut raw, 1, &meta);
    wire::put_bytes(&mut raw, 3, &status);
    Object { key: key("ns", name), uid: name.into(), resource_version: version, raw: raw.into() }
}

/// The kubelet's patch of that pod's status.
pub(crate) fn status_patch(name: &str, ip: Option<&str>, ready: bool) -> Vec<u8> {
    let ready = if ready { "True" } else { "False" };
    let ips = ip.map(|ip| serde_json::json!([{"$patch": "replace"}, {"ip": ip}]));
    let patch = serde_json::json!({
        "metadata": {"uid": name},
        "status": {"podIP": ip, "podIPs": ips, "conditions": [{"type": "Ready", "status": ready}]},
    });
    patch.to_string().into_bytes()
}
