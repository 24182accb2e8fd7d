//! From arguments to a running hub and back to an exit code.
//!
//! Order matters: the store is loaded before a listener opens (a refused connection is the one failure that clients
//! bear without a new list), and the first word of the link is awaited for a moment only.

use std::{
    ffi::OsString,
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};

use clap::Parser;
use edge_hub_core::collection::CollectionSpec;
use proto::member::Member;
use proto_daemon::{
    admin::{self, AdminState},
    exit::{self, Exit},
    member::{self, NoMember},
    metrics as daemon_metrics,
    shutdown::Shutdown,
    telemetry,
    tls::{self, CertificateFiles, ReloadingResolver, TlsError},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc::UnboundedReceiver, oneshot},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    certificates::{
        authority::{self, CertificateError},
        expiry,
    },
    clock::Clock,
    collections::cell::Cell,
    config::{Config, ConfigError, CoordinatorFile},
    filters,
    hub::Hub,
    listen,
    metrics::Metrics,
    outbox::replay,
    overlay,
    persistence::{care, restore},
    pool::{Coordinator, Pool},
    probe,
    reflect::{self, rollback},
    rights::renew,
    site::{Certificates, Site, SiteParts},
    store::{AtRestKey, Attempt, KeyError, Store, StoreError, StoreOptions, Unopened, at_rest},
    upstream::{Credential, TlsSettings, Upstream},
};

/// How long streams may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);
/// How long a starting hub waits for the link before it serves from the store.
const FIRST_WORD: Duration = Duration::from_millis(150);
/// How long a starting hub waits for its store: the hub before it may still be ending, with a write in flight to a slow
/// disk. After that it serves without.
const STORE_PATIENCE: Duration = Duration::from_secs(12);

/// How often the log says that a start waits for the disk.
const TELL_OF_DISK: Duration = Duration::from_secs(10);

/// How often the files of the hub's certificates are looked at: a renewed one is in use that much later at most.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(1);

/// A caching list-watch server in front of kube-apiserver, one per node.
#[derive(Debug, Parser)]
#[command(
    name = "edge-hub",
    version,
    about = "The node's Kubernetes API: answers from its own store while the cloud is cut off",
    after_help = "Point the kubelet's kubeconfig and every pod's KUBERNETES_SERVICE_HOST at a `listen` address.\n\
                  Health and metrics: curl --unix-socket <adminSocket> http://hub/readyz (/livez, /metrics, /status)."
)]
struct Arguments {
    /// The settings, a YAML file; deploy/edge-hub.yaml shows every key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the settings and the files that they name, print what is wrong, and exit.
    #[arg(long)]
    check_config: bool,
    /// For tests: the hub takes the time to be so many seconds later than the machine says, or earlier.
    #[arg(long, value_name = "SECONDS", hide = true, default_value_t = 0, allow_negative_numbers = true)]
    clock_offset: i64,
}

/// Why the hub could not start or had to stop.
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
    /// The serving certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// This node's member certificate.
    #[error("pool.member: {0}")]
    Member(#[from] NoMember),
    /// The store, with what another attempt would not mend.
    #[error(transparent)]
    Unopened(#[from] Unopened),
    /// The key for data at rest.
    #[error("atRestKey: {0}")]
    Key(#[from] KeyError),
    /// The store has no thread.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The admin socket.
    #[error("adminSocket: {0}")]
    Admin(#[from] admin::AdminError),
    /// A listener.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
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
            Self::Config(_)
            | Self::Telemetry(_)
            | Self::Tls(_)
            | Self::Key(_)
            | Self::Unopened(_)
            | Self::Certificate(_)
            | Self::Member(_) => Exit::Config,
            Self::Store(_) | Self::Listen { .. } | Self::Admin(_) => Exit::Unavailable,
            Self::Start(_) => Exit::Software,
        }
    }
}

/// Runs the hub with these arguments (the first is the program's name) until it is told to stop.
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    exit::main_with(arguments, "edge-hub", start, RunError::exit)
}

fn start(arguments: &Arguments) -> Result<(), RunError> {
    let config = Config::load(&arguments.config)?;
    tls::install_provider();
    if arguments.check_config {
        check(&config)?;
        println!("{} is good", arguments.config.display());
        return Ok(());
    }
    telemetry::init(&config.file.log)?;
    at_rest::forbid_dumps();
    // One thread: the hub's work is small and shared state stays cheap; the store has a thread of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shutdown = Shutdown::new(GRACE);
    let outcome = runtime.block_on(async {
        shutdown.on_signal()?;
        if arguments.clock_offset != 0 {
            let seconds = arguments.clock_offset;
            tracing::warn!(seconds, "FOR TESTS ONLY: the clock is shifted; what ends with time ends wrong");
        }
        run(config, Clock::shifted(arguments.clock_offset), shutdown).await
    });
    // A disk that hangs must not keep the process: systemd has a new one to start.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

fn check(config: &Config) -> Result<(), RunError> {
    upstream_tls(config, ReloadingResolver::new(config.file.credential.clone())?)?;
    tls::load_roots(config.client_ca())?;
    pool(config)?;
    if let Some(serving) = &config.file.serving {
        ReloadingResolver::new(serving.clone())?;
    }
    if let Some(key) = at_rest_key(config) {
        AtRestKey::load(&key)?;
    }
    Ok(())
}

fn at_rest_key(config: &Config) -> Option<PathBuf> {
    let credentials = std::env::var_os(at_rest::CREDENTIALS_DIRECTORY);
    at_rest::key_path(config.file.at_rest_key.as_deref(), credentials.as_deref())
}

/// The pool that the configuration names, and whether this node's certificate makes it a member.
fn pool(config: &Config) -> Result<Option<Arc<Pool>>, RunError> {
    let Some(file) = &config.file.pool else { return Ok(None) };
    let roots = tls::load_roots(&file.member_ca)?;
    let own = ReloadingResolver::new(file.member.clone())?;
    let named = |node: &str| Member::new(&file.name, node).expect("the configuration was checked");
    let (found, wanted) = (member::named(&own.current().cert[0])?, named(&config.file.node_name));
    if found != wanted {
        return Err(NoMember::Other { found, wanted }.into());
    }
    let coordinator = |each: &CoordinatorFile| {
        let member = named(&each.node);
        let tls = member::client_config(roots.clone(), Arc::clone(&own) as _, member.clone())?;
        Ok(Coordinator::new(member, &each.address, Arc::new(tls)))
    };
    let coordinators = file.coordinators.iter().map(coordinator).collect::<Result<_, TlsError>>()?;
    Ok(Some(Arc::new(Pool::new(&file.name, coordinators))))
}

fn upstream_tls(config: &Config, credential: Arc<ReloadingResolver>) -> Result<TlsSettings, TlsError> {
    let roots = tls::load_roots(&config.file.api_server_ca)?;
    let mut node = tls::client_config(roots.clone(), Some(Arc::clone(&credential) as _))?;
    // A resumed session shows no certificate: the server takes the client for whoever began it, by the former one.
    node.resumption = rustls::client::Resumption::disabled();
    let mut bearer = tls::client_config(roots, None)?;
    for settings in [&mut node, &mut bearer] {
        settings.alpn_protocols = vec![b"h2".to_vec()];
    }
    Ok(TlsSettings { node: Arc::new(node), bearer: Arc::new(bearer), credential })
}

/// The files of the certificate that clients see. The hub's own lies beside the store: without it no client would trust
/// the hub, so a disk that hangs is waited for. `None` when the process is told to end meanwhile.
async fn serving_files(
    config: &Config,
    clock: Clock,
    shutdown: &Shutdown,
) -> Result<Option<CertificateFiles>, CertificateError> {
    if let Some(files) = &config.file.serving {
        return Ok(Some(files.clone()));
    }
    let mut addresses: Vec<IpAddr> = config.file.listen.iter().map(std::net::SocketAddr::ip).collect();
    addresses.push(IpAddr::from([127, 0, 0, 1]));
    // A listener on every address names none of them, and pods dial this one.
    addresses.extend(config.file.filters.hub_address.map(|address| address.ip()));
    let now = time::OffsetDateTime::UNIX_EPOCH + clock.now().unix;
    let (folder, node_name) = (config.own_pki(), config.file.node_name.clone());
    let (done, mut made) = oneshot::channel();
    // Not one of the runtime's threads, which would be waited for at the end.
    std::thread::spawn(move || {
        // Nobody waits any more when the process ends.
        let _ = done.send(authority::ensure_serving(&folder, &node_name, &addresses, now));
    });
    loop {
        tokio::select! {
            made = &mut made => return made.expect("the thread sends unless it panics").map(Some),
            () = shutdown.draining() => return Ok(None),
            () = tokio::time::sleep(TELL_OF_DISK) => {
                tracing::error!("the disk does not answer: no client can be served without the hub's own certificate, \
                                 which lies on it; `serving` in the configuration can name one that lies elsewhere");
            }
        }
    }
}

/// What a node cannot start its pods without.
fn is_critical(spec: &CollectionSpec) -> bool {
    matches!(
        (&*spec.gvr.group, &*spec.gvr.resource),
        (
            "",
            "nodes"
                | "pods"
                | "services"
                | "secrets"
                | "configmaps"
                | "persistentvolumes"
                | "persistentvolumeclaims"
        ) | ("node.k8s.io", "runtimeclasses")
            | ("storage.k8s.io", "csinodes" | "csidrivers")
    )
}

/// Begins to open the store. What is wrong with a key that the operator named is final; what the disk says of the hub's
/// own is not.
fn start_store(config: &Config) -> Result<(Store, UnboundedReceiver<Attempt>), StoreError> {
    let folder = config.file.state_directory.clone();
    let given = at_rest_key(config);
    let max_bytes = config.file.state_limit_mib * 1024 * 1024;
    // Kept over attempts: what is to be said of it is said once.
    let held = OnceLock::new();
    let prepare = move || {
        if held.get().is_none() {
            at_rest::make_private(&folder).map_err(StoreError::io("create", &folder))?;
            let key = at_rest::key(given.as_deref(), &folder).map_err(|error| match error {
                KeyError::Io(path, source) if given.is_none() => StoreError::io("read", path)(source).into(),
                other => Unopened::from(other),
            })?;
            // This thread alone sets it.
            let _ = held.set(key);
        }
        let key = held.get().expect("it was set above").clone();
        let mut options = StoreOptions::new(folder.join("store"), key);
        options.max_bytes = max_bytes;
        options.critical = is_critical;
        Ok(options)
    };
    Store::start(beside(&config.file.admin_socket, "read-only-store"), prepare)
}

/// A path in the folder of the admin socket, which is writable on any node that has one.
fn beside(admin_socket: &std::path::Path, name: &str) -> PathBuf {
    admin_socket.with_file_name(format!("edge-hub-{name}"))
}

/// What the store held, as far as it can be had before clients must be answered, and whether that is all there is.
async fn await_store(
    attempts: &mut UnboundedReceiver<Attempt>,
) -> Result<Option<crate::store::Recovered>, RunError> {
    match tokio::time::timeout(STORE_PATIENCE, attempts.recv()).await {
        Ok(Some(Attempt::Open(recovered) | Attempt::Read(recovered))) => Ok(Some(recovered)),
        Ok(Some(Attempt::Failed(error))) => Err(error.into()),
        Ok(Some(Attempt::Waits(error))) => {
            tracing::error!(error, "the store cannot be opened: the hub serves without it, and tries again");
            Ok(None)
        }
        Err(_) | Ok(None) => {
            tracing::error!(after = ?STORE_PATIENCE, "the disk does not answer: the hub serves without its store");
            Ok(None)
        }
    }
}

/// Starts what runs beside the listeners: reflectors of what is held and of the hub's own collections, the prober, and
/// all that keeps the services up to date.
fn start_services(hub: &Arc<Hub>, wants_reflector: UnboundedReceiver<Arc<Cell>>) {
    let own = hub.site.own_specs();
    for spec in hub.collections.pool_specs().iter().chain(&own) {
        let cell = hub.collections.cell_or_new(spec);
        if let Some(cell) = cell.filter(|_| own.contains(spec)) {
            cell.sponsor(&hub.site.node, Credential::Node, hub.site.clock.now().monotonic);
        }
    }
    for cell in hub.collections.cells() {
        hub.collections.begin(&cell);
    }
    tokio::spawn(reflect::run_each(Arc::clone(hub), wants_reflector));
    tokio::spawn(probe::run(Arc::clone(&hub.site), hub.pool.clone()));
    tokio::spawn(Arc::clone(&hub.authenticator).keep_issuer_keys());
    tokio::spawn(replay::run(Arc::clone(hub)));
    tokio::spawn(renew::run(Arc::clone(hub)));
    tokio::spawn(rollback::run(Arc::clone(hub)));
    tokio::spawn(filters::run(Arc::clone(hub)));
    tokio::spawn(overlay::run(Arc::clone(&hub.collections)));
    tokio::spawn(expiry::run(Arc::clone(&hub.site)));
}

/// Runs a hub by `clock` until `shutdown` drains. The caller owns the runtime and the signals.
///
/// # Errors
/// [`RunError`] when it cannot start.
pub async fn run(config: Config, clock: Clock, shutdown: Shutdown) -> Result<(), RunError> {
    let started = std::time::Instant::now();
    let mut registry = daemon_metrics::registry("edge-hub", env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::register(&mut registry);
    let Some(serving_files) = serving_files(&config, clock, &shutdown).await? else { return Ok(()) };
    let certificates = Certificates {
        serving: ReloadingResolver::new(serving_files)?,
        credential: ReloadingResolver::new(config.file.credential.clone())?,
    };
    for resolver in [&certificates.serving, &certificates.credential] {
        resolver.follow(CERTIFICATES_EVERY)?;
    }
    let tls_upstream = upstream_tls(&config, Arc::clone(&certificates.credential))?;
    let client_roots = tls::load_roots(config.client_ca())?;
    let verifier = tls::client_verifier(client_roots)?;
    let serving = Arc::clone(&certificates.serving);
    let acceptor = TlsAcceptor::from(Arc::new(tls::tolerant_server_config(serving, Arc::clone(&verifier))?));
    let admin_socket = config.file.admin_socket.clone();
    let listen = config.file.listen.clone();

    let pool = pool(&config)?;
    let (store, mut attempts) = start_store(&config)?;
    let recovered = await_store(&mut attempts).await?;
    let has_stored = recovered.is_some();
    let recovered = recovered.unwrap_or_default();
    let last_contact = restore::last_contact(&recovered);
    let parts = SiteParts {
        upstream: Upstream::new(config.servers.clone(), tls_upstream, pool.clone()),
        clock,
        certificates,
        config,
        store,
        metrics,
        shutdown: shutdown.clone(),
    };
    let (hub, wants_reflector) = Hub::new(Site::new(parts, last_contact), pool, verifier);
    restore::restore(&hub, recovered, last_contact);
    let status = Arc::new(Status { hub: Arc::clone(&hub), registry, serving: OnceLock::new() });
    let _admin = admin::serve(&admin_socket, Arc::clone(&status) as Arc<dyn AdminState>)?;
    start_services(&hub, wants_reflector);
    tokio::spawn(care::run(Arc::clone(&hub), attempts, has_stored));
    // With the cloud there, the first answers should be the cloud's; without it nobody may wait.
    let mut link = hub.site.link.subscribe();
    let _ = tokio::time::timeout(FIRST_WORD, link.wait_for(|link| link.is_connected())).await;

    for address in listen {
        let listener =
            TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, source })?;
        tokio::spawn(listen::serve(Arc::clone(&hub), listener, acceptor.clone()));
    }
    let _ = status.serving.set(());
    tracing::info!(node = hub.site.config.file.node_name, after = ?started.elapsed(), "serving");
    shutdown.draining().await;
    tracing::info!("draining");
    shutdown.drained().await;
    let closing = Arc::clone(&hub);
    let closed = tokio::task::spawn_blocking(move || closing.site.store.close());
    match tokio::time::timeout(GRACE, closed).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::error!(%error, "the last changes are not on disk"),
        Ok(Err(_)) | Err(_) => tracing::error!(grace = ?GRACE, "the disk took too long for the last changes"),
    }
    shutdown.stop();
    tracing::info!("stopped");
    Ok(())
}

/// What the admin socket tells.
struct Status {
    hub: Arc<Hub>,
    registry: prometheus_client::registry::Registry,
    serving: OnceLock<()>,
}

impl AdminState for Status {
    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        if self.serving.get().is_none() {
            return Err("the listeners are not open yet".to_owned());
        }
        for spec in self.hub.site.own_specs() {
            let complete = self
                .hub
                .collections
                .cell(&spec)
                .is_some_and(|cell| cell.with(|inner| inner.collection.is_complete()));
            if !complete {
                return Err(format!("{} is not synced yet", crate::collections::label::Label(&spec)));
            }
        }
        Ok(())
    }

    fn metrics(&self) -> String {
        crate::status::refresh_gauges(&self.hub);
        daemon_metrics::encode(&self.registry)
    }

    fn status_json(&self) -> String {
        crate::status::render(&self.hub)
    }
}
