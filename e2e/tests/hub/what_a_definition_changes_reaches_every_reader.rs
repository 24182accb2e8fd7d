//! A CustomResourceDefinition gets a default and other printer columns: the API server shows every object otherwise, and no
//! resource version moves. The hub shows what the API server shows, whatever its readers had before.

use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Gvr, PrinterColumn, ResourceKind, Rule};
use http::header::ACCEPT;
use serde_json::{Value, json};

use crate::rig::{Informer, POD_USER, Rig, eventually, run};

const WIDGETS: &str = "/apis/example.org/v1/namespaces/default/widgets";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

fn widgets() -> Gvr {
    Gvr::new("example.org", "v1", "widgets")
}

/// What the definition says that tables show.
fn define(rig: &Rig, columns: &[&str]) {
    let column = |name: &&str| PrinterColumn::new(name, "string", &format!("/spec/{}", name.to_lowercase()));
    let kind = ResourceKind {
        gvr: widgets(),
        kind: "Widget".into(),
        namespaced: true,
        protobuf: false,
        status: false,
        create_only: false,
        columns: columns.iter().map(column).collect(),
    };
    rig.cloud.with(|cloud, _| cloud.registry_mut().add(kind));
}

/// The definition gets a default for `spec.mode`, and shows it.
fn add_mode(rig: &Rig, mode: &'static str) {
    rig.cloud.with(|cloud, _| {
        cloud.store_mut().show_otherwise(&widgets(), |object| object["spec"]["mode"] = mode.into());
    });
    define(rig, &["Mode", "Size"]);
}

fn rig() -> Rig {
    let rig = Rig::new();
    define(&rig, &["Size"]);
    for name in ["g1", "g2"] {
        let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"size": "1"}});
        rig.cloud.create(&widgets(), object).expect("the name is free");
    }
    rig.cloud.allow(Rule::allow(POD_USER, &["get", "list", "watch"], &["widgets"]));
    rig
}

fn mode(object: &Value) -> String {
    object["spec"]["mode"].as_str().unwrap_or("none").to_owned()
}

async fn from_cache(client: &Client) -> Value {
    let (status, list) = client.get(&format!("{WIDGETS}?resourceVersion=0")).await.expect("an answer");
    assert_eq!(status, 200, "{list}");
    list
}

/// Headings, and the cells of each row but the age.
async fn table(client: &Client) -> (Vec<Value>, Vec<Vec<Value>>) {
    let table = from_cache(&client.clone().with_header(ACCEPT, TABLE)).await;
    let array = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let headings: Vec<Value> =
        array(&table["columnDefinitions"]).iter().map(|column| column["name"].clone()).collect();
    let rows = array(&table["rows"]);
    let mut cells: Vec<Vec<Value>> = rows.iter().map(|row| array(&row["cells"])).collect();
    for row in &mut cells {
        assert_eq!(row.len(), headings.len(), "headings and rows of one definition: {table}");
        row.pop();
    }
    (headings, cells)
}

async fn is_as_direct(rig: &Rig) {
    let (pod, direct) = (rig.pod(), rig.direct_pod());
    let items = async |client: &Client| from_cache(client).await["items"].clone();
    eventually(async || (items(&pod).await == items(&direct).await).then_some(())).await;
    eventually(async || (table(&pod).await == table(&direct).await).then_some(())).await;
    let (_, one) = pod.get(&format!("{WIDGETS}/g1?resourceVersion=0")).await.expect("an answer");
    assert_eq!(mode(&one), mode(&from_cache(&direct).await["items"][0]));
}

#[test]
fn a_default_and_other_columns_are_shown_to_lists_tables_and_watches() {
    run(async {
        for watch_list in [false, true] {
            let mut rig = rig();
            if watch_list {
                rig.use_watch_list();
            }
            rig.start_hub().await;
            rig.heal_seen().await;
            let mut informer = Informer::of(rig.pod(), WIDGETS, mode);
            informer.until(&[("g1", "none"), ("g2", "none")]).await;
            assert_eq!(table(&rig.pod()).await.0.len(), 3);
            let watches = || rig.cloud.open_streams().iter().filter(|r| r.gvr == Some(widgets())).count();
            eventually(async || (watches() == 2).then_some(())).await;
            let revision = rig.cloud.revision();
            add_mode(&rig, "auto");
            informer.may_sync_again = true;
            informer.until(&[("g1", "auto"), ("g2", "auto")]).await;
            is_as_direct(&rig).await;
            assert_eq!((rig.cloud.revision(), table(&rig.pod()).await.0.len()), (revision, 4));
            // And so it stays while cut.
            rig.cut(LinkState::Refused).await;
            assert_eq!(mode(&from_cache(&rig.pod()).await["items"][1]), "auto");
            assert_eq!(table(&rig.pod()).await.0.len(), 4);
            rig.stop_hub().await;
        }
    });
}

#[test]
fn a_definition_that_changed_behind_a_cut_or_a_restart_is_noticed_afterwards() {
    run(async {
        let mut rig = rig();
        rig.start_hub().await;
        rig.heal_seen().await;
        let mut informer = Informer::of(rig.pod(), WIDGETS, mode);
        informer.may_sync_again = true;
        informer.until(&[("g1", "none"), ("g2", "none")]).await;
        table(&rig.pod()).await;
        rig.cut(LinkState::Refused).await;
        add_mode(&rig, "auto");
        assert_eq!(table(&rig.pod()).await.0.len(), 3, "what stood at the cut");
        rig.heal().await;
        rig.heal_seen().await;
        informer.until(&[("g1", "auto"), ("g2", "auto")]).await;
        is_as_direct(&rig).await;
        rig.stop_hub().await;
        add_mode(&rig, "manual");
        rig.start_hub().await;
        is_as_direct(&rig).await;
        // Who resumes at the version that it has is told nothing, as by the API server; who begins is.
        let mut informer = Informer::of(rig.pod(), WIDGETS, mode);
        informer.until(&[("g1", "manual"), ("g2", "manual")]).await;
        rig.stop_hub().await;
    });
}
