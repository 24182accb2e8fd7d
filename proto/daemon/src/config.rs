//! Reads a configuration file: YAML, bounded, every refusal with file, line, key and what to do about it.
//!
//! What a key means belongs to the house that reads it. Types that are loaded here carry
//! `#[serde(deny_unknown_fields)]`, so that a misspelt key is refused by name and never silently ignored.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_saphyr::{MessageFormatter as _, UserMessageFormatter};

/// The largest configuration file that is read, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// Why a configuration was refused. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot read the configuration file; check the path and its permissions", path.display())]
    Read {
        /// The file as it was named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is larger than [`MAX_CONFIG_BYTES`].
    #[error("{}: larger than {MAX_CONFIG_BYTES} bytes; this is not a configuration file", path.display())]
    TooLarge {
        /// The file as it was named.
        path: PathBuf,
    },
    /// Not YAML, an unknown key, a missing key, or a value of the wrong type.
    #[error("{}{}: {}{reason}; correct the file and check it with --check-config", path.display(), At(*line), key_prefix(key))]
    Invalid {
        /// The file as it was named.
        path: PathBuf,
        /// The line that was refused, from 1, where it is known.
        line: Option<u64>,
        /// The key that was refused, e.g. `log.level`; empty where the file as a whole was.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// Writes `:LINE`, or nothing where no line is known.
struct At(Option<u64>);

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

fn key_prefix(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("{key}: ") }
}

/// Reads `path` as YAML into `T`.
///
/// # Errors
/// [`ConfigError`]: unreadable, larger than [`MAX_CONFIG_BYTES`], not UTF-8, not YAML, or not a `T`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let read = |source| ConfigError::Read { path: path.into(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(read)?;
    // One byte more than allowed tells a full file from one that goes on.
    file.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text).map_err(read)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLarge { path: path.into() });
    }
    parse(path, &text)
}

/// Reads `text` as YAML into `T`; `path` is only named in errors.
///
/// # Errors
/// [`ConfigError::Invalid`]: not YAML, or not a `T`.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    let mut refused_key = String::new();
    let parsed = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            // `.` is the file as a whole, a final `?` a key that was not reached.
            refused_key = error.path().to_string().trim_end_matches(['?', '.']).to_owned();
            error.into_inner()
        })
    });
    parsed.map_err(|error: serde_saphyr::Error| {
        let bare = error.without_snippet();
        ConfigError::Invalid {
            path: path.into(),
            line: bare.location().map(|location| location.line()),
            key: refused_key,
            reason: UserMessageFormatter.format_message(bare).into_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Sample {
        node_name: String,
        log: Log,
    }

    #[derive(Debug, serde::Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Log {
        level: u8,
    }

    fn refusal(text: &str) -> String {
        parse::<Sample>(Path::new("hub.yaml"), text).expect_err("the sample is wrong").to_string()
    }

    #[test]
    fn a_correct_file_is_read() -> Result<(), ConfigError> {
        let sample: Sample = parse(Path::new("hub.yaml"), "nodeName: a\nlog:\n  level: 3\n")?;
        assert_eq!(sample, Sample { node_name: "a".into(), log: Log { level: 3 } });
        Ok(())
    }

    #[test]
    fn an_unknown_key_is_refused_by_file_line_and_name() {
        let text = refusal("nodeName: a\nlog:\n  level: 3\n  levle: 4\n");
        assert!(text.starts_with("hub.yaml:4: log"), "{text}");
        assert!(text.contains("levle") && text.contains("--check-config"), "{text}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_by_line_and_key() {
        let text = refusal("nodeName: a\nlog:\n  level: loud\n");
        assert!(text.starts_with("hub.yaml:3: log.level: "), "{text}");
    }

    #[test]
    fn a_missing_and_a_doubled_key_are_named() {
        let missing = refusal("log:\n  level: 3\n");
        assert!(missing.contains("nodeName"), "{missing}");
        let doubled = refusal("nodeName: a\nnodeName: b\nlog:\n  level: 3\n");
        assert!(doubled.contains("nodeName"), "{doubled}");
    }

    #[test]
    fn what_is_not_yaml_is_refused() {
        for text in ["", "{", "- a\n- b", "a: *nowhere", "\u{0}", "a: &a [*a]"] {
            assert!(refusal(text).starts_with("hub.yaml"), "{text:?}");
        }
    }

    #[test]
    fn a_file_that_never_ends_is_not_read_to_its_end() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("big.yaml");
        let size = usize::try_from(MAX_CONFIG_BYTES).expect("fits") + 1;
        std::fs::write(&path, vec![b' '; size]).expect("a big file");
        assert!(matches!(load::<Sample>(&path), Err(ConfigError::TooLarge { .. })));
    }

    #[test]
    fn a_file_that_is_missing_or_no_text_is_refused_by_name() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("absent.yaml");
        let missing = load::<Sample>(&path).expect_err("it is not there");
        assert!(missing.to_string().contains("absent.yaml"));
        std::fs::write(&path, [0xff, 0xfe, 0x00]).expect("written");
        assert!(matches!(load::<Sample>(&path), Err(ConfigError::Read { .. })));
    }
}
