//! What a node may read without anybody being asked: by fixed rules, and because a pod of its own names it.
//!
//! The API server's Node authorizer decides the same from the same pods (`plugin/pkg/auth/authorizer/node`). It knows one
//! way more, from a pod over its volume claim to the Secrets of a PersistentVolume; that one only the API server walks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto_kube::media_type::{Encoding, Format};
use proto_kube::object::{ObjectKey, TypeMeta, annotation};
use proto_kube::transcode::to_json;
use serde_json::Value;

use crate::access::AccessKey;
use crate::collection::{Collection, Object};

/// Longest JSON that is made of a pod.
const MAX_POD: usize = 16 << 20;
/// The kubelet's copy of a pod that it runs from a file; it may refer to nothing.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A kind of object that a node may read only where a pod of its own names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Named {
    /// `secrets`.
    Secret,
    /// `configmaps`.
    ConfigMap,
}

impl Named {
    /// By the resource's name in the core group.
    #[must_use]
    pub fn of_resource(group: &str, resource: &str) -> Option<Self> {
        match (group, resource) {
            ("", "secrets") => Some(Self::Secret),
            ("", "configmaps") => Some(Self::ConfigMap),
            _ => None,
        }
    }
}

type Names = BTreeSet<(Named, Box<str>)>;

/// What the pods of this node name.
#[derive(Debug, Default)]
pub struct OwnReferences {
    pods: BTreeMap<ObjectKey, (Arc<Object>, Names)>,
    is_known: bool,
}

impl OwnReferences {
    /// Takes over the pods of this node. `is_live`: the collection is followed at this moment; of what may have changed
    /// since nothing is said.
    pub fn update(&mut self, pods: &Collection, is_live: bool) {
        let former = std::mem::take(&mut self.pods);
        self.is_known = is_live && pods.is_complete();
        if !pods.is_complete() {
            return;
        }
        for pod in pods.objects() {
            let known = former.get(&pod.key).filter(|(known, _)| Arc::ptr_eq(known, pod));
            let names = match known {
                Some((_, names)) => Some(names.clone()),
                None => names_of(pods.spec().format, pod),
            };
            // Of a pod that cannot be read nobody can say what it does not name.
            self.is_known &= names.is_some();
            self.pods.insert(pod.key.clone(), (Arc::clone(pod), names.unwrap_or_default()));
        }
    }

    /// Whether a pod of this node is known to name this object.
    #[must_use]
    pub fn names(&self, kind: Named, namespace: &str, name: &str) -> bool {
        let wanted = (kind, Box::from(name));
        self.pods.iter().any(|(key, (_, names))| *key.namespace == *namespace && names.contains(&wanted))
    }

    /// Whether no pod of this node names this object, as of now.
    #[must_use]
    pub fn lacks(&self, kind: Named, namespace: &str, name: &str) -> bool {
        self.is_known && !self.names(kind, namespace, name)
    }

    /// Whether the Node authorizer allows this to node `node`, by fixed rules or for what its pods name.
    #[must_use]
    pub fn allow(&self, node: &str, key: &AccessKey) -> bool {
        let AccessKey::Resource { verb, group, resource, subresource, namespace, name, fields, .. } = key
        else {
            return false;
        };
        let is_read = matches!(&**verb, "get" | "list" | "watch");
        if !is_read || !subresource.is_empty() {
            return false;
        }
        match (&**group, &**resource) {
            ("", "nodes") => **name == *node,
            ("storage.k8s.io", "csinodes") => &**verb == "get" && **name == *node,
            ("", "pods") => &**verb != "get" && fields.strip_prefix("spec.nodeName=") == Some(node),
            ("", "services") | ("storage.k8s.io", "csidrivers") | ("node.k8s.io", "runtimeclasses") => true,
            (group, resource) => Named::of_resource(group, resource)
                .is_some_and(|kind| !name.is_empty() && self.names(kind, namespace, name)),
        }
    }
}

/// `None` for a pod that cannot be read.
fn names_of(format: Format, pod: &Object) -> Option<Names> {
    if annotation(format, &pod.raw, MIRROR).ok()?.is_some() {
        return Some(Names::new());
    }
    let json = match format.encoding {
        Encoding::Json => pod.raw.to_vec(),
        Encoding::Protobuf => to_json(&TypeMeta::new("v1", "Pod"), &pod.raw, MAX_POD).ok()?,
    };
    let pod: Value = serde_json::from_slice(&json).ok()?;
    Some(names_in(&pod["spec"]))
}

/// As `VisitPodSecretNames` and `VisitPodConfigmapNames` find them.
fn names_in(spec: &Value) -> Names {
    let mut found = Names::new();
    let mut note = |kind: Named, name: &Value| {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            found.insert((kind, name.into()));
        }
    };
    for secret in array(&spec["imagePullSecrets"]) {
        note(Named::Secret, &secret["name"]);
    }
    for volume in array(&spec["volumes"]) {
        note(Named::Secret, &volume["secret"]["secretName"]);
        note(Named::Secret, &volume["azureFile"]["secretName"]);
        note(Named::Secret, &volume["csi"]["nodePublishSecretRef"]["name"]);
        for plugin in ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
            note(Named::Secret, &volume[plugin]["secretRef"]["name"]);
        }
        note(Named::ConfigMap, &volume["configMap"]["name"]);
        for source in array(&volume["projected"]["sources"]) {
            note(Named::Secret, &source["secret"]["name"]);
            note(Named::ConfigMap, &source["configMap"]["name"]);
        }
    }
    for container in
        ["containers", "initContainers", "ephemeralContainers"].iter().flat_map(|kind| array(&spec[kind]))
    {
        for source in array(&container["envFrom"]) {
            note(Named::Secret, &source["secretRef"]["name"]);
            note(Named::ConfigMap, &source["configMapRef"]["name"]);
        }
        for variable in array(&container["env"]) {
            note(Named::Secret, &variable["valueFrom"]["secretKeyRef"]["name"]);
            note(Named::ConfigMap, &variable["valueFrom"]["configMapKeyRef"]["name"]);
        }
    }
    found
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use proto_kube::gvr::GroupVersionResource;
    use proto_kube::request_info::RequestInfo;
    use proto_kube::selector::{FieldSelector, LabelSelector};
    use serde_json::json;

    use super::*;
    use crate::clock::Now;
    use crate::collection::{CollectionSpec, Envelope, Limits};

    fn pod(name: &str, spec: &Value) -> Object {
        let raw = json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1"}, "spec": spec});
        Object {
            key: ObjectKey { namespace: "ns".into(), name: name.into() },
            uid: name.into(),
            resource_version: 1,
            raw: Bytes::from(raw.to_string()),
        }
    }

    fn pods(objects: Vec<Object>) -> Collection {
        let spec = CollectionSpec {
            gvr: GroupVersionResource::new("", "v1", "pods"),
            namespace: None,
            labels: LabelSelector::default(),
            fields: FieldSelector::parse("spec.nodeName=n1").expect("a selector"),
            format: Format::JSON,
        };
        let mut collection = Collection::new(spec, Limits::default());
        let type_meta = TypeMeta::new("v1", "Pod");
        let envelope = Envelope { type_meta, list_kind: "PodList".into(), columns: None };
        let now = Now { monotonic: Duration::ZERO, unix: Duration::ZERO };
        collection.replace(now, 2, envelope, objects).expect("the first list");
        collection
    }

    #[test]
    fn every_way_in_which_a_pod_names_a_secret_or_a_config_map_counts() {
        let spec = json!({
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"secret": {"secretName": "mounted"}}, {"configMap": {"name": "mounted"}},
                {"csi": {"nodePublishSecretRef": {"name": "csi"}}}, {"azureFile": {"secretName": "azure"}},
                {"rbd": {"secretRef": {"name": "rbd"}}}, {"emptyDir": {}},
                {"projected": {"sources": [{"secret": {"name": "projected"}}, {"configMap": {"name": "projected"}},
                    {"serviceAccountToken": {}}]}},
            ],
            "initContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "init", "key": "k"}}}]}],
            "containers": [{"envFrom": [{"secretRef": {"name": "from"}}, {"configMapRef": {"name": "from"}}],
                "env": [{"name": "PLAIN", "value": "v"}]}],
            "ephemeralContainers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}]}],
        });
        let mut own = OwnReferences::default();
        assert!(!own.lacks(Named::Secret, "ns", "other"), "nothing is known");
        let collection = pods(vec![pod("p", &spec)]);
        own.update(&collection, true);
        for name in ["pull", "mounted", "csi", "azure", "rbd", "projected", "init", "from"] {
            assert!(own.names(Named::Secret, "ns", name), "{name}");
        }
        for name in ["mounted", "projected", "from", "late"] {
            assert!(own.names(Named::ConfigMap, "ns", name), "{name}");
        }
        for (kind, namespace, name) in [
            (Named::Secret, "ns", "late"),
            (Named::ConfigMap, "ns", "pull"),
            (Named::Secret, "other", "pull"),
        ] {
            assert!(own.lacks(kind, namespace, name), "{name}");
        }
        own.update(&collection, false);
        assert!(own.names(Named::Secret, "ns", "pull") && !own.lacks(Named::Secret, "ns", "late"));
        own.update(&pods(Vec::new()), true);
        assert!(own.lacks(Named::Secret, "ns", "pull"), "with its pod the name is gone");
    }

    #[test]
    fn a_mirror_pod_names_nothing_and_one_that_cannot_be_read_leaves_all_open() {
        let mut mirror = pod("m", &json!({"imagePullSecrets": [{"name": "pull"}]}));
        let text = String::from_utf8(mirror.raw.to_vec()).expect("JSON");
        mirror.raw = text
            .replacen(
                "{\"name\":\"m\"",
                &format!("{{\"annotations\":{{\"{MIRROR}\":\"h\"}},\"name\":\"m\""),
                1,
            )
            .into();
        let mut own = OwnReferences::default();
        own.update(&pods(vec![mirror]), true);
        assert!(own.lacks(Named::Secret, "ns", "pull"));
        let mut broken = pod("b", &json!({}));
        broken.raw = Bytes::from_static(b"{\"metadata\":{\"name\":\"b\"},\"spec\":");
        own.update(&pods(vec![broken]), true);
        assert!(!own.lacks(Named::Secret, "ns", "pull"));
    }

    #[test]
    fn a_node_may_read_what_is_its_own() {
        let mut own = OwnReferences::default();
        own.update(&pods(vec![pod("p", &json!({"imagePullSecrets": [{"name": "pull"}]}))]), true);
        let allows = |path: &str, query: &str, fields: &str| {
            let request = RequestInfo::parse("GET", path, Some(query)).expect("a request");
            own.allow("n1", &AccessKey::of(&request, "", fields))
        };
        assert!(allows("/api/v1/nodes/n1", "", "") && !allows("/api/v1/nodes/n2", "", ""));
        assert!(!allows("/api/v1/nodes", "", ""));
        assert!(allows("/api/v1/pods", "watch=1", "spec.nodeName=n1"));
        assert!(!allows("/api/v1/pods", "watch=1", "spec.nodeName=n2"));
        assert!(allows("/api/v1/services", "", "") && !allows("/api/v1/endpoints", "", ""));
        assert!(allows("/api/v1/namespaces/ns/secrets/pull", "", ""));
        assert!(!allows("/api/v1/namespaces/ns/secrets/other", "", ""));
        assert!(!allows("/api/v1/namespaces/ns/secrets", "", ""));
        assert!(!allows("/api/v1/namespaces/ns/configmaps/pull", "", ""));
    }
}
