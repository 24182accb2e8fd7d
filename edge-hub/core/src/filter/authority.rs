//! The filter of the authorities that pods trust: where they are led to the hub, they must know the hub's own, too. It
//! is for this node alone, so it is taken out of whatever is written back.

use std::borrow::Cow;

use proto_kube::edit::Rewrite;
use proto_kube::json;
use proto_kube::media_type::Encoding;

use super::value::{Field, Value, field, rewrite, set, text};
use super::{FilterError, Inputs, Outcome, Subject};

/// The ConfigMap of every namespace that holds the cluster's authorities for its pods.
pub const ROOT_CERTIFICATES: &str = "kube-root-ca.crt";
/// The key in it.
pub const CERTIFICATES_KEY: &str = "ca.crt";

const DATA: Field = field(2, "data");
/// A map's entry in protobuf.
const ENTRY_KEY: Field = field(1, "");
const ENTRY_VALUE: Field = field(2, "");

/// Appends the hub's authority to the cluster's.
pub(super) fn append(inputs: &Inputs, object: &Subject<'_>) -> Result<Outcome, FilterError> {
    let Some(authority) = inputs.authority() else { return Ok(Outcome::Keep) };
    if &*object.key.name != ROOT_CERTIFICATES {
        return Ok(Outcome::Keep);
    }
    let encoding = object.encoding();
    let changed = match encoding {
        Encoding::Protobuf => rewrite(encoding, object.raw, &[DATA], &mut |entry| {
            if text(encoding, entry, ENTRY_KEY)?.as_deref() != Some(CERTIFICATES_KEY) {
                return Ok(Rewrite::Keep);
            }
            let before = text(encoding, entry, ENTRY_VALUE)?.unwrap_or_default();
            let after = with_authority(&before, authority);
            Ok(Rewrite::Replace(set(encoding, entry, ENTRY_VALUE, Value::Text(&after))?.into_owned()))
        })?,
        Encoding::Json => rewrite(encoding, object.raw, &[DATA, field(0, CERTIFICATES_KEY)], &mut |value| {
            let before = json::string(value)?;
            match with_authority(&before, authority) {
                Cow::Borrowed(_) => Ok(Rewrite::Keep),
                Cow::Owned(after) => {
                    let mut literal = Vec::new();
                    json::write_string(&mut literal, &after);
                    Ok(Rewrite::Replace(literal))
                }
            }
        })?,
    };
    Ok(Outcome::of(object.raw, changed))
}

fn with_authority<'a>(certificates: &'a str, authority: &str) -> Cow<'a, str> {
    if certificates.contains(authority.trim()) {
        return Cow::Borrowed(certificates);
    }
    let between = if certificates.is_empty() || certificates.ends_with('\n') { "" } else { "\n" };
    Cow::Owned(format!("{certificates}{between}{authority}"))
}

/// The certificates without the hub's authority; borrowed where it is not among them.
#[must_use]
pub fn without_authority<'a>(certificates: &'a str, authority: &str) -> Cow<'a, str> {
    let authority = authority.trim();
    if authority.is_empty() || !certificates.contains(authority) {
        return Cow::Borrowed(certificates);
    }
    Cow::Owned(certificates.replace(&format!("{authority}\n"), "").replace(authority, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_once_is_not_appended_again_and_can_be_taken_out() {
        let authority = "hub\n";
        for (before, after) in [("", "hub\n"), ("cluster\n", "cluster\nhub\n"), ("cluster", "cluster\nhub\n")]
        {
            let with = with_authority(before, authority);
            assert_eq!(with, after);
            assert_eq!(with_authority(&with, authority), after);
            assert_eq!(without_authority(&with, authority).trim_end(), before.trim_end());
        }
        assert_eq!(without_authority("hub\ncluster\nhub", authority), "cluster\n");
        assert_eq!(without_authority("cluster", ""), "cluster");
    }
}
