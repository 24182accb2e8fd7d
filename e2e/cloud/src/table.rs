//! `meta.k8s.io/v1` Table: name and age of every kind, and what kubectl shows besides of the simple ones.

use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::resource::ResourceKind;

/// What a Table row carries of its object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowObject {
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
    /// Nothing.
    Nothing,
}

/// A column between name and age: its heading and its cell.
type Column = (&'static str, fn(&Value) -> Value);

fn size(members: &Value) -> usize {
    members.as_object().map_or(0, serde_json::Map::len)
}

fn text(value: &Value) -> Value {
    value.as_str().unwrap_or_default().into()
}

/// What the kind shows beside name and age.
fn own_columns(kind: &ResourceKind) -> &'static [Column] {
    match kind.kind.as_str() {
        "ConfigMap" => &[("Data", |o| (size(&o["data"]) + size(&o["binaryData"])).into())],
        "Secret" => &[("Type", |o| text(&o["type"])), ("Data", |o| size(&o["data"]).into())],
        "Lease" => &[("Holder", |o| text(&o["spec"]["holderIdentity"]))],
        "Namespace" => &[("Status", |o| text(&o["status"]["phase"]))],
        _ => &[],
    }
}

/// The column definitions.
pub(crate) fn columns(kind: &ResourceKind) -> Value {
    let column = |name: &str, class: &str, format: &str, description: &str| json!({"name": name, "type": class, "format": format, "description": description, "priority": 0});
    let mut columns = vec![column("Name", "string", "name", "Name must be unique within a namespace.")];
    columns.extend(own_columns(kind).iter().map(|(name, _)| column(name, "string", "", name)));
    columns.extend(kind.columns.iter().map(|own| column(&own.name, &own.class, "", &own.name)));
    // Custom kinds write times as what they are.
    let class = if kind.gvr.is_custom() { "date" } else { "string" };
    columns.push(column("Age", class, "", "Time since creation."));
    columns.into()
}

/// One row: cells and what is asked for of the object.
pub(crate) fn row(kind: &ResourceKind, object: &Value, rows: RowObject, now: Duration) -> Value {
    let mut cells = vec![text(&object["metadata"]["name"])];
    cells.extend(own_columns(kind).iter().map(|(_, cell)| cell(object)));
    cells.extend(kind.columns.iter().map(|column| {
        let value = object.pointer(&column.pointer).cloned().unwrap_or_default();
        if column.class == "date" { since(&value, now).into() } else { value }
    }));
    cells.push(since(&object["metadata"]["creationTimestamp"], now).into());
    let shown = match rows {
        RowObject::Metadata => partial(object),
        RowObject::Object => object.clone(),
        RowObject::Nothing => Value::Null,
    };
    json!({"cells": cells, "object": shown})
}

/// The object reduced to its metadata.
pub(crate) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn since(time: &Value, now: Duration) -> String {
    let created = time.as_str().and_then(|t| OffsetDateTime::parse(t, &Rfc3339).ok());
    let Some(created) = created else { return "<unknown>".into() };
    let seconds = now.as_secs().saturating_sub(u64::try_from(created.unix_timestamp()).unwrap_or(0));
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 > 0 => format!("{}m{}s", seconds / 60, seconds % 60),
        120..10_800 => format!("{}m", seconds / 60),
        10_800..28_800 if seconds % 3600 >= 60 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        10_800..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
