//! The files in `deploy/` are copied by operators as they stand, so they must fit the program and each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use edge_hub::config::Config;
use proto_daemon::exit::Exit;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("e2e stands in the workspace")
        .join("deploy")
        .join(name)
}

/// The hub's unit's settings, each with its last value.
fn unit() -> BTreeMap<String, String> {
    unit_of("edge-hub.service")
}

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
fn the_unit_starts_before_the_kubelet_and_not_again_where_that_cannot_help() {
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
fn nodes_may_read_the_keys_of_tokens_and_the_pools_and_nothing_else() {
    let rights = rights();
    let of_kind = |kind: &str| rights.iter().filter(|object| object["kind"] == kind).collect::<Vec<_>>();
    let (roles, bindings) = (of_kind("ClusterRole"), of_kind("ClusterRoleBinding"));
    assert_eq!((roles.len(), bindings.len(), rights.len()), (1, 2, 3));
    let bound: Vec<_> = bindings.iter().map(|binding| &binding["roleRef"]["name"]).collect();
    assert_eq!(bound, ["system:service-account-issuer-discovery", "eyot:node-pool-reader"]);
    for binding in bindings {
        let subjects = binding["subjects"].as_array().expect("a list");
        assert_eq!(subjects.len(), 1);
        assert_eq!((&subjects[0]["kind"], &subjects[0]["name"]), (&"Group".into(), &"system:nodes".into()));
    }
    assert_eq!(roles[0]["metadata"]["name"], "eyot:node-pool-reader");
    let pools = serde_json::json!([{ "apiGroups": ["apps.openyurt.io"],
        "resources": ["nodepools", "nodebuckets"], "verbs": ["get", "list", "watch"] }]);
    assert_eq!(roles[0]["rules"], pools);
}
