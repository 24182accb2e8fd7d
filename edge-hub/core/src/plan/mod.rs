//! What is done next for a request: one pure function of the request, of who asks, and of what is known at the moment.
//!
//! The shell gathers [`Facts`], asks [`plan`], carries the [`Step`] out and, where that was no answer yet, asks again with
//! what it has learned, which [`Tried`] is a part of. No step is given twice for the same request, so that each request
//! ends. The rows are in `online.rs` (a server is there), in `fallback.rs` (one is there and does not answer this request)
//! and in `cut.rs` (none is there); each is read from the top, and the first one that fits holds.

mod cut;
mod facts;
mod fallback;
mod online;

pub use self::facts::{
    Ask, Candidate, Cloud, Collected, Facts, Failure, Fetch, Freshness, Local, Patience, Refusal, Step,
    Tried, Want,
};

/// What is to be done next for `ask`.
#[must_use]
pub fn plan(ask: &Ask<'_>, facts: &Facts<'_>) -> Step {
    match (facts.cloud, facts.tried.failure) {
        (Cloud::Cut, _) => cut::step(ask, facts),
        (_, None) => online::step(ask, facts),
        (_, Some(failure)) => fallback::step(ask, facts, failure),
    }
}
