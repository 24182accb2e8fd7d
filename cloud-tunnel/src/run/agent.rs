//! The agent's life: a link that is dialled again for ever, and a drain that gives open streams their time.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto_daemon::admin::{self, AdminState};
use proto_daemon::shutdown::Shutdown;
use proto_daemon::tls::{self, ReloadingResolver};
use proto_daemon::{metrics as daemon_metrics, telemetry};
use serde_json::json;
use tokio_rustls::TlsConnector;

use super::life::{self, RunError};
use crate::clock::{self, Clock};
use crate::config::AgentConfig;
use crate::edge::Edge;
use crate::link::control::DRAIN_GRACE;
use crate::link::dial::{Dialler, LinkState};
use crate::link::{peer, tls as link_tls};
use crate::metrics::Metrics;

const PROGRAM: &str = "tunnel-agent";

pub(super) fn start(path: &Path, check_config: bool) -> Result<(), RunError> {
    let config = AgentConfig::load(path)?;
    tls::install_provider();
    let own = ReloadingResolver::new(config.file.credential.clone())?;
    let tls = link_tls::client(Arc::clone(&own), tls::load_roots(&config.file.server_ca)?)?;
    if check_config {
        life::say_good(path);
        return Ok(());
    }
    telemetry::init(&config.file.log)?;
    // One thread: an agent moves what one uplink carries, and stands on nodes that have better use for memory.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shutdown = Shutdown::new(DRAIN_GRACE);
    let outcome = runtime.block_on(async {
        shutdown.on_signal()?;
        run(config, own, TlsConnector::from(Arc::new(tls)), shutdown).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn run(
    config: AgentConfig,
    own: Arc<ReloadingResolver>,
    tls: TlsConnector,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let clock = Clock::start();
    let mut registry = daemon_metrics::registry(PROGRAM, env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::register(&mut registry, &config.file.pool);
    let state = LinkState::Down { since: clock.now(), reason: "no server was dialled yet".to_owned() };
    let dialler = Arc::new(Dialler {
        servers: config.servers,
        tls,
        node: config.file.node_name,
        pool: config.file.pool,
        edge: Edge::new(config.allow, clock, metrics.clone(), shutdown.clone()),
        clock,
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
        state: Mutex::new(state),
    });
    let status = Status { dialler: Arc::clone(&dialler), metrics, own, registry };
    let _admin = admin::serve(&config.file.admin_socket, Arc::new(status))
        .map_err(|source| RunError::Socket { key: "adminSocket", source })?;
    tracing::info!(node = dialler.node, nodes = dialler.edge.nodes(), "dialling");
    tokio::spawn(dialler.run());
    life::drained(&shutdown).await;
    Ok(())
}

/// What the admin socket tells.
struct Status {
    dialler: Arc<Dialler>,
    metrics: Metrics,
    own: Arc<ReloadingResolver>,
    registry: prometheus_client::registry::Registry,
}

impl Status {
    fn certificate(&self) -> Option<i64> {
        peer::expires_in(&self.own.current(), clock::unix().as_secs())
    }
}

impl AdminState for Status {
    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        life::running(&self.dialler.shutdown)?;
        match self.dialler.state() {
            LinkState::Up { .. } => Ok(()),
            LinkState::Down { since, reason } => {
                let seconds = self.dialler.clock.now().saturating_sub(since).as_secs();
                Err(format!("no link for {seconds} s: {reason}"))
            }
        }
    }

    fn metrics(&self) -> String {
        self.metrics.set_certificate(self.certificate().unwrap_or(0));
        daemon_metrics::encode(&self.registry)
    }

    fn status_json(&self) -> String {
        let now = self.dialler.clock.now();
        let link = match self.dialler.state() {
            LinkState::Up { since, server, id } => json!({
                "up": true, "server": server, "id": id, "seconds": now.saturating_sub(since).as_secs(),
            }),
            LinkState::Down { since, reason } => json!({
                "up": false, "reason": reason, "seconds": now.saturating_sub(since).as_secs(),
            }),
        };
        json!({
            "phase": self.dialler.shutdown.phase().as_str(),
            "node": self.dialler.node,
            "pool": self.dialler.pool,
            "link": link,
            "mayDial": self.dialler.edge.nodes(),
            "certificateSecondsLeft": self.certificate(),
        })
        .to_string()
    }
}
