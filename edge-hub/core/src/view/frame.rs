//! From an event to the bytes of one stream: the collection's own form, or partial metadata made of whole objects.

use bytes::Bytes;
use proto_kube::edit::{EditError, partial_metadata};
use proto_kube::media_type::{Form, Format};
use proto_kube::object::TypeMeta;
use proto_kube::status::Status;
use proto_kube::watch::{EventType, encode_bookmark, encode_error, encode_event};

use crate::collection::{CollectionSpec, Envelope, RingEvent, Uncovered};

/// Encodes the events of one stream.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// Format of the stream.
    format: Format,
    /// The collection's objects are sent as they are.
    natural: bool,
    /// A table's columns have yet to be sent; they go with the first event only.
    columns_due: bool,
}

impl Encoder {
    /// # Errors
    /// When the collection's objects cannot be shown in this form.
    pub(crate) fn new(spec: &CollectionSpec, form: Form) -> Result<Self, Uncovered> {
        let natural = form == spec.format.form;
        let derived = spec.format.form == Form::Object && form == Form::PartialMetadata;
        if !natural && !derived {
            return Err(Uncovered::Form);
        }
        let format = Format { encoding: spec.format.encoding, form };
        Ok(Self { format, natural, columns_due: form == Form::Table })
    }

    /// An event of the ring that needs no change for this stream.
    pub(crate) fn event(&mut self, envelope: &Envelope, event: &RingEvent) -> Result<Bytes, EditError> {
        if self.natural && !self.columns_due {
            return Ok(event.frame(self.format, &envelope.type_meta));
        }
        self.encode(envelope, event.event_type, &event.object.raw)
    }

    /// Any other event.
    pub(crate) fn encode(
        &mut self,
        envelope: &Envelope,
        event_type: EventType,
        raw: &[u8],
    ) -> Result<Bytes, EditError> {
        if !self.natural {
            let metadata = partial_metadata(self.format.encoding, raw)?;
            let type_meta = TypeMeta::partial_object_metadata();
            return Ok(encode_event(self.format, event_type, &type_meta, &metadata, None));
        }
        let columns = if self.columns_due { envelope.columns.as_deref() } else { None };
        self.columns_due = false;
        Ok(encode_event(self.format, event_type, &envelope.type_meta, raw, columns))
    }

    pub(crate) fn bookmark(
        &self,
        envelope: &Envelope,
        resource_version: u64,
        initial_events_end: bool,
    ) -> Bytes {
        let version = resource_version.to_string();
        if self.natural {
            return encode_bookmark(self.format, &envelope.type_meta, &version, initial_events_end);
        }
        encode_bookmark(self.format, &TypeMeta::partial_object_metadata(), &version, initial_events_end)
    }

    pub(crate) fn error(&self, status: &Status) -> Bytes {
        encode_error(self.format.encoding, status)
    }
}
