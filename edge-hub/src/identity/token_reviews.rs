//! The queue in front of the API server's word on bearer tokens: what nobody has vouched for waits in a short one, asks a
//! few questions at a time, and each of them once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, Weak},
};

use edge_hub_core::{authentication::TokenHash, clock::Now, refused_tokens::RefusedTokens};
use http::HeaderMap;
use proto_kube::status::Status;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::sync::lock;

/// Reviews at a time of tokens that nobody has vouched for: a flood of guesses must not become one upstream.
const UNKNOWN_REVIEWS: usize = 8;
/// Requests that may wait for one of these; each holds its headers. More are told to come again.
const UNKNOWN_WAITING: usize = 64;
/// Largest headers of such a request.
const UNKNOWN_HEAD_BYTES: usize = 32 * 1024;
/// Requests that may wait for the review of a token that something speaks for.
const PLAUSIBLE_WAITING: usize = 1024;
/// Refused tokens that are remembered for a moment.
const REFUSED_TOKENS: usize = 4096;

/// The requests that wait for a review.
pub struct TokenReviews {
    /// Reviews at a time of tokens that nothing speaks for yet; all others wait for none of these.
    unknown: Semaphore,
    unknown_places: Semaphore,
    plausible_places: Semaphore,
    /// Tokens under review: requests with the same one wait for the same answer.
    running: Mutex<BTreeMap<TokenHash, Weak<tokio::sync::Mutex<()>>>>,
    refused: Mutex<RefusedTokens>,
}

impl Default for TokenReviews {
    fn default() -> Self {
        Self {
            unknown: Semaphore::new(UNKNOWN_REVIEWS),
            unknown_places: Semaphore::new(UNKNOWN_REVIEWS + UNKNOWN_WAITING),
            plausible_places: Semaphore::new(PLAUSIBLE_WAITING),
            running: Mutex::default(),
            refused: Mutex::new(RefusedTokens::new(REFUSED_TOKENS)),
        }
    }
}

impl TokenReviews {
    /// A place in the queue.
    ///
    /// # Errors
    /// 429 where it is full, 431 where a client that is not known sent more than such a one may.
    pub fn enter(&self, is_plausible: bool, headers: &HeaderMap) -> Result<SemaphorePermit<'_>, Status> {
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if !is_plausible && bytes > UNKNOWN_HEAD_BYTES {
            let text =
                "the headers are too large for a token that is not known yet; send a shorter request first";
            return Err(Status { code: 431, ..Status::bad_request(text) });
        }
        let places = if is_plausible { &self.plausible_places } else { &self.unknown_places };
        places.try_acquire().map_err(|_| {
            let text = "too many requests wait for the API server to say whose token they show";
            Status::too_many_requests(text, 1)
        })
    }

    /// The turn of one who asks about a token that nothing speaks for.
    pub async fn turn(&self, is_plausible: bool) -> Option<SemaphorePermit<'_>> {
        if is_plausible { None } else { self.unknown.acquire().await.ok() }
    }

    /// Held by the one request that asks about this token.
    #[must_use]
    pub fn of(&self, hash: TokenHash) -> Arc<tokio::sync::Mutex<()>> {
        let mut running = lock(&self.running);
        running.retain(|_, review| review.strong_count() > 0);
        if let Some(review) = running.get(&hash).and_then(Weak::upgrade) {
            return review;
        }
        let review = Arc::default();
        running.insert(hash, Arc::downgrade(&review));
        review
    }

    /// Whether the API server refused this token a moment ago.
    #[must_use]
    pub fn is_refused(&self, now: Now, hash: TokenHash) -> bool {
        lock(&self.refused).is_refused(now, hash)
    }

    /// The API server refused this token.
    pub fn refuse(&self, now: Now, hash: TokenHash) {
        lock(&self.refused).refuse(now, hash);
    }
}
