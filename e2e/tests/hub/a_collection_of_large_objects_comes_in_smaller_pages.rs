//! A collection whose pages are larger than what is taken at once comes in smaller ones, is served whole, and while cut, too.

use bytes::Bytes;
use e2e::cloud::LinkState;
use e2e::cloud::model::Gvr;
use serde_json::json;

use crate::rig::{CONFIG_MAPS, Rig, run};

/// 4 MB of objects for a hub that takes 1 MiB at once.
const OBJECTS: usize = 40;
const EACH: usize = 100_000;

/// Text that does not pack.
fn noise(seed: usize) -> String {
    let mut state = u64::try_from(seed).expect("a small number").wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + u8::try_from(state % 90).expect("below 90"))
    };
    std::iter::repeat_with(letter).filter(|letter| !matches!(letter, '"' | '\\')).take(EACH).collect()
}

#[test]
fn what_is_too_large_at_once_is_asked_for_by_halves_and_held_for_a_cut() {
    run(async {
        let mut rig = Rig::new();
        rig.set_limits(json!({"listMib": 1}));
        for index in 0..OBJECTS {
            let object = json!({
                "metadata": {"name": format!("large-{index}"), "namespace": "default"},
                "data": {"v": noise(index)},
            });
            rig.cloud.create(&Gvr::core("configmaps"), object).expect("the name is free");
        }
        rig.start_hub().await;
        let pod = rig.pod();
        let list = async || {
            let path = format!("{CONFIG_MAPS}?resourceVersion=0");
            let answer = pod.call("GET", &path, "", &serde_json::Value::Null).await.expect("an answer");
            (answer.0, answer.1["items"].as_array().map_or(0, Vec::len))
        };
        let mark = rig.cloud.mark();
        assert_eq!(list().await, (200, OBJECTS + 2));
        let pages: Vec<String> = rig
            .cloud
            .records_since(mark)
            .into_iter()
            .filter(|record| record.verb == "list" && record.path == CONFIG_MAPS)
            .map(|record| record.query)
            .collect();
        assert!(pages.iter().any(|query| query.contains("continue=")), "in pages: {pages:?}");
        println!("{} requests for {OBJECTS} objects of {EACH} bytes: {pages:?}", pages.len());
        rig.cut(LinkState::BlackHole).await;
        assert_eq!(list().await, (200, OBJECTS + 2), "what is held is served");
        let one =
            pod.send("GET", &format!("{CONFIG_MAPS}/large-7"), "", Bytes::new()).await.expect("an answer");
        assert_eq!(one.status(), 200);
    });
}
