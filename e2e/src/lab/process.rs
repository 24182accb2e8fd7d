//! Processes of a lab that outlive the command which started them, and that any later command can find and end.
//!
//! Each is recorded as `DIR/run/NAME.json` with its start time, so that a recycled process id is never taken for it;
//! and each carries `EYOT_LAB=<lab id>` in its environment, so that even one whose record was never written is found.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::command::tail;
use super::error::{LabError, Result};

/// The variable that marks every process of a lab with the lab's id.
const MARK: &str = "EYOT_LAB";

/// One process: its id and the time it started, in clock ticks since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Identity {
    pub(crate) pid: i32,
    start_time: u64,
}

impl Identity {
    /// The process that has this id now; `None` if there is none or nothing is left of it but a zombie.
    pub(crate) fn of(pid: i32) -> Option<Identity> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start_time) = parse_stat(&stat)?;
        // The first thread of a killed process may be a zombie while others have yet to end: until the last one has,
        // the process keeps its files and their locks, and whoever takes its place meets them.
        let gone = matches!(state, 'Z' | 'X') && !has_further_threads(pid);
        (!gone).then_some(Identity { pid, start_time })
    }

    /// Whether this very process still runs.
    pub(crate) fn is_alive(self) -> bool {
        Identity::of(self.pid) == Some(self)
    }

    /// Sends `signal` if this very process still runs.
    pub(crate) fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may end between the check and the signal; then there is nothing left to do.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Asks the process to end and, after `grace`, makes it; returns when it is gone.
    pub(crate) fn stop(self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        if !wait_until(grace, || !self.is_alive()) {
            self.signal(Signal::SIGKILL);
            wait_until(Duration::from_secs(5), || !self.is_alive());
        }
    }
}

/// Whether the process has threads beside its first; the kernel removes those that have ended.
fn has_further_threads(pid: i32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
}

/// State letter and start time of `/proc/PID/stat`; the program's name may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?.chars().next()?;
    // The state is field 3 of proc_pid_stat(5) and the start time field 22.
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// The process table of one lab: the records under `DIR/run` and the logs under `DIR/logs`.
#[derive(Debug, Clone)]
pub(crate) struct Processes {
    dir: PathBuf,
    lab_id: String,
}

/// How to start one process of a lab.
pub(crate) struct Start<'a> {
    /// The name of its record and of its log: `cloud.etcd`, `node-1.hub`.
    pub(crate) name: &'a str,
    /// The network namespace to run in, as `ip netns` knows it.
    pub(crate) namespace: &'a str,
    /// The program.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Variables beside those of this process.
    pub(crate) environment: Vec<(String, String)>,
}

impl Processes {
    pub(crate) fn new(dir: &Path, lab_id: &str) -> Self {
        Processes { dir: dir.to_owned(), lab_id: lab_id.to_owned() }
    }

    /// Marks a command that is not recorded: should whoever runs it be killed, a sweep still finds it.
    pub(crate) fn mark(&self, command: &mut Command) {
        command.env(MARK, &self.lab_id);
    }

    fn record(&self, name: &str) -> PathBuf {
        self.dir.join("run").join(format!("{name}.json"))
    }

    /// The log file of the process `name`.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// Starts a process in its namespace, in a session of its own, its output appended to its log.
    ///
    /// `nsenter` and not `ip netns exec`: the latter remounts /sys, and a kubelet then finds no cgroups.
    pub(crate) fn start(&self, start: Start<'_>) -> Result<Identity> {
        let log = self.log(start.name);
        for folder in [self.dir.join("run"), self.dir.join("logs")] {
            fs::create_dir_all(&folder).map_err(LabError::io("create", folder))?;
        }
        let output =
            File::options().create(true).append(true).open(&log).map_err(LabError::io("open", &log))?;
        let errors = output.try_clone().map_err(LabError::io("open", &log))?;
        let mut command = Command::new("setsid");
        command
            .arg("nsenter")
            .arg(format!("--net=/run/netns/{}", start.namespace))
            .arg("--")
            .arg(start.program)
            .args(&start.arguments)
            .env_remove("KUBECONFIG")
            .env(MARK, &self.lab_id)
            .envs(start.environment)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        // Neither setsid (the child leads no group) nor nsenter --net forks: the child's id is the program's.
        let child = command.spawn().map_err(LabError::io("start", start.program))?;
        let pid = i32::try_from(child.id()).expect("Linux process ids fit an i32");
        let Some(identity) = Identity::of(pid) else {
            return Err(self.not_ready(start.name, 0, "it ended at once"));
        };
        let record = self.record(start.name);
        let text = serde_json::to_string(&identity).expect("two integers are JSON");
        fs::write(&record, text).map_err(LabError::io("write", record))?;
        Ok(identity)
    }

    /// The process recorded under `name`, if it still runs.
    pub(crate) fn running(&self, name: &str) -> Option<Identity> {
        let text = fs::read_to_string(self.record(name)).ok()?;
        serde_json::from_str::<Identity>(&text).ok().filter(|identity| identity.is_alive())
    }

    /// Whether a process was started under `name` and not forgotten since.
    pub(crate) fn is_recorded(&self, name: &str) -> bool {
        self.record(name).exists()
    }

    /// Removes the record of a process that has ended.
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        let record = self.record(name);
        fs::remove_file(&record).map_err(LabError::io("remove", record))
    }

    /// Ends the process recorded under `name` in good order; does nothing if it does not run.
    pub(crate) fn stop(&self, name: &str) {
        if let Some(identity) = self.running(name) {
            identity.stop(Duration::from_secs(15));
        }
    }

    /// Waits until `ready` says yes; fails with the end of its log when the process dies or the time is up.
    ///
    /// `ready` returns `Err(why not yet)`.
    pub(crate) fn wait_ready(
        &self,
        name: &str,
        limit: Duration,
        mut ready: impl FnMut() -> std::result::Result<(), String>,
    ) -> Result<()> {
        let started = Instant::now();
        let mut last = String::new();
        while started.elapsed() < limit {
            match ready() {
                Ok(()) => return Ok(()),
                Err(why) => last = why,
            }
            if self.running(name).is_none() {
                "the process has ended".clone_into(&mut last);
                break;
            }
            std::thread::sleep(POLL);
        }
        Err(self.not_ready(name, started.elapsed().as_secs(), &last))
    }

    fn not_ready(&self, name: &str, seconds: u64, why: &str) -> LabError {
        let log = self.log(name);
        let end = tail(&fs::read_to_string(&log).unwrap_or_default(), 1500);
        let detail = format!("{why}\nthe end of {}:\n{end}", log.display());
        LabError::NotReady { what: name.to_owned(), seconds, detail }
    }

    /// Every live process that belongs to the lab: by record and by mark.
    pub(crate) fn all(&self) -> Vec<Identity> {
        let mut found: Vec<Identity> = Vec::new();
        for entry in fs::read_dir(self.dir.join("run")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            found.extend(name.strip_suffix(".json").and_then(|name| self.running(name)));
        }
        let mark = format!("{MARK}={}", self.lab_id);
        found.extend(marked(&mark));
        let mut seen = BTreeSet::new();
        found.retain(|identity| seen.insert(identity.pid));
        found
    }
}

/// How often a state is looked at while waiting for it.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// Looks at `holds`, twenty times a second, until it says yes (true) or the time is up (false).
pub fn wait_until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if started.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

/// Kills `processes` at once and waits until they are gone; returns those that are not.
pub(crate) fn kill_all(processes: &[Identity]) -> Vec<Identity> {
    for process in processes {
        process.signal(Signal::SIGKILL);
    }
    wait_until(Duration::from_secs(10), || processes.iter().all(|process| !process.is_alive()));
    processes.iter().copied().filter(|process| process.is_alive()).collect()
}

/// The processes whose environment holds exactly `mark`, this one excepted.
fn marked(mark: &str) -> impl Iterator<Item = Identity> {
    let own = i32::try_from(std::process::id()).expect("Linux process ids fit an i32");
    let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
    ids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(move |pid| *pid != own)
        .filter_map(move |pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let holds = environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
            holds.then(|| Identity::of(pid)).flatten()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_stat(stat), Some(('S', 4711)));
        assert_eq!(parse_stat("7 (cut off"), None);
    }

    #[test]
    fn a_recycled_process_id_is_another_process() {
        let own = Identity::of(i32::try_from(std::process::id()).expect("fits")).expect("this process runs");
        assert!(own.is_alive());
        assert!(!Identity { start_time: own.start_time + 1, ..own }.is_alive());
    }

    #[test]
    fn a_process_whose_first_thread_alone_has_ended_is_alive() {
        // No Rust program can end its first thread alone; a C one can, by pthread_exit, and Python has ctypes for it.
        let program = "import ctypes, threading, sys\n\
            threading.Thread(target=sys.stdin.read, daemon=False).start()\n\
            ctypes.CDLL(None).pthread_exit(None)";
        let started = Command::new("python3").args(["-c", program]).stdin(Stdio::piped()).spawn();
        let Ok(mut child) = started else {
            let name = "a_process_whose_first_thread_alone_has_ended_is_alive";
            return crate::lab::skip(name, "python3 is not here");
        };
        let pid = i32::try_from(child.id()).expect("fits");
        let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(wait_until(Duration::from_secs(10), || parse_stat(&stat())
            .is_some_and(|(state, _)| state == 'Z')));
        assert!(Identity::of(pid).is_some());
        child.kill().expect("its other thread still waits");
        assert!(wait_until(Duration::from_secs(10), || Identity::of(pid).is_none()));
        child.wait().expect("it was killed");
    }

    #[test]
    fn a_process_without_record_is_found_by_its_mark_and_no_other_is() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let lab_id = format!("unit{}", std::process::id());
        let processes = Processes::new(dir.path(), &lab_id);
        let mut child = Command::new("sleep")
            .arg("60")
            .env(MARK, &lab_id)
            .spawn()
            .expect("sleep is part of every system");
        let mut other =
            Command::new("sleep").arg("60").env(MARK, format!("{lab_id}0")).spawn().expect("sleep");
        let pid = i32::try_from(child.id()).expect("fits");
        assert!(wait_until(Duration::from_secs(10), || !processes.all().is_empty()));
        assert_eq!(processes.all().iter().map(|found| found.pid).collect::<Vec<_>>(), [pid]);
        assert_eq!(kill_all(&processes.all()), []);
        child.wait().expect("it was killed");
        other.kill().expect("it still ran");
        other.wait().expect("it was killed");
    }
}
