//! Random requests that a client might send: most of them meant well, some of them not. The same number gives the
//! same request for ever.

use std::fmt::Write as _;

use e2e::random::Random;

/// Draws from `of`.
fn pick<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[random.index(of.len())]
}

fn percent(random: &mut Random, chance: usize) -> bool {
    random.index(100) < chance
}

/// What a request is, for the comparison of its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Shape {
    Get,
    List,
    Watch,
    /// A subresource, a write that is tried dry, a path that is no resource: only the status is compared.
    Other,
}

/// One request, without who sends it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RandomRequest {
    pub(crate) shape: Shape,
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) body: &'static str,
}

impl RandomRequest {
    /// The value of `name` in the query, as sent.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.path.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether the answer acts for another user, as only the API server can judge.
    pub(crate) fn impersonates(&self) -> bool {
        self.headers.iter().any(|(name, _)| *name == "impersonate-user")
    }

    /// The same question in the oldest and plainest words: a list without any option but the selectors.
    pub(crate) fn plain_list(&self) -> String {
        let (path, query) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let kept: Vec<&str> = query.split('&').filter(|pair| pair.contains("Selector=")).collect();
        format!("{}?{}", path.replacen("/watch", "", 1), kept.join("&"))
    }
}

struct Kind {
    prefix: &'static str,
    plural: &'static str,
    namespaced: bool,
    names: &'static [&'static str],
}

const fn kind(
    prefix: &'static str,
    plural: &'static str,
    namespaced: bool,
    names: &'static [&'static str],
) -> Kind {
    Kind { prefix, plural, namespaced, names }
}

const CORE: &str = "/api/v1";

/// What exists in the world of the test, what exists besides, and what does not exist.
const KINDS: [Kind; 18] = [
    kind(CORE, "configmaps", true, &["public", "private", "kube-root-ca.crt"]),
    kind(CORE, "configmaps", true, &["public", "private", "kube-root-ca.crt"]),
    kind(CORE, "secrets", true, &["sealed", "mounted"]),
    kind(CORE, "secrets", true, &["sealed", "mounted"]),
    kind(CORE, "pods", true, &["eyot-lab-node-1", "eyot-lab-node-2", "keeper"]),
    kind(CORE, "services", true, &["kubernetes", "front"]),
    kind(CORE, "serviceaccounts", true, &["default", "reader", "eyot-lab-pod"]),
    kind(CORE, "nodes", false, &["node-1", "node-2"]),
    kind(CORE, "namespaces", false, &["default", "random-a", "random-b"]),
    kind(CORE, "persistentvolumes", false, &["none"]),
    kind("/apis/apps/v1", "deployments", true, &["idle"]),
    kind("/apis/discovery.k8s.io/v1", "endpointslices", true, &["kubernetes"]),
    kind("/apis/coordination.k8s.io/v1", "leases", true, &["node-1", "node-2"]),
    kind("/apis/rbac.authorization.k8s.io/v1", "roles", true, &["reader"]),
    kind("/apis/rbac.authorization.k8s.io/v1", "clusterroles", false, &["cluster-admin", "view"]),
    kind("/apis/random.eyot.test/v1", "widgets", true, &["small", "large"]),
    kind("/apis/random.eyot.test/v1", "gizmos", true, &["small"]),
    kind("/apis/absent.eyot.test/v1", "things", true, &["one"]),
];

const NAMESPACES: [&str; 8] = [
    "default",
    "default",
    "random-a",
    "random-a",
    "random-b",
    "random-b",
    "kube-node-lease",
    "no-such-namespace",
];

/// Paths that name no object of a kind.
const PLACES: [&str; 22] = [
    "/",
    "/api",
    "/api/",
    "/apis",
    "/api/v1",
    "/apis/apps/v1",
    "/apis/random.eyot.test/v1",
    "/apis/absent.eyot.test/v1",
    "/version",
    "/healthz",
    "/livez",
    "/readyz",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/.well-known/openid-configuration",
    "/logs/",
    "/debug/pprof/",
    "/api/v2/pods",
    "/api/v1//pods",
    "/api/v1/namespaces/default/../kube-system/secrets",
    "/api/v1/namespaces/default/%2e%2e/random-a/secrets",
    "/configz",
];

const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json";
const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";

const ACCEPTS: [&str; 12] = [
    "application/json",
    "application/json",
    "application/json",
    "application/json",
    "application/vnd.kubernetes.protobuf,application/json",
    "application/vnd.kubernetes.protobuf,application/json",
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    METADATA_LIST,
    "*/*",
    "application/yaml",
    "image/png",
    "application/json;as=Nothing;v=v1;g=meta.k8s.io",
];

const SELECTORS: [&str; 10] = [
    "labelSelector=side%3Dleft",
    "labelSelector=side!%3Dleft",
    "labelSelector=side%20in%20(left,right)",
    "labelSelector=%3D%3D",
    "fieldSelector=metadata.name%3Dpublic",
    "fieldSelector=metadata.name%3Dsealed",
    "fieldSelector=metadata.namespace%3Drandom-a",
    "fieldSelector=spec.nodeName%3Dnode-1",
    "fieldSelector=spec.nodeName%3Dnode-2",
    "fieldSelector=no.such.field%3D1",
];

const VERSIONS: [&str; 12] = [
    "resourceVersion=0",
    "resourceVersion=0",
    "resourceVersion=0",
    "resourceVersion=1",
    "resourceVersion=10",
    "resourceVersion=0&resourceVersionMatch=NotOlderThan",
    "resourceVersion=1&resourceVersionMatch=NotOlderThan",
    "resourceVersion=0&resourceVersionMatch=Exact",
    "resourceVersion=abc",
    "resourceVersionMatch=Exact",
    "limit=1",
    "limit=500",
];

/// What a liar might add, and what a confused client does.
const HEADERS: [(&str, &str); 6] = [
    ("x-remote-user", "kubernetes-admin"),
    ("x-remote-group", "system:masters"),
    ("impersonate-user", "system:admin"),
    ("impersonate-user", "system:serviceaccount:random-a:reader"),
    ("x-forwarded-for", "127.0.0.1"),
    ("if-none-match", "\"no-such-tag\""),
];

/// The request number `number` of the run `seed`.
pub(crate) fn draw(seed: u64, number: u64) -> RandomRequest {
    let random = &mut Random::new(seed ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let mut request = match random.index(100) {
        0..44 => get(random),
        44..78 => list(random),
        78..83 => watch(random),
        83..89 => place(random),
        89..95 => subresource(random),
        _ => dry_write(random),
    };
    let mut accept = pick(random, &ACCEPTS);
    if accept == METADATA_LIST && request.shape != Shape::List {
        accept = METADATA;
    }
    request.headers.push(("accept", accept));
    if percent(random, 3) {
        request.headers.push(pick(random, &HEADERS));
    }
    request
}

fn read(shape: Shape, path: String) -> RandomRequest {
    RandomRequest { shape, method: "GET", path, headers: Vec::new(), body: "" }
}

fn collection(random: &mut Random, kind: &Kind, prefix: &str) -> String {
    let prefix = format!("{}{prefix}", kind.prefix);
    // A quarter asks for all namespaces at once.
    if !kind.namespaced || percent(random, 25) {
        return format!("{prefix}/{}", kind.plural);
    }
    format!("{prefix}/namespaces/{}/{}", pick(random, &NAMESPACES), kind.plural)
}

fn object(random: &mut Random) -> String {
    let kind = &KINDS[random.index(KINDS.len())];
    let name = if percent(random, 90) { pick(random, kind.names) } else { "no-such-name" };
    if !kind.namespaced {
        return format!("{}/{}/{name}", kind.prefix, kind.plural);
    }
    format!("{}/namespaces/{}/{}/{name}", kind.prefix, pick(random, &NAMESPACES), kind.plural)
}

fn get(random: &mut Random) -> RandomRequest {
    let mut path = object(random);
    if percent(random, 50) {
        path.push_str("?resourceVersion=0");
    } else if percent(random, 4) {
        path.push_str("?resourceVersion=abc");
    }
    read(Shape::Get, path)
}

fn options(random: &mut Random, path: &mut String) {
    if percent(random, 40) {
        write!(path, "&{}", pick(random, &SELECTORS)).expect("a String takes everything");
    }
}

fn list(random: &mut Random) -> RandomRequest {
    let kind = &KINDS[random.index(KINDS.len())];
    let mut path = collection(random, kind, "");
    path.push('?');
    if percent(random, 65) {
        path.push_str(pick(random, &VERSIONS));
    }
    options(random, &mut path);
    match random.index(100) {
        0..2 => path.push_str("&continue=bm90IG91cnM"),
        2..4 => path.push_str("&sendInitialEvents=true"),
        4..6 => path.push_str("&limit=minus-one"),
        _ => {}
    }
    read(Shape::List, path)
}

fn watch(random: &mut Random) -> RandomRequest {
    let kind = &KINDS[random.index(KINDS.len())];
    // The older form with /watch/ in the path means the same.
    let older = percent(random, 15);
    let mut path = collection(random, kind, if older { "/watch" } else { "" });
    path.push_str(if older { "?timeoutSeconds=1" } else { "?watch=true&timeoutSeconds=1" });
    match random.index(10) {
        0..3 => path.push_str("&resourceVersion=0"),
        3 => path.push_str("&resourceVersion=1"),
        4 => path.push_str("&resourceVersion=abc"),
        5..8 => path
            .push_str("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"),
        8 => path.push_str("&sendInitialEvents=true"),
        _ => {}
    }
    options(random, &mut path);
    read(Shape::Watch, path)
}

fn place(random: &mut Random) -> RandomRequest {
    read(Shape::Other, pick(random, &PLACES).to_owned())
}

fn subresource(random: &mut Random) -> RandomRequest {
    let subresource = pick(random, &["status", "log", "scale", "exec", "token", "proxy", "no-such-part"]);
    let path = format!("{}/{subresource}", object(random));
    read(Shape::Other, path)
}

/// Writes change nothing, so that the next request finds the same world: each is tried dry.
fn dry_write(random: &mut Random) -> RandomRequest {
    let json = ("content-type", "application/json");
    let merge = ("content-type", "application/merge-patch+json");
    let namespace = pick(random, &NAMESPACES);
    let (method, path, header, body) = match random.index(5) {
        0 => (
            "POST",
            format!("{CORE}/namespaces/{namespace}/configmaps"),
            json,
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"dry"}}"#,
        ),
        1 => ("PATCH", object(random), merge, r#"{"metadata":{"labels":{"dry":"true"}}}"#),
        2 => ("DELETE", object(random), json, ""),
        3 => (
            "PUT",
            format!("{CORE}/namespaces/{namespace}/configmaps/public"),
            json,
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"public"}}"#,
        ),
        _ => (
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".to_owned(),
            json,
            r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"nonResourceAttributes":{"path":"/","verb":"get"}}}"#,
        ),
    };
    let path = format!("{path}?dryRun=All");
    RandomRequest { shape: Shape::Other, method, path, headers: vec![header], body }
}
