//! Who may do what: a policy table set by the test, and the rules that nodes have.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::resource::Gvr;
use crate::selector::FieldSelector;
use crate::store::Store;

/// An authenticated caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Principal {
    /// User name.
    pub user: String,
    /// Group names; `system:authenticated` is added by the server.
    pub groups: Vec<String>,
    /// UID, empty for certificates.
    pub uid: String,
    /// Extra attributes (bound pod and node of a token).
    pub extra: Vec<(String, String)>,
}

impl Principal {
    /// A user in some groups.
    #[must_use]
    pub fn new(user: &str, groups: &[&str]) -> Self {
        Self { user: user.into(), groups: groups.iter().map(|g| (*g).into()).collect(), ..Self::default() }
    }

    /// The identity of a node's kubelet.
    #[must_use]
    pub fn node(name: &str) -> Self {
        Self::new(&format!("system:node:{name}"), &["system:nodes"])
    }

    /// The identity of a ServiceAccount.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let group = format!("system:serviceaccounts:{namespace}");
        Self::new(&format!("system:serviceaccount:{namespace}:{name}"), &["system:serviceaccounts", &group])
    }

    /// The node, when this is the identity of a kubelet.
    pub(crate) fn node_name(&self) -> Option<&str> {
        self.groups.iter().any(|g| g == "system:nodes").then(|| self.user.strip_prefix("system:node:"))?
    }

    fn is(&self, subject: &str) -> bool {
        match subject.strip_prefix("group:") {
            Some("system:authenticated") => true,
            Some(group) => self.groups.iter().any(|g| g == group),
            None => subject == "*" || subject == self.user,
        }
    }
}

/// One permission. An empty list of namespaces or names means all of them; `*` stands for any value.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// User name, `group:NAME`, or `*`.
    pub subject: String,
    /// RBAC verbs.
    pub verbs: Vec<String>,
    /// Resources with their subresource: `pods`, `pods/status`, `deployments`, `*`.
    pub resources: Vec<String>,
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// Object names.
    pub names: Vec<String>,
    /// Plain paths; a trailing `*` matches any rest.
    pub paths: Vec<String>,
}

impl Rule {
    /// `subject` may use `verbs` on `resources`, everywhere.
    #[must_use]
    pub fn allow(subject: &str, verbs: &[&str], resources: &[&str]) -> Self {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Self { subject: subject.into(), verbs: owned(verbs), resources: owned(resources), ..Self::default() }
    }

    /// `subject` may GET these plain paths.
    #[must_use]
    pub fn allow_paths(subject: &str, paths: &[&str]) -> Self {
        let mut rule = Self::allow(subject, &["get"], &[]);
        rule.paths = paths.iter().map(|s| (*s).to_owned()).collect();
        rule
    }

    /// Narrow to one namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespaces.push(namespace.into());
        self
    }

    /// Narrow to one name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.names.push(name.into());
        self
    }

    fn permits(&self, attributes: &Attributes) -> bool {
        let any = |list: &[String], value: &str| list.iter().any(|x| x == "*" || x == value);
        if !attributes.principal.is(&self.subject) || !any(&self.verbs, attributes.verb) {
            return false;
        }
        if attributes.gvr.is_none() {
            return self.paths.iter().any(|p| match p.strip_suffix('*') {
                Some(prefix) => attributes.path.starts_with(prefix),
                None => p == attributes.path,
            });
        }
        any(&self.resources, &attributes.resource())
            && (self.namespaces.is_empty() || any(&self.namespaces, attributes.namespace))
            && (self.names.is_empty() || any(&self.names, attributes.name))
    }
}

/// The policy: a table, the node rules, and the roles that every cluster has.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The table.
    pub rules: Vec<Rule>,
}

impl Default for Policy {
    /// What a stock cluster grants, and what Eyot's deployment adds for nodes (issuer discovery, NodePools, NodeBuckets).
    fn default() -> Self {
        let discovery =
            ["/api", "/api/*", "/apis", "/apis/*", "/openapi/*", "/version", "/healthz", "/livez", "/readyz"];
        let issuer = ["/openid/v1/jwks", "/.well-known/openid-configuration"];
        Self {
            rules: vec![
                Rule::allow("group:system:masters", &["*"], &["*"]),
                Rule {
                    paths: vec!["*".into()],
                    verbs: vec!["*".into()],
                    ..Rule::allow("group:system:masters", &[], &[])
                },
                Rule::allow_paths("group:system:authenticated", &discovery),
                Rule::allow("group:system:authenticated", &["create"], &["selfsubjectaccessreviews"]),
                Rule::allow_paths("group:system:serviceaccounts", &issuer),
                Rule::allow_paths("group:system:nodes", &issuer),
                Rule::allow("group:system:nodes", &["get", "list", "watch"], &["nodepools", "nodebuckets"]),
            ],
        }
    }
}

/// What is asked of the authorizer.
pub(crate) struct Attributes<'a> {
    pub(crate) principal: &'a Principal,
    pub(crate) verb: &'a str,
    /// `None` for a plain path.
    pub(crate) gvr: Option<&'a Gvr>,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) fields: &'a FieldSelector,
    pub(crate) path: &'a str,
}

impl Attributes<'_> {
    fn resource(&self) -> String {
        let resource = self.gvr.map_or("", |g| g.resource.as_str());
        if self.subresource.is_empty() { resource.into() } else { format!("{resource}/{}", self.subresource) }
    }

    /// The sentence of a refusal.
    pub(crate) fn refusal(&self) -> String {
        let user = &self.principal.user;
        let Some(gvr) = self.gvr else {
            return format!("forbidden: User {user:?} cannot {} path {:?}", self.verb, self.path);
        };
        let name = if self.name.is_empty() { String::new() } else { format!(" {:?}", self.name) };
        let place = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", self.namespace)
        };
        format!(
            "{}{name} is forbidden: User {user:?} cannot {} resource {:?} in API group {:?} {place}",
            gvr.qualified(),
            self.verb,
            self.resource(),
            gvr.group,
        )
    }
}

impl Policy {
    /// Yes, or no with the authorizer's reason, which is often empty.
    pub(crate) fn decide(&self, attributes: &Attributes, store: &Store) -> Result<(), String> {
        let refused = match attributes.principal.node_name() {
            Some(node) => match node_rules(node, attributes, store) {
                Ok(()) => return Ok(()),
                Err(reason) => reason,
            },
            None => String::new(),
        };
        if self.rules.iter().any(|rule| rule.permits(attributes)) { Ok(()) } else { Err(refused) }
    }
}

/// The node authorizer: own Node, own pods, what those pods refer to, and the common read rules. Who may change which
/// Node and pod is decided at admission.
fn node_rules(node: &str, a: &Attributes, store: &Store) -> Result<(), String> {
    let Some(gvr) = a.gvr else { return Err(String::new()) };
    let read = matches!(a.verb, "get" | "list" | "watch");
    match gvr.resource.as_str() {
        "secrets" | "configmaps" => read_referred(node, &gvr.resource, a, store),
        "persistentvolumeclaims" => get_referred(node, "persistentvolumeclaims", a, store),
        "serviceaccounts" if a.verb == "get" && a.subresource.is_empty() => {
            get_referred(node, "serviceaccounts", a, store)
        }
        "serviceaccounts" => create_token(node, a, store),
        "leases" => own_lease(node, a),
        "csinodes" => own_csi_node(node, a),
        "nodes" => own_node(node, a),
        "pods" => own_pods(node, a, store),
        resource => {
            let allowed = match (resource, a.subresource) {
                ("endpoints" | "persistentvolumes" | "volumeattachments", "") => a.verb == "get",
                ("services" | "csidrivers" | "runtimeclasses", "") => read,
                ("events", "") => matches!(a.verb, "create" | "patch" | "update"),
                ("tokenreviews" | "subjectaccessreviews", "") => a.verb == "create",
                ("certificatesigningrequests", "") => read || a.verb == "create",
                _ => false,
            };
            allow(allowed, String::new)
        }
    }
}

fn allow(allowed: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if allowed { Ok(()) } else { Err(reason()) }
}

fn related(node: &str, resource: &str, a: &Attributes, store: &Store) -> Result<(), String> {
    if a.name.is_empty() {
        return Err("No Object name found".into());
    }
    allow(refers(node, resource, a, store), || unrelated(node))
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn read_referred(node: &str, resource: &str, a: &Attributes, store: &Store) -> Result<(), String> {
    if !matches!(a.verb, "get" | "list" | "watch") {
        return Err("can only read resources of this type".into());
    }
    if !a.subresource.is_empty() {
        return Err("cannot read subresource".into());
    }
    if a.namespace.is_empty() {
        return Err("can only read namespaced object of this type".into());
    }
    related(node, resource, a, store)
}

fn get_referred(node: &str, resource: &str, a: &Attributes, store: &Store) -> Result<(), String> {
    if a.verb != "get" {
        return Err("can only get individual resources of this type".into());
    }
    if !a.subresource.is_empty() {
        return Err("cannot get subresource".into());
    }
    related(node, resource, a, store)
}

fn create_token(node: &str, a: &Attributes, store: &Store) -> Result<(), String> {
    if a.verb != "create" || a.name.is_empty() {
        return Err("can only create tokens for individual service accounts".into());
    }
    if a.subresource != "token" {
        return Err("can only create token subresource of service account".into());
    }
    allow(refers(node, "serviceaccounts", a, store), || unrelated(node))
}

fn own_lease(node: &str, a: &Attributes) -> Result<(), String> {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".into());
    }
    if a.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".into());
    }
    allow(a.verb == "create" || a.name == node, || {
        "can only access node lease with the same name as the requesting node".into()
    })
}

fn own_csi_node(node: &str, a: &Attributes) -> Result<(), String> {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".into());
    }
    allow(a.verb == "create" || a.name == node, || {
        "can only access CSINode with the same name as the requesting node".into()
    })
}

fn own_node(node: &str, a: &Attributes) -> Result<(), String> {
    match (a.subresource, a.verb, a.name) {
        ("", "create" | "update" | "patch", _) | ("status", "update" | "patch", _) => Ok(()),
        ("", "get" | "list" | "watch", "") => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch", name) => {
            allow(name == node, || format!("node '{node}' cannot read '{name}', only its own Node object"))
        }
        _ => Err(String::new()),
    }
}

fn own_pods(node: &str, a: &Attributes, store: &Store) -> Result<(), String> {
    match (a.subresource, a.verb) {
        ("", "get") => allow(is_own_pod(node, a, store), || unrelated(node)),
        ("", "list" | "watch") => {
            let named = !a.name.is_empty() && is_own_pod(node, a, store);
            allow(a.fields.required("spec.nodeName") == Some(node) || named, || {
                "can only list/watch pods with spec.nodeName field selector".into()
            })
        }
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
        _ => Err(String::new()),
    }
}

fn is_own_pod(node: &str, a: &Attributes, store: &Store) -> bool {
    let key = (a.namespace.to_owned(), a.name.to_owned());
    store.get(&Gvr::core("pods"), &key).is_some_and(|pod| pod["spec"]["nodeName"] == node)
}

/// Does a pod on the node refer to the object that is asked for?
fn refers(node: &str, resource: &str, a: &Attributes, store: &Store) -> bool {
    store.objects(&Gvr::core("pods")).any(|((namespace, _), pod)| {
        namespace == a.namespace
            && pod["spec"]["nodeName"] == node
            && references(pod).contains(&(resource, a.name.to_owned()))
    })
}

/// (resource, name) of what a pod refers to in its namespace.
fn references(pod: &Value) -> BTreeSet<(&'static str, String)> {
    let spec = &pod["spec"];
    let mut found = BTreeSet::new();
    let mut note = |resource, name: &Value| {
        if let Some(name) = name.as_str() {
            found.insert((resource, name.to_owned()));
        }
    };
    let default_account = Value::from("default");
    note("serviceaccounts", spec.get("serviceAccountName").unwrap_or(&default_account));
    for secret in array(&spec["imagePullSecrets"]) {
        note("secrets", &secret["name"]);
    }
    for volume in array(&spec["volumes"]) {
        note("secrets", &volume["secret"]["secretName"]);
        note("configmaps", &volume["configMap"]["name"]);
        note("persistentvolumeclaims", &volume["persistentVolumeClaim"]["claimName"]);
        for source in array(&volume["projected"]["sources"]) {
            note("secrets", &source["secret"]["name"]);
            note("configmaps", &source["configMap"]["name"]);
        }
    }
    for container in array(&spec["containers"]).chain(array(&spec["initContainers"])) {
        for source in array(&container["envFrom"]) {
            note("secrets", &source["secretRef"]["name"]);
            note("configmaps", &source["configMapRef"]["name"]);
        }
        for variable in array(&container["env"]) {
            note("secrets", &variable["valueFrom"]["secretKeyRef"]["name"]);
            note("configmaps", &variable["valueFrom"]["configMapKeyRef"]["name"]);
        }
    }
    found
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask(policy: &Policy, store: &Store, verb: &str, resource: &str, name: &str, fields: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let gvr = Gvr::core(resource);
        let fields = FieldSelector::parse(fields).unwrap();
        let principal = Principal::node("n1");
        let decided = policy.decide(
            &Attributes {
                principal: &principal,
                verb,
                gvr: Some(&gvr),
                subresource,
                namespace: "ns",
                name,
                fields: &fields,
                path: "",
            },
            store,
        );
        decided.is_ok()
    }

    #[test]
    fn a_node_reads_its_own_and_what_its_pods_refer_to() {
        let (policy, mut store) = (Policy::default(), Store::default());
        let pod = json!({"spec": {"nodeName": "n1", "volumes": [{"secret": {"secretName": "used"}}]}});
        store.put(&Gvr::core("pods"), ("ns".into(), "p".into()), pod);
        store.put(&Gvr::core("pods"), ("ns".into(), "other".into()), json!({"spec": {"nodeName": "n2"}}));
        assert!(ask(&policy, &store, "watch", "nodes", "n1", "metadata.name=n1"));
        assert!(!ask(&policy, &store, "list", "nodes", "", ""));
        assert!(ask(&policy, &store, "list", "pods", "", "spec.nodeName=n1"));
        assert!(!ask(&policy, &store, "list", "pods", "", "spec.nodeName=n2"));
        assert!(!ask(&policy, &store, "list", "pods", "", ""));
        assert!(ask(&policy, &store, "get", "secrets", "used", ""));
        assert!(!ask(&policy, &store, "get", "secrets", "unused", ""));
        assert!(!ask(&policy, &store, "list", "secrets", "", ""));
        assert!(ask(&policy, &store, "patch", "pods/status", "p", ""));
        assert!(!ask(&policy, &store, "get", "pods", "other", ""));
        assert!(ask(&policy, &store, "create", "serviceaccounts/token", "default", ""));
        assert!(!ask(&policy, &store, "create", "serviceaccounts/token", "admin", ""));
    }
}
