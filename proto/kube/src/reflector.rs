//! One upstream list-watch as a state machine: which request to send next, and what an answer or a failure means.
//!
//! Empty --list--> Listing --last page--> Synced --watch--> Watching. A 410 leads back to a list, a lost stream to a
//! watch from the last resource version, a refusal (401, 403, 404) parks until the sponsor changes. Pure: the shell
//! sends the requests and tells what came back.

use std::time::Duration;

use crate::clock::Now;

/// A watch that says nothing for this long is dead: a stock API server sends a bookmark each minute.
pub const SILENT_WATCH: Duration = Duration::from_secs(75);
/// A frame that began must end within this time, or the link stalls in mid-frame.
pub const STALLED_FRAME: Duration = Duration::from_millis(2500);
/// A list must make progress at least this often.
pub const STALLED_LIST: Duration = Duration::from_secs(15);
/// Objects asked for in one page of a list, where nothing says that so many are too large.
pub const PAGE_LIMIT: u32 = 500;
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
const WATCH_SECONDS: u64 = 300;
/// Relists that may come back older than what is held before a consistent read is asked for.
const STALE_LISTS_BEFORE_CONSISTENT: u32 = 3;

/// How the first state of a collection is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// LIST (gzip where offered), then WATCH.
    #[default]
    List,
    /// One WATCH with `sendInitialEvents`; falls back to [`Protocol::List`] where the server refuses it.
    WatchList,
}

/// What the shell is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send a LIST with these query parameters (selectors are the shell's to add).
    List(Vec<(&'static str, String)>),
    /// Open a watch with these query parameters; `initial` when it carries the whole state first.
    Watch {
        /// Query parameters besides the selectors.
        query: Vec<(&'static str, String)>,
        /// The stream begins with ADDED events up to the marked bookmark.
        initial: bool,
    },
    /// Do nothing before this monotonic time.
    Wait(Duration),
    /// The server refused this sponsor; only another credential or another read wakes it.
    Parked,
}

/// Why a request or a stream ended badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An HTTP status that is not 2xx, or an ERROR event's code.
    Status {
        /// The HTTP code.
        code: u16,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
    },
    /// Connection lost, stream reset, time-out, stall.
    Transport,
    /// The body could not be understood.
    BadAnswer,
    /// The list, or the page of it, is larger than what is taken at once.
    TooLarge,
    /// A list older than what is held: a lagging replica, or a cluster that was restored from a backup.
    Older,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Empty,
    Listing { continue_token: String },
    Synced,
    Parked,
}

/// The state machine of one collection's upstream list-watch.
#[derive(Debug)]
pub struct Reflector {
    state: State,
    protocol: Protocol,
    /// RV of the last event, list or bookmark that was applied; 0 while nothing is held.
    resource_version: u64,
    /// A first list at exactly this RV lets a client resume that listed elsewhere.
    seed: Option<u64>,
    not_before: Duration,
    failures: u32,
    older_lists: u32,
    /// Objects asked for in the next page.
    page: u32,
}

impl Reflector {
    /// Starts at `resource_version` (0: nothing held, begin with the whole state).
    #[must_use]
    pub fn new(protocol: Protocol, resource_version: u64) -> Self {
        let state = if resource_version == 0 { State::Empty } else { State::Synced };
        Self {
            state,
            protocol,
            resource_version,
            seed: None,
            not_before: Duration::ZERO,
            failures: 0,
            older_lists: 0,
            page: PAGE_LIMIT,
        }
    }

    /// Asks that the first list be of exactly this RV, because a client wants to watch on from there.
    pub fn seed(&mut self, resource_version: u64) {
        if self.state == State::Empty {
            self.seed = Some(resource_version);
        }
    }

    /// Whether the server refused the sponsor.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.state == State::Parked
    }

    /// A new credential, a heal or a new reader: try again at once.
    pub fn nudge(&mut self) {
        self.not_before = Duration::ZERO;
        self.failures = 0;
        if self.state == State::Parked {
            self.state = if self.resource_version == 0 { State::Empty } else { State::Synced };
        }
    }

    /// The server was seen at an older version than what is held, as after a restore from a backup: the next list is a
    /// consistent one. A watch from a version above the server's own would only stay silent.
    pub fn doubt(&mut self) {
        self.nudge();
        self.state = State::Empty;
        self.seed = None;
        self.older_lists = STALE_LISTS_BEFORE_CONSISTENT;
    }

    /// The server may show the objects otherwise without a new version, as after a change of the kind's
    /// CustomResourceDefinition: the whole state is listed again before the next watch.
    pub fn recheck(&mut self) {
        if self.state == State::Synced {
            self.state = State::Empty;
        }
    }

    /// What to do next. `random` is a fresh random number; it spreads the watches' ends.
    #[must_use]
    pub fn next(&self, now: Now, random: u64) -> Next {
        if self.state == State::Parked {
            return Next::Parked;
        }
        if now.monotonic < self.not_before {
            return Next::Wait(self.not_before);
        }
        match &self.state {
            State::Empty if self.protocol == Protocol::WatchList => self.watch_list(random),
            State::Empty => Next::List(self.list_query()),
            State::Listing { continue_token } => {
                Next::List(vec![("limit", self.page.to_string()), ("continue", continue_token.clone())])
            }
            State::Synced => Next::Watch { query: self.watch_query(random), initial: false },
            State::Parked => Next::Parked,
        }
    }

    fn list_query(&self) -> Vec<(&'static str, String)> {
        if let Some(seed) = self.seed {
            return vec![("resourceVersion", seed.to_string()), ("resourceVersionMatch", "Exact".to_owned())];
        }
        if self.resource_version == 0 || self.older_lists >= STALE_LISTS_BEFORE_CONSISTENT {
            // No RV is a consistent read: right after a restore it is the only one that tells the truth.
            return vec![("limit", self.page.to_string())];
        }
        vec![
            ("resourceVersion", self.resource_version.to_string()),
            ("resourceVersionMatch", "NotOlderThan".to_owned()),
        ]
    }

    fn watch_query(&self, random: u64) -> Vec<(&'static str, String)> {
        let seconds = WATCH_SECONDS + random % WATCH_SECONDS;
        vec![
            ("allowWatchBookmarks", "true".to_owned()),
            ("resourceVersion", self.resource_version.to_string()),
            ("timeoutSeconds", seconds.to_string()),
            ("watch", "true".to_owned()),
        ]
    }

    fn watch_list(&self, random: u64) -> Next {
        let seconds = WATCH_SECONDS + random % WATCH_SECONDS;
        let mut query = vec![
            ("allowWatchBookmarks", "true".to_owned()),
            ("resourceVersionMatch", "NotOlderThan".to_owned()),
            ("sendInitialEvents", "true".to_owned()),
            ("timeoutSeconds", seconds.to_string()),
            ("watch", "true".to_owned()),
        ];
        if self.resource_version != 0 && self.older_lists < STALE_LISTS_BEFORE_CONSISTENT {
            query.push(("resourceVersion", self.resource_version.to_string()));
        }
        Next::Watch { query, initial: true }
    }

    /// Whether the list in flight is a consistent read, so that an older answer is a true rollback.
    #[must_use]
    pub fn list_is_consistent(&self) -> bool {
        self.seed.is_none()
            && (self.resource_version == 0 || self.older_lists >= STALE_LISTS_BEFORE_CONSISTENT)
    }

    /// One page of a list arrived, of `bytes` where `limit` are taken; an empty token means that it was the last. Pages that
    /// had become small for large objects grow again.
    pub fn handle_page(&mut self, continue_token: &str, bytes: usize, limit: usize) {
        self.failures = 0;
        if bytes.saturating_mul(4) <= limit {
            self.page = self.page.saturating_mul(2).min(PAGE_LIMIT);
        }
        if !continue_token.is_empty() {
            self.state = State::Listing { continue_token: continue_token.to_owned() };
        }
    }

    /// The whole state at `resource_version` was taken over.
    pub fn handle_synced(&mut self, resource_version: u64) {
        self.state = State::Synced;
        self.resource_version = resource_version;
        self.seed = None;
        self.failures = 0;
        self.older_lists = 0;
    }

    /// An event or bookmark was applied.
    pub fn handle_progress(&mut self, resource_version: u64) {
        self.resource_version = self.resource_version.max(resource_version);
        self.failures = 0;
    }

    /// A watch ended cleanly after `lived`. A server that ends watches at once is asked again more slowly.
    pub fn handle_clean_end(&mut self, now: Now, lived: Duration, random: u64) {
        if lived < Duration::from_secs(1) {
            self.back_off(now, random);
        }
    }

    /// A request or stream failed. Says whether the pages gathered so far must be thrown away.
    pub fn handle_failure(&mut self, now: Now, failure: &Failure, random: u64) -> bool {
        let was_listing = matches!(self.state, State::Listing { .. });
        match failure {
            Failure::Status { code: 400 | 405 | 422, .. }
                if self.protocol == Protocol::WatchList && self.seed.is_none() =>
            {
                self.protocol = Protocol::List;
            }
            Failure::Status { code: 400 | 401 | 403 | 404 | 405 | 406 | 415 | 422, .. }
                if self.seed.is_none() =>
            {
                self.state = State::Parked;
            }
            Failure::Status { code: 429, retry_after } => {
                self.back_off(now, random);
                if let Some(wait) = retry_after {
                    self.not_before = self.not_before.max(now.monotonic + (*wait).min(LONGEST_RETRY_AFTER));
                }
            }
            _ if self.seed.take().is_some() => self.state = State::Empty,
            // A whole list is not to be had at once; in pages it is. Half a page is asked for at once, from the same token.
            Failure::TooLarge if self.is_whole_list() => {
                self.older_lists = STALE_LISTS_BEFORE_CONSISTENT;
                self.state = State::Empty;
            }
            Failure::TooLarge if self.page > 1 => self.page = (self.page / 2).max(1),
            Failure::Status { code: 410, .. } => {
                // The history is compacted, or the continue token is: the whole state is needed again.
                self.state = State::Empty;
                if self.failures > 0 {
                    self.back_off(now, random);
                }
                self.failures = self.failures.saturating_add(1);
            }
            Failure::Older => {
                self.older_lists = self.older_lists.saturating_add(1);
                self.state = State::Empty;
                self.back_off(now, random);
            }
            // The page will be asked for again, and what was gathered before it stays good.
            Failure::Status { .. } => self.back_off(now, random),
            Failure::BadAnswer | Failure::TooLarge | Failure::Transport => {
                if was_listing {
                    self.state = State::Empty;
                }
                self.back_off(now, random);
            }
        }
        // Thrown away while the list goes on, the first pages would be missing from a state that counts as whole.
        was_listing && !matches!(self.state, State::Listing { .. })
    }

    /// Whether the list in flight has no pages: a watch cache answers it from one state.
    fn is_whole_list(&self) -> bool {
        self.state == State::Empty
            && self.resource_version != 0
            && self.older_lists < STALE_LISTS_BEFORE_CONSISTENT
    }

    fn back_off(&mut self, now: Now, random: u64) {
        let doubled = FIRST_DELAY.saturating_mul(1 << self.failures.min(10));
        let delay = doubled.min(LONGEST_DELAY);
        // Between one and two times the delay, so that a thousand reflectors do not come back together.
        let per_mille = u32::try_from(random % 1000).unwrap_or(0);
        self.not_before = now.monotonic + delay + delay * per_mille / 1000;
        self.failures = self.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { monotonic: Duration::from_secs(seconds), unix: Duration::from_secs(1_700_000_000 + seconds) }
    }

    fn value<'a>(query: &'a [(&'static str, String)], key: &str) -> Option<&'a str> {
        query.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_str())
    }

    #[test]
    fn a_restart_with_state_watches_on_without_a_list() {
        let reflector = Reflector::new(Protocol::List, 42);
        let Next::Watch { query, initial } = reflector.next(at(0), 7) else { panic!("a watch") };
        assert!(!initial);
        assert_eq!(value(&query, "resourceVersion"), Some("42"));
        assert_eq!(value(&query, "allowWatchBookmarks"), Some("true"));
    }

    #[test]
    fn a_page_that_is_too_large_is_asked_for_by_halves_and_grows_again() {
        let mut reflector = Reflector::new(Protocol::List, 0);
        let limit = |reflector: &Reflector| match reflector.next(at(0), 0) {
            Next::List(query) => {
                let page = value(&query, "limit").and_then(|text| text.parse().ok());
                (page, value(&query, "continue").map(str::to_owned))
            }
            other => panic!("{other:?}"),
        };
        assert!(!reflector.handle_failure(at(0), &Failure::TooLarge, 0));
        assert_eq!(limit(&reflector), (Some(250), None), "at once");
        reflector.handle_page("token", 900, 1000);
        assert!(!reflector.handle_failure(at(0), &Failure::TooLarge, 0), "what was gathered is good");
        assert_eq!(limit(&reflector), (Some(125), Some("token".to_owned())));
        for page in [62, 31, 15, 7, 3, 1] {
            reflector.handle_failure(at(0), &Failure::TooLarge, 0);
            assert_eq!(limit(&reflector).0, Some(page));
        }
        let mut stuck = Reflector::new(Protocol::List, 0);
        while limit(&stuck).0 != Some(1) {
            stuck.handle_failure(at(0), &Failure::TooLarge, 0);
        }
        stuck.handle_failure(at(0), &Failure::TooLarge, 0);
        assert!(
            matches!(stuck.next(at(0), 0), Next::Wait(_)),
            "one object that is too large is asked for with pauses"
        );
        for page in [2, 4, 8, 16, 32, 64, 128, 256, 500, 500] {
            reflector.handle_page("next", 250, 1000);
            assert_eq!(limit(&reflector).0, Some(page));
        }
        // A relist has no pages until it proves too large for that.
        let mut relisting = Reflector::new(Protocol::List, 42);
        relisting.handle_failure(at(0), &Failure::Status { code: 410, retry_after: None }, 0);
        assert_eq!(limit(&relisting).0, None);
        relisting.handle_failure(at(0), &Failure::TooLarge, 0);
        assert_eq!(limit(&relisting).0, Some(PAGE_LIMIT));
        assert!(relisting.list_is_consistent());
    }

    #[test]
    fn a_410_leads_to_a_list_not_older_than_what_is_held() {
        let mut reflector = Reflector::new(Protocol::List, 42);
        reflector.handle_failure(at(0), &Failure::Status { code: 410, retry_after: None }, 0);
        let Next::List(query) = reflector.next(at(0), 0) else { panic!("a list") };
        assert_eq!(value(&query, "resourceVersion"), Some("42"));
        assert_eq!(value(&query, "resourceVersionMatch"), Some("NotOlderThan"));
    }

    #[test]
    fn a_recheck_lists_what_is_held_again_and_watches_on_from_there() {
        let mut reflector = Reflector::new(Protocol::List, 42);
        reflector.recheck();
        let Next::List(query) = reflector.next(at(0), 0) else { panic!("a list") };
        assert_eq!(value(&query, "resourceVersionMatch"), Some("NotOlderThan"));
        assert!(!reflector.list_is_consistent(), "a lagging replica is no rollback");
        reflector.handle_synced(43);
        assert!(matches!(reflector.next(at(0), 0), Next::Watch { .. }));
    }

    #[test]
    fn lists_that_stay_older_end_in_a_consistent_read() {
        let mut reflector = Reflector::new(Protocol::List, 42);
        reflector.handle_failure(at(0), &Failure::Status { code: 410, retry_after: None }, 0);
        for _ in 0..STALE_LISTS_BEFORE_CONSISTENT {
            assert!(!reflector.list_is_consistent());
            reflector.handle_failure(at(0), &Failure::Older, 0);
        }
        assert!(reflector.list_is_consistent());
        let Next::List(query) = reflector.next(at(1000), 0) else { panic!("a list") };
        assert_eq!(value(&query, "resourceVersion"), None);
    }

    #[test]
    fn a_server_that_was_set_back_is_asked_for_its_state_and_not_watched_from_the_future() {
        for protocol in [Protocol::List, Protocol::WatchList] {
            for parked in [false, true] {
                let mut reflector = Reflector::new(protocol, 42);
                if parked {
                    reflector.handle_failure(at(0), &Failure::Status { code: 403, retry_after: None }, 0);
                }
                reflector.doubt();
                let (Next::List(query) | Next::Watch { query, initial: true }) = reflector.next(at(0), 0)
                else {
                    panic!("the whole state")
                };
                assert_eq!(value(&query, "resourceVersion"), None);
                assert!(reflector.list_is_consistent());
                reflector.handle_synced(17);
                let Next::Watch { query, initial: false } = reflector.next(at(0), 0) else {
                    panic!("a watch")
                };
                assert_eq!(value(&query, "resourceVersion"), Some("17"));
            }
        }
    }

    #[test]
    fn pages_are_thrown_away_exactly_when_the_list_begins_again() {
        let status = |code| Failure::Status { code, retry_after: None };
        let failures =
            [status(429), status(500), status(410), status(403), Failure::Transport, Failure::BadAnswer];
        for failure in failures {
            let mut reflector = Reflector::new(Protocol::List, 0);
            reflector.handle_page("token", 1000, 1000);
            let thrown_away = reflector.handle_failure(at(0), &failure, 0);
            reflector.nudge();
            let Next::List(query) = reflector.next(at(0), 0) else { panic!("a list") };
            assert_eq!(value(&query, "continue").is_none(), thrown_away, "{failure:?}");
        }
    }

    #[test]
    fn pages_follow_the_continue_token_and_a_lost_page_starts_over() {
        let mut reflector = Reflector::new(Protocol::List, 0);
        reflector.handle_page("next", 1000, 1000);
        let Next::List(query) = reflector.next(at(0), 0) else { panic!("a list") };
        assert_eq!(value(&query, "continue"), Some("next"));
        assert!(reflector.handle_failure(at(0), &Failure::Transport, 0));
        let Next::List(query) = reflector.next(at(100), 0) else { panic!("a list") };
        assert_eq!(value(&query, "continue"), None);
    }

    #[test]
    fn a_refused_sponsor_parks_until_nudged() {
        let mut reflector = Reflector::new(Protocol::List, 0);
        reflector.handle_failure(at(0), &Failure::Status { code: 403, retry_after: None }, 0);
        assert_eq!(reflector.next(at(1000), 0), Next::Parked);
        reflector.nudge();
        assert!(matches!(reflector.next(at(1000), 0), Next::List(_)));
    }

    #[test]
    fn a_list_that_the_server_calls_invalid_is_not_asked_again_and_again() {
        let mut reflector = Reflector::new(Protocol::List, 0);
        reflector.handle_failure(at(0), &Failure::Status { code: 400, retry_after: None }, 0);
        assert_eq!(reflector.next(at(1000), 0), Next::Parked);
    }

    #[test]
    fn a_watch_list_that_is_refused_falls_back_to_a_list() {
        let mut reflector = Reflector::new(Protocol::WatchList, 0);
        assert!(matches!(reflector.next(at(0), 0), Next::Watch { initial: true, .. }));
        reflector.handle_failure(at(0), &Failure::Status { code: 422, retry_after: None }, 0);
        assert!(matches!(reflector.next(at(0), 0), Next::List(_)));
    }

    #[test]
    fn a_seed_that_the_server_no_longer_has_falls_back_to_the_newest_state() {
        let mut reflector = Reflector::new(Protocol::List, 0);
        reflector.seed(17);
        let Next::List(query) = reflector.next(at(0), 0) else { panic!("a list") };
        assert_eq!(value(&query, "resourceVersionMatch"), Some("Exact"));
        reflector.handle_failure(at(0), &Failure::Status { code: 410, retry_after: None }, 0);
        let Next::List(query) = reflector.next(at(0), 0) else { panic!("a list") };
        assert_eq!(value(&query, "resourceVersion"), None);
    }

    #[test]
    fn a_state_that_is_in_doubt_is_read_anew_and_consistently() {
        let mut reflector = Reflector::new(Protocol::List, 42);
        reflector.doubt();
        assert!(reflector.list_is_consistent());
        let Next::List(query) = reflector.next(at(0), 0) else { panic!("a list") };
        assert_eq!(value(&query, "resourceVersion"), None);
        reflector.handle_synced(17);
        assert!(!reflector.list_is_consistent());
    }

    #[test]
    fn failures_back_off_and_never_longer_than_a_minute() {
        let mut reflector = Reflector::new(Protocol::List, 0);
        let mut longest = Duration::ZERO;
        for _ in 0..40 {
            reflector.handle_failure(at(0), &Failure::Transport, 999);
            let Next::Wait(until) = reflector.next(at(0), 0) else { panic!("a pause") };
            assert!(until >= longest, "pauses never shrink while failures go on");
            longest = until;
        }
        assert!(longest > Duration::from_secs(30) && longest <= Duration::from_secs(60));
    }
}
