//! Readers of one object's bytes answer whatever the bytes.
#![no_main]

mod formats;

use libfuzzer_sys::fuzz_target;
use proto_kube::gvr::GroupVersionResource;
use proto_kube::object;

fuzz_target!(|raw: &[u8]| {
    let pods = GroupVersionResource::new("", "v1", "pods");
    let events = GroupVersionResource::new("", "v1", "events");
    for format in formats::all() {
        let _ = object::scan(format, raw);
        let _ = object::labels(format, raw);
        let _ = object::annotations(format, raw);
        for path in ["metadata.name", "spec.nodeName", "spec.hostNetwork", "status.phase"] {
            let _ = object::field(&pods, format, raw, path);
        }
        let _ = object::field(&events, format, raw, "source");
    }
});
