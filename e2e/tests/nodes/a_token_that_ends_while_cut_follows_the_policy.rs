//! A pod's token that ends while the cloud is away goes on working on its node, as the policy says, until the cloud is
//! back and makes a new one. The clock of the hub is ahead here: no token of an API server ends within ten minutes.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::lab::{HubOptions, NodePart, Nodes};
use serde_json::{Value, json};

use crate::stage::{LIMIT, NODE, Stage};

const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const SERVICES: &str = "/api/v1/namespaces/default/services";
/// Twice the time that a pod's token lasts, in seconds.
const AHEAD: i64 = 2 * 3600;
const SERVE: HubOptions = HubOptions { clock_offset: AHEAD, deny_expired: false };
const DENY: HubOptions = HubOptions { clock_offset: AHEAD, deny_expired: true };

/// Lets the hub know the time again, also after a test that failed: others share the lab.
struct Restarted<'a>(&'a Stage);

impl Drop for Restarted<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The test has failed already, and what it says is what counts.
            let _ = self.0.restart_hub(NODE, &HubOptions::default());
        }
    }
}

fn now_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("a time")
}

fn token_of(stage: &Stage, pod: &str) -> String {
    stage.run_in_pod(NODE, pod, &["cat", TOKEN]).expect("a mounted token").trim().to_owned()
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("a JWT");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64")).expect("claims")
}

/// The pod's own request, through the hub of its node.
fn ask(stage: &Stage, token: &str) -> Result<String, String> {
    let mut kubectl = stage.node_kubectl(NODE, "pod.kubeconfig").expect("kubectl");
    finish(kubectl.args(["--token", token, "get", "--raw", SERVICES]))
}

/// The kubelet's request for the token of `pod`, as it asks it.
fn request_token(stage: &Stage, pod: &str) -> Result<String, String> {
    let pod = stage.cloud_json(&format!("get pod {pod}"));
    let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
        "audiences": [],
        "expirationSeconds": 3607,
        "boundObjectRef": { "kind": "Pod", "apiVersion": "v1",
            "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"] },
    } });
    let file = stage.node_file(NODE, "token-request.json");
    std::fs::write(&file, body.to_string()).expect("written");
    let account = pod["spec"]["serviceAccountName"].as_str().expect("an account");
    let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
    let mut kubectl = stage.node_kubectl(NODE, "kubelet.kubeconfig").expect("kubectl");
    finish(kubectl.args(["create", "--raw", &path, "-f"]).arg(&file))
}

fn finish(command: &mut std::process::Command) -> Result<String, String> {
    let output = command.output().expect("it runs");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn a_pods_token() {
    let Some(stage) = Stage::claim("a_pods_token") else { return };
    let _restarted = Restarted(&stage);
    let (pod, agent) = (stage.pod_of("eyot-lab", NODE), stage.pod_of("agent", NODE));
    let token = token_of(&stage, &pod);
    let end = claims(&token)["exp"].as_i64().expect("an end");
    assert!(end < now_seconds() + AHEAD, "an hour, not extended to a year: {}", claims(&token));
    ask(&stage, &token).expect("before the cut");
    stage.cut(&Nodes::from(NODE)).expect("cut");

    // Served: the pod's own request, and the kubelet's for the token of a container that it starts.
    stage.restart_hub(NODE, &SERVE).expect("ready while cut");
    assert!(stage.log(NODE, NodePart::Hub).expect("a log").contains("the clock is shifted"));
    ask(&stage, &token).expect("its own request with the ended token");
    let (asked, before) = (stage.request_count(NODE), stage.running(NODE));
    stage.restart(NODE, NodePart::Kubelet).expect("healthy while cut");
    stage.kill_pod(NODE, &agent).expect("it runs");
    stage.promised(LIMIT, "a killed container comes back", || {
        stage.running(NODE).get(&agent).is_some_and(|id| *id != before[&agent])
    });
    let requests = stage.requests(NODE).expect("the hub has a log");
    let asks = |uri: &str| uri.contains("/serviceaccounts/") && uri.ends_with("/token");
    assert!(requests[asked..].iter().any(|each| asks(&each.uri)), "the kubelet asked for a token");
    let given = claims(&token_of(&stage, &agent));
    assert_eq!(given["kubernetes.io"]["pod"]["name"], agent.as_str(), "its own: {given}");
    assert!(
        given["exp"].as_i64().expect("an end") < now_seconds() + AHEAD,
        "ended by the hub's clock: {given}"
    );
    request_token(&stage, &pod).expect("the real one that is kept");

    // Denied, where the operator wants that.
    stage.restart_hub(NODE, &DENY).expect("ready while cut");
    let refused = ask(&stage, &token).expect_err("an ended token");
    assert!(refused.contains("expired") || refused.contains("logged in"), "{refused}");
    let refused = request_token(&stage, &pod).expect_err("an ended token");
    assert!(refused.contains("expired"), "{refused}");
    let held = stage.running(NODE);
    assert!(stage.is_cut(NODE).expect("nft answers"), "all of this happened before the heal");

    // The cloud is back: a fresh one, which the API server itself made.
    stage.restart_hub(NODE, &HubOptions::default()).expect("ready while cut");
    let healed = now_seconds();
    stage.heal(&Nodes::All).expect("healed");
    stage.promised(LIMIT, "the node is Ready", || stage.is_ready(NODE));
    // The kubelet's own clock is right: it would keep what it holds for an hour.
    stage.restart(NODE, NodePart::Kubelet).expect("healthy");
    let fresh = || claims(&token_of(&stage, &pod))["iat"].as_i64().expect("a time") >= healed;
    let took = stage.promised(LIMIT, "the pod has a fresh token", fresh);
    eprintln!("the pod had a fresh token {took:?} after its kubelet started");
    ask(&stage, &token_of(&stage, &pod)).expect("with the fresh one");
    stage.promised(LIMIT, "the lab settles", || stage.is_settled());
    assert_eq!(stage.running(NODE), held, "no pod ended");
}
