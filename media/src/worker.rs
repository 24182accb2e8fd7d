//! The thread that holds every session: one UDP socket, and who of its sessions each datagram is for.
//!
//! The core decides who is let in, who gets a packet and under which number; this obeys. HTTP asks by a bounded channel.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use media_core::{
    SessionId,
    session::Presence,
    state::{Life, State},
    whip::Refusal,
};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot, watch},
};

use crate::{
    call::{Offer, Opened, Patch, Patched, Snapshot, StreamStatus, retry_after},
    endpoint::Endpoints,
    engine::{Engine, Sender, Standing},
    events::SessionEvent,
    metrics::{Direction, Metrics},
};

/// Questions of HTTP that wait.
const QUEUE: usize = 256;
/// Largest datagram that is taken.
const MAX_DATAGRAM: usize = 2048;
/// Datagrams that are taken before anybody else gets a turn.
const BURST: usize = 256;
/// How often sessions, streams and requests for key frames are looked at while there are any, and while there are none.
const BUSY_TICK: Duration = Duration::from_millis(50);
const IDLE_TICK: Duration = Duration::from_millis(500);
/// Bytes that the kernel keeps of what has come and not been taken, if it may.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// What the worker is asked.
pub(crate) enum Command {
    Open(Offer, oneshot::Sender<Result<Opened, Refusal>>),
    Patch(Patch, oneshot::Sender<Result<Patched, Refusal>>),
    Close(SessionId, oneshot::Sender<bool>),
    Choose(SessionId, Option<Box<str>>, oneshot::Sender<bool>),
    Listen(SessionId, oneshot::Sender<Result<mpsc::Receiver<SessionEvent>, Refusal>>),
    Probe(SessionId, oneshot::Sender<Presence>),
    List(oneshot::Sender<Vec<StreamStatus>>),
    End(Option<Instant>),
    Stop,
}

/// What others hold of the worker.
#[derive(Debug, Clone)]
pub struct Worker {
    commands: mpsc::Sender<Command>,
    standing: watch::Receiver<Standing>,
    snapshot: watch::Receiver<Snapshot>,
    /// Milliseconds after `began` when it turned last.
    turned: Arc<AtomicU64>,
    began: Instant,
}

/// What a worker needs.
pub struct Setup {
    /// The bound socket.
    pub socket: std::net::UdpSocket,
    /// Who makes sessions of offers.
    pub endpoints: Box<dyn Endpoints>,
    /// Sessions at a time.
    pub max_sessions: usize,
    /// Where the engine stands from the beginning.
    pub state: State,
    /// How long a tombstone without sessions waits for one.
    pub quiet: Duration,
    /// Where to count.
    pub metrics: Arc<Metrics>,
}

/// Binds the media port.
///
/// # Errors
/// The system refused.
pub fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // The kernel gives what it may; less costs packets in bursts and is no reason not to start.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    let _ = socket.set_send_buffer_size(RECEIVE_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system refused a thread, a runtime or randomness.
    pub fn start(setup: Setup) -> io::Result<(Self, std::thread::JoinHandle<()>)> {
        let began = Instant::now();
        let (commands, queue) = mpsc::channel(QUEUE);
        let life = Life::new(setup.state, setup.quiet);
        let engine =
            Engine::new(setup.endpoints, setup.max_sessions, life, Arc::clone(&setup.metrics), began);
        let (standing_sender, standing) = watch::channel(engine.standing(began));
        let (snapshot_sender, snapshot) = watch::channel(Snapshot::default());
        let turned = Arc::new(AtomicU64::new(0));
        let worker = Self { commands, standing, snapshot, turned: Arc::clone(&turned), began };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = {
            let _entered = runtime.enter();
            UdpSocket::from_std(setup.socket)?
        };
        let turn = Turn {
            socket,
            engine,
            metrics: setup.metrics,
            queue,
            standing: standing_sender,
            snapshot: snapshot_sender,
            turned,
            began,
        };
        let thread = std::thread::Builder::new()
            .name("worker-0".to_owned())
            .spawn(move || runtime.block_on(turn.run()))?;
        Ok((worker, thread))
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Answers an offer.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn open(&self, offer: Offer) -> Result<Opened, Refusal> {
        let answered = self.ask(|reply| Command::Open(offer, reply)).await;
        answered.unwrap_or_else(|| Err(Refusal::ends(retry_after())))
    }

    /// Takes candidates in, or restarts the ICE of a session.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn patch(&self, patch: Patch) -> Result<Patched, Refusal> {
        let patched = self.ask(|reply| Command::Patch(patch, reply)).await;
        patched.unwrap_or_else(|| Err(Refusal::ends(retry_after())))
    }

    /// Ends a session; false if there is none.
    pub async fn close(&self, session: SessionId) -> bool {
        self.ask(|reply| Command::Close(session, reply)).await.unwrap_or(false)
    }

    /// What is known of a session.
    pub async fn probe(&self, session: SessionId) -> Presence {
        self.ask(|reply| Command::Probe(session, reply)).await.unwrap_or(Presence::Unknown)
    }

    /// Every stream.
    pub async fn streams(&self) -> Vec<StreamStatus> {
        self.ask(Command::List).await.unwrap_or_default()
    }

    /// Tells the engine that the process ends at `deadline`; returns when nobody is left.
    pub async fn told_to_end(&self, deadline: Instant) {
        let _ = self.commands.send(Command::End(Some(deadline))).await;
        let mut standing = self.standing.clone();
        let _ = standing.wait_for(|standing| standing.is_over).await;
    }

    /// Tells the engine that it shall end when it is not needed any more. False if it has too much to do to hear it.
    #[must_use]
    pub fn tombstone(&self) -> bool {
        self.commands.try_send(Command::End(None)).is_ok()
    }

    /// Gives a viewer the layer of that rid while it is there; the engine chooses without. False if there is no such viewer.
    pub async fn choose(&self, session: SessionId, rid: Option<Box<str>>) -> bool {
        self.ask(|reply| Command::Choose(session, rid, reply)).await.unwrap_or(false)
    }

    /// Everything that happens to `session` from now on.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn listen(&self, session: SessionId) -> Result<mpsc::Receiver<SessionEvent>, Refusal> {
        let heard = self.ask(|reply| Command::Listen(session, reply)).await;
        heard.unwrap_or_else(|| Err(Refusal::ends(retry_after())))
    }

    /// Says goodbye to everybody who is left and ends the thread.
    pub async fn stop(&self) {
        let _ = self.commands.send(Command::Stop).await;
        self.commands.closed().await;
    }

    /// Returns when the thread has ended.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }

    /// Where the engine stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.standing.borrow().state
    }

    /// The same, as it changes.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// What it was doing a moment ago.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }

    /// How long ago the thread turned last.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let turned = Duration::from_millis(self.turned.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(turned)
    }
}

/// The socket as the engine sends by it.
struct Wire<'a> {
    socket: &'a UdpSocket,
    metrics: &'a Metrics,
}

impl Sender for Wire<'_> {
    fn send(&mut self, to: SocketAddr, datagram: &[u8]) {
        match self.socket.try_send_to(datagram, to) {
            Ok(_) => self.metrics.datagram(Direction::Out, datagram.len()),
            // A full socket drops, as every router on the way does; the viewer asks again.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.metrics.dropped("socket_full"),
            Err(_) => self.metrics.dropped("send_failed"),
        }
    }
}

struct Turn {
    socket: UdpSocket,
    engine: Engine,
    metrics: Arc<Metrics>,
    queue: mpsc::Receiver<Command>,
    standing: watch::Sender<Standing>,
    snapshot: watch::Sender<Snapshot>,
    turned: Arc<AtomicU64>,
    began: Instant,
}

impl Turn {
    async fn run(mut self) {
        let mut buffer = [0; MAX_DATAGRAM];
        let mut tick = Instant::now();
        loop {
            let now = Instant::now();
            let passed = u64::try_from(now.duration_since(self.began).as_millis()).unwrap_or(u64::MAX);
            self.turned.store(passed, Ordering::Relaxed);
            let mut wire = Wire { socket: &self.socket, metrics: &self.metrics };
            self.engine.handle_timeouts(now, &mut wire);
            if now >= tick {
                self.engine.look_around(now, &mut wire);
                let _ = self.snapshot.send_replace(self.engine.snapshot());
                tick = now + if self.engine.is_idle() { IDLE_TICK } else { BUSY_TICK };
            }
            let standing = self.engine.standing(now);
            self.standing.send_if_modified(|known| std::mem::replace(known, standing) != standing);
            let wake = self.engine.next_timeout().map_or(tick, |at| at.min(tick));
            tokio::select! {
                readable = self.socket.readable() => {
                    if readable.is_ok() {
                        self.take_datagrams(&mut buffer);
                    }
                }
                command = self.queue.recv() => {
                    let (Some(command), now) = (command, Instant::now()) else { return };
                    if matches!(command, Command::Stop) {
                        let mut wire = Wire { socket: &self.socket, metrics: &self.metrics };
                        return self.engine.end_all(now, &mut wire);
                    }
                    self.obey(command, now);
                    // What it has changed is seen by whoever asks next.
                    tick = now;
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    fn take_datagrams(&mut self, buffer: &mut [u8; MAX_DATAGRAM]) {
        let mut wire = Wire { socket: &self.socket, metrics: &self.metrics };
        for _ in 0..BURST {
            match self.socket.try_recv_from(buffer) {
                Ok((length, from)) => {
                    self.metrics.datagram(Direction::In, length);
                    self.engine.datagram(from, &buffer[..length], Instant::now(), &mut wire);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.metrics.dropped("receive_failed"),
            }
        }
    }

    fn obey(&mut self, command: Command, now: Instant) {
        let mut wire = Wire { socket: &self.socket, metrics: &self.metrics };
        // Whoever asked may have gone; then nobody reads the answer.
        match command {
            Command::Open(offer, reply) => {
                let opened = self.engine.open(offer, now, &mut wire);
                let session = opened.as_ref().ok().map(|opened| opened.session);
                if reply.send(opened).is_err()
                    && let Some(session) = session
                {
                    self.engine.close(session, now, &mut wire);
                }
            }
            Command::Patch(patch, reply) => {
                let _ = reply.send(self.engine.patch(patch, now, &mut wire));
            }
            Command::Close(session, reply) => {
                let _ = reply.send(self.engine.close(session, now, &mut wire));
            }
            Command::Probe(session, reply) => {
                let _ = reply.send(self.engine.presence(session));
            }
            Command::List(reply) => {
                let _ = reply.send(self.engine.snapshot().streams);
            }
            Command::Choose(session, rid, reply) => {
                let _ = reply.send(self.engine.choose(session, rid));
            }
            Command::Listen(session, reply) => {
                let _ = reply.send(self.engine.listen(session));
            }
            Command::End(deadline) => self.engine.end_wanted(deadline, now),
            Command::Stop => {}
        }
    }
}
