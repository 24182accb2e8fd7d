//! A list that can be cut is the same list after it was put together again.
#![no_main]

mod formats;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use proto_kube::list;

fuzz_target!(|raw: &[u8]| {
    let body = Bytes::copy_from_slice(raw);
    for format in formats::all() {
        if let Ok((head, items)) = list::split_list(format, &body) {
            let again = list::encode_list(format, &head, items.iter().cloned()).concat().into();
            assert_eq!(list::split_list(format, &again), Ok((head, items)));
        }
    }
});
