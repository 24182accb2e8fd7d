//! A stream gives the same events, and the same error, however it is cut.
#![no_main]

mod formats;

use libfuzzer_sys::fuzz_target;
use proto_kube::media_type::Format;
use proto_kube::watch::{FrameError, WatchDecoder, WatchEvent};

/// Large enough that the limit, which depends on what has arrived, never decides.
const LIMIT: usize = 1 << 24;

fn decode<'a>(
    format: Format,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> (Vec<WatchEvent>, Option<FrameError>) {
    let mut decoder = WatchDecoder::new(format, LIMIT);
    let mut events = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        loop {
            match decoder.next() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, stream) = input;
    if stream.is_empty() {
        return;
    }
    let (first, second) = stream.split_at(usize::from(cut) % (stream.len() + 1));
    for format in formats::all() {
        let whole = decode(format, std::iter::once(stream));
        assert_eq!(decode(format, [first, second].into_iter()), whole);
        assert_eq!(decode(format, stream.chunks(1)), whole);
    }
});
