//! What the admin socket tells of the engine.

use std::time::Duration;

use media_core::state::State;
use prometheus_client::registry::Registry;
use proto_daemon::{admin::AdminState, metrics as daemon_metrics};

use crate::worker::Worker;

/// A worker that did not turn for so long is stuck; it turns twice a second when nothing happens.
const STUCK: Duration = Duration::from_secs(5);

/// The engine as its admin socket shows it.
pub struct Admin {
    /// The worker.
    pub worker: Worker,
    /// What is counted.
    pub registry: Registry,
}

impl AdminState for Admin {
    fn live(&self) -> Result<(), String> {
        let silence = self.worker.silence();
        if silence < STUCK { Ok(()) } else { Err(format!("the worker has not turned for {silence:?}")) }
    }

    fn ready(&self) -> Result<(), String> {
        let state = self.worker.state();
        if state < State::Tombstone { Ok(()) } else { Err(format!("the engine is {}", state.as_str())) }
    }

    fn get(&self, path: &str) -> Option<String> {
        let state = || serde_json::json!({ "state": self.worker.state().as_str() }).to_string();
        (path == "/state").then(state)
    }

    fn post(&self, path: &str, body: &str) -> Option<Result<(), String>> {
        (path == "/state").then(|| match body {
            "tombstone" if self.worker.tombstone() => Ok(()),
            "tombstone" => Err("the engine is too busy; try again".to_owned()),
            _ => Err("an engine can be told one state: tombstone".to_owned()),
        })
    }

    fn metrics(&self) -> String {
        daemon_metrics::encode(&self.registry)
    }

    fn status_json(&self) -> String {
        let snapshot = self.worker.snapshot();
        serde_json::json!({
            "state": self.worker.state().as_str(),
            "sessions": snapshot.sessions,
            "streams": snapshot.streams,
        })
        .to_string()
    }
}
