//! The files in `deploy/` are copied by operators as they stand, so they must fit the program and each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cloud_tunnel::config::{AgentConfig, ServerConfig};
use edge_hub::config::Config;
use media::config::Config as MediaConfig;
use proto_daemon::exit::Exit;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("e2e stands in the workspace")
        .join("deploy")
        .join(name)
}

/// The hub's unit.
fn unit() -> BTreeMap<String, String> {
    unit_of("edge-hub.service")
}

/// A unit's settings, each with its last value.
fn unit_of(name: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(shipped(name)).expect("the unit is readable");
    let settings = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    settings.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_example_configuration_is_accepted() {
    let config = Config::load(&shipped("edge-hub.yaml")).expect("the example is valid");
    config.file.log.check().expect("its log level is valid");
    assert_eq!(config.file.node_name, "node-1");
}

#[test]
fn the_unit_provides_the_folders_that_the_example_names() {
    let config = Config::load(&shipped("edge-hub.yaml")).expect("the example is valid");
    let unit = unit();
    assert_eq!(config.file.state_directory, Path::new("/var/lib").join(&unit["StateDirectory"]));
    assert_eq!(
        config.file.admin_socket.parent(),
        Some(Path::new("/run").join(&unit["RuntimeDirectory"]).as_path())
    );
    let path = Path::new("/etc").join(&unit["ConfigurationDirectory"]).join("edge-hub.yaml");
    assert!(unit["ExecStart"].ends_with(&format!(" --config {}", path.display())), "{}", unit["ExecStart"]);
}

#[test]
fn the_hubs_unit_leaves_no_core_and_hands_over_the_key_that_the_hub_looks_for() {
    let unit = unit();
    assert_eq!(unit["LimitCORE"], "0");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let credential = folder.path().join(&unit["ImportCredential"]);
    fs::write(&credential, [7; 32]).expect("the file is written");
    let found = edge_hub::store::at_rest::key_path(None, Some(folder.path().as_os_str()));
    assert_eq!(found, Some(credential));
}

#[test]
fn the_unit_starts_before_the_kubelet_and_its_main_process_not_again_where_that_cannot_help() {
    let unit = unit();
    assert_eq!(unit["Before"], "kubelet.service");
    assert!(!unit["After"].contains("online"), "a node that boots while cut off is not online");
    let hopeless = format!("{} {}", Exit::Usage.code(), Exit::Config.code());
    assert_eq!(unit["RestartPreventExitStatus"], hopeless);
}

/// The hub's example with everything in it that is commented out there as a block that begins with `key`.
fn with_block(key: &str) -> String {
    let text = fs::read_to_string(shipped("edge-hub.yaml")).expect("the example is readable");
    let (before, rest) = text.split_once(&format!("# {key}:\n")).expect("the block is there");
    let block: Vec<&str> = rest.lines().take_while(|line| line.starts_with("# ")).collect();
    let lines: Vec<&str> = block.iter().map(|line| &line[2..]).collect();
    format!(
        "{before}{key}:\n{}\n{}",
        lines.join("\n"),
        rest.lines().skip(block.len()).collect::<Vec<_>>().join("\n")
    )
}

#[test]
fn the_hubs_pool_in_the_example_is_accepted_and_leads_to_the_coordinators_example() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("edge-hub.yaml");
    fs::write(&path, with_block("pool")).expect("the file is written");
    let hub = Config::load(&path).expect("the example with its pool is valid");
    let pool = hub.file.pool.expect("it is there");
    let coordinator = pool_coordinator::config::Config::load(&shipped("pool-coordinator.yaml"));
    let coordinator = coordinator.expect("the example is valid");
    coordinator.file.log.check().expect("its log level is valid");
    assert_eq!(*pool.name, *coordinator.member.pool);
    assert_eq!(*pool.coordinators[0].node, *coordinator.member.node);
    assert_eq!(pool.coordinators[0].address, coordinator.file.listen[0].to_string());
    assert_eq!(hub.file.api_servers, coordinator.file.api_servers, "or the relay leads nowhere");
}

#[test]
fn the_coordinators_unit_fits_its_example() {
    let config = pool_coordinator::config::Config::load(&shipped("pool-coordinator.yaml"));
    let (config, unit) = (config.expect("the example is valid"), unit_of("pool-coordinator.service"));
    assert_eq!(
        config.file.admin_socket.parent(),
        Some(Path::new("/run").join(&unit["RuntimeDirectory"]).as_path())
    );
    let path = Path::new("/etc").join(&unit["ConfigurationDirectory"]).join("pool-coordinator.yaml");
    assert!(unit["ExecStart"].ends_with(&format!(" --config {}", path.display())), "{}", unit["ExecStart"]);
    assert!(!unit["After"].contains("online"), "it waits for the cloud by itself");
    let hopeless = format!("{} {}", Exit::Usage.code(), Exit::Config.code());
    assert_eq!(unit["RestartPreventExitStatus"], hopeless);
}

#[test]
fn a_coordinator_may_read_what_it_keeps_a_copy_of_and_nothing_else() {
    let rights = documents("pool-coordinator-rbac.yaml");
    let [role, binding] = &rights[..] else { panic!("a role and its binding: {rights:#?}") };
    assert_eq!((&role["kind"], &binding["kind"]), (&"ClusterRole".into(), &"ClusterRoleBinding".into()));
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    let subjects = binding["subjects"].as_array().expect("a list");
    assert_eq!(subjects.len(), 1);
    assert_eq!(
        (&subjects[0]["kind"], &subjects[0]["name"]),
        (&"Group".into(), &"eyot:pool-coordinators".into())
    );
    let mut granted = std::collections::BTreeSet::new();
    for rule in role["rules"].as_array().expect("a list") {
        assert_eq!(rule["verbs"], serde_json::json!(["get", "list", "watch"]));
        for group in rule["apiGroups"].as_array().expect("a list") {
            for resource in rule["resources"].as_array().expect("a list") {
                let text = |value: &serde_json::Value| value.as_str().expect("a name").to_owned();
                granted.insert((text(group), text(resource)));
            }
        }
    }
    let read =
        proto::coordinator::POOL_KINDS.map(|(group, _, resource)| (group.to_owned(), resource.to_owned()));
    assert_eq!(granted, read.into());
}

/// The documents of `rbac.yaml`.
fn rights() -> Vec<serde_json::Value> {
    documents("rbac.yaml")
}

fn documents(name: &str) -> Vec<serde_json::Value> {
    let path = shipped(name);
    let text = fs::read_to_string(&path).expect("it is readable");
    let documents = text.split("\n---\n");
    documents.map(|text| proto_daemon::config::parse(&path, text).expect("a YAML document")).collect()
}

#[test]
fn nodes_may_read_the_keys_of_tokens_which_kinds_are_aggregated_and_the_pools_and_nothing_else() {
    let rights = rights();
    let of_kind = |kind: &str| rights.iter().filter(|object| object["kind"] == kind).collect::<Vec<_>>();
    let (roles, bindings) = (of_kind("ClusterRole"), of_kind("ClusterRoleBinding"));
    assert_eq!((roles.len(), bindings.len(), rights.len()), (2, 3, 5));
    let bound: Vec<_> = bindings.iter().map(|binding| &binding["roleRef"]["name"]).collect();
    let [apiservices, pools] = ["eyot:node-apiservice-reader", "eyot:node-pool-reader"];
    assert_eq!(bound, ["system:service-account-issuer-discovery", apiservices, pools]);
    for binding in bindings {
        let subjects = binding["subjects"].as_array().expect("a list");
        assert_eq!(subjects.len(), 1);
        assert_eq!((&subjects[0]["kind"], &subjects[0]["name"]), (&"Group".into(), &"system:nodes".into()));
    }
    assert_eq!([&roles[0], &roles[1]].map(|role| &role["metadata"]["name"]), [apiservices, pools]);
    let services = serde_json::json!([{ "apiGroups": ["apiregistration.k8s.io"],
        "resources": ["apiservices"], "verbs": ["list"] }]);
    assert_eq!(roles[0]["rules"], services);
    let pools = serde_json::json!([{ "apiGroups": ["apps.openyurt.io"],
        "resources": ["nodepools", "nodebuckets"], "verbs": ["get", "list", "watch"] }]);
    assert_eq!(roles[1]["rules"], pools);
}

/// What every unit of the tunnel keeps to: its folders are those of the configuration, it starts again where that helps.
fn unit_fits(program: &str, sockets: &[&Path]) {
    let unit = unit_of(&format!("{program}.service"));
    let run = Path::new("/run").join(&unit["RuntimeDirectory"]);
    assert!(sockets.iter().all(|socket| socket.parent() == Some(&run)), "{sockets:?} stand in {run:?}");
    let config = Path::new("/etc").join(&unit["ConfigurationDirectory"]).join(format!("{program}.yaml"));
    let wanted = format!("/usr/local/bin/{program} --config {}", config.display());
    assert_eq!(unit["ExecStart"], wanted);
    assert_eq!(unit["ExecStartPre"], format!("{wanted} --check-config"));
    assert_eq!(unit["RestartPreventExitStatus"], format!("{} {}", Exit::Usage.code(), Exit::Config.code()));
    let stop: u64 = unit["TimeoutStopSec"].parse().expect("seconds");
    assert!(stop > cloud_tunnel::link::control::DRAIN_GRACE.as_secs(), "a drain has its time");
}

#[test]
fn both_ends_of_the_tunnel_are_shipped_and_fit_each_other() {
    let server = ServerConfig::load(&shipped("tunnel-server.yaml")).expect("the example is valid");
    let agent = AgentConfig::load(&shipped("tunnel-agent.yaml")).expect("the example is valid");
    unit_fits("tunnel-server", &[&server.file.admin_socket, &server.file.doors.http_connect]);
    unit_fits("tunnel-agent", &[&agent.file.admin_socket]);
    assert!(server.pool.has(&agent.file.node_name), "the agent's certificate is one of the pool's");
    assert!(agent.file.nodes.iter().all(|node| server.pool.has(&node.name)));
    assert_eq!((agent.file.pool.as_str(), agent.allow.len()), (server.pool.name.as_str(), server.pool.len()));
    let port = server.file.listen[0].port();
    assert!(agent.servers.iter().all(|server| server.address.ends_with(&format!(":{port}"))));
    // The keys that are left out have the values that the examples show.
    let bare = "serving: {certificate: /c, key: /k}\nclientCA: /ca\npool: {name: a, nodes: [b]}\n";
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bare.yaml");
    fs::write(&path, bare).expect("written");
    let bare = ServerConfig::load(&path).expect("valid");
    assert_eq!(bare.file.doors.http_connect, server.file.doors.http_connect);
    assert_eq!((bare.file.listen, bare.file.admin_socket), (server.file.listen, server.file.admin_socket));
}

#[test]
fn the_egress_selector_names_the_servers_door() {
    let path = shipped("egress-selector-configuration.yaml");
    let egress: serde_json::Value = proto_daemon::config::load(&path).expect("a YAML document");
    let server = ServerConfig::load(&shipped("tunnel-server.yaml")).expect("the example is valid");
    let selection = &egress["egressSelections"][0];
    assert_eq!(selection["name"], "cluster");
    assert_eq!(selection["connection"]["proxyProtocol"], "HTTPConnect");
    let door = selection["connection"]["transport"]["uds"]["udsName"].as_str().map(Path::new);
    assert_eq!(door, Some(server.file.doors.http_connect.as_path()));
    // A kube-apiserver in a container has the folder mounted: it must be the same one after a restart of the server.
    assert_eq!(unit_of("tunnel-server.service")["RuntimeDirectoryPreserve"], "yes");
}

fn media_object(kind: &str, name: &str) -> serde_json::Value {
    let found = documents("media.yaml")
        .into_iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name} in media.yaml"))
}

/// The pod of the media engines, and its one container.
fn media_pod() -> (serde_json::Value, serde_json::Value) {
    let pod = media_object("DaemonSet", "media-engine")["spec"]["template"]["spec"].clone();
    let container = pod["containers"][0].clone();
    assert_eq!(pod["containers"].as_array().map(Vec::len), Some(1));
    (pod, container)
}

#[test]
fn the_media_engines_configuration_is_accepted_and_is_that_of_the_manifest() {
    let candidate = [192, 0, 2, 1].into();
    let path = shipped("media-engine.yaml");
    let config = MediaConfig::load(&path, Some(candidate)).expect("the example is valid");
    assert!(!config.is_narrowed(), "it takes tokens");
    let text = fs::read_to_string(&path).expect("it is readable");
    assert_eq!(media_object("ConfigMap", "media-engine")["data"]["media-engine.yaml"], text.as_str());
}

#[test]
fn the_media_engines_pod_provides_what_its_configuration_names() {
    let config =
        MediaConfig::load(&shipped("media-engine.yaml"), Some([192, 0, 2, 1].into())).expect("valid");
    let (pod, container) = media_pod();
    let mounts = container["volumeMounts"].as_array().expect("a list");
    let mounted =
        |path: &Path| mounts.iter().any(|mount| mount["mountPath"].as_str().map(Path::new) == path.parent());
    let keys = config.file.tokens.expect("it takes tokens").keys;
    let words: Vec<&str> =
        container["args"].as_array().expect("a list").iter().filter_map(|w| w.as_str()).collect();
    let ["--config", file, "--candidate", "$(HOST_IP)"] = words[..] else { panic!("{words:?}") };
    for path in [Path::new(file), &keys, &config.file.admin_socket] {
        assert!(mounted(path), "{} is in a volume", path.display());
    }
    for (probe, route) in
        [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
    {
        // No file is read: an edit of the ConfigMap must not fail the probes of an engine that runs.
        let socket = config.file.admin_socket.to_str().expect("UTF-8");
        let command = &container[probe]["exec"]["command"];
        let asks = serde_json::json!([container["command"][0], "--admin-socket", socket, "--probe", route]);
        assert_eq!(*command, asks, "{probe}");
    }
    let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("seconds");
    assert_eq!(config.file.drain_limit.as_secs() + 5, grace);
}

#[test]
fn a_media_engine_has_the_nodes_network_and_no_other_right() {
    let (pod, container) = media_pod();
    assert_eq!((&pod["hostNetwork"], &pod["automountServiceAccountToken"]), (&true.into(), &false.into()));
    assert_eq!(
        (&pod["serviceAccountName"], &pod["securityContext"]["runAsNonRoot"]),
        (&serde_json::Value::Null, &true.into())
    );
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let own = &container["securityContext"];
    assert_eq!(
        (&own["readOnlyRootFilesystem"], &own["allowPrivilegeEscalation"]),
        (&true.into(), &false.into())
    );
    assert_eq!(own["capabilities"]["drop"], serde_json::json!(["ALL"]));
    let kinds: Vec<_> = documents("media.yaml").iter().map(|object| object["kind"].clone()).collect();
    assert_eq!(kinds, ["Namespace", "ConfigMap", "ConfigMap", "DaemonSet"], "no rights are asked for");
}
