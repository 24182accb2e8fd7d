//! Which formats a client takes, and from which collections each can be made.

use std::sync::Arc;

use edge_hub_core::{
    collection::{Envelope, Listing, Object, Selection},
    projection::Projection,
    table,
};
use http::header;
use proto_kube::{
    gvr::GroupVersionResource,
    list_options::{IncludeObject, ListOptions},
    media_type::{Acceptable, Encoding, Form, Format},
    request_info::ResourceRequest,
    status::Status,
};

use super::call::Call;
use crate::collections::cell::Cell;

/// What a LIST or WATCH wants to see of a collection.
pub(super) fn selection(request: &ResourceRequest, options: &ListOptions) -> Selection {
    Selection {
        namespace: request.namespace.clone(),
        name: None,
        labels: options.labels.clone(),
        fields: options.fields.clone(),
    }
}

impl Call {
    /// The client's formats that can be cached, most wanted first.
    ///
    /// # Errors
    /// 406 and 400, as [`Acceptable::parse`].
    pub(super) fn formats(
        &self,
        request: &ResourceRequest,
        tables: IncludeObject,
    ) -> Result<Vec<Format>, Status> {
        let acceptable = Acceptable::parse(self.header(header::ACCEPT), self.header(header::USER_AGENT))?;
        let connected = self.hub.site.is_connected();
        if connected && acceptable.wants_other() {
            return Ok(Vec::new());
        }
        let json_only = self.hub.collections.is_json_only(&request.gvr);
        let usable = |format: &&Format| {
            let has_protobuf = !json_only || format.encoding == Encoding::Json;
            has_protobuf
                && self.chain.can_read(format.form)
                && (format.form != Form::Table || tables == IncludeObject::Metadata)
        };
        Ok(acceptable.formats().iter().filter(usable).copied().collect())
    }

    /// Each of these formats with the formats of the collections that it can be served from, best first: what was
    /// fetched before a kind was known to have protobuf, or by an older program, may be all that there is.
    pub(super) fn holdings(&self, gvr: &GroupVersionResource, formats: &[Format]) -> Vec<(Format, Format)> {
        let pairs = formats.iter().flat_map(|&shown| {
            let held = self.hub.collections.held_for(gvr, shown);
            [Some(held), (held != shown).then_some(shown)]
                .into_iter()
                .flatten()
                .map(move |held| (shown, held))
        });
        pairs.collect()
    }

    /// These objects with what tells a time as of now: cells of tables do.
    pub(super) fn as_of_now(&self, cell: &Cell, envelope: &Envelope, mut listing: Listing) -> Listing {
        if cell.spec.format.form == Form::Table {
            for object in &mut listing.objects {
                *object = Arc::new(self.told_now(cell, envelope, object));
            }
        }
        listing
    }

    /// As [`Call::as_of_now`], of one object.
    pub(super) fn told_now(&self, cell: &Cell, envelope: &Envelope, object: &Object) -> Object {
        let (spec, now) = (&cell.spec, self.hub.site.clock.now().unix);
        let raw = table::shown(&spec.gvr, spec.format, envelope.columns.as_deref(), &object.raw, now);
        Object { raw, ..object.clone() }
    }

    /// The way from what this collection holds to `shown`. Where there is none, the kind is newer than this program,
    /// and from now on [`crate::hub::Hub::held_for`] names another collection.
    pub(super) fn project(&self, cell: &Cell, shown: Format) -> Option<Projection> {
        let projection = Projection::new(cell.spec.format, shown).ok()?;
        // Before the first list the kind is not known, and nothing is shown either.
        let can_show = cell.with(|inner| {
            let type_meta = &inner.collection.envelope().type_meta;
            type_meta.kind.is_empty() || projection.can_show(type_meta)
        });
        if !can_show {
            self.hub.collections.note_opaque(&cell.spec.gvr);
        }
        can_show.then_some(projection)
    }
}
