//! Names that the cloud gave an object for: the hub keeps each by a list-watch of its own, within the share of who reads.

use edge_hub_core::collection::Lookup;
use proto_kube::{
    media_type::{Encoding, Form, Format},
    request_info::ResourceRequest,
};

use super::{
    call::Call,
    facts::{key, named_spec},
};

impl Call {
    /// The cloud gave this object: from now on the hub keeps it by a list-watch of its own.
    pub(super) fn follow(&self, request: &ResourceRequest, format: Format) {
        let wanted = named_spec(request, self.hub.collections.held_for(&request.gvr, format));
        if self.hub.collections.pool_cell(&wanted).is_some() {
            return;
        }
        let now = self.hub.site.clock.now().monotonic;
        if let Some(cell) = self.hub.collections.cell(&wanted).filter(|cell| self.may_read_all_of(cell)) {
            self.hub.collections.take_followed(&wanted, &self.principal);
            return cell.sponsor(&self.principal, self.credential.clone(), now);
        }
        let key = key(request);
        let is_kept = self.hub.collections.covering_object(&wanted, &key).iter().any(|cell| {
            let held = cell.with(|inner| matches!(inner.collection.get(&key), Lookup::Found(_)));
            held && self.may_read_all_of(cell)
        });
        if is_kept || self.hub.authorizer.is_unwatchable(&self.principal, &wanted) {
            return;
        }
        self.hub.collections.take_followed(&wanted, &self.principal);
        if let Some(cell) = self.hub.collections.cell_or_new(&wanted) {
            cell.sponsor(&self.principal, self.credential.clone(), now);
        }
    }

    /// There is no such object: the places of its name are free, and nobody waits for its watch. A collection that holds
    /// that it is gone stays for as long as others make no use of its place.
    pub(super) fn leave(&self, request: &ResourceRequest) {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            for form in [Form::Object, Form::Table, Form::PartialMetadata] {
                self.hub.collections.leave_followed(&named_spec(request, Format { encoding, form }));
            }
        }
    }
}
