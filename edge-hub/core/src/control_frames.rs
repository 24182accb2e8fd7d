//! How many frames of HTTP/2 that carry nothing a client sends: PING, SETTINGS, PRIORITY and types that nobody knows. Each has to
//! be read and most are answered, and no library bounds their number, so that a few connections could keep a thread busy.
//!
//! Frames are told by their headers alone (RFC 9113 s4.1), which survive any cut of the bytes.

use std::time::Duration;

/// What a connection begins with that speaks HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER: usize = 9;
/// Such frames at once, and each second from then on. A client of Kubernetes sends a PING in thirty seconds.
const BURST: u32 = 2000;
const PER_SECOND: u32 = 200;

#[derive(Debug)]
enum State {
    /// So much of the preface came.
    Preface(usize),
    /// So much of a frame's header came.
    Header([u8; HEADER], usize),
    /// So much of its payload is to come.
    Payload(usize),
    /// It speaks another protocol.
    Other,
}

/// The frames of one connection, as they come.
#[derive(Debug)]
pub struct ControlFrames {
    state: State,
    /// When the whole burst is there again, on the monotonic clock.
    full_at: Duration,
}

impl Default for ControlFrames {
    fn default() -> Self {
        Self { state: State::Preface(0), full_at: Duration::ZERO }
    }
}

impl ControlFrames {
    /// Takes what came at `now`. False when that is a flood: the connection is to be closed.
    #[must_use]
    pub fn feed(&mut self, now: Duration, mut bytes: &[u8]) -> bool {
        while let Some(first) = bytes.first() {
            match &mut self.state {
                State::Other => return true,
                State::Preface(seen) => {
                    if PREFACE[*seen] != *first {
                        self.state = State::Other;
                        return true;
                    }
                    *seen += 1;
                    bytes = &bytes[1..];
                    if *seen == PREFACE.len() {
                        self.state = State::Header([0; HEADER], 0);
                    }
                }
                State::Header(header, seen) => {
                    header[*seen] = *first;
                    *seen += 1;
                    bytes = &bytes[1..];
                    if *seen == HEADER {
                        let [high, middle, low, kind, ..] = *header;
                        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                        self.state =
                            if length == 0 { State::Header([0; HEADER], 0) } else { State::Payload(length) };
                        if carries_nothing(kind) && !self.take(now) {
                            return false;
                        }
                    }
                }
                State::Payload(left) => {
                    let passed = bytes.len().min(*left);
                    *left -= passed;
                    bytes = &bytes[passed..];
                    if *left == 0 {
                        self.state = State::Header([0; HEADER], 0);
                    }
                }
            }
        }
        true
    }

    fn take(&mut self, now: Duration) -> bool {
        let interval = Duration::from_secs(1) / PER_SECOND;
        self.full_at = self.full_at.max(now) + interval;
        self.full_at - now <= interval * BURST
    }
}

/// Neither DATA nor what a stream or its windows need: those are bounded where they are handled.
fn carries_nothing(kind: u8) -> bool {
    const PRIORITY: u8 = 2;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const CONTINUATION: u8 = 9;
    matches!(kind, PRIORITY | SETTINGS | PING) || kind > CONTINUATION
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let size = u32::try_from(length).expect("short").to_be_bytes();
        let mut frame = vec![size[1], size[2], size[3], kind, 0, 0, 0, 0, 0];
        frame.resize(HEADER + length, b'P');
        frame
    }

    fn begun() -> ControlFrames {
        let mut frames = ControlFrames::default();
        assert!(frames.feed(Duration::ZERO, PREFACE));
        frames
    }

    /// How many frames pass that come `per_second`, of at most `count`.
    fn passed(kind: u8, per_second: u32, count: u32) -> u32 {
        let (mut frames, one) = (begun(), frame(kind, 8));
        let at = |index: u32| Duration::from_secs(1) * index / per_second;
        (0..count).find(|index| !frames.feed(at(*index), &one)).unwrap_or(count)
    }

    #[test]
    fn a_flood_ends_after_its_burst_and_what_clients_send_never() {
        for kind in [2, 4, 6, 10, 255] {
            assert!((BURST..BURST + 100).contains(&passed(kind, 100_000, 10_000)), "{kind}");
            assert_eq!(passed(kind, 100, 20_000), 20_000, "{kind}");
        }
        for kind in [0, 1, 3, 8, 9] {
            assert_eq!(passed(kind, 100_000, 20_000), 20_000, "{kind} is bounded elsewhere");
        }
    }

    #[test]
    fn frames_are_counted_however_their_bytes_are_cut_and_their_payload_is_none() {
        // What looks like a frame inside of DATA is DATA.
        let mut bytes = PREFACE.to_vec();
        for _ in 0..BURST {
            bytes.extend(frame(6, 8));
            bytes.extend(frame(0, 300));
        }
        for cut in [1, 2, 7, 9, 64, 4096, bytes.len()] {
            let mut frames = ControlFrames::default();
            assert!(bytes.chunks(cut).all(|part| frames.feed(Duration::ZERO, part)), "{cut}");
            assert!(!frames.feed(Duration::ZERO, &frame(6, 8)), "{cut}: one more");
        }
    }

    #[test]
    fn another_protocol_is_let_alone() {
        for other in ["GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nXX", ""] {
            let mut frames = ControlFrames::default();
            assert!(frames.feed(Duration::ZERO, other.as_bytes()));
            let noise = frame(6, 8).repeat(10_000);
            assert!(other.is_empty() || frames.feed(Duration::ZERO, &noise));
        }
    }
}
