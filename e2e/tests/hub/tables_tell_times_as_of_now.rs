//! The AGE that kubectl prints is the API server's at the moment of the request: from the hub's cache it is the same,
//! online, while cut and after a restart, and so are other cells that tell a time.

use std::time::{Duration, SystemTime};

use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Gvr, PrinterColumn, ResourceKind, Rule};
use http::header::ACCEPT;
use serde_json::{Value, json};

use crate::rig::{CONFIG_MAPS, POD_USER, Rig, eventually, run};

const WIDGETS: &str = "/apis/example.org/v1/namespaces/default/widgets";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

fn unix() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

fn cells(row: &Value) -> Vec<String> {
    let cells = row["cells"].as_array().cloned().unwrap_or_default();
    cells.iter().map(|cell| cell.as_str().unwrap_or_default().to_owned()).collect()
}

/// The cells of the first row of a table, by LIST and by GET, both from a cache.
async fn shown(client: &Client, path: &str, name: &str) -> [Vec<String>; 2] {
    let client = client.clone().with_header(ACCEPT, TABLE);
    let mut shown = [Vec::new(), Vec::new()];
    let paths = [format!("{path}?resourceVersion=0"), format!("{path}/{name}?resourceVersion=0")];
    for (shown, path) in shown.iter_mut().zip(paths) {
        let (status, table) = client.get(&path).await.expect("an answer");
        assert_eq!(status, 200, "{table}");
        let row = &table["rows"][0];
        let members = row.as_object().expect("a row");
        assert_eq!(members.keys().collect::<Vec<_>>(), ["cells", "object"], "nothing of the hub's own");
        *shown = cells(row);
    }
    shown
}

fn seconds(text: &str) -> u64 {
    text.strip_suffix('s')
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no seconds: {text:?}"))
}

/// Both requests tell this time since `born`, give or take what a second is rounded by.
async fn tells(client: &Client, path: &str, name: &str, cell: usize, born: u64) {
    for cells in shown(client, path, name).await {
        let (told, due) = (seconds(&cells[cell]), unix() - born);
        assert!(told.abs_diff(due) <= 2, "{path}: {told} s, and it is {due} s");
    }
}

#[test]
fn ages_in_tables_are_those_of_the_moment() {
    run(async {
        let mut rig = Rig::new();
        rig.cloud.with(|cloud, _| {
            cloud.registry_mut().add(ResourceKind {
                gvr: Gvr::new("example.org", "v1", "widgets"),
                kind: "Widget".into(),
                namespaced: true,
                protobuf: false,
                status: false,
                create_only: false,
                columns: vec![PrinterColumn::new("Since", "date", "/spec/since")],
            });
        });
        let born = unix();
        let since = time::OffsetDateTime::from(SystemTime::now() - Duration::from_secs(20));
        let since = since.format(&time::format_description::well_known::Rfc3339).expect("a time");
        let widget = json!({"metadata": {"name": "w", "namespace": "default"}, "spec": {"since": since}});
        rig.cloud.create(&Gvr::new("example.org", "v1", "widgets"), widget).expect("the name is free");
        rig.cloud.allow(Rule::allow(POD_USER, &["get", "list", "watch"], &["widgets"]));
        rig.start_hub().await;
        rig.heal_seen().await;
        let pod = rig.pod();
        // The rows come now; what is asked later must not be told as of then.
        let first = shown(&pod, CONFIG_MAPS, "a").await[0].clone();
        shown(&pod, WIDGETS, "w").await;
        let direct = rig.direct_pod();
        eventually(async || {
            let now = shown(&direct, CONFIG_MAPS, "a").await[0].clone();
            (seconds(&now[2]) >= seconds(&first[2]) + 4).then_some(())
        })
        .await;
        for stage in ["online", "cut", "restarted"] {
            match stage {
                "cut" => rig.cut(LinkState::Refused).await,
                "restarted" => {
                    rig.stop_hub().await;
                    rig.start_hub().await;
                }
                _ => {}
            }
            let pod = rig.pod();
            tells(&pod, CONFIG_MAPS, "a", 2, born).await;
            tells(&pod, WIDGETS, "w", 2, born).await;
            tells(&pod, WIDGETS, "w", 1, born - 20).await;
            let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion=0");
            let mut watch = pod.with_header(ACCEPT, TABLE).watch(&path).await.expect("a stream");
            let event = watch.next().await.expect("an event").expect("one");
            let (told, due) = (seconds(&cells(&event["object"]["rows"][0])[2]), unix() - born);
            assert!(told.abs_diff(due) <= 2, "{stage}: {told} s, and it is {due} s");
        }
        rig.stop_hub().await;
    });
}
