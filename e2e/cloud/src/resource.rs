//! What the model serves: groups, versions, resources and their kinds; CRDs are added at run time.

use std::collections::BTreeMap;
use std::fmt;

/// Group, version and resource (`apps/v1/deployments`); the core group is the empty string.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvr {
    /// API group, empty for the core group.
    pub group: String,
    /// API version, e.g. `v1`.
    pub version: String,
    /// Plural resource name, e.g. `pods`.
    pub resource: String,
}

impl Gvr {
    /// A GVR from its three parts.
    #[must_use]
    pub fn new(group: &str, version: &str, resource: &str) -> Self {
        Self { group: group.into(), version: version.into(), resource: resource.into() }
    }

    /// A resource of the core group, version v1.
    #[must_use]
    pub fn core(resource: &str) -> Self {
        Self::new("", "v1", resource)
    }

    /// `v1` or `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Served by a definition: groups of the server itself are `""`, one word, or end in `.k8s.io`.
    #[must_use]
    pub fn is_custom(&self) -> bool {
        self.group.contains('.') && !self.group.ends_with(".k8s.io")
    }

    /// `pods` or `deployments.apps`, as error texts name a resource.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.clone()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }
}

impl fmt::Display for Gvr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.resource)
    }
}

/// What the server knows of one resource.
#[derive(Clone, Debug)]
pub struct ResourceKind {
    /// Its group, version and resource.
    pub gvr: Gvr,
    /// Kind of one object.
    pub kind: String,
    /// Objects live in namespaces.
    pub namespaced: bool,
    /// Served as Kubernetes protobuf too (never a CRD).
    pub protobuf: bool,
    /// Has a status subresource.
    pub status: bool,
    /// Only POST, nothing is stored (reviews).
    pub create_only: bool,
    /// What a definition says that tables show between name and age.
    pub columns: Vec<PrinterColumn>,
}

/// One of `additionalPrinterColumns` of a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrinterColumn {
    /// Its heading.
    pub name: String,
    /// `string`, `integer`, or `date`, of which the time since then is shown.
    pub class: String,
    /// JSON pointer to what is shown.
    pub pointer: String,
}

impl PrinterColumn {
    /// A column from its three parts.
    #[must_use]
    pub fn new(name: &str, class: &str, pointer: &str) -> Self {
        Self { name: name.into(), class: class.into(), pointer: pointer.into() }
    }
}

impl ResourceKind {
    /// Objects count the changes of their spec in `metadata.generation`.
    #[must_use]
    pub fn generation(&self) -> bool {
        let kinds = [
            "CustomResourceDefinition",
            "DaemonSet",
            "Deployment",
            "EndpointSlice",
            "NetworkPolicy",
            "Pod",
            "ReplicaSet",
            "StatefulSet",
        ];
        self.gvr.is_custom() || kinds.contains(&self.kind.as_str())
    }

    /// A PUT without a revision is taken: the last write wins.
    #[must_use]
    pub fn unconditional_update(&self) -> bool {
        !self.gvr.is_custom()
            && !matches!(self.kind.as_str(), "Lease" | "CSINode" | "CSIDriver" | "RuntimeClass")
    }

    /// A PUT of an absent object creates it.
    #[must_use]
    pub fn create_on_update(&self) -> bool {
        matches!(self.kind.as_str(), "Lease" | "Endpoints" | "Event" | "Service")
    }

    /// All of them can be deleted at once.
    #[must_use]
    pub fn deletes_collections(&self) -> bool {
        self.kind != "Namespace"
    }

    /// A finished DELETE answers with the object instead of a Status.
    #[must_use]
    pub fn returns_deleted(&self) -> bool {
        let kinds = ["Pod", "Service", "ServiceAccount", "PersistentVolume", "PersistentVolumeClaim"];
        kinds.contains(&self.kind.as_str())
    }

    /// How Go names the type: `core.ConfigMap`.
    #[must_use]
    pub fn go_type(&self) -> String {
        let package = self.gvr.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
        format!("{package}.{}", self.kind)
    }

    /// `PodList` for `Pod`.
    #[must_use]
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }
}

/// All resources, by (group, version, resource).
#[derive(Clone, Debug)]
pub struct Registry {
    kinds: BTreeMap<Gvr, ResourceKind>,
    /// How often a kind was replaced; its watches end then.
    redefined: BTreeMap<Gvr, u64>,
}

/// group, version, resource, kind, flags: n namespaced, p protobuf, s status, c create only.
const BUILT_IN: &[(&str, &str, &str, &str, &str)] = &[
    ("", "v1", "configmaps", "ConfigMap", "np"),
    ("", "v1", "endpoints", "Endpoints", "n"),
    ("", "v1", "events", "Event", "np"),
    ("", "v1", "namespaces", "Namespace", "ps"),
    ("", "v1", "nodes", "Node", "ps"),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", "ns"),
    ("", "v1", "persistentvolumes", "PersistentVolume", "s"),
    ("", "v1", "pods", "Pod", "nps"),
    ("", "v1", "secrets", "Secret", "np"),
    ("", "v1", "serviceaccounts", "ServiceAccount", "n"),
    ("", "v1", "services", "Service", "nps"),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", "s"),
    ("apps", "v1", "daemonsets", "DaemonSet", "ns"),
    ("apps", "v1", "deployments", "Deployment", "ns"),
    ("apps", "v1", "replicasets", "ReplicaSet", "ns"),
    ("apps", "v1", "statefulsets", "StatefulSet", "ns"),
    ("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", "c"),
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", "c"),
    ("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", "c"),
    ("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", "s"),
    ("coordination.k8s.io", "v1", "leases", "Lease", "np"),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", "np"),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", "n"),
    ("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR", "ps"),
    ("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", ""),
    ("storage.k8s.io", "v1", "csidrivers", "CSIDriver", ""),
    ("storage.k8s.io", "v1", "csinodes", "CSINode", ""),
    ("storage.k8s.io", "v1", "storageclasses", "StorageClass", ""),
    ("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", "s"),
];

impl Default for Registry {
    fn default() -> Self {
        let mut registry = Self { kinds: BTreeMap::new(), redefined: BTreeMap::new() };
        for (group, version, resource, kind, flags) in BUILT_IN {
            registry.add(ResourceKind {
                gvr: Gvr::new(group, version, resource),
                kind: (*kind).into(),
                namespaced: flags.contains('n'),
                protobuf: flags.contains('p'),
                status: flags.contains('s'),
                create_only: flags.contains('c'),
                columns: Vec::new(),
            });
        }
        registry
    }
}

impl Registry {
    /// Serve one more resource (a CRD); replaces an entry of the same GVR.
    pub fn add(&mut self, kind: ResourceKind) {
        *self.redefined.entry(kind.gvr.clone()).or_default() += 1;
        self.kinds.insert(kind.gvr.clone(), kind);
    }

    /// Rises with each change of the definition.
    pub(crate) fn definition(&self, gvr: &Gvr) -> u64 {
        self.redefined.get(gvr).copied().unwrap_or_default()
    }

    /// The entry of a GVR.
    #[must_use]
    pub fn find(&self, gvr: &Gvr) -> Option<&ResourceKind> {
        self.kinds.get(gvr)
    }

    /// Any resource of this group.
    #[must_use]
    pub fn serves(&self, group: &str) -> bool {
        self.iter().any(|kind| kind.gvr.group == group)
    }

    /// Every resource, sorted by group, version, resource.
    pub fn iter(&self) -> impl Iterator<Item = &ResourceKind> {
        self.kinds.values()
    }
}
