//! Words that several commands share, and how an answer is printed.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;

/// Where a lab stands.
#[derive(Debug, Args)]
pub(super) struct Dir {
    /// The lab's folder
    #[arg(long, value_name = "DIR", default_value = "eyot-lab")]
    pub(super) dir: PathBuf,
}

/// Prints one answer on stdout; a reader that went away is no failure.
pub(super) fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
