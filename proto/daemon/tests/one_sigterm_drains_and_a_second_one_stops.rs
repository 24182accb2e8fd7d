//! A process of its own, because a signal is for all of it: SIGTERM begins the drain, a second signal stops at once.

use std::process::Command;
use std::time::Duration;

use proto_daemon::shutdown::{Drained, Phase, Shutdown};

fn send(signal: &str) {
    let me = std::process::id().to_string();
    let status = Command::new("kill").args(["-s", signal, &me]).status().expect("kill runs");
    assert!(status.success());
}

#[tokio::test]
async fn one_sigterm_drains_and_a_second_one_stops() {
    let shutdown = Shutdown::new(Duration::from_secs(3600));
    shutdown.on_signal().expect("handlers are installed");
    let _work = shutdown.hold();
    assert_eq!(shutdown.phase(), Phase::Running);

    send("TERM");
    shutdown.draining().await;
    assert_eq!(shutdown.phase(), Phase::Draining, "open work is not cut by the first signal");

    send("INT");
    assert_eq!(shutdown.drained().await, Drained::Cut { open: 1 });
}
