//! How a small record lies in the store: one line of JSON (what is known of it), then raw bytes (the body).

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a stored record could not be read: it is quarantined, never guessed at.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored record is damaged")]
pub struct DamagedRecord;

/// What the shell does to the store so that it follows a memory of the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordChange {
    /// Write `value` under `key`, over what is there.
    Put {
        /// The record's key inside its class.
        key: Vec<u8>,
        /// The whole record; the memory's `restore` reads it back.
        value: Vec<u8>,
    },
    /// Remove what lies under `key`.
    Remove {
        /// The record's key inside its class.
        key: Vec<u8>,
    },
}

/// Joins the head and the body.
pub(crate) fn encode<T: Serialize>(head: &T, body: &[u8]) -> Vec<u8> {
    let mut record = serde_json::to_vec(head).expect("heads are plain structs with string keys");
    record.reserve(body.len() + 1);
    record.push(b'\n');
    record.extend_from_slice(body);
    record
}

/// Parts a record again.
pub(crate) fn decode<T: DeserializeOwned>(record: &[u8]) -> Result<(T, &[u8]), DamagedRecord> {
    // JSON text as written here has no raw newline: one inside a string is escaped.
    let line = record.iter().position(|byte| *byte == b'\n').ok_or(DamagedRecord)?;
    let head = serde_json::from_slice(&record[..line]).map_err(|_| DamagedRecord)?;
    Ok((head, &record[line + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_is_read_back(head in ".{0,20}", body in proptest::collection::vec(any::<u8>(), 0..40)) {
            let record = encode(&head, &body);
            let (read, rest) = decode::<String>(&record).expect("own record");
            prop_assert_eq!((read, rest), (head, body.as_slice()));
        }

        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode::<String>(&bytes);
        }
    }
}
