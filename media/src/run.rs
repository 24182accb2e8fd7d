//! From arguments to a running engine and back to an exit code.

use std::{
    ffi::OsString,
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use media_core::state::{MOVING_TIME, State};
use proto_daemon::{
    admin::{self, AdminState},
    exit, metrics as daemon_metrics,
    shutdown::Shutdown,
    telemetry::{self, LogConfig},
};
use tokio::net::TcpListener;

use crate::{
    admin::Admin,
    config::Config,
    cors::Cors,
    crypto,
    error::RunError,
    http::Front,
    ice_servers::IceServers,
    listener::{self, Bounds},
    metrics::Metrics,
    peer::Peers,
    state_file,
    token::TokenKeys,
    worker::{self, Setup, Worker},
};

/// Libraries that log what clients send.
const LIBRARIES: &str = "is=error,str0m=error,dimpl=error";
/// How much later than it promised the worker may be before the process ends without it.
const LATE: Duration = Duration::from_secs(2);
/// How long a running engine may take to answer `--probe`.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// A WHIP and WHEP engine: who publishes, and who plays what is published.
#[derive(Debug, Parser)]
#[command(
    name = "media-engine",
    version,
    about = "WebRTC publishers by WHIP, viewers by WHEP, in a pod with fixed ports",
    after_help = "Publish to http://HOST:7080/whip/ROOM/STREAM, play http://HOST:7080/whep/ROOM/STREAM, or open\n\
                  http://HOST:7080/ in a browser. Health and metrics stand on the admin socket:\n\
                  media-engine --admin-socket PATH --probe /readyz (/livez, /metrics, /status, /state)."
)]
struct Arguments {
    /// The settings, a YAML file; deploy/media-engine.yaml shows every key.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["probe", "tombstone"])]
    config: Option<PathBuf>,
    /// The address under which clients reach the media port; in a pod, its node's: --candidate=$(HOST_IP)
    #[arg(long, value_name = "ADDRESS")]
    candidate: Option<IpAddr>,
    /// Tell the engine behind --admin-socket that it is to end: no new rooms, and nobody is cut off.
    #[arg(long, requires = "admin_socket", conflicts_with_all = ["config", "probe"])]
    tombstone: bool,
    /// Check the settings and the files that they name, print what is wrong, and exit.
    #[arg(long)]
    check_config: bool,
    /// Ask a running engine on its admin socket, print its answer, and exit with 0 if it is yes. No settings are read.
    #[arg(long, value_name = "ROUTE", requires = "admin_socket", conflicts_with_all = ["config", "candidate", "check_config"])]
    probe: Option<String>,
    /// The admin socket that `--probe` and `--tombstone` ask: `adminSocket` in the settings of the engine that runs.
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<PathBuf>,
}

/// Runs the engine with these arguments (the first is the program's name) until it is told to stop.
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    exit::main_with(arguments, "media-engine", start, RunError::exit)
}

fn start(arguments: &Arguments) -> Result<(), RunError> {
    if let (Some(socket), Some(route)) = (&arguments.admin_socket, &arguments.probe) {
        return probe(socket, route);
    }
    if let (Some(socket), true) = (&arguments.admin_socket, arguments.tombstone) {
        return said(socket, admin::post(socket, "/state", "tombstone", PROBE_LIMIT));
    }
    let path = arguments.config.as_deref().expect("clap requires it of whoever does not probe");
    let config = Config::load(path, arguments.candidate)?;
    if arguments.check_config {
        token_keys(&config)?;
        ice_servers(&config)?;
        if config.is_narrowed() {
            println!("no `tokens`: the engine will listen on {} and {} only", config.http, config.media);
        }
        println!("{} is good", path.display());
        return Ok(());
    }
    telemetry::init(&quiet(&config.file.log))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shutdown = Shutdown::new(config.file.drain_limit);
    runtime.block_on(async {
        shutdown.on_signal()?;
        run(config, shutdown).await
    })
}

/// The libraries' own warnings are for one datagram each, and whoever sends datagrams decides how many there are. A level
/// that names a library comes after, and counts.
fn quiet(log: &LogConfig) -> LogConfig {
    LogConfig { level: format!("{LIBRARIES},{}", log.level), ..log.clone() }
}

/// A kubelet restarts the container for whose probe this fails: nothing but the running process may decide it, and no file
/// that an operator edits meanwhile.
fn probe(socket: &Path, route: &str) -> Result<(), RunError> {
    said(socket, admin::fetch(socket, route, PROBE_LIMIT))
}

fn said(socket: &Path, asked: io::Result<(u16, String)>) -> Result<(), RunError> {
    let (status, text) = asked.map_err(|error| RunError::Probe(format!("{}: {error}", socket.display())))?;
    if !(200..300).contains(&status) {
        return Err(RunError::Probe(text.trim_end().to_owned()));
    }
    print!("{text}");
    Ok(())
}

fn token_keys(config: &Config) -> Result<Option<TokenKeys>, RunError> {
    Ok(config.file.tokens.as_ref().map(|tokens| TokenKeys::load(&tokens.keys)).transpose()?)
}

fn ice_servers(config: &Config) -> Result<IceServers, RunError> {
    IceServers::load(config.file.ice_servers.clone()).map_err(RunError::IceServers)
}

/// Runs an engine until `shutdown` drains. The caller owns the runtime and the signals.
///
/// # Errors
/// [`RunError`] when it cannot start, or its worker ends by itself.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
    let mut registry = daemon_metrics::registry("media-engine", env!("CARGO_PKG_VERSION"));
    let metrics = Arc::new(Metrics::register(&mut registry));
    let tokens = token_keys(&config)?;
    let ice_servers = ice_servers(&config)?;
    if config.is_narrowed() {
        let (http, media) = (config.http, config.media);
        tracing::warn!(%http, %media, "no `tokens` in the configuration: only this machine is listened to");
    }
    let refused = |address| move |source| RunError::Listen { address, source };
    let listener = TcpListener::bind(config.http).await.map_err(refused(config.http))?;
    let socket = worker::bind(config.media).map_err(refused(config.media))?;
    let port = socket.local_addr()?.port();
    let candidate = SocketAddr::new(config.candidate, port);
    let certificate = crypto::certificate().map_err(|error| RunError::Certificate(error.to_string()))?;
    let max_sessions = config.file.limits.sessions;
    let endpoints = Box::new(Peers { local: candidate, certificate });
    let file = config.file.state_file.clone();
    let state = match &file {
        Some(path) => {
            state_file::read(path).map_err(|source| RunError::State { path: path.clone(), source })?
        }
        None => State::default(),
    };
    let quiet = config.file.quiet;
    let setup = Setup { socket, endpoints, max_sessions, state, quiet, metrics: Arc::clone(&metrics) };
    let (worker, thread) = Worker::start(setup)?;
    if let Some(path) = file {
        tokio::spawn(state_file::keep(path, worker.standing()));
    }
    let state: Arc<dyn AdminState> = Arc::new(Admin { worker: worker.clone(), registry });
    let _admin = admin::serve(&config.file.admin_socket, state)?;
    let http = listener.local_addr()?;
    let cors = Cors::new(config.file.cors);
    let front = Arc::new(Front::new(worker.clone(), tokens, ice_servers, cors, metrics));
    let limits = &config.file.limits;
    let bounds = Bounds { all: limits.connections, per_address: limits.connections_per_address };
    tokio::spawn(listener::serve(front, listener, bounds, shutdown.clone()));
    tracing::info!(%http, media = %candidate, "serving");

    tokio::select! {
        () = shutdown.draining() => {}
        () = worker.ended() => return Err(RunError::Worker),
    }
    tracing::info!("draining");
    let deadline = shutdown.deadline().unwrap_or_else(tokio::time::Instant::now);
    tokio::select! {
        () = worker.told_to_end(deadline.into_std()) => {}
        // Whoever is left then has had the time to move; a second signal leaves none.
        () = tokio::time::sleep_until(deadline + MOVING_TIME + LATE) => tracing::warn!("calls are left"),
        () = shutdown.stopped() => {}
    }
    worker.stop().await;
    shutdown.stop();
    if thread.join().is_err() {
        return Err(RunError::Worker);
    }
    tracing::info!("stopped");
    Ok(())
}
