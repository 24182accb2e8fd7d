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
