//! From an event to the bytes of one stream, in the collection's own format or in one that is made of it.

use std::time::Duration;

use bytes::Bytes;
use proto_kube::gvr::GroupVersionResource;
use proto_kube::media_type::{Form, Format};
use proto_kube::status::Status;
use proto_kube::watch::{EventType, encode_bookmark, encode_error, encode_event};

use crate::clock::Now;
use crate::collection::{Collection, CollectionSpec, Envelope, RingEvent, Uncovered};
use crate::projection::{Projection, ProjectionError};
use crate::table;

/// Encodes the events of one stream.
#[derive(Debug)]
pub(crate) struct Encoder {
    projection: Projection,
    gvr: GroupVersionResource,
    /// By the wall clock; a table's cells tell times as of then.
    now: Duration,
    /// A table's columns have yet to be sent; they go with the first event only.
    columns_due: bool,
}

impl Encoder {
    /// # Errors
    /// When the collection's objects cannot be shown in this format.
    pub(crate) fn new(spec: &CollectionSpec, shown: Format) -> Result<Self, Uncovered> {
        let projection = Projection::new(spec.format, shown)?;
        let (gvr, now) = (spec.gvr.clone(), Duration::ZERO);
        Ok(Self { projection, gvr, now, columns_due: shown.form == Form::Table })
    }

    /// What is encoded from here on is told at this moment.
    pub(crate) fn set_now(&mut self, now: Now) {
        self.now = now.unix;
    }

    fn row(&self, envelope: &Envelope, raw: &Bytes) -> Bytes {
        table::shown(&self.gvr, self.projection.shown(), envelope.columns.as_deref(), raw, self.now)
    }

    /// An event of the ring that needs no change for this stream; encoded once for all streams of its format.
    pub(crate) fn event(
        &mut self,
        collection: &Collection,
        event: &RingEvent,
    ) -> Result<Bytes, ProjectionError> {
        let envelope = collection.envelope();
        if self.columns_due {
            return self.encode(envelope, event.event_type, &event.object.raw);
        }
        let derived = (!self.projection.is_natural()).then(|| self.projection.shown());
        collection.ring().frame(event, derived, || {
            let raw = self.row(envelope, &event.object.raw);
            encode(&self.projection, envelope, event.event_type, &raw)
        })
    }

    /// Any other event.
    pub(crate) fn encode(
        &mut self,
        envelope: &Envelope,
        event_type: EventType,
        raw: &Bytes,
    ) -> Result<Bytes, ProjectionError> {
        let raw = &self.row(envelope, raw);
        if std::mem::take(&mut self.columns_due) {
            let columns = envelope.columns.as_deref();
            return Ok(encode_event(self.projection.shown(), event_type, &envelope.type_meta, raw, columns));
        }
        encode(&self.projection, envelope, event_type, raw)
    }

    pub(crate) fn bookmark(
        &self,
        envelope: &Envelope,
        resource_version: u64,
        initial_events_end: bool,
    ) -> Bytes {
        let version = resource_version.to_string();
        let type_meta = self.projection.type_meta(envelope);
        encode_bookmark(self.projection.shown(), &type_meta, &version, initial_events_end)
    }

    pub(crate) fn error(&self, status: &Status) -> Bytes {
        encode_error(self.projection.shown().encoding, status)
    }
}

fn encode(
    projection: &Projection,
    envelope: &Envelope,
    event_type: EventType,
    raw: &Bytes,
) -> Result<Bytes, ProjectionError> {
    if projection.is_natural() {
        return Ok(encode_event(projection.shown(), event_type, &envelope.type_meta, raw, None));
    }
    let item = projection.item(&envelope.type_meta, raw)?;
    Ok(encode_event(projection.shown(), event_type, &projection.type_meta(envelope), &item, None))
}
