//! What the hub reads out of one object's bytes: its identity, its labels, the fields that selectors may name.
//!
//! An item's bytes ("raw") are, by [`Format`]: protobuf: the bare message, no magic and no type; JSON: the object's
//! text, without the leading `kind` and `apiVersion` when a typed encoder had written them first; Table: one row's
//! text, whose `object` holds the metadata.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::gvr::GroupVersionResource;
use crate::json::{self, JsonError};
use crate::media_type::{Encoding, Form, Format};
use crate::wire::{self, Value, WireError};

/// The number of the ObjectMeta field in every Kubernetes object.
pub(crate) const METADATA: u32 = 1;
/// ObjectMeta field numbers.
pub(crate) const META_NAME: u32 = 1;
pub(crate) const META_NAMESPACE: u32 = 3;
pub(crate) const META_UID: u32 = 5;
pub(crate) const META_RESOURCE_VERSION: u32 = 6;
pub(crate) const META_LABELS: u32 = 11;
pub(crate) const META_ANNOTATIONS: u32 = 12;

/// An object's kind and the version it is written in.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TypeMeta {
    /// `v1`, `apps/v1`.
    pub api_version: Box<str>,
    /// `Pod`.
    pub kind: Box<str>,
}

impl TypeMeta {
    /// The type `kind` of `api_version`.
    pub fn new(api_version: impl Into<Box<str>>, kind: impl Into<Box<str>>) -> Self {
        Self { api_version: api_version.into(), kind: kind.into() }
    }

    /// The type of a server-printed table.
    #[must_use]
    pub fn table() -> Self {
        Self::new("meta.k8s.io/v1", "Table")
    }

    /// The type of one object reduced to its metadata.
    #[must_use]
    pub fn partial_object_metadata() -> Self {
        Self::new("meta.k8s.io/v1", "PartialObjectMetadata")
    }
}

/// An object's place in its collection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Empty for cluster-scoped kinds.
    pub namespace: Box<str>,
    /// The object's name.
    pub name: Box<str>,
}

/// The part of an object's metadata that identifies it. An absent value is the empty string, as in Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectMeta<'a> {
    /// Empty for cluster-scoped kinds.
    pub namespace: Cow<'a, str>,
    /// Empty in bookmarks.
    pub name: Cow<'a, str>,
    /// The identity that survives a change of everything but a delete.
    pub uid: Cow<'a, str>,
    /// Opaque to clients, a decimal number from kube-apiserver.
    pub resource_version: Cow<'a, str>,
}

impl ObjectMeta<'_> {
    /// The object's key, owned.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        ObjectKey { namespace: self.namespace.as_ref().into(), name: self.name.as_ref().into() }
    }
}

/// Why an object's metadata could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The bytes are not a protobuf message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The bytes are not JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A part without which the object has no identity is not there.
    #[error("the object has no `{0}`")]
    Missing(&'static str),
    /// A JSON value in the metadata has a type it cannot have.
    #[error("metadata.{0} is of the wrong JSON type")]
    WrongType(&'static str),
    /// Tables exist only in JSON.
    #[error("a Table cannot be protobuf")]
    ProtobufTable,
}

/// The object's metadata: the protobuf message or the JSON text.
enum Metadata<'a> {
    Protobuf(&'a [u8]),
    Json(&'a [u8]),
}

/// Finds the metadata. A table row is looked into; `null` counts as empty.
fn metadata(format: Format, raw: &[u8]) -> Result<Metadata<'_>, ScanError> {
    match (format.encoding, format.form) {
        (Encoding::Protobuf, Form::Table) => Err(ScanError::ProtobufTable),
        (Encoding::Protobuf, _) => {
            let field = wire::last(raw, METADATA)?.ok_or(ScanError::Missing("metadata"))?;
            Ok(Metadata::Protobuf(field.bytes()?))
        }
        (Encoding::Json, form) => {
            let object = match form {
                Form::Table => row_object(raw)?,
                Form::Object | Form::PartialMetadata => raw,
            };
            let text = json::member(object, "metadata")?.ok_or(ScanError::Missing("metadata"))?;
            Ok(Metadata::Json(if json::is_null(text) { b"{}" } else { text }))
        }
    }
}

/// The object inside a table's row.
pub(crate) fn row_object(row: &[u8]) -> Result<&[u8], ScanError> {
    let object = json::member(row, "object")?.filter(|object| !json::is_null(object));
    object.ok_or(ScanError::Missing("object"))
}

/// The text of the metadata of the object inside a table's row.
///
/// # Errors
/// When the row is malformed, or holds no object with metadata.
pub fn row_metadata(row: &[u8]) -> Result<&[u8], ScanError> {
    json::member(row_object(row)?, "metadata")?.ok_or(ScanError::Missing("metadata"))
}

/// Reads the object's identity.
///
/// # Errors
/// When the bytes are malformed as far as they must be read, or hold no metadata.
pub fn scan(format: Format, raw: &[u8]) -> Result<ObjectMeta<'_>, ScanError> {
    match metadata(format, raw)? {
        Metadata::Protobuf(message) => scan_protobuf(message),
        Metadata::Json(text) => scan_json(text),
    }
}

fn scan_protobuf(message: &[u8]) -> Result<ObjectMeta<'_>, ScanError> {
    let mut meta = ObjectMeta::default();
    for field in wire::fields(message) {
        let field = field?;
        let slot = match field.number {
            META_NAME => &mut meta.name,
            META_NAMESPACE => &mut meta.namespace,
            META_UID => &mut meta.uid,
            META_RESOURCE_VERSION => &mut meta.resource_version,
            _ => continue,
        };
        *slot = Cow::Borrowed(field.string()?);
    }
    Ok(meta)
}

fn scan_json(text: &[u8]) -> Result<ObjectMeta<'_>, ScanError> {
    let mut meta = ObjectMeta::default();
    for entry in json::members(text)? {
        let (key, value) = entry?;
        let (name, slot) = match key.as_ref() {
            "name" => ("name", &mut meta.name),
            "namespace" => ("namespace", &mut meta.namespace),
            "uid" => ("uid", &mut meta.uid),
            "resourceVersion" => ("resourceVersion", &mut meta.resource_version),
            _ => continue,
        };
        *slot = json_string(name, value)?;
    }
    Ok(meta)
}

/// A string, or the empty one for `null`.
fn json_string<'a>(name: &'static str, value: &'a [u8]) -> Result<Cow<'a, str>, ScanError> {
    match value.first() {
        Some(b'"') => Ok(json::string(value)?),
        _ if json::is_null(value) => Ok(Cow::Borrowed("")),
        _ => Err(ScanError::WrongType(name)),
    }
}

/// The value of the label `key`; `None` when the object has no such label.
///
/// # Errors
/// As [`scan`].
pub fn label<'a>(format: Format, raw: &'a [u8], key: &str) -> Result<Option<Cow<'a, str>>, ScanError> {
    let mut found = None;
    visit_strings(format, raw, &LABELS, |name, value| {
        if name == key {
            found = Some(value);
        }
    })?;
    Ok(found)
}

/// The value of the annotation `key`; `None` when the object has no such annotation.
///
/// # Errors
/// As [`scan`].
pub fn annotation<'a>(format: Format, raw: &'a [u8], key: &str) -> Result<Option<Cow<'a, str>>, ScanError> {
    let mut found = None;
    visit_strings(format, raw, &ANNOTATIONS, |name, value| {
        if name == key {
            found = Some(value);
        }
    })?;
    Ok(found)
}

/// One pair of a map of strings.
pub type StringPair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The object's labels, in the order they stand there.
///
/// # Errors
/// As [`scan`].
pub fn labels(format: Format, raw: &[u8]) -> Result<Vec<StringPair<'_>>, ScanError> {
    let mut pairs = Vec::new();
    visit_strings(format, raw, &LABELS, |name, value| pairs.push((name, value)))?;
    Ok(pairs)
}

/// The object's annotations, in the order they stand there.
///
/// # Errors
/// As [`scan`].
pub fn annotations(format: Format, raw: &[u8]) -> Result<Vec<StringPair<'_>>, ScanError> {
    let mut pairs = Vec::new();
    visit_strings(format, raw, &ANNOTATIONS, |name, value| pairs.push((name, value)))?;
    Ok(pairs)
}

/// A map of strings in the metadata: its number and its name.
struct StringMap {
    number: u32,
    name: &'static str,
}

const LABELS: StringMap = StringMap { number: META_LABELS, name: "labels" };
const ANNOTATIONS: StringMap = StringMap { number: META_ANNOTATIONS, name: "annotations" };

fn visit_strings<'a>(
    format: Format,
    raw: &'a [u8],
    map: &StringMap,
    mut visit: impl FnMut(Cow<'a, str>, Cow<'a, str>),
) -> Result<(), ScanError> {
    match metadata(format, raw)? {
        Metadata::Protobuf(message) => {
            for field in wire::fields(message) {
                let field = field?;
                if field.number == map.number {
                    let (key, value) = map_entry(field.bytes()?)?;
                    visit(Cow::Borrowed(key), Cow::Borrowed(value));
                }
            }
        }
        Metadata::Json(text) => {
            let Some(pairs) = json::member(text, map.name)?.filter(|pairs| !json::is_null(pairs)) else {
                return Ok(());
            };
            for entry in json::members(pairs)? {
                let (key, value) = entry?;
                visit(key, json_string(map.name, value)?);
            }
        }
    }
    Ok(())
}

/// An entry of a protobuf map of strings: {1: key, 2: value}.
fn map_entry(entry: &[u8]) -> Result<(&str, &str), WireError> {
    let (mut key, mut value) = ("", "");
    for field in wire::fields(entry) {
        let field = field?;
        match field.number {
            1 => key = field.string()?,
            2 => value = field.string()?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// A field that selectors may name: where it stands in both encodings, and what it is when it is absent.
struct SelectableField {
    path: &'static str,
    json: &'static [&'static str],
    protobuf: &'static [u32],
    absent: &'static str,
}

const fn text(
    path: &'static str,
    json: &'static [&'static str],
    protobuf: &'static [u32],
) -> SelectableField {
    SelectableField { path, json, protobuf, absent: "" }
}

const fn flag(
    path: &'static str,
    json: &'static [&'static str],
    protobuf: &'static [u32],
) -> SelectableField {
    SelectableField { path, json, protobuf, absent: "false" }
}

const PODS: &[SelectableField] = &[
    text("spec.nodeName", &["spec", "nodeName"], &[2, 10]),
    text("spec.restartPolicy", &["spec", "restartPolicy"], &[2, 3]),
    text("spec.schedulerName", &["spec", "schedulerName"], &[2, 19]),
    text("spec.serviceAccountName", &["spec", "serviceAccountName"], &[2, 8]),
    flag("spec.hostNetwork", &["spec", "hostNetwork"], &[2, 11]),
    text("status.phase", &["status", "phase"], &[3, 1]),
    text("status.podIP", &["status", "podIP"], &[3, 6]),
    text("status.nominatedNodeName", &["status", "nominatedNodeName"], &[3, 11]),
];
const SERVICES: &[SelectableField] =
    &[text("spec.clusterIP", &["spec", "clusterIP"], &[2, 3]), text("spec.type", &["spec", "type"], &[2, 4])];
const NODES: &[SelectableField] = &[flag("spec.unschedulable", &["spec", "unschedulable"], &[2, 4])];
const SECRETS: &[SelectableField] = &[text("type", &["type"], &[3])];
const NAMESPACES: &[SelectableField] = &[text("status.phase", &["status", "phase"], &[3, 1])];
const EVENTS: &[SelectableField] = &[
    text("involvedObject.kind", &["involvedObject", "kind"], &[2, 1]),
    text("involvedObject.namespace", &["involvedObject", "namespace"], &[2, 2]),
    text("involvedObject.name", &["involvedObject", "name"], &[2, 3]),
    text("involvedObject.uid", &["involvedObject", "uid"], &[2, 4]),
    text("involvedObject.apiVersion", &["involvedObject", "apiVersion"], &[2, 5]),
    text("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"], &[2, 6]),
    text("involvedObject.fieldPath", &["involvedObject", "fieldPath"], &[2, 7]),
    text("reason", &["reason"], &[3]),
    text("type", &["type"], &[9]),
    REPORTING_COMPONENT,
    text("source", &["source", "component"], &[5, 1]),
];
const REPORTING_COMPONENT: SelectableField = text("reportingComponent", &["reportingComponent"], &[14]);

fn selectable(gvr: &GroupVersionResource) -> &'static [SelectableField] {
    match (gvr.group.as_ref(), gvr.version.as_ref(), gvr.resource.as_ref()) {
        ("", "v1", "pods") => PODS,
        ("", "v1", "services") => SERVICES,
        ("", "v1", "nodes") => NODES,
        ("", "v1", "secrets") => SECRETS,
        ("", "v1", "namespaces") => NAMESPACES,
        ("", "v1", "events") => EVENTS,
        _ => &[],
    }
}

/// The value a field selector compares at `path`. `None` when it cannot be evaluated: a path this kind does not
/// offer, a form that does not carry it (a table's row and partial metadata hold only `metadata.*`), broken bytes.
#[must_use]
pub fn field<'a>(
    gvr: &GroupVersionResource,
    format: Format,
    raw: &'a [u8],
    path: &str,
) -> Option<Cow<'a, str>> {
    match path {
        "metadata.name" => return scan(format, raw).ok().map(|meta| meta.name),
        "metadata.namespace" => return scan(format, raw).ok().map(|meta| meta.namespace),
        _ if format.form != Form::Object => return None,
        _ => {}
    }
    let known = selectable(gvr).iter().find(|known| known.path == path)?;
    let found = known.read(format.encoding, raw)?;
    // kube-apiserver falls back to the reporter for events written through the newer events API.
    if known.path == "source" && found.is_empty() {
        return REPORTING_COMPONENT.read(format.encoding, raw);
    }
    Some(found)
}

impl SelectableField {
    fn read<'a>(&self, encoding: Encoding, raw: &'a [u8]) -> Option<Cow<'a, str>> {
        match encoding {
            Encoding::Json => self.read_json(raw),
            Encoding::Protobuf => self.read_protobuf(raw),
        }
    }

    fn read_json<'a>(&self, raw: &'a [u8]) -> Option<Cow<'a, str>> {
        let mut value = raw;
        for name in self.json {
            match json::member(value, name).ok()? {
                Some(next) if !json::is_null(next) => value = next,
                _ => return Some(Cow::Borrowed(self.absent)),
            }
        }
        match value {
            b"true" => Some(Cow::Borrowed("true")),
            b"false" => Some(Cow::Borrowed("false")),
            _ => json::string(value).ok(),
        }
    }

    fn read_protobuf<'a>(&self, raw: &'a [u8]) -> Option<Cow<'a, str>> {
        let (last, ancestors) = self.protobuf.split_last()?;
        let mut message = raw;
        for number in ancestors {
            match wire::last(message, *number).ok()? {
                Some(next) => message = next.bytes().ok()?,
                None => return Some(Cow::Borrowed(self.absent)),
            }
        }
        match wire::last(message, *last).ok()?.map(|field| (field.value, field)) {
            None => Some(Cow::Borrowed(self.absent)),
            Some((Value::Varint(0), _)) => Some(Cow::Borrowed("false")),
            Some((Value::Varint(_), _)) => Some(Cow::Borrowed("true")),
            Some((_, field)) => field.string().ok().map(Cow::Borrowed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, value) in fields {
            wire::put_bytes(&mut out, *number, value);
        }
        out
    }

    fn core(resource: &str) -> GroupVersionResource {
        GroupVersionResource::new("", "v1", resource)
    }

    #[test]
    fn identity_is_read_from_every_format() {
        let protobuf = message(&[(1, &message(&[(1, b"web"), (3, b"shop"), (5, b"u-1"), (6, b"17")]))]);
        let json =
            br#"{"metadata":{"name":"w\u0065b","namespace":"shop","uid":"u-1","resourceVersion":"17"}}"#;
        let row = [br#"{"cells":["metadata"],"object":"#.as_slice(), json, b"}"].concat();
        let table = Format { encoding: Encoding::Json, form: Form::Table };
        for (format, raw) in [(Format::PROTOBUF, &protobuf[..]), (Format::JSON, &json[..]), (table, &row[..])]
        {
            let meta = scan(format, raw).expect("a good object");
            assert_eq!(meta.key(), ObjectKey { namespace: "shop".into(), name: "web".into() });
            assert_eq!((meta.uid.as_ref(), meta.resource_version.as_ref()), ("u-1", "17"));
        }
    }

    #[test]
    fn objects_without_identity_are_refused_by_name() {
        let table = Format { encoding: Encoding::Json, form: Form::Table };
        let cases: [(Format, &[u8], &str); 5] = [
            (Format::JSON, b"{}", "the object has no `metadata`"),
            (Format::JSON, br#"{"metadata":{"name":5}}"#, "metadata.name is of the wrong JSON type"),
            (Format::PROTOBUF, b"", "the object has no `metadata`"),
            (table, br#"{"cells":[],"object":null}"#, "the object has no `object`"),
            (
                Format::PROTOBUF,
                b"\x0a\x7f",
                "truncated protobuf: the message ends inside the field that begins at byte 0",
            ),
        ];
        for (format, raw, message) in cases {
            assert_eq!(scan(format, raw).expect_err(message).to_string(), message);
        }
    }

    #[test]
    fn labels_and_annotations_are_read_from_both_encodings() {
        let entry = message(&[(1, b"app"), (2, b"web")]);
        let bare = message(&[(1, b"bare")]);
        let protobuf = message(&[(
            1,
            &message(&[(11, &entry), (11, &bare), (12, &message(&[(1, b"note"), (2, b"x")]))]),
        )]);
        let json = br#"{"metadata":{"labels":{"app":"web","bare":""},"annotations":{"note":"x"}}}"#;
        for (format, raw) in [(Format::PROTOBUF, &protobuf[..]), (Format::JSON, &json[..])] {
            let pairs = labels(format, raw).expect("labels");
            assert_eq!(pairs, [("app".into(), "web".into()), ("bare".into(), "".into())]);
            assert_eq!(label(format, raw, "app").expect("a label").as_deref(), Some("web"));
            assert_eq!(label(format, raw, "note").expect("no label"), None);
            assert_eq!(annotation(format, raw, "note").expect("an annotation").as_deref(), Some("x"));
            assert_eq!(annotations(format, raw).expect("annotations").len(), 1);
        }
    }

    #[test]
    fn a_pods_fields_are_where_kubernetes_puts_them() {
        let mut spec =
            message(&[(2, b"container"), (3, b"Always"), (8, b"robot"), (10, b"n1"), (19, b"default")]);
        wire::put_varint_field(&mut spec, 11, 1);
        let status = message(&[(1, b"Running"), (6, b"10.0.0.1"), (11, b"n2")]);
        let protobuf = message(&[(1, &message(&[(1, b"p"), (3, b"ns")])), (2, &spec), (3, &status)]);
        let json = br#"{"metadata":{"name":"p","namespace":"ns"},"spec":{"containers":[{"nodeName":"no"}],
            "restartPolicy":"Always","serviceAccountName":"robot","nodeName":"n1","hostNetwork":true,
            "schedulerName":"default"},"status":{"phase":"Running","podIP":"10.0.0.1","nominatedNodeName":"n2"}}"#;
        let expected = [
            ("metadata.name", "p"),
            ("metadata.namespace", "ns"),
            ("spec.nodeName", "n1"),
            ("spec.restartPolicy", "Always"),
            ("spec.schedulerName", "default"),
            ("spec.serviceAccountName", "robot"),
            ("spec.hostNetwork", "true"),
            ("status.phase", "Running"),
            ("status.podIP", "10.0.0.1"),
            ("status.nominatedNodeName", "n2"),
        ];
        for (path, value) in expected {
            for (format, raw) in [(Format::PROTOBUF, &protobuf[..]), (Format::JSON, &json[..])] {
                assert_eq!(
                    field(&core("pods"), format, raw, path).as_deref(),
                    Some(value),
                    "{path} {format:?}"
                );
            }
        }
    }

    #[test]
    fn an_absent_field_is_its_zero_value_and_an_unknown_one_cannot_be_told() {
        let protobuf = message(&[(1, b"")]);
        let json = br#"{"metadata":{},"spec":null}"#;
        for (format, raw) in [(Format::PROTOBUF, &protobuf[..]), (Format::JSON, &json[..])] {
            assert_eq!(field(&core("pods"), format, raw, "spec.nodeName").as_deref(), Some(""));
            assert_eq!(field(&core("pods"), format, raw, "spec.hostNetwork").as_deref(), Some("false"));
            assert_eq!(field(&core("nodes"), format, raw, "spec.unschedulable").as_deref(), Some("false"));
            assert_eq!(field(&core("pods"), format, raw, "spec.priority"), None);
            assert_eq!(field(&core("configmaps"), format, raw, "spec.nodeName"), None);
            let partial = Format { form: Form::PartialMetadata, ..format };
            assert_eq!(field(&core("pods"), partial, raw, "spec.nodeName"), None);
            assert_eq!(field(&core("pods"), partial, raw, "metadata.name").as_deref(), Some(""));
        }
    }

    #[test]
    fn an_events_source_falls_back_to_its_reporter() {
        let json =
            br#"{"metadata":{},"source":{},"reportingComponent":"kubelet","involvedObject":{"kind":"Pod"}}"#;
        let protobuf = message(&[(1, b""), (2, &message(&[(1, b"Pod")])), (5, b""), (14, b"kubelet")]);
        for (format, raw) in [(Format::PROTOBUF, &protobuf[..]), (Format::JSON, &json[..])] {
            assert_eq!(field(&core("events"), format, raw, "source").as_deref(), Some("kubelet"));
            assert_eq!(field(&core("events"), format, raw, "involvedObject.kind").as_deref(), Some("Pod"));
        }
    }
}
