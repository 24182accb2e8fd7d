//! What was set can be read back, what was kept is untouched, whatever the object's bytes.
#![no_main]

mod formats;

use libfuzzer_sys::fuzz_target;
use proto_kube::edit::{self, Rewrite};
use proto_kube::{object, wire};

fuzz_target!(|input: (Vec<u8>, &[u8])| {
    let (path, raw) = input;
    for format in formats::all() {
        if object::scan(format, raw).is_ok() {
            let edited =
                edit::with_resource_version(format, raw, "7").expect("what can be read can be edited");
            assert_eq!(object::scan(format, &edited).expect("still readable").resource_version, "7");
        }
        let _ = edit::partial_metadata(format.encoding, raw);
    }
    let path: Vec<u32> = path.into_iter().map(u32::from).map(|number| number % 32 + 1).collect();
    if let Ok(kept) = edit::rewrite(raw, &path, &mut |_| Ok(Rewrite::Keep)) {
        assert_eq!(kept, raw);
    }
    if let Ok(set) = edit::set(raw, &path, b"value") {
        wire::fields(&set).for_each(|field| assert!(field.is_ok()));
    }
    let _ = edit::remove(raw, &path);
    let _ = edit::append(raw, &path, b"value");
});
