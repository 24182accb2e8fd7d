//! How long clients wait for the first word of an answer, for who wants to know: `log.level: info,edge_hub::answer=debug`.

use std::time::Duration;

use http::{Request, Response, header};

use crate::clock::Clock;

/// The target of these lines in the log.
const TARGET: &str = "edge_hub::answer";

/// What a request that is being answered asked for.
pub(super) struct Asked {
    method: String,
    path: String,
    agent: String,
    clock: Clock,
    /// On the monotonic clock.
    since: Duration,
}

impl Asked {
    /// `None` where nobody wants to know: then it costs nothing.
    pub(super) fn of<B>(request: &Request<B>, clock: Clock) -> Option<Self> {
        if !tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
            return None;
        }
        let agent = request.headers().get(header::USER_AGENT).map(|agent| agent.to_str().unwrap_or("?"));
        Some(Self {
            method: request.method().as_str().to_owned(),
            path: request.uri().path().to_owned(),
            agent: agent.unwrap_or_default().to_owned(),
            clock,
            since: clock.now().monotonic,
        })
    }

    /// Writes the line: how long it is since the request's head.
    pub(super) fn answered<B>(self, response: &Response<B>) {
        let Self { method, path, agent, clock, since } = self;
        let waited = clock.now().monotonic.saturating_sub(since);
        let microseconds = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        let status = response.status().as_u16();
        tracing::debug!(target: TARGET, ?method, ?path, ?agent, status, microseconds);
    }
}
