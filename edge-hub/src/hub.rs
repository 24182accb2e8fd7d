//! The services of one hub, put together.

use std::sync::{Arc, Mutex};

use edge_hub_core::{lease::LeaseKeeper, token::TokenCache};
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{
    collections::{Collections, cell::Cell},
    documents::Documents,
    filters::Filters,
    identity::authenticate::Authenticator,
    outbox::Outbox,
    overlay::Overlay,
    pool::Pool,
    rights::{aggregated::Aggregated, authorize::Authorizer},
    shares::{Shares, list_room::ListRoom},
    site::Site,
};

/// Token answers kept: all of them, and of one user.
const TOKENS: edge_hub_core::budget::Limits =
    edge_hub_core::budget::Limits { total: 4096, of_one_user: 512, reserve: 0 };

/// Everything that serves one node.
pub struct Hub {
    /// This node, its disk and its link.
    pub site: Arc<Site>,
    /// The pool of this node, where the configuration names one.
    pub pool: Option<Arc<Pool>>,
    /// Who a client is.
    pub authenticator: Arc<Authenticator>,
    /// Who may do what.
    pub authorizer: Authorizer,
    /// What clients share.
    pub shares: Arc<Shares>,
    /// What is collected by list-watch.
    pub collections: Arc<Collections>,
    /// Whole answers.
    pub documents: Documents,
    /// Kinds of which each user may be shown something else.
    pub aggregated: Aggregated,
    /// Who is shown what.
    pub filters: Arc<Filters>,
    /// Memory for lists on their way through filters.
    pub list_room: ListRoom,
    /// Where this node's pods are while nobody can tell the cloud.
    pub overlay: Arc<Overlay>,
    /// Real tokens for pods, kept for the time of a cut.
    pub tokens: Mutex<TokenCache>,
    /// The node's own Lease.
    pub lease: Mutex<LeaseKeeper>,
    /// What clients left to be sent after a cut.
    pub outbox: Outbox,
}

impl Hub {
    /// Puts the services together; they hold nothing, and nothing runs. `verifier` knows whose client certificates count.
    /// What comes out of the receiver wants a reflector.
    #[must_use]
    pub fn new(
        site: Site,
        pool: Option<Arc<Pool>>,
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> (Arc<Self>, UnboundedReceiver<Arc<Cell>>) {
        let site = Arc::new(site);
        let file = &site.config.file;
        let shares = Arc::new(Shares::new(&file.limits, &site.node));
        let overlay = Arc::new(Overlay::new(&file.node_name));
        let (collections, wants_reflector) = Collections::new(&site, &shares, &overlay, pool.as_ref());
        let collections = Arc::new(collections);
        let hub = Arc::new(Self {
            authenticator: Arc::new(Authenticator::new(&site, &collections, verifier)),
            authorizer: Authorizer::new(&site),
            documents: Documents::new(&site),
            aggregated: Aggregated::new(&site, &collections),
            filters: Arc::new(Filters::new(&site, &collections)),
            list_room: ListRoom::new(file.limits.list_mib),
            tokens: Mutex::new(TokenCache::new(TOKENS, site.node.clone())),
            lease: Mutex::new(LeaseKeeper::new(&file.node_name)),
            outbox: Outbox::new(&site.node),
            pool,
            shares,
            overlay,
            collections,
            site,
        });
        (hub, wants_reflector)
    }
}
