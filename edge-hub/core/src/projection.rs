//! How a client is shown the objects of a collection: as they are held, or made into the format that it asked for.
//!
//! Of a kind that has protobuf one collection of whole objects serves every client: JSON is transcoded, metadata is
//! cut out. A table cannot be made here; only the API server knows the columns.

use bytes::Bytes;
use proto_kube::descriptor::Descriptor;
use proto_kube::edit::{EditError, Rewrite, partial_metadata, rewrite};
use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::{Encoding, Form, Format};
use proto_kube::object::TypeMeta;
use proto_kube::transcode::{TranscodeError, metadata_to_json, to_json};
use proto_kube::wire;

use crate::collection::{Envelope, Uncovered};

/// Longest JSON made of one object; the API server takes no writes above 3 MiB.
const MAX_JSON: usize = 64 << 20;

/// Where an object's annotations are in protobuf.
const ANNOTATIONS: [u32; 2] = [1, 12];
/// Annotations that the API server makes of fields that a version lacks, when it writes a whole object in that version.
/// They are in no object as it is stored, so they are not in its metadata when that is asked for alone.
const MADE_BY_CONVERSION: [(&str, &str, &[&str]); 3] = [
    ("apps/v1", "DaemonSet", &["deprecated.daemonset.template.generation"]),
    ("apps/v1", "Deployment", &["deprecated.deployment.rollback.to"]),
    (
        "autoscaling/v1",
        "HorizontalPodAutoscaler",
        &[
            "autoscaling.alpha.kubernetes.io/behavior",
            "autoscaling.alpha.kubernetes.io/conditions",
            "autoscaling.alpha.kubernetes.io/current-metrics",
            "autoscaling.alpha.kubernetes.io/metrics",
        ],
    ),
];

/// From the format in which objects are held to the one in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Projection {
    held: Format,
    shown: Format,
}

/// Why an object cannot be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProjectionError {
    /// Its metadata cannot be cut out.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// It cannot be written as JSON.
    #[error(transparent)]
    Transcode(#[from] TranscodeError),
}

/// The format of the collection that serves clients of `shown`: protobuf where this program can read the kinds of that
/// group version, else `shown` itself. Whether the server has protobuf of this very kind shows when it is asked.
#[must_use]
pub fn held_for(gvr: &GroupVersionResource, shown: Format) -> Format {
    let is_derivable = shown.form != Form::Table;
    if is_derivable && Descriptor::kubernetes().has_group_version(&gvr.api_version()) {
        return Format::PROTOBUF;
    }
    shown
}

impl Projection {
    /// The way from `held` to `shown`.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(held: Format, shown: Format) -> Result<Self, Uncovered> {
        let is_metadata = shown.form == Form::PartialMetadata;
        let is_derived = match held {
            Format::PROTOBUF => is_metadata || shown == Format::JSON,
            Format::JSON => is_metadata && shown.encoding == Encoding::Json,
            _ => false,
        };
        if held == shown || is_derived { Ok(Self { held, shown }) } else { Err(Uncovered::Form) }
    }

    /// The format that the client is sent.
    #[must_use]
    pub fn shown(&self) -> Format {
        self.shown
    }

    /// Objects are sent as they are held.
    #[must_use]
    pub fn is_natural(&self) -> bool {
        self.held == self.shown
    }

    /// Whether objects of this type can be shown: those of a kind newer than this program cannot be made into JSON.
    #[must_use]
    pub fn can_show(&self, type_meta: &TypeMeta) -> bool {
        let is_transcoded = self.held == Format::PROTOBUF && self.shown == Format::JSON;
        !is_transcoded || Descriptor::kubernetes().knows(type_meta)
    }

    /// The type that the client is told of one object.
    #[must_use]
    pub fn type_meta(&self, envelope: &Envelope) -> TypeMeta {
        if self.is_reduced() { TypeMeta::partial_object_metadata() } else { envelope.type_meta.clone() }
    }

    /// The type that the client is told of the list.
    #[must_use]
    pub fn list_type(&self, envelope: &Envelope) -> TypeMeta {
        if self.is_reduced() {
            let item = TypeMeta::partial_object_metadata();
            return TypeMeta::new(item.api_version, format!("{}List", item.kind));
        }
        TypeMeta::new(envelope.type_meta.api_version.clone(), envelope.list_kind.clone())
    }

    fn is_reduced(&self) -> bool {
        self.held.form != self.shown.form
    }

    /// The item's bytes as the client is shown them, without what surrounds an item in an event or a document.
    ///
    /// # Errors
    /// When the object is malformed or of an unknown kind.
    pub fn item(&self, type_meta: &TypeMeta, raw: &Bytes) -> Result<Bytes, ProjectionError> {
        if self.is_natural() {
            return Ok(raw.clone());
        }
        if !self.is_reduced() {
            return Ok(to_json(type_meta, raw, MAX_JSON)?.into());
        }
        if self.held.encoding == Encoding::Json {
            return Ok(partial_metadata(Encoding::Json, raw)?.into());
        }
        let metadata = stored_metadata(type_meta, raw)?;
        Ok(match self.shown.encoding {
            Encoding::Protobuf => metadata.into(),
            Encoding::Json => metadata_to_json(&metadata, MAX_JSON)?.into(),
        })
    }
}

/// The metadata of a whole object in protobuf, as the API server tells it where it is asked for alone.
fn stored_metadata(type_meta: &TypeMeta, raw: &[u8]) -> Result<Vec<u8>, EditError> {
    let metadata = partial_metadata(Encoding::Protobuf, raw)?;
    let made = MADE_BY_CONVERSION
        .iter()
        .find(|(version, kind, _)| *version == &*type_meta.api_version && *kind == &*type_meta.kind);
    let Some((.., keys)) = made else { return Ok(metadata) };
    rewrite(&metadata, &ANNOTATIONS, &mut |entry| {
        let key = wire::last(entry, 1)?.map(|key| key.bytes()).transpose()?.unwrap_or_default();
        let is_made = keys.iter().any(|made| made.as_bytes() == key);
        Ok(if is_made { Rewrite::Remove } else { Rewrite::Keep })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON_METADATA: Format = Format { encoding: Encoding::Json, form: Form::PartialMetadata };
    const PROTOBUF_METADATA: Format = Format { encoding: Encoding::Protobuf, form: Form::PartialMetadata };
    const TABLE: Format = Format { encoding: Encoding::Json, form: Form::Table };

    #[test]
    fn protobuf_serves_all_but_tables() {
        let formats = [Format::JSON, Format::PROTOBUF, JSON_METADATA, PROTOBUF_METADATA, TABLE];
        let served = |held: Format| formats.map(|shown| Projection::new(held, shown).is_ok());
        assert_eq!(served(Format::PROTOBUF), [true, true, true, true, false]);
        assert_eq!(served(Format::JSON), [true, false, true, false, false]);
        assert_eq!(served(JSON_METADATA), [false, false, true, false, false]);
        assert_eq!(served(TABLE), [false, false, false, false, true]);
    }

    #[test]
    fn built_in_kinds_are_held_as_protobuf_and_others_as_they_are_asked_for() {
        let pods = GroupVersionResource::new("", "v1", "pods");
        let widgets = GroupVersionResource::new("example.org", "v1", "widgets");
        for shown in [Format::JSON, Format::PROTOBUF, JSON_METADATA, PROTOBUF_METADATA] {
            assert_eq!(held_for(&pods, shown), Format::PROTOBUF);
            assert_eq!(held_for(&widgets, shown), shown);
        }
        assert_eq!(held_for(&pods, TABLE), TABLE);
    }

    #[test]
    fn a_kind_newer_than_this_program_is_shown_as_it_is_held_only() {
        let known = TypeMeta::new("v1", "Pod");
        let newer = TypeMeta::new("v1", "Capsule");
        let transcoded = Projection::new(Format::PROTOBUF, Format::JSON).expect("derivable");
        let reduced = Projection::new(Format::PROTOBUF, JSON_METADATA).expect("derivable");
        assert!(transcoded.can_show(&known) && !transcoded.can_show(&newer) && reduced.can_show(&newer));
    }

    #[test]
    fn metadata_alone_is_the_same_from_both_encodings() {
        // metadata {name: "a"}, spec {nodeName: "n1"}
        let protobuf = Bytes::from_static(b"\x0a\x03\x0a\x01a\x12\x04\x52\x02n1");
        let json = Bytes::from_static(br#"{"metadata":{"name":"a"},"spec":{"nodeName":"n1"}}"#);
        let pod = TypeMeta::new("v1", "Pod");
        let shown = |held: Format, raw: &Bytes| {
            Projection::new(held, JSON_METADATA).expect("derivable").item(&pod, raw).expect("an object")
        };
        assert_eq!(shown(Format::PROTOBUF, &protobuf), shown(Format::JSON, &json));
        let reduced = Projection::new(Format::PROTOBUF, PROTOBUF_METADATA).expect("derivable");
        assert_eq!(reduced.item(&pod, &protobuf).expect("an object"), &protobuf[..5]);
    }

    #[test]
    fn metadata_alone_lacks_what_the_server_makes_for_whole_objects() {
        let entry = |key: &str| {
            let (mut entry, mut out) = (Vec::new(), Vec::new());
            wire::put_bytes(&mut entry, 1, key.as_bytes());
            wire::put_bytes(&mut entry, 2, b"1");
            wire::put_bytes(&mut out, 12, &entry);
            out
        };
        let mut object = Vec::new();
        let metadata = [entry("deprecated.daemonset.template.generation"), entry("mine")].concat();
        wire::put_bytes(&mut object, 1, &metadata);
        let object = Bytes::from(object);
        let shown = |kind: &str| {
            let reduced = Projection::new(Format::PROTOBUF, JSON_METADATA).expect("derivable");
            let item = reduced.item(&TypeMeta::new("apps/v1", kind), &object).expect("an object");
            let text = std::str::from_utf8(&item).expect("JSON").to_owned();
            (text.contains("generation"), text.contains("mine"))
        };
        assert_eq!((shown("DaemonSet"), shown("ReplicaSet")), ((false, true), (true, true)));
    }
}
