//! What one member is told of one kind. The member draws: a frame is made when there is room for it, out of the copy as it
//! is then, so that a member which reads slowly costs no memory and gets the newest state of each object.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::coordinator::{
    Change, Changes, Encoding, FRAME_BYTES, Frame, Kind, PROGRESS_EVERY_MS, Progress, Reason, Refused,
    Rollback, Said, Snapshot, Start, VERSION,
};

use crate::replica::{Replica, What};

/// A member may be ahead of the copy: it heard the cloud itself meanwhile, and a quiet kind moves on with a bookmark a
/// minute. If the cloud spoke this long after the member came, and is still behind it, the cloud may have been set back.
const AHEAD_PATIENCE: Duration = Duration::from_secs(10);
/// When a member that is too early asks again.
const FILLING_RETRY_MS: u64 = 250;

#[derive(Debug)]
enum State {
    Opening { resume: u64 },
    Telling { all: Arc<[Bytes]>, next: usize, version: u64 },
    Following,
    Ended,
}

/// One member's subscription to one kind.
#[derive(Debug)]
pub struct Subscription {
    state: State,
    encoding: Encoding,
    /// All up to this version was said, or was held by the member when it came.
    cursor: u64,
    generation: u64,
    said_at: Option<Duration>,
    ahead_since: Option<Duration>,
}

impl Subscription {
    /// Of a member that holds the state at `resume`; 0: nothing.
    #[must_use]
    pub fn new(resume: u64, encoding: Encoding) -> Self {
        let state = State::Opening { resume };
        Self { state, encoding, cursor: 0, generation: 0, said_at: None, ahead_since: None }
    }

    /// The next frame; `None` while there is nothing to say. `age` is how long ago the copy's own watch was last known to
    /// stand; `filling` rises while a first state is coming in.
    pub fn poll(&mut self, now: Duration, replica: &Replica, age: Duration, filling: u64) -> Option<Frame> {
        let said = match &mut self.state {
            State::Ended => return None,
            State::Opening { .. } if !replica.is_complete() => {
                self.state = State::Ended;
                Said::Refused(Refused {
                    reason: Reason::Filling.into(),
                    text: "this coordinator is reading its first state from the cloud; ask again".to_owned(),
                    retry_after_ms: FILLING_RETRY_MS,
                    progress: filling,
                })
            }
            State::Opening { resume } => {
                let resume = *resume;
                self.start(replica, resume, age)
            }
            // A state of before is no longer worth its end.
            _ if self.generation != replica.generation() => self.roll_back(replica),
            State::Telling { all, next, version } => {
                let (snapshot, told) = part(all, *next, *version);
                let (is_last, version) = (snapshot.last, *version);
                *next = told;
                if is_last {
                    self.state = State::Following;
                    self.cursor = version;
                }
                Said::Snapshot(snapshot)
            }
            State::Following if self.cursor > replica.version() => self.wait(now, replica, age)?,
            State::Following if self.cursor < replica.horizon() => {
                self.tell_all(replica);
                return self.poll(now, replica, age, filling);
            }
            State::Following => self.follow(now, replica, age)?,
        };
        self.said_at = Some(now);
        Some(Frame::of(said))
    }

    /// Whether the member holds what the cloud may not have any more; the copy should be read anew, from the cloud's newest
    /// state.
    #[must_use]
    pub fn doubts(&self, replica: &Replica) -> bool {
        self.ahead_since.is_some_and(|since| replica.heard_at() >= since + AHEAD_PATIENCE)
    }

    /// When there is something to say at the latest.
    #[must_use]
    pub fn due(&self) -> Duration {
        self.said_at.unwrap_or_default() + Duration::from_millis(PROGRESS_EVERY_MS)
    }

    /// Whether nothing will be said any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    fn start(&mut self, replica: &Replica, resume: u64, age: Duration) -> Said {
        self.generation = replica.generation();
        self.cursor = resume;
        if resume == 0 || resume < replica.horizon() {
            self.tell_all(replica);
        } else {
            self.state = State::Following;
        }
        let envelope = replica.envelope();
        Said::Start(Start {
            protocol: VERSION,
            encoding: self.encoding.into(),
            api_version: envelope.api_version.to_string(),
            kind: envelope.kind.to_string(),
            list_kind: envelope.list_kind.to_string(),
            version: replica.version(),
            age_ms: milliseconds(age),
        })
    }

    fn tell_all(&mut self, replica: &Replica) {
        self.ahead_since = None;
        self.state = State::Telling { all: replica.snapshot(), next: 0, version: replica.version() };
    }

    fn roll_back(&mut self, replica: &Replica) -> Said {
        self.generation = replica.generation();
        self.tell_all(replica);
        Said::Rollback(Rollback { version: replica.version() })
    }

    /// The member is ahead of the copy.
    fn wait(&mut self, now: Duration, replica: &Replica, age: Duration) -> Option<Said> {
        let since = *self.ahead_since.get_or_insert(now);
        if replica.consistent_at().is_some_and(|asked| asked > since) {
            return Some(self.roll_back(replica));
        }
        self.progress(now, replica, age)
    }

    fn follow(&mut self, now: Duration, replica: &Replica, age: Duration) -> Option<Said> {
        self.ahead_since = None;
        let (mut changes, mut bytes, mut more) = (Vec::new(), 0, false);
        for (version, what, raw) in replica.changes_after(self.cursor) {
            // At least one, however large.
            if bytes > 0 && bytes + raw.len() > FRAME_BYTES {
                more = true;
                break;
            }
            bytes += raw.len();
            let kind = match what {
                What::Put => Kind::Put,
                What::Deleted => Kind::Deleted,
            };
            changes.push(Change { kind: kind.into(), object: raw.clone() });
            self.cursor = version;
        }
        if changes.is_empty() {
            return self.progress(now, replica, age);
        }
        let upto = if more { 0 } else { replica.version() };
        self.cursor = self.cursor.max(upto);
        Some(Said::Changes(Changes { changes, upto }))
    }

    fn progress(&mut self, now: Duration, replica: &Replica, age: Duration) -> Option<Said> {
        if now < self.due() {
            return None;
        }
        self.cursor = self.cursor.max(replica.version());
        Some(Said::Progress(Progress { version: replica.version(), age_ms: milliseconds(age) }))
    }
}

fn milliseconds(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}

/// The objects from `next` on that fit one frame, and where the rest begins.
fn part(all: &[Bytes], next: usize, version: u64) -> (Snapshot, usize) {
    let (mut objects, mut bytes, mut told) = (Vec::new(), 0, next);
    for raw in &all[next..] {
        if bytes > 0 && bytes + raw.len() > FRAME_BYTES {
            break;
        }
        bytes += raw.len();
        objects.push(raw.clone());
        told += 1;
    }
    (Snapshot { objects, last: told == all.len(), version }, told)
}
