//! What can go wrong in a lab, each with what the person at the terminal can do about it.

use std::path::PathBuf;

/// The result of a lab operation.
pub type Result<T> = std::result::Result<T, LabError>;

/// Why a lab operation failed. `Display` is one message for a person, with the next step where there is one.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A tool or a right that the machine lacks (root, `ip`, Go ...).
    #[error("this machine lacks what a lab needs: {0}")]
    Missing(String),
    /// A file or folder could not be read or written.
    #[error("{what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, as a verb: "read", "write".
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A command ran and failed.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// Program and arguments.
        command: String,
        /// Exit status or the reason why it did not start.
        status: String,
        /// The last lines that it said.
        stderr: String,
    },
    /// A process of the lab did not become ready.
    #[error("{what} was not ready after {seconds} s: {detail}")]
    NotReady {
        /// The thing waited for.
        what: String,
        /// How long, in seconds.
        seconds: u64,
        /// The last answer and the end of its log.
        detail: String,
    },
    /// There is no lab in this folder.
    #[error("no lab stands in {dir}; start one with `eyot lab up --nodes 2 --dir {dir}`", dir = .0.display())]
    NoLab(PathBuf),
    /// There is one already.
    #[error(
        "a lab already stands in {dir}; look at it with `eyot lab status --dir {dir}`, or take it down first with \
         `eyot lab down --dir {dir}`", dir = .0.display()
    )]
    AlreadyUp(PathBuf),
    /// Another `eyot lab` command changes this lab right now.
    #[error("another eyot command is changing the lab in {}; wait until it has ended", .0.display())]
    Busy(PathBuf),
    /// A node that the lab does not have.
    #[error("no node named {name} in this lab; it has: {known}")]
    UnknownNode {
        /// What was asked for.
        name: String,
        /// The lab's nodes.
        known: String,
    },
    /// A request that makes no sense for this lab.
    #[error("{0}")]
    Invalid(String),
    /// A certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

impl LabError {
    /// Wraps an IO error with the path it belongs to.
    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> LabError {
        let path = path.into();
        move |source| LabError::Io { what, path, source }
    }
}
