//! A `kubectl get -w` of the node through its hub, for tests that ask whether it goes on.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use e2e::lab::wait_until;

use crate::stage::{NODE, Stage};

/// A watch by the node's own kubectl, line by line.
pub(crate) struct Watch {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Watch {
    pub(crate) fn begin(stage: &Stage, words: &str) -> Watch {
        let mut kubectl = stage.node_kubectl(NODE, "kubelet.kubeconfig").expect("kubectl");
        let mut child =
            kubectl.args(words.split(' ')).stdout(Stdio::piped()).spawn().expect("kubectl starts");
        let output = child.stdout.take().expect("it is piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Watch { child, lines }
    }

    pub(crate) fn hears(&self, limit: Duration, what: &str) -> bool {
        wait_until(limit, || self.lines.try_iter().any(|line| line.contains(what)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has then seen.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
