//! Label and field selectors: the API server's two little query languages.
//!
//! Both parse into a canonical form (sorted, without duplicates, `==` written as `=`), so that two
//! spellings of one question are one value: equal, with equal hash and equal text.

mod field;
mod label;

use std::fmt;

use thiserror::Error;

pub use field::{FieldOperator, FieldRequirement, FieldSelector};
pub use label::{LabelOperator, LabelRequirement, LabelSelector};

/// Longest selector that is read, in bytes.
pub const MAX_SELECTOR_BYTES: usize = 16 * 1024;
/// Most requirements of one selector.
pub const MAX_REQUIREMENTS: usize = 256;
/// Most values of one `in (..)` or `notin (..)`.
pub const MAX_VALUES: usize = 1024;

/// A selector that cannot be read, in the API server's words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct SelectorError(String);

impl SelectorError {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

fn check_length(text: &str) -> Result<(), SelectorError> {
    if text.len() > MAX_SELECTOR_BYTES {
        return Err(SelectorError::new(format!("the selector is longer than {MAX_SELECTOR_BYTES} bytes")));
    }
    Ok(())
}

fn check_count(count: usize) -> Result<(), SelectorError> {
    if count > MAX_REQUIREMENTS {
        return Err(SelectorError::new(format!(
            "the selector has more than {MAX_REQUIREMENTS} requirements"
        )));
    }
    Ok(())
}

fn write_joined(f: &mut fmt::Formatter<'_>, terms: &[impl fmt::Display]) -> fmt::Result {
    for (index, term) in terms.iter().enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        write!(f, "{term}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn selectors_beyond_the_bounds_are_refused() {
        let many = vec!["a=b"; MAX_REQUIREMENTS + 1].join(",");
        assert!(LabelSelector::parse(&many).is_err());
        assert!(FieldSelector::parse(&many).is_err());
        let values = format!("a in ({})", vec!["b"; MAX_VALUES + 1].join(","));
        assert!(LabelSelector::parse(&values).is_err());
        let long = "a".repeat(MAX_SELECTOR_BYTES + 1);
        assert!(LabelSelector::parse(&long).is_err());
        assert!(FieldSelector::parse(&format!("a={long}")).is_err());
    }

    /// Text that often is nearly a selector.
    fn nearly() -> impl Strategy<Value = String> {
        prop_oneof!["[a-c=!<>(),in \\\\.\t5/]{0,24}", any::<String>()]
    }

    fn label_term() -> impl Strategy<Value = String> {
        let key = "([a-z]{1,3}\\.io/)?[A-Za-z]([-a-z0-9_.]{0,4}[a-z0-9])?";
        let value = "([A-Za-z0-9]([-a-z0-9_.]{0,4}[a-z0-9])?)?";
        let operator = prop::sample::select(vec!["=", "==", "!="]);
        let set = prop::sample::select(vec!["in", "notin"]);
        let compare = prop::sample::select(vec!["<", ">"]);
        prop_oneof![
            key.prop_map(String::from),
            key.prop_map(|k| format!("!{k}")),
            (key, operator, value).prop_map(|(k, o, v)| format!("{k}{o}{v}")),
            (key, set, prop::collection::vec(value, 1..4))
                .prop_map(|(k, o, v)| format!("{k} {o} ({})", v.join(", "))),
            (key, compare, 0..99u32).prop_map(|(k, o, v)| format!("{k}{o}{v}")),
        ]
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parsers_and_what_they_print_reads_back(text in nearly()) {
            if let Ok(selector) = LabelSelector::parse(&text) {
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
            }
            if let Ok(selector) = FieldSelector::parse(&text) {
                prop_assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
            }
        }

        #[test]
        fn the_order_of_label_terms_does_not_matter(
            terms in prop::collection::vec(label_term(), 1..6),
        ) {
            let forward = LabelSelector::parse(&terms.join(","));
            let Ok(forward) = forward else {
                // `a,,b` inside a set is the one legal-looking text the server refuses.
                prop_assert!(terms.iter().any(|t| t.contains("(")));
                return Ok(());
            };
            let reversed: Vec<String> = terms.iter().rev().cloned().collect();
            let backward = LabelSelector::parse(&reversed.join(" ,")).expect("same terms");
            prop_assert_eq!(&forward, &backward);
            prop_assert_eq!(LabelSelector::parse(&forward.to_string()).expect("canonical"), forward);
        }

        #[test]
        fn any_field_value_survives_escaping(value in any::<String>()) {
            let selector = FieldSelector::for_name(&value);
            prop_assume!(value.len() < 1000);
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
        }
    }
}
