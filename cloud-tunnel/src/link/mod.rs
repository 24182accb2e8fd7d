//! A link between an agent and a server: TLS, the HTTP/2 connection with its control stream, and the streams on it.

pub mod accept;
pub mod control;
pub mod dial;
pub mod held;
pub mod peer;
pub mod socket;
pub mod strangers;
pub mod stream;
pub mod table;
pub mod tls;

use std::time::Duration;

/// How long TCP and TLS may take until an HTTP/2 connection can begin, each.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Streams that were reset here and are still remembered, at most; a link's whole number may end at once. HTTP/2's
/// library (h2 0.4) answers DATA that was under way to a stream it has forgotten with an error of its own making, counts
/// these for the life of the connection and ends it at 1024. That bound is for peers whom nobody knows: this one showed
/// a certificate of the pool before the first frame, so the bound is off, and the memory for frames in flight is larger.
const MOST_RESETS: usize = 2048;

/// How long they are remembered: longer than DATA is under way on a link that counts as alive.
const RESETS_REMEMBERED: Duration = Duration::from_secs(30);
