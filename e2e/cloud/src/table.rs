//! `meta.k8s.io/v1` Table with the two columns that every kind has: name and age.

use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The column definitions.
pub(crate) fn columns() -> Value {
    json!([
        {"name": "Name", "type": "string", "format": "name", "description": "Name must be unique within a namespace.", "priority": 0},
        {"name": "Age", "type": "string", "format": "", "description": "Time since creation.", "priority": 0},
    ])
}

/// One row: cells and the object's metadata.
pub(crate) fn row(object: &Value, now: Duration) -> Value {
    json!({
        "cells": [object["metadata"]["name"].as_str().unwrap_or_default(), age(object, now)],
        "object": partial(object),
    })
}

/// The object reduced to its metadata.
pub(crate) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn age(object: &Value, now: Duration) -> String {
    let created = object["metadata"]["creationTimestamp"]
        .as_str()
        .and_then(|t| OffsetDateTime::parse(t, &Rfc3339).ok());
    let Some(created) = created else { return "<unknown>".into() };
    let seconds = now.as_secs().saturating_sub(u64::try_from(created.unix_timestamp()).unwrap_or(0));
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
