//! The process that is a delayed link: it takes the numbers of packets from two queues of the kernel, one for each way,
//! and accepts each when its time has come.

use std::io;
use std::os::fd::AsFd as _;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;

use super::held::{Delay, Held};
use super::link::Link;
use super::queue::Queue;
use crate::lab::namespace;
use crate::random::Random;

/// How long no packet must have come before the process may end: one may be on its way into the queue still when the
/// rule that sends it there has gone.
const QUIET: Duration = Duration::from_millis(20);

/// How many packets are taken from one queue before others have their turn.
const TURN: usize = 64;

/// Delays what passes the link until SIGTERM comes. Then all that is held goes on at once, in its order, the rules go,
/// and this returns when nothing comes any more.
pub(super) fn run(link: &Link, delay: Delay) -> io::Result<()> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let seed = std::process::id();
    let mut wire =
        Wire { ways: bind(link)?, delay: Some(delay), chance: Random::new(seed.into()), held: Held::new() };
    while signals.read_signal()?.is_none() {
        wire.turn(Some(&signals), None)?;
    }
    wire.delay = None;
    wire.flush()?;
    let rules = {
        let link = link.clone();
        std::thread::spawn(move || link.remove_rules())
    };
    wire.pass_until(rules)
}

/// The queues of both ways: packets to the node are caught as they come in there, packets from it as they come in at
/// the other end. There, and not where they leave, because a packet that has not left counts against its sender's
/// socket, which would then send no more.
fn bind(link: &Link) -> io::Result<[Queue; 2]> {
    let at = |namespace: &str| {
        let queue = link.queue;
        namespace::in_namespace(namespace, move || Queue::bind(queue))
    };
    Ok([at(&link.node)?, at(&link.cloud)?])
}

struct Wire {
    ways: [Queue; 2],
    /// `None`: what comes goes on at once.
    delay: Option<Delay>,
    chance: Random,
    /// The way and the number of each packet under way.
    held: Held<(usize, u32)>,
}

impl Wire {
    /// Waits until something comes or is due, at most for `limit`, and deals with it; returns whether a packet came.
    fn turn(&mut self, signals: Option<&SignalFd>, limit: Option<Duration>) -> io::Result<bool> {
        let due = self.held.next_due().map(|due| due.saturating_duration_since(Instant::now()));
        let limit = due.into_iter().chain(limit).min();
        let mut sources: Vec<PollFd<'_>> =
            self.ways.iter().map(|queue| PollFd::new(queue.as_fd(), PollFlags::POLLIN)).collect();
        sources.extend(signals.map(|signals| PollFd::new(signals.as_fd(), PollFlags::POLLIN)));
        match ppoll(&mut sources, limit.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut came = false;
        for way in 0..self.ways.len() {
            for _ in 0..TURN {
                let packets = self.ways[way].take()?;
                if packets.is_empty() {
                    break;
                }
                came = true;
                let now = Instant::now();
                for packet in packets {
                    let chance = self.chance.next();
                    let delay = self.delay.map_or(Duration::ZERO, |delay| delay.draw(chance));
                    self.held.hold(now + delay, (way, packet));
                }
            }
        }
        for (way, packet) in self.held.due(Instant::now()) {
            self.ways[way].accept(packet)?;
        }
        Ok(came)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.held.flush().try_for_each(|(way, packet)| self.ways[way].accept(packet))
    }

    /// Lets everything pass until the rules are gone and nothing comes any more.
    fn pass_until(&mut self, rules: JoinHandle<crate::lab::Result<()>>) -> io::Result<()> {
        while !rules.is_finished() {
            self.turn(None, Some(QUIET))?;
        }
        rules
            .join()
            .expect("the thread only runs commands, whose errors it returns")
            .map_err(io::Error::other)?;
        while self.turn(None, Some(QUIET))? {}
        Ok(())
    }
}
