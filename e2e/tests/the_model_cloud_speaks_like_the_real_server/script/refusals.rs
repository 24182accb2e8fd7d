//! What no server understands: methods, paths, bodies, and sizes.

use super::objects::{below, config_map, config_map_path};
use crate::step::{Act, NO_JSON, Step, Who, get, post};

pub(super) fn acts() -> Vec<Act> {
    let path = below("configmaps");
    let body = config_map("typed", "1").to_string();
    let raw = |kind: &'static str, body: &str| post(&path, &serde_json::Value::Null).raw(kind, body);
    let large = config_map("large", &"x".repeat(3 * 1024 * 1024 + 1)).to_string();
    vec![
        raw("text/plain", &body).into(),
        raw("application/xml", &body).into(),
        raw("application/json; charset=utf-8", &body).into(),
        raw("application/json", "").into(),
        raw("application/json", "{}").into(),
        raw("application/json", "nonsense").note(NO_JSON).into(),
        raw("application/json", "{\"kind\":").note(NO_JSON).into(),
        raw("application/json", &large).into(),
        Step::new("OPTIONS", &path).into(),
        Step::new("TRACE", &path).into(),
        Step::new("POST", config_map_path("first")).into(),
        Step::new("PUT", &path).raw("application/json", &body).into(),
        Step::new("PATCH", &path).raw("application/merge-patch+json", "{}").into(),
        get(format!("{path}/")).into(),
        get("/api/v1/namespaces/script/configmaps/a/b/c").into(),
        get("/api/v1//configmaps?limit=1&labelSelector=none").into(),
        get(config_map_path("first")).header("impersonate-user", "somebody").note("impersonate").into(),
        get(config_map_path("first"))
            .by(Who::Node)
            .header("impersonate-user", "somebody")
            .note("impersonate")
            .into(),
        get(config_map_path("first")).header("if-none-match", "\"x\"").into(),
    ]
}
