//! The server's life: door and listener open, links come and go, a drain gives open streams their time.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use proto_daemon::admin::{self, AdminState};
use proto_daemon::shutdown::Shutdown;
use proto_daemon::tls::{self, ReloadingResolver};
use proto_daemon::{metrics as daemon_metrics, telemetry};
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::life::{self, RunError};
use crate::clock::{self, Clock};
use crate::config::ServerConfig;
use crate::front::{Door, connect};
use crate::link::accept::{self, Acceptor};
use crate::link::control::DRAIN_GRACE;
use crate::link::table::Links;
use crate::link::{peer, tls as link_tls};
use crate::metrics::Metrics;

const PROGRAM: &str = "tunnel-server";

pub(super) fn start(path: &Path, check_config: bool) -> Result<(), RunError> {
    let config = ServerConfig::load(path)?;
    tls::install_provider();
    let own = ReloadingResolver::new(config.file.serving.clone())?;
    let tls = link_tls::server(Arc::clone(&own), tls::load_roots(&config.file.client_ca)?)?;
    if check_config {
        life::say_good(path);
        return Ok(());
    }
    telemetry::init(&config.file.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let shutdown = Shutdown::new(DRAIN_GRACE);
    let outcome = runtime.block_on(async {
        shutdown.on_signal()?;
        run(config, own, TlsAcceptor::from(Arc::new(tls)), shutdown).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn run(
    config: ServerConfig,
    own: Arc<ReloadingResolver>,
    tls: TlsAcceptor,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let clock = Clock::start();
    let mut registry = daemon_metrics::registry(PROGRAM, env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::register(&mut registry, &config.pool.name);
    let links = Links::new(config.pool.clone(), clock, metrics.clone());
    let status = Arc::new(Status {
        links: Arc::clone(&links),
        metrics: metrics.clone(),
        own,
        clock,
        shutdown: shutdown.clone(),
        registry,
        open: OnceLock::new(),
    });
    let failed = |key| move |source| RunError::Socket { key, source };
    let admin = Arc::clone(&status) as Arc<dyn AdminState>;
    let _admin = admin::serve(&config.file.admin_socket, admin).map_err(failed("adminSocket"))?;
    let (http_connect, _file) = door(&config.file.doors.http_connect).map_err(failed("doors.httpConnect"))?;
    let acceptor = Arc::new(Acceptor {
        tls,
        links: Arc::clone(&links),
        clock,
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
        told: Mutex::default(),
    });
    let mut listeners = Vec::new();
    for address in config.file.listen {
        let bound = TcpListener::bind(address).await;
        listeners.push(bound.map_err(|source| RunError::Listen { address, source })?);
    }
    for listener in listeners {
        tokio::spawn(accept::serve(Arc::clone(&acceptor), listener));
    }
    let door = Arc::new(Door { links, clock, metrics, shutdown: shutdown.clone() });
    tokio::spawn(connect::serve(door, http_connect));
    let _ = status.open.set(());
    tracing::info!(pool = config.file.pool.name, nodes = config.file.pool.nodes.len(), "serving");
    life::drained(&shutdown).await;
    Ok(())
}

/// The door's socket, and its file, which goes with this process.
fn door(path: &Path) -> Result<(UnixListener, SocketFile), admin::AdminError> {
    let failed = |doing| move |source| admin::AdminError::Io { path: path.into(), doing, source };
    let listener = admin::listen(path)?;
    let inode = std::fs::symlink_metadata(path).map_err(failed("look at the new socket"))?.ino();
    let file = SocketFile { path: path.into(), inode };
    Ok((UnixListener::from_std(listener).map_err(failed("poll the socket"))?, file))
}

struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A successor may have put its own socket in place already.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What the admin socket tells.
struct Status {
    links: Arc<Links>,
    metrics: Metrics,
    own: Arc<ReloadingResolver>,
    clock: Clock,
    shutdown: Shutdown,
    registry: prometheus_client::registry::Registry,
    open: OnceLock<()>,
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

    /// A server without a link is ready all the same: it answers each dial, and says what is missing.
    fn ready(&self) -> Result<(), String> {
        self.open.get().copied().ok_or_else(|| "the door is not open yet".to_owned())?;
        life::running(&self.shutdown)
    }

    fn metrics(&self) -> String {
        self.metrics.set_downtime(self.links.now().2);
        self.metrics.set_certificate(self.certificate().unwrap_or(0));
        daemon_metrics::encode(&self.registry)
    }

    fn status_json(&self) -> String {
        let (links, down_for, downtime) = self.links.now();
        let now = self.clock.now();
        let links: Vec<_> = links
            .iter()
            .map(|link| {
                json!({
                    "id": link.id,
                    "agent": link.agent,
                    "address": link.address,
                    "upSeconds": now.saturating_sub(link.since).as_secs(),
                    "streams": link.streams.open(),
                    "bufferedBytes": link.streams.buffered(),
                })
            })
            .collect();
        json!({
            "phase": self.shutdown.phase().as_str(),
            "pool": self.links.pool().name,
            "nodes": self.links.pool().len(),
            "links": links,
            "downSeconds": down_for.as_secs(),
            "downtimeSeconds": downtime.as_secs(),
            "certificateSecondsLeft": self.certificate(),
        })
        .to_string()
    }
}
