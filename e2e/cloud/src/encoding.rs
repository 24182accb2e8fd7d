//! Content negotiation, and documents, lists and watch frames in JSON and protobuf.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::protobuf;
use crate::resource::ResourceKind;
use crate::status::Status;
use crate::table::{self, RowObject};

/// Bytes on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// JSON.
    Json,
    /// Kubernetes protobuf.
    Protobuf,
}

/// What is shown of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All of it.
    Object,
    /// A `meta.k8s.io/v1` Table row.
    Table(RowObject),
    /// Its metadata.
    PartialMetadata,
    /// The metadata of all that a list has; the server has nothing to show of a single object then.
    PartialMetadataList,
}

/// The media type of Kubernetes protobuf.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// What the server can write, as it lists it.
const WRITTEN: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
/// What it can write beside that where a watch may be asked for.
const STREAMED: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";

/// A negotiated representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Bytes on the wire.
    pub encoding: Encoding,
    /// What is shown.
    pub form: Form,
}

/// Where a page of a list stands.
pub(crate) struct Page {
    pub(crate) revision: u64,
    pub(crate) continue_token: String,
    pub(crate) remaining: Option<u64>,
}

impl Format {
    /// Choose the first clause of `Accept` that the resource can be shown in; `collection` says that the path is
    /// one of a whole collection, which can be listed and watched.
    ///
    /// # Errors
    /// 406 when there is none.
    pub fn negotiate(accept: &str, kind: &ResourceKind, collection: bool) -> Result<Self, Status> {
        let clauses = by_quality(accept);
        if clauses.is_empty() {
            return Ok(Self { encoding: Encoding::Json, form: Form::Object });
        }
        let known = |clause: &&str| {
            ["application/json", "application/yaml", PROTOBUF, "*/*"].contains(&media_type(clause))
        };
        if !kind.gvr.is_custom() && !clauses.iter().any(known) {
            let streamed = if collection { format!(", {STREAMED}") } else { String::new() };
            return Err(Status::not_acceptable(&format!("{WRITTEN}{streamed}")));
        }
        let refuse =
            || Status::no_such_form(format!("only the following media types are accepted: {WRITTEN}"));
        clauses.into_iter().find_map(|clause| Self::from_clause(clause, kind)).ok_or_else(refuse)
    }

    fn from_clause(clause: &str, kind: &ResourceKind) -> Option<Self> {
        let encoding = match media_type(clause) {
            "application/json" | "*/*" => Encoding::Json,
            PROTOBUF if kind.protobuf => Encoding::Protobuf,
            _ => return None,
        };
        let parameters: Vec<(&str, &str)> =
            clause.split(';').skip(1).filter_map(|p| p.trim().split_once('=')).collect();
        let value = |name| parameters.iter().find(|(k, _)| *k == name).map(|(_, v)| *v);
        let form = match value("as") {
            None => Form::Object,
            _ if value("g") != Some("meta.k8s.io") || value("v") != Some("v1") => return None,
            Some("Table") if encoding == Encoding::Json => Form::Table(RowObject::Metadata),
            Some("PartialObjectMetadata") => Form::PartialMetadata,
            Some("PartialObjectMetadataList") => Form::PartialMetadataList,
            Some(_) => return None,
        };
        Some(Self { encoding, form })
    }

    /// The same format with what `includeObject` of the query asks for in table rows.
    ///
    /// # Errors
    /// 400 for a value that the server does not know.
    pub fn with_rows(self, query: &str) -> Result<Self, Status> {
        let asked = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "includeObject");
        let (Form::Table(_), Some((_, asked))) = (self.form, asked) else { return Ok(self) };
        let rows = match asked.as_ref() {
            "" | "Metadata" => RowObject::Metadata,
            "Object" => RowObject::Object,
            "None" => RowObject::Nothing,
            other => {
                return Err(Status::bad_request(format!(
                    "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be \
                     'Metadata', 'Object', 'None', or empty"
                )));
            }
        };
        Ok(Self { form: Form::Table(rows), ..self })
    }

    /// Refuse to show a single object as a list of metadata.
    ///
    /// # Errors
    /// 406.
    pub fn check_single(self, kind: &ResourceKind) -> Result<(), Status> {
        if self.form != Form::PartialMetadataList {
            return Ok(());
        }
        let text = "you requested PartialObjectMetadataList, but the requested object is not a list";
        Err(Status::no_such_form(format!("{text} (*{})", kind.go_type())))
    }

    /// Refuse to show a list as the metadata of a single object.
    ///
    /// # Errors
    /// 406.
    pub fn check_list(self, kind: &ResourceKind) -> Result<(), Status> {
        if self.form != Form::PartialMetadata {
            return Ok(());
        }
        let text = "you requested PartialObjectMetadata, but the requested object is a list";
        Err(Status::no_such_form(format!("{text} (*{}List)", kind.go_type())))
    }

    /// `Content-Type` of an answer.
    #[must_use]
    pub fn content_type(self, watch: bool) -> String {
        match (self.encoding, watch) {
            (Encoding::Json, _) => "application/json".into(),
            (Encoding::Protobuf, false) => PROTOBUF.into(),
            (Encoding::Protobuf, true) => "application/vnd.kubernetes.protobuf;stream=watch".into(),
        }
    }

    /// A single object.
    #[must_use]
    pub fn document(self, kind: &ResourceKind, object: &Value, now: Duration) -> Bytes {
        match self.encoding {
            Encoding::Protobuf => self.protobuf_document(kind, object).into(),
            Encoding::Json => {
                let mut text = self.json_document(kind, object, now, true);
                text.push('\n');
                text.into()
            }
        }
    }

    fn protobuf_document(self, kind: &ResourceKind, object: &Value) -> Vec<u8> {
        if matches!(self.form, Form::PartialMetadata | Form::PartialMetadataList) {
            let raw = protobuf::partial_item(object);
            return protobuf::document("meta.k8s.io/v1", "PartialObjectMetadata", &raw);
        }
        protobuf::document(&kind.gvr.api_version(), &kind.kind, &protobuf::item(&kind.kind, object))
    }

    fn json_document(self, kind: &ResourceKind, object: &Value, now: Duration, columns: bool) -> String {
        match self.form {
            Form::Object => typed_json(kind, object, true),
            Form::PartialMetadata | Form::PartialMetadataList => table::partial(object).to_string(),
            Form::Table(rows) => {
                let revision = &object["metadata"]["resourceVersion"];
                let columns = if columns { table::columns(kind) } else { Value::Null };
                json!({
                    "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": revision},
                    "columnDefinitions": columns, "rows": [table::row(kind, object, rows, now)],
                })
                .to_string()
            }
        }
    }

    /// A list or one page of it.
    pub(crate) fn list(self, kind: &ResourceKind, items: &[Arc<Value>], page: &Page, now: Duration) -> Bytes {
        if self.encoding == Encoding::Protobuf {
            let partial = self.form == Form::PartialMetadataList;
            let encode = |o: &Arc<Value>| {
                if partial { protobuf::partial_item(o) } else { protobuf::item(&kind.kind, o) }
            };
            let raw: Vec<Vec<u8>> = items.iter().map(encode).collect();
            let message = protobuf::list(page.revision, &page.continue_token, page.remaining, &raw);
            let (api_version, name) = if partial {
                ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned())
            } else {
                (kind.gvr.api_version(), kind.list_kind())
            };
            return protobuf::document(&api_version, &name, &message).into();
        }
        let mut meta = json!({"resourceVersion": page.revision.to_string()});
        // Lists of custom kinds are maps in the server, which keep what is empty.
        if !page.continue_token.is_empty() || kind.gvr.is_custom() && self.form == Form::Object {
            meta["continue"] = page.continue_token.clone().into();
        }
        if let Some(count) = page.remaining {
            meta["remainingItemCount"] = count.into();
        }
        match self.form {
            Form::Object => json_list(kind, items, &meta).into(),
            Form::PartialMetadata | Form::PartialMetadataList => {
                let items: Vec<Value> = items.iter().map(|o| table::partial(o)).collect();
                let kind = "PartialObjectMetadataList";
                format!(
                    "{}\n",
                    json!({"kind": kind, "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items})
                )
                .into()
            }
            Form::Table(rows) => {
                let rows: Vec<Value> = items.iter().map(|o| table::row(kind, o, rows, now)).collect();
                let table = json!({
                    "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
                    "columnDefinitions": table::columns(kind), "rows": rows,
                });
                format!("{table}\n").into()
            }
        }
    }

    /// One watch frame; `columns` for the first frame of a Table stream.
    pub(crate) fn event(
        self,
        kind: &ResourceKind,
        event_type: &str,
        object: &Value,
        now: Duration,
        columns: bool,
    ) -> Bytes {
        match self.encoding {
            Encoding::Protobuf => protobuf::frame(event_type, &self.protobuf_document(kind, object)).into(),
            Encoding::Json => {
                let document = self.json_document(kind, object, now, columns);
                format!("{{\"type\":\"{event_type}\",\"object\":{document}}}\n").into()
            }
        }
    }

    /// A bookmark; `marked` ends the initial events of a WatchList.
    pub(crate) fn bookmark(
        self,
        kind: &ResourceKind,
        revision: u64,
        marked: bool,
        now: Duration,
        columns: bool,
    ) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if marked {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": kind.kind, "apiVersion": kind.gvr.api_version(), "metadata": metadata});
        if self.encoding == Encoding::Protobuf && self.form == Form::Object {
            // The bookmark object has metadata alone, no field of its kind.
            let raw = protobuf::partial_item(&object);
            let document = protobuf::document(&kind.gvr.api_version(), &kind.kind, &raw);
            return protobuf::frame("BOOKMARK", &document).into();
        }
        self.event(kind, "BOOKMARK", &object, now, columns)
    }

    /// An ERROR frame in the stream's encoding.
    pub(crate) fn error(self, status: &Status) -> Bytes {
        let document = status.to_value();
        match self.encoding {
            Encoding::Protobuf => {
                let document = protobuf::document("v1", "Status", &protobuf::status(&document));
                protobuf::frame("ERROR", &document).into()
            }
            Encoding::Json => format!("{{\"type\":\"ERROR\",\"object\":{document}}}\n").into(),
        }
    }
}

/// JSON as Go's typed encoder writes it: kind and apiVersion first, and not at all inside lists.
/// Custom resources are maps in the server: keys sorted, type in every item.
fn typed_json(kind: &ResourceKind, object: &Value, with_type: bool) -> String {
    if kind.gvr.is_custom() {
        return object.to_string();
    }
    let mut members: Vec<String> = Vec::new();
    if with_type {
        members.push(format!("\"kind\":{}", Value::from(kind.kind.as_str())));
        members.push(format!("\"apiVersion\":{}", Value::from(kind.gvr.api_version())));
    }
    for (key, value) in object.as_object().into_iter().flatten().filter(|(k, _)| *k == "metadata") {
        members.push(format!("{}:{value}", Value::from(key.as_str())));
    }
    let rest = object.as_object().into_iter().flatten();
    for (key, value) in rest.filter(|(k, _)| !matches!(k.as_str(), "kind" | "apiVersion" | "metadata")) {
        members.push(format!("{}:{value}", Value::from(key.as_str())));
    }
    format!("{{{}}}", members.join(","))
}

fn json_list(kind: &ResourceKind, items: &[Arc<Value>], meta: &Value) -> String {
    let items: Vec<String> = items.iter().map(|o| typed_json(kind, o, false)).collect();
    let (list_kind, api_version) = (Value::from(kind.list_kind()), Value::from(kind.gvr.api_version()));
    let items = items.join(",");
    if kind.gvr.is_custom() {
        return format!(
            "{{\"apiVersion\":{api_version},\"items\":[{items}],\"kind\":{list_kind},\"metadata\":{meta}}}\n"
        );
    }
    format!("{{\"kind\":{list_kind},\"apiVersion\":{api_version},\"metadata\":{meta},\"items\":[{items}]}}\n")
}

/// The clauses of `Accept`, the dearest first.
fn by_quality(accept: &str) -> Vec<&str> {
    let mut clauses: Vec<&str> = accept.split(',').map(str::trim).filter(|c| !c.is_empty()).collect();
    clauses.sort_by_key(|clause| std::cmp::Reverse(quality(clause)));
    clauses
}

fn media_type(clause: &str) -> &str {
    clause.split(';').next().unwrap_or_default().trim()
}

/// Whether the first clause that the server can write is protobuf: refusals come in it, too.
pub(crate) fn prefers_protobuf(accept: &str) -> bool {
    let known = ["application/json", PROTOBUF, "*/*"];
    // A refusal has no other form.
    let plain = by_quality(accept).into_iter().filter(|clause| !clause.contains("as="));
    plain.map(media_type).find(|media| known.contains(media)) == Some(PROTOBUF)
}

/// Quality of an Accept clause in thousandths.
fn quality(clause: &str) -> u32 {
    let value = clause.split(';').find_map(|p| p.trim().strip_prefix("q=")).unwrap_or("1");
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    let thousandths = format!("{part:0<3}");
    whole.parse::<u32>().unwrap_or(1) * 1000 + thousandths.get(..3).and_then(|t| t.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Gvr, Registry};

    #[test]
    fn the_first_clause_that_fits_wins() {
        let registry = Registry::default();
        let pods = registry.find(&Gvr::core("pods")).unwrap();
        let endpoints = registry.find(&Gvr::core("endpoints")).unwrap();
        let typed = "application/vnd.kubernetes.protobuf,application/json";
        let format = |accept, kind| {
            Format::negotiate(accept, kind, true).map(|f| (f.encoding, f.form)).map_err(|s| s.code)
        };
        assert_eq!(format(typed, pods), Ok((Encoding::Protobuf, Form::Object)));
        assert_eq!(format(typed, endpoints), Ok((Encoding::Json, Form::Object)));
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(format(table, pods), Ok((Encoding::Json, Form::Table(RowObject::Metadata))));
        assert_eq!(format("application/yaml;q=0.9, */*;q=0.1", pods), Ok((Encoding::Json, Form::Object)));
        assert_eq!(format("application/cbor", pods), Err(406));
    }

    #[test]
    fn built_in_kinds_lead_with_their_type_and_custom_ones_are_sorted() {
        let mut registry = Registry::default();
        let object = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}, "aFirst": 1});
        let pods = registry.find(&Gvr::core("pods")).unwrap();
        assert_eq!(
            typed_json(pods, &object, true),
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"aFirst":1}"#
        );
        assert_eq!(typed_json(pods, &object, false), r#"{"metadata":{"name":"a"},"aFirst":1}"#);
        let gvr = Gvr::new("eyot.io", "v1", "nodepools");
        registry.add(ResourceKind {
            gvr: gvr.clone(),
            kind: "NodePool".into(),
            namespaced: false,
            protobuf: false,
            status: false,
            create_only: false,
            columns: Vec::new(),
        });
        let pool = json!({"kind": "NodePool", "apiVersion": "eyot.io/v1", "metadata": {"name": "p"}});
        let list =
            json_list(registry.find(&gvr).unwrap(), &[Arc::new(pool)], &json!({"resourceVersion": "7"}));
        assert!(
            list.starts_with(
                r#"{"apiVersion":"eyot.io/v1","items":[{"apiVersion":"eyot.io/v1","kind":"NodePool""#
            ),
            "{list}"
        );
    }
}
