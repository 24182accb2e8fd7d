//! Key frames: where one begins in the packets of a codec, and when a publisher is asked for one.
//!
//! Sources: RFC 7741 (VP8), RFC 6184 (H264), RFC 9628 (VP9), and the RTP payload format for AV1 of the Alliance for Open Media.

use std::time::Duration;

/// The shortest time between two requests to one publisher, whoever asks: 2 a second.
pub const REQUEST_INTERVAL: Duration = Duration::from_millis(500);

/// Whether a key frame begins with this RTP payload of the codec of that SDP name. Of sound, each packet stands alone.
#[must_use]
pub fn begins(codec: &str, payload: &[u8]) -> bool {
    match codec {
        "VP8" => vp8_key_frame(payload).unwrap_or(false),
        "H264" => has_sequence_parameters(payload),
        "VP9" => vp9_key_frame(payload).unwrap_or(false),
        // N of the aggregation header: the first packet of a coded video sequence, which begins with a key frame. Z: it goes
        // on with what the packet before began.
        "AV1" => payload.first().is_some_and(|first| first & 0x88 == 0x08),
        _ => true,
    }
}

fn vp8_key_frame(payload: &[u8]) -> Option<bool> {
    let first = *payload.first()?;
    // S: begin of a partition; the low bits are its number.
    if first & 0x10 == 0 || first & 0x07 != 0 {
        return Some(false);
    }
    let mut at = 1;
    if first & 0x80 != 0 {
        let extensions = *payload.get(at)?;
        at += 1;
        if extensions & 0x80 != 0 {
            at += if payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
        }
        at += usize::from(extensions & 0x40 != 0);
        at += usize::from(extensions & 0x30 != 0);
    }
    // P of the frame header is 0 in a key frame.
    Some(payload.get(at)? & 0x01 == 0)
}

/// B, the begin of a frame, without P, which would be made of former ones, in the lowest spatial layer if there are layers.
fn vp9_key_frame(payload: &[u8]) -> Option<bool> {
    let first = *payload.first()?;
    if first & 0x40 != 0 || first & 0x08 == 0 {
        return Some(false);
    }
    let mut at = 1;
    if first & 0x80 != 0 {
        at += if payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
    }
    let spatial = if first & 0x20 != 0 { (payload.get(at)? >> 1) & 0x07 } else { 0 };
    Some(spatial == 0)
}

/// A decoder can begin where the sequence parameter set is; encoders for calls send it before each IDR picture.
fn has_sequence_parameters(payload: &[u8]) -> bool {
    const SEQUENCE_PARAMETERS: u8 = 7;
    const AGGREGATE: u8 = 24;
    match payload.first().map(|first| first & 0x1f) {
        Some(SEQUENCE_PARAMETERS) => true,
        Some(AGGREGATE) => {
            let mut rest = &payload[1..];
            while let [high, low, unit @ ..] = rest {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                let Some((unit, after)) = unit.split_at_checked(length) else { return false };
                if unit.first().is_some_and(|first| first & 0x1f == SEQUENCE_PARAMETERS) {
                    return true;
                }
                rest = after;
            }
            false
        }
        _ => false,
    }
}

/// The requests to one publisher: repeated until a key frame comes, never more often than [`REQUEST_INTERVAL`].
#[derive(Debug, Clone, Default)]
pub struct KeyFrameRequests {
    wanted: bool,
    last: Option<Duration>,
}

impl KeyFrameRequests {
    /// A viewer cannot go on without a key frame.
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// A key frame has begun.
    pub fn arrived(&mut self) {
        self.wanted = false;
    }

    /// When [`Self::poll`] is to be asked next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.wanted.then(|| self.last.map_or(Duration::ZERO, |last| last + REQUEST_INTERVAL))
    }

    /// Whether the publisher is to be asked at `now`. It is taken to have been.
    pub fn poll(&mut self, now: Duration) -> bool {
        let due = self.poll_timeout().is_some_and(|at| now >= at);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn key_frames_of_vp8_are_found_behind_every_form_of_descriptor() {
        for (payload, expected) in [
            (&[0x10, 0x00][..], true),
            (&[0x10, 0x01], false),
            (&[0x00, 0x00], false),
            (&[0x11, 0x00], false),
            (&[0x90, 0x80, 0x12, 0x00], true),
            (&[0x90, 0x80, 0x92, 0x34, 0x00], true),
            (&[0x90, 0x80, 0x92, 0x34, 0x01], false),
            (&[0x90, 0xe0, 0x92, 0x34, 0x05, 0x20, 0x00], true),
            (&[0x90, 0xf0, 0x12, 0x05, 0x20, 0x01], false),
            (&[0x90, 0x80], false),
            (&[], false),
        ] {
            assert_eq!(begins("VP8", payload), expected, "{payload:x?}");
        }
    }

    #[test]
    fn key_frames_of_h264_begin_with_their_parameters() {
        for (payload, expected) in [
            (&[0x67, 1][..], true),
            (&[0x65, 1], false),
            (&[0x78, 0, 2, 0x67, 1, 0, 1, 0x68], true),
            (&[0x78, 0, 1, 0x68, 0, 1, 0x67], true),
            (&[0x78, 0, 1, 0x41], false),
            (&[0x78, 0xff, 0xff, 0x67], false),
            (&[0x7c, 0x85, 1], false),
            (&[], false),
        ] {
            assert_eq!(begins("H264", payload), expected, "{payload:x?}");
        }
    }

    #[test]
    fn key_frames_of_vp9_and_av1_are_found() {
        for (codec, payload, expected) in [
            ("VP9", &[0x0c][..], true),
            ("VP9", &[0x04], false),
            ("VP9", &[0x4c], false),
            ("VP9", &[0x8c, 0x12], true),
            ("VP9", &[0xac, 0x92, 0x34, 0x00], true),
            ("VP9", &[0xac, 0x92, 0x34, 0x02], false),
            ("VP9", &[0xac, 0x92], false),
            ("VP9", &[], false),
            ("AV1", &[0x18, 1], true),
            ("AV1", &[0x10, 1], false),
            ("AV1", &[0x98, 1], false),
            ("AV1", &[], false),
        ] {
            assert_eq!(begins(codec, payload), expected, "{codec} {payload:x?}");
        }
    }

    #[test]
    fn requests_are_repeated_until_a_key_frame_comes_and_never_more_than_two_a_second() {
        let mut requests = KeyFrameRequests::default();
        assert_eq!(requests.poll_timeout(), None);
        let mut asked = 0;
        for millisecond in 0..2000 {
            requests.want();
            asked += usize::from(requests.poll(Duration::from_millis(millisecond)));
        }
        assert_eq!(asked, 4);
        requests.arrived();
        assert!(!requests.poll(Duration::from_secs(9)));
        requests.want();
        assert_eq!(requests.poll_timeout(), Some(Duration::from_secs(2)));
    }

    proptest! {
        #[test]
        fn no_payload_breaks_it(payload in prop::collection::vec(any::<u8>(), 0..40)) {
            for codec in ["VP8", "H264", "VP9", "AV1"] {
                let _ = begins(codec, &payload);
            }
        }
    }
}
