//! Running the system's own tools (ip, nft, kubectl) to their end and reading what they say.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use super::error::{LabError, Result};

/// How much of a tool's complaint an error message repeats, in bytes.
const STDERR_KEPT: usize = 2000;

/// Runs `command` to its end with `input` on its stdin and returns its stdout.
///
/// Errors with [`LabError::Command`] when it does not start or ends with another status than 0.
pub(crate) fn run(command: &mut Command, input: &str) -> Result<String> {
    let output = run_unchecked(command, input)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(LabError::Command {
        command: describe(command),
        status: output.status.to_string(),
        stderr: tail(&String::from_utf8_lossy(&output.stderr), STDERR_KEPT),
    })
}

/// Runs `command` to its end and returns all that it said, whatever its status.
pub(crate) fn run_unchecked(command: &mut Command, input: &str) -> Result<Output> {
    let not_started = |command: &Command, error: &std::io::Error| LabError::Command {
        command: describe(command),
        status: "not started".to_owned(),
        stderr: error.to_string(),
    };
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| not_started(command, &error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends before it has read everything reports that itself, by its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().map_err(|error| not_started(command, &error))
}

/// Program and arguments as one line.
pub(crate) fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// The last `limit` bytes of `text`, from a line's start where possible, trimmed.
pub(crate) fn tail(text: &str, limit: usize) -> String {
    let text = text.trim();
    let mut start = text.len().saturating_sub(limit);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let cut = &text[start..];
    match cut.find('\n') {
        Some(line_end) if start > 0 => cut[line_end + 1..].to_owned(),
        _ => cut.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_tool_is_reported_with_its_own_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such link >&2; exit 3"]);
        let message = run(&mut command, "").expect_err("exit 3").to_string();
        assert!(message.contains("no such link") && message.contains('3'), "{message}");
    }

    #[test]
    fn input_reaches_the_tool() {
        assert_eq!(run(&mut Command::new("cat"), "link\n").expect("cat"), "link\n");
    }

    #[test]
    fn tail_starts_at_a_line_and_never_splits_a_character() {
        assert_eq!(tail("one\ntwo\nthree\n", 9), "three");
        assert_eq!(tail("öö", 3), "ö");
        assert_eq!(tail("short", 100), "short");
    }
}
