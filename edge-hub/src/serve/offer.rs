//! Who may pay for a pool's collection when its coordinators are gone.

use std::sync::Arc;

use edge_hub_core::access::AccessKey;
use proto_kube::request_info::Verb;

use super::call::Call;
use crate::collections::cell::Cell;

impl Call {
    /// Should the pool's coordinators go, its collections go on only on behalf of a client that may watch all of them:
    /// whether this one may is asked while it costs nobody time.
    pub(super) fn offer(&self, cell: &Arc<Cell>) {
        let whole = AccessKey::of_collection(&cell.spec, Verb::Watch);
        let is_of_pool = self.hub.collections.pool_specs().contains(&cell.spec);
        if !is_of_pool || !self.hub.site.is_connected() || self.may(&whole).is_some() {
            return;
        }
        let (hub, cell) = (Arc::clone(&self.hub), Arc::clone(cell));
        let (principal, credential) = (self.principal.clone(), self.credential.clone());
        tokio::spawn(async move {
            if hub.authorizer.ask_access(&principal, &whole).await == Some(true) {
                cell.sponsor(&principal, credential, hub.site.clock.now().monotonic);
            }
        });
    }
}
