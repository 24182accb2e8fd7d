//! A document that can be split is the same document after it was written again.
#![no_main]

mod formats;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use proto_kube::{list, watch};

fuzz_target!(|raw: &[u8]| {
    let body = Bytes::copy_from_slice(raw);
    for format in formats::all() {
        if let Ok((type_meta, item)) = list::split_document(format, &body) {
            let again = list::encode_document(format, &type_meta, &item);
            assert_eq!(list::split_document(format, &again), Ok((type_meta, item)));
        }
        let _ = watch::read_error(format.encoding, raw);
    }
});
