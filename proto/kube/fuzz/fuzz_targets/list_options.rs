//! No query breaks the options parsers, and refusals are the two codes the server uses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto_kube::list_options::{GetOptions, ListOptions};

fuzz_target!(|query: &str| {
    match ListOptions::parse(Some(query)) {
        Ok(options) => {
            assert!(options.send_initial_events.is_none() || options.watch);
            let _ = options.parsed_rv();
        }
        Err(status) => assert!(matches!(status.code, 400 | 422)),
    }
    let _ = GetOptions::parse(Some(query));
});
