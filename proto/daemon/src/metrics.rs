//! The registry that a daemon hands down, with what every process measures about itself.
//!
//! A module registers its own metrics in the [`Registry`] that it is given; nothing here knows of any of them.
//! Units stand in the name (`_seconds`, `_bytes`), as Prometheus has it.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
pub use prometheus_client::registry::Registry;

/// The media type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Clock ticks per second in `/proc`; part of the kernel's contract with user space on every Linux we build for.
const USER_HZ: f64 = 100.0;

/// A registry that already holds `build_info` and the process metrics of Prometheus's own client libraries.
/// `version` is the daemon's own, as a rule `env!("CARGO_PKG_VERSION")`.
#[must_use]
pub fn registry(program: &str, version: &str) -> Registry {
    let mut registry = Registry::default();
    let build = Info::new(vec![("program", program.to_owned()), ("version", version.to_owned())]);
    registry.register("build", "What runs here", build);
    registry.register_collector(Box::new(Process {
        directory: PathBuf::from("/proc/self"),
        boot: boot_seconds(),
    }));
    registry
}

/// The text that a scrape gets.
#[must_use]
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail; only a collector of ours could, and then the scrape shows what there is.
    if prometheus_client::encoding::text::encode(&mut text, registry).is_err() {
        let _ = writeln!(text, "# incomplete");
    }
    text
}

/// When the machine booted, in seconds since the Unix epoch.
fn boot_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Reads the process's own figures at each scrape; one that the kernel does not show is left out.
#[derive(Debug)]
struct Process {
    directory: PathBuf,
    boot: Option<f64>,
}

impl Process {
    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.directory.join(file)).ok()
    }

    /// `Name:   123 kB` in `file`, in bytes.
    fn kibibytes(&self, file: &str, name: &str) -> Option<f64> {
        let text = self.read(file)?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kibibytes: f64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024.0)
    }

    fn open_fds(&self) -> Option<f64> {
        let count = fs::read_dir(self.directory.join("fd")).ok()?.count();
        // The directory handle of this very count is among them.
        Some(f64::from(u32::try_from(count.saturating_sub(1)).ok()?))
    }

    fn max_fds(&self) -> Option<f64> {
        let limits = self.read("limits")?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    fn threads(&self) -> Option<f64> {
        Some(f64::from(u32::try_from(fs::read_dir(self.directory.join("task")).ok()?.count()).ok()?))
    }
}

/// CPU seconds and start (seconds after boot) out of `/proc/self/stat`. The command name may hold anything, even
/// parentheses, so fields count from the last one.
fn parse_stat(stat: &str) -> Option<(f64, f64)> {
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(((ticks(11)? + ticks(12)?) / USER_HZ, ticks(19)? / USER_HZ))
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let stat = self.read("stat").as_deref().and_then(parse_stat);
        if let Some((cpu_seconds, _)) = stat {
            let counter = ConstCounter::new(cpu_seconds);
            let help = "User and system CPU time spent, in seconds.";
            let family =
                encoder.encode_descriptor("process_cpu_seconds", help, None, counter.metric_type())?;
            counter.encode(family)?;
        }
        let start = stat.and_then(|(_, start)| Some(self.boot? + start));
        let gauges = [
            ("process_start_time_seconds", "Start of the process, in seconds since the Unix epoch.", start),
            ("process_resident_memory_bytes", "Resident memory.", self.kibibytes("status", "VmRSS")),
            (
                "process_proportional_memory_bytes",
                "Resident memory, shared pages divided by their users.",
                self.kibibytes("smaps_rollup", "Pss"),
            ),
            ("process_virtual_memory_bytes", "Virtual memory.", self.kibibytes("status", "VmSize")),
            ("process_open_fds", "Open file descriptors.", self.open_fds()),
            ("process_max_fds", "Most file descriptors that may be open.", self.max_fds()),
            ("process_threads", "Threads of the process.", self.threads()),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_names_the_build_and_measures_the_process() {
        let text = encode(&registry("edge-hub", "1.2.3"));
        assert!(text.contains("build_info{program=\"edge-hub\",version=\"1.2.3\"} 1"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        for name in [
            "process_cpu_seconds_total",
            "process_start_time_seconds",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_threads",
        ] {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
            let value: f64 = line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(-1.0);
            assert!(value >= 0.0 && (value > 0.0 || name == "process_cpu_seconds_total"), "{name} in {text}");
        }
    }

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let fields: Vec<String> = (3..=52).map(|field| (field * 100).to_string()).collect();
        let stat = format!("7 (a) R (b) {}", fields.join(" "));
        assert_eq!(parse_stat(&stat), Some((14.0 + 15.0, 22.0)));
        assert_eq!(parse_stat("7 (a"), None);
        assert_eq!(parse_stat("7 (a) S 1 2"), None);
    }

    #[test]
    fn a_figure_that_the_kernel_does_not_show_is_left_out() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process { directory: "/nowhere".into(), boot: None }));
        assert_eq!(encode(&registry), "# EOF\n");
    }
}
