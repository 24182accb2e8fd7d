//! No header breaks content negotiation, and an accepted header always leaves a choice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto_kube::media_type::{Acceptable, Format};

fuzz_target!(|header: &str| {
    if let Ok(acceptable) = Acceptable::parse(Some(header), None) {
        assert!(!acceptable.formats().is_empty() || acceptable.wants_other());
    }
    let _ = Format::from_content_type(header);
});
