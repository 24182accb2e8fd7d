//! No text breaks the selector parsers, and what they print reads back as the same selector.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto_kube::selector::{FieldSelector, LabelSelector};

fuzz_target!(|text: &str| {
    // Spaces and escapes can make the canonical text longer than what may be read.
    if let Ok(selector) = LabelSelector::parse(text)
        && let Ok(again) = LabelSelector::parse(&selector.to_string())
    {
        assert_eq!(again, selector);
    }
    if let Ok(selector) = FieldSelector::parse(text)
        && let Ok(again) = FieldSelector::parse(&selector.to_string())
    {
        assert_eq!(again, selector);
    }
});
