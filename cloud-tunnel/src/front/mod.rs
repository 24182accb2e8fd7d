//! The door by which API servers come in.

pub mod connect;

use std::sync::Arc;
use std::time::Duration;

use cloud_tunnel_core::connect::Target;
use cloud_tunnel_core::route::Refusal;
use proto_daemon::shutdown::{Phase, Shutdown};

use crate::clock::Clock;
use crate::link::table::{Dialled, Links};
use crate::metrics::Metrics;

/// How long a client may take to say what it dials.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// How long a refusal may take to be taken.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Clients of one door that have not said what they dial.
const MOST_STRANGERS: usize = 512;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection of a door needs.
#[derive(Debug)]
pub struct Door {
    /// Where dials go.
    pub links: Arc<Links>,
    /// The clock.
    pub clock: Clock,
    /// The counters.
    pub metrics: Metrics,
    /// The end of the process.
    pub shutdown: Shutdown,
}

impl Door {
    /// Opens a stream to `target`, or says why there is none.
    async fn reach(&self, target: &Target) -> Result<Dialled, Refusal> {
        if self.shutdown.phase() != Phase::Running {
            let host = &target.host;
            return Err(Refusal::new(503, format!("no link to {host}: tunnel-server is stopping")));
        }
        self.links.dial(target).await
    }
}
