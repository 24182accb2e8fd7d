//! A node that boots while the cloud is away runs its pods as soon as one that boots with the cloud there, and no more than
//! moments of that time are the hub's.

use std::time::{Duration, Instant};

use e2e::lab::{Answer, Nodes, wait_until};

use crate::stage::{LIMIT, NODE, Stage, full_length};

/// What the hub may add to the kubelet's way to running pods is 0.2 s; three times that is a failure.
const OF_THE_HUB: Duration = Duration::from_millis(600);

/// One reboot.
struct Reboot {
    /// From the start of the node's first process to all pods running.
    to_running: Duration,
    /// For how much of that time the kubelet had a request open that its hub had not begun to answer, but for what it sends
    /// beside everything else: no less than what the hub added.
    waited: Duration,
    /// The longest of these waits, and for what.
    longest: (Duration, String),
}

/// How much of the time is covered by waits that may overlap.
fn covered(answers: &[&Answer]) -> Duration {
    let mut waits: Vec<_> = answers.iter().map(|answer| (answer.at - answer.waited, answer.at)).collect();
    waits.sort();
    let mut covered = Duration::ZERO;
    let mut until = None;
    for (began, ended) in waits {
        let new = until.map_or(began, |until| began.max(until));
        covered += Duration::try_from(ended - new).unwrap_or_default();
        until = until.max(Some(ended));
    }
    covered
}

fn reboot(stage: &Stage, pods: &[String]) -> Reboot {
    stage.power_off(NODE).expect("all processes end");
    let answered = stage.answers(NODE).expect("the hub has a log").len();
    let started = Instant::now();
    stage.power_on(NODE).expect("the kubelet is healthy");
    let all_run = wait_until(LIMIT, || stage.all_run(NODE, pods));
    let to_running = started.elapsed();
    assert!(all_run, "not within {LIMIT:?}: every pod runs");
    let answers = stage.answers(NODE).expect("the hub has a log");
    // No pod waits for these: events, reports of status (a GET of the pod, then a PATCH), the node's lease.
    let beside = |path: &str| {
        let parts: Vec<&str> = path.split('/').collect();
        let is_own_pod = parts.len() >= 7 && parts[5] == "pods";
        is_own_pod || ["events", "status", "leases"].iter().any(|part| parts.contains(part))
    };
    let is_waited_for = |answer: &&Answer| answer.agent.starts_with("kubelet/") && !beside(&answer.path);
    let answers: Vec<&Answer> = answers[answered..].iter().filter(is_waited_for).collect();
    let longest = answers.iter().max_by_key(|answer| answer.waited).expect("a kubelet asks for much");
    Reboot {
        to_running,
        waited: covered(&answers),
        longest: (longest.waited, format!("{} {}", longest.method, longest.path)),
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn a_reboot_does_not_wait_for_the_cloud() {
    let Some(stage) = Stage::claim("a_reboot_does_not_wait_for_the_cloud") else { return };
    let pods = stage.pods_on(NODE);
    let (mut cut, mut online) = (Vec::new(), Vec::new());
    // One after the other and not seven of each, so that whatever the machine does meanwhile weighs on both.
    for round in 1..=if full_length() { 7 } else { 2 } {
        for (is_cut, reboots) in [(true, &mut cut), (false, &mut online)] {
            if is_cut {
                stage.cut(&Nodes::from(NODE)).expect("cut");
            }
            let done = reboot(&stage, &pods);
            assert_eq!(stage.is_cut(NODE).expect("nft answers"), is_cut);
            eprintln!(
                "reboot {round}, {}: all pods ran after {:.2?}, the kubelet waited {:.2?} for the hub, longest {:.2?} for {}",
                if is_cut { "cut" } else { "with the cloud" },
                done.to_running,
                done.waited,
                done.longest.0,
                done.longest.1
            );
            reboots.push(done);
            stage.heal(&Nodes::All).expect("healed");
            stage.promised(LIMIT, "the lab settles", || stage.is_settled());
        }
    }
    let waited = median(cut.iter().map(|reboot| reboot.waited).collect());
    let [cut, online] = [cut, online].map(|all| median(all.iter().map(|reboot| reboot.to_running).collect()));
    eprintln!(
        "median: {cut:.2?} cut, {online:.2?} with the cloud; {waited:.2?} waited for the hub while cut"
    );
    assert!(waited <= OF_THE_HUB, "the kubelet waited {waited:?} for its hub while cut");
}
