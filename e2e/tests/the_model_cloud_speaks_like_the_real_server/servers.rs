//! The two servers that play the script: the model cloud in this process, and etcd with a real kube-apiserver.

use std::fs;
use std::net::TcpListener;
use std::sync::Arc;

use e2e::cloud::CloudControl;
use e2e::cloud::model::Rule;
use e2e::cloud::pki::Authority;
use e2e::lab::{HubKind, Lab, UpOptions, real_or_skip};
use serde_json::json;

use crate::ask::Server;

/// What the ServiceAccount `script/reader` may do: verbs and resources in the namespace `script`.
const READER_VERBS: [&str; 3] = ["get", "list", "watch"];
const READER_RESOURCES: [&str; 2] = ["configmaps", "pods"];

/// The model cloud on a port of its own. Its rights are a table, so the reader's come without RBAC objects.
pub(crate) fn model() -> Server {
    let authority = Authority::new("transcript").expect("an authority");
    let control = CloudControl::start(&authority, &["127.0.0.1"]).expect("a cloud");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = control.listen(listener, 0).expect("a listener");
    let user = "system:serviceaccount:script:reader";
    control.allow(Rule::allow(user, &READER_VERBS, &READER_RESOURCES).in_namespace("script"));
    Server::new(address, &authority, Arc::new(move || control.compact()))
}

/// A real control plane without controllers, so that nobody else writes. It goes down with this value.
pub(crate) struct RealCloud {
    lab: Lab,
    _folder: tempfile::TempDir,
}

impl RealCloud {
    /// `None` after saying why, where the machine lacks something.
    pub(crate) fn start(test: &str) -> Option<Self> {
        real_or_skip(test, false)?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let lab = Lab::up(&UpOptions {
            hub: HubKind::None,
            controllers: false,
            program: Some(env!("CARGO_BIN_EXE_eyot").into()),
            bound_to: Some(i32::try_from(std::process::id()).expect("Linux process ids fit an i32")),
            ..UpOptions::new(folder.path(), 1)
        });
        Some(Self { lab: lab.expect("the control plane starts"), _folder: folder })
    }

    /// How to ask it.
    pub(crate) fn server(&self) -> Server {
        let pki =
            |name: &str| fs::read_to_string(self.lab.dir().join("pki").join(name)).expect("the lab wrote it");
        let authority = Authority::load(&pki("ca.crt"), &pki("ca.key")).expect("the lab's authority");
        let address = self.lab.api_server();
        let address = address.trim_start_matches("https://").parse().expect("a plain address");
        let lab = Lab::open(self.lab.dir()).expect("it stands");
        Server::new(address, &authority, Arc::new(move || lab.forget().expect("the cloud starts again")))
    }

    /// The reader's rights.
    pub(crate) async fn prepare(server: &Server) {
        let group = "rbac.authorization.k8s.io";
        let path = |resource: &str| format!("/apis/{group}/v1/namespaces/script/{resource}");
        let rules = json!([{ "apiGroups": [""], "resources": READER_RESOURCES, "verbs": READER_VERBS }]);
        let role = json!({ "metadata": { "name": "reader" }, "rules": rules });
        server.prepare("POST", &path("roles"), &role).await;
        let subject = json!({ "kind": "ServiceAccount", "name": "reader", "namespace": "script" });
        let binding = json!({ "metadata": { "name": "reader" }, "subjects": [subject],
            "roleRef": { "apiGroup": group, "kind": "Role", "name": "reader" } });
        server.prepare("POST", &path("rolebindings"), &binding).await;
    }
}

impl Drop for RealCloud {
    fn drop(&mut self) {
        if let Err(error) = Lab::down(self.lab.dir()) {
            // The lab is bound to this process and goes with it; a panic here would hide the test's own.
            eprintln!("the control plane did not go down: {error}");
        }
    }
}
