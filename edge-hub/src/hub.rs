//! The services of one hub, put together.

use std::sync::{Arc, Mutex};

use edge_hub_core::{lease::LeaseKeeper, link::LinkState, token::TokenCache};
use proto_daemon::shutdown::Shutdown;
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::{Notify, mpsc::UnboundedReceiver, watch};

use crate::{
    aggregated::Aggregated,
    authenticate::Authenticator,
    authorize::Authorizer,
    cell::Cell,
    clock::Clock,
    collections::Collections,
    config::Config,
    documents::Documents,
    filters::Filters,
    list_room::ListRoom,
    metrics::Metrics,
    outbox::Outbox,
    overlay::Overlay,
    pool::Pool,
    shares::Shares,
    site::{Certificates, Site},
    store::Store,
    upstream::Upstream,
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

/// What [`Hub::new`] is made from.
pub struct Parts {
    /// Checked settings.
    pub config: Config,
    /// Connections.
    pub upstream: Upstream,
    /// The pool of this node.
    pub pool: Option<Arc<Pool>>,
    /// Whose client certificates count.
    pub verifier: Arc<dyn ClientCertVerifier>,
    /// The store, empty or not.
    pub store: Store,
    /// Counters.
    pub metrics: Metrics,
    /// Running, draining, stopped.
    pub shutdown: Shutdown,
    /// The clock.
    pub clock: Clock,
    /// The hub's own certificates.
    pub certificates: Certificates,
}

impl Hub {
    /// Puts the services together; they hold nothing, and nothing runs. The link counts as cut since `last_contact`. What
    /// comes out of the receiver wants a reflector.
    #[must_use]
    pub fn new(parts: Parts, last_contact: std::time::Duration) -> (Arc<Self>, UnboundedReceiver<Arc<Cell>>) {
        let Parts { config, upstream, pool, verifier, store, metrics, shutdown, clock, certificates } = parts;
        let node = edge_hub_core::identity::Principal::node(&config.file.node_name);
        let site = Arc::new(Site {
            clock,
            certificates,
            upstream,
            link: watch::Sender::new(LinkState::Cut { since_unix: last_contact }),
            reconnected: Notify::new(),
            store,
            metrics,
            node,
            shutdown,
            config,
        });
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
