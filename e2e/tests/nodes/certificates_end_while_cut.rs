//! A cut outlives the certificates of a node: what is open and what is cached serves on, who verifies is told why not, no
//! pod is touched, and with new files all is well, without a restart of whoever follows its files.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::lab::{Certificate, NodePart, Nodes};
use serde_json::Value;
use time::OffsetDateTime;

use crate::stage::{LIMIT, NODE, OTHER, READY_WITHIN, Stage};

/// How long the certificates hold that are to end: time enough to be taken up before the cut.
const SHORT: Duration = Duration::from_secs(25);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Gives the node certificates that hold again, also after a test that failed: others share the lab.
struct Renewed<'a>(&'a Stage);

impl Drop for Renewed<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for certificate in [Certificate::Node, Certificate::KubeletServing, Certificate::HubServing] {
            // The test has failed already, and what it says is what counts.
            let _ = self.0.renew(NODE, certificate, YEAR);
        }
        let _ = self.0.restart(NODE, NodePart::Kubelet);
    }
}

/// GETs `path` of the node's hub as the kubelet; the error is what kubectl says.
fn ask_hub(stage: &Stage, path: &str, flags: &[&str]) -> Result<String, String> {
    let mut kubectl = stage.node_kubectl(NODE, "kubelet.kubeconfig").expect("kubectl");
    let output = kubectl.args(["get", "--raw", path]).args(flags).output().expect("it runs");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// When the kubelet renewed the node's Lease, as the hub has it, asked without verifying whom.
fn renewed_at_hub(stage: &Stage) -> OffsetDateTime {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NODE}");
    let lease = ask_hub(stage, &path, &["--insecure-skip-tls-verify"]).expect("the hub holds the Lease");
    renew_time(&serde_json::from_str(&lease).expect("a Lease"))
}

fn renew_time(lease: &Value) -> OffsetDateTime {
    let text = lease["spec"]["renewTime"].as_str().unwrap_or_default();
    OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).expect("a time")
}

/// The SHA-256 of the node's client certificate, as the API server's audit log has it.
fn fingerprint(stage: &Stage) -> String {
    let pem = std::fs::read_to_string(stage.node_file(NODE, "node.crt")).expect("a certificate");
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(body).expect("base64");
    let digest = ring::digest::digest(&ring::digest::SHA256, &der);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits for the clock to pass `end`.
fn wait_past(stage: &Stage, end: OffsetDateTime) {
    let past = || OffsetDateTime::now_utc() > end + Duration::from_secs(1);
    stage.promised(SHORT + Duration::from_secs(5), "the certificate ends", past);
}

#[test]
fn the_nodes_client_certificate() {
    let Some(stage) = Stage::claim("the_nodes_client_certificate") else { return };
    let _renewed = Renewed(&stage);
    let own_pods = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{NODE}");
    let end = stage.renew(NODE, Certificate::Node, SHORT).expect("issued");
    stage.restart(NODE, NodePart::Kubelet).expect("a kubelet with the short certificate");
    // The hub's connections stand and the former certificate still holds: it shows the new one all the same.
    let shown = format!("X509SHA256={}", fingerprint(&stage));
    let seen = || std::fs::read_to_string(stage.audit_log()).expect("a log").contains(&shown);
    let took = stage.promised(LIMIT, "the API server sees the new certificate", seen);
    eprintln!("the API server saw the new certificate {took:?} after a kubelet had started with it");
    stage.cut(&Nodes::from(NODE)).expect("cut");
    wait_past(&stage, end);

    // While cut: the same kubelet is served on, and one that starts again, too, with all that its pods need.
    stage.promised(LIMIT, "the Lease is renewed at the hub", || renewed_at_hub(&stage) > end);
    stage.restart(NODE, NodePart::Kubelet).expect("healthy while cut");
    let (agent, before) = (stage.pod_of("agent", NODE), stage.running(NODE));
    stage.kill_pod(NODE, &agent).expect("it runs");
    stage.promised(LIMIT, "a killed container comes back", || {
        stage.running(NODE).get(&agent).is_some_and(|id| *id != before[&agent])
    });
    let held = stage.running(NODE);
    stage.promised(LIMIT, "the cloud misses the node", || !stage.is_ready(NODE));
    let status = stage.hub_status(NODE).expect("status");
    assert_eq!(status["certificates"]["credential"]["inForce"], false, "{}", status["certificates"]);
    let told =
        || stage.log(NODE, NodePart::Hub).expect("a log").contains("which the API server sees has ended");
    stage.promised(LIMIT, "the hub tells the operator", told);

    // After the cut: refused, as without a hub, until it is renewed. The pods do not care.
    stage.heal(&Nodes::All).expect("healed");
    let mut said = String::new();
    stage.promised(LIMIT, "the hub refuses what ended", || {
        said = ask_hub(&stage, &own_pods, &[]).err().unwrap_or_default();
        said.contains("it has expired")
    });
    let refusals = stage.log(NODE, NodePart::Kubelet).expect("a log").matches("Unauthorized").count();
    stage.promised(LIMIT, "the kubelet says so, too", || {
        stage.log(NODE, NodePart::Kubelet).expect("a log").matches("Unauthorized").count() > refusals
    });
    assert!(!stage.is_ready(NODE));
    assert_eq!(stage.running(NODE), held);

    // The hub takes the new one up from the file; the kubelet keeps what it was started with.
    stage.renew(NODE, Certificate::Node, YEAR).expect("issued");
    stage.restart(NODE, NodePart::Kubelet).expect("healthy");
    let took = stage.promised(READY_WITHIN, "the node is Ready", || stage.is_ready(NODE));
    eprintln!("the node was Ready {took:?} after its kubelet started with a new client certificate");
    stage.promised(LIMIT, "the lab settles", || stage.is_settled());
    assert_eq!(stage.running(NODE), held, "no pod ended");
}

#[test]
fn the_serving_certificates_and_the_lease() {
    let Some(stage) = Stage::claim("the_serving_certificates_and_the_lease") else { return };
    let _renewed = Renewed(&stage);
    let web = stage.pod_of("web", NODE);
    let logs = format!("/containerLogs/default/{web}/main");
    let own_node = format!("/api/v1/nodes/{NODE}");
    stage.kubelet_get(NODE, &logs).expect("logs before the cut");
    stage.renew(NODE, Certificate::KubeletServing, SHORT).expect("issued");
    let end = stage.renew(NODE, Certificate::HubServing, SHORT).expect("issued");
    ask_hub(&stage, &own_node, &[]).expect("the hub shows the new one, which holds");
    stage.cut(&Nodes::from(NODE)).expect("cut");
    let held = stage.running(NODE);
    let warned = |what: &str| stage.log(NODE, NodePart::Hub).expect("a log").contains(what);
    stage.promised(LIMIT, "the hub warns ahead", || warned("the certificate that clients see ends soon"));
    wait_past(&stage, end);

    // Who verifies is told; who has a connection, or does not verify, is served.
    let says = "certificate has expired";
    let refused = |answer: Result<String, String>| answer.is_err_and(|error| error.contains(says));
    stage.promised(LIMIT, "the kubelet's port is refused", || refused(stage.kubelet_get(NODE, &logs)));
    let unverified = stage.kubelet_get_unverified(NODE, &logs).expect("the kubelet goes on serving");
    assert!(unverified.contains(&web), "{unverified}");
    let answer = ask_hub(&stage, &own_node, &[]);
    assert!(refused(answer.clone()), "{answer:?}");
    stage.promised(LIMIT, "the Lease is renewed at the hub", || renewed_at_hub(&stage) > end);
    stage.promised(LIMIT, "the cloud misses the node", || !stage.is_ready(NODE));
    assert!(stage.is_ready(OTHER), "the other one is not cut off");

    // A kubelet that starts now cannot reach its hub, and lets its pods be.
    stage.restart(NODE, NodePart::Kubelet).expect("healthy without any API");
    stage.promised(LIMIT, "the kubelet says why", || {
        let log = stage.log(NODE, NodePart::Kubelet).expect("a log");
        log.lines().any(|line| line.contains("127.0.0.1:10261") && line.contains(says))
    });
    assert_eq!(stage.running(NODE), held);

    // New files, and everybody goes on by itself.
    let renewed = OffsetDateTime::now_utc();
    for certificate in [Certificate::KubeletServing, Certificate::HubServing] {
        stage.renew(NODE, certificate, YEAR).expect("issued");
    }
    let took = stage.promised(LIMIT, "the kubelet is back at the hub", || renewed_at_hub(&stage) > renewed);
    eprintln!("the kubelet renewed its Lease {took:?} after the hub's serving certificate was renewed");
    stage.promised(LIMIT, "logs of one who verifies", || stage.kubelet_get(NODE, &logs).is_ok());
    assert!(stage.is_cut(NODE).expect("nft answers"), "all of this happened before the heal");

    stage.heal(&Nodes::All).expect("healed");
    let ready = stage.promised(READY_WITHIN, "the node is Ready", || stage.is_ready(NODE));
    eprintln!("the node was Ready {ready:?} after healing");
    let lease = stage.cloud_json(&format!("get lease -n kube-node-lease {NODE}"));
    assert!(renew_time(&lease) > renewed, "the cloud has the Lease of the time of the cut or later: {lease}");
    stage.promised(LIMIT, "the lab settles", || stage.is_settled());
    assert_eq!(stage.running(NODE), held, "no pod ended");
}
