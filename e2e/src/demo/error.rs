//! Why a demo ends without a table.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use crate::cloud::pki::PkiError;

/// How long the first and the last state may take to reach every client.
pub(super) const SYNC_LIMIT: Duration = Duration::from_mins(3);

/// Why the demo could not run to its table.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The machine refused something.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Keys, certificates or TLS.
    #[error("keys: {0}")]
    Pki(#[from] PkiError),
    /// The model cloud refused what the demo asked of it.
    #[error("the model cloud: {0}")]
    Model(String),
    /// A hub ended by itself.
    #[error("the hub of {node} ended by itself ({status}); its last words:\n{log}")]
    Hub {
        /// The node.
        node: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// The first state did not reach everybody.
    #[error("after {} s the clients have not synced: {missing}", SYNC_LIMIT.as_secs())]
    NotSynced {
        /// Who lacks what.
        missing: String,
    },
}
