//! From arguments to a running coordinator and back to an exit code.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};

use clap::Parser;
use proto_daemon::{
    admin::{self, AdminState},
    exit::{self, Exit},
    member::{self, Doorkeeper, NoMember},
    metrics as daemon_metrics,
    shutdown::Shutdown,
    telemetry,
    tls::{self, ReloadingResolver, TlsError},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{
    cloud::Cloud,
    config::{Config, ConfigError},
    coordinator::{Coordinator, Parts},
    follow,
    metrics::Metrics,
    server, status,
};

/// How long members' streams may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// One copy of a pool's shared objects for all its nodes, and their way to the cloud when their own is cut.
#[derive(Debug, Parser)]
#[command(
    name = "pool-coordinator",
    version,
    about = "The pool's one copy of Services, EndpointSlices, Namespaces and ServiceCIDRs, and a relay to the API server",
    after_help = "Name it in `pool.coordinators` of each hub of the pool; without it every hub goes on by its own link.\n\
                  Health and metrics: curl --unix-socket <adminSocket> http://pool/readyz (/livez, /metrics, /status)."
)]
struct Arguments {
    /// The settings, a YAML file; deploy/pool-coordinator.yaml shows every key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the settings and the files that they name, print what is wrong, and exit.
    #[arg(long)]
    check_config: bool,
}

/// Why the coordinator could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// Logging.
    #[error("log: {0}")]
    Telemetry(#[from] telemetry::TelemetryError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The member certificate.
    #[error("member: {0}")]
    Member(#[from] NoMember),
    /// The admin socket.
    #[error("adminSocket: {0}")]
    Admin(#[from] admin::AdminError),
    /// A listener.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The runtime or the signal handlers.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

impl RunError {
    fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Telemetry(_) | Self::Tls(_) | Self::Member(_) => Exit::Config,
            Self::Listen { .. } | Self::Admin(_) => Exit::Unavailable,
            Self::Start(_) => Exit::Software,
        }
    }
}

/// Runs the coordinator with these arguments (the first is the program's name) until it is told to stop.
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    exit::main_with(arguments, "pool-coordinator", start, RunError::exit)
}

fn start(arguments: &Arguments) -> Result<(), RunError> {
    let config = Config::load(&arguments.config)?;
    tls::install_provider();
    if arguments.check_config {
        Material::load(&config)?;
        println!("{} is good", arguments.config.display());
        return Ok(());
    }
    telemetry::init(&config.file.log)?;
    // One thread: the work is small and shared state stays cheap.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shutdown = Shutdown::new(GRACE);
    let outcome = runtime.block_on(async {
        shutdown.on_signal()?;
        run(config, shutdown).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// What the files hold.
struct Material {
    door: Doorkeeper,
    members: TlsAcceptor,
    cloud: Arc<rustls::ClientConfig>,
}

impl Material {
    fn load(config: &Config) -> Result<Self, RunError> {
        let door = Doorkeeper::new(&config.member.pool, tls::load_roots(&config.file.member_ca)?)?;
        let own = ReloadingResolver::new(config.file.member.clone())?;
        check_own(config, &own)?;
        let members = TlsAcceptor::from(Arc::new(door.server_config(own)?));
        let credential = ReloadingResolver::new(config.file.credential.clone())?;
        let mut cloud =
            tls::client_config(tls::load_roots(&config.file.api_server_ca)?, Some(credential as _))?;
        cloud.resumption = rustls::client::Resumption::disabled();
        cloud.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { door, members, cloud: Arc::new(cloud) })
    }
}

/// Members check whom they dialled: another name in the certificate would keep all of them away.
fn check_own(config: &Config, own: &ReloadingResolver) -> Result<(), NoMember> {
    let pair = own.current();
    let found = member::named(pair.cert.first().ok_or(NoMember::NoCertificate)?)?;
    if found == config.member {
        return Ok(());
    }
    Err(NoMember::Other { found, wanted: config.member.clone() })
}

/// Runs a coordinator until `shutdown` drains. The caller owns the runtime and the signals.
///
/// # Errors
/// [`RunError`] when it cannot start.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
    let mut registry = daemon_metrics::registry("pool-coordinator", env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::register(&mut registry);
    let material = Material::load(&config)?;
    let coordinator = Coordinator::new(Parts {
        member: config.member.clone(),
        cloud: Cloud::new(config.servers.clone(), material.cloud),
        door: material.door,
        limits: config.file.limits,
        metrics,
        shutdown: shutdown.clone(),
    });
    let state = Arc::new(State { coordinator: Arc::clone(&coordinator), registry, serving: OnceLock::new() });
    let _admin = admin::serve(&config.file.admin_socket, Arc::clone(&state) as Arc<dyn AdminState>)?;
    for feed in &coordinator.feeds {
        tokio::spawn(follow::run(Arc::clone(&coordinator), Arc::clone(feed)));
    }
    for address in config.file.listen {
        let listener =
            TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, source })?;
        tokio::spawn(server::serve(Arc::clone(&coordinator), listener, material.members.clone()));
    }
    let _ = state.serving.set(());
    tracing::info!(member = %coordinator.member, "serving");
    shutdown.draining().await;
    tracing::info!("draining");
    shutdown.drained().await;
    tracing::info!("stopped");
    Ok(())
}

/// What the admin socket tells.
struct State {
    coordinator: Arc<Coordinator>,
    registry: prometheus_client::registry::Registry,
    serving: OnceLock<()>,
}

impl AdminState for State {
    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        if self.serving.get().is_none() {
            return Err("the listeners are not open yet".to_owned());
        }
        for feed in &self.coordinator.feeds {
            let (complete, refused) = feed.with(|inner| (inner.replica.is_complete(), inner.refused.clone()));
            if !complete {
                let why = refused.unwrap_or_else(|| "its first state is being read".to_owned());
                return Err(format!("{}: {why}", feed.gvr));
            }
        }
        Ok(())
    }

    fn metrics(&self) -> String {
        status::refresh_gauges(&self.coordinator);
        daemon_metrics::encode(&self.registry)
    }

    fn status_json(&self) -> String {
        status::render(&self.coordinator)
    }
}
