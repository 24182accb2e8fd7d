//! Who a STUN request is for, read without the library: from strangers its parser would take, and log, every attribute.
//!
//! Source: RFC 8489, s5 and s14; RFC 8445, s7.2.2 (the user name is `OURS:THEIRS`).

/// The first four bytes of a transaction.
const MAGIC: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER_BYTES: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
/// Most attributes that are looked at; browsers send seven.
const MAX_ATTRIBUTES: usize = 32;
/// Longest user name, in bytes.
const MAX_USER_BYTES: usize = 512;

/// Our part of the user name in a Binding request, by which it finds its session; nothing is proven by it. None of any other
/// datagram, and of a request whose user name is missing, doubled or not covered by its integrity.
#[must_use]
pub fn user(datagram: &[u8]) -> Option<&str> {
    let (header, mut rest) = datagram.split_at_checked(HEADER_BYTES)?;
    let number = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
    let is_whole = usize::from(number(&header[2..])) == rest.len();
    if number(header) != BINDING_REQUEST || !is_whole || header[4..8] != MAGIC {
        return None;
    }
    let mut found = None;
    for _ in 0..MAX_ATTRIBUTES {
        let (head, body) = rest.split_at_checked(4)?;
        let (kind, length) = (number(head), usize::from(number(&head[2..])));
        let value = body.get(..length)?;
        match kind {
            MESSAGE_INTEGRITY => return found,
            USERNAME if found.is_some() || length > MAX_USER_BYTES => return None,
            USERNAME => found = Some(std::str::from_utf8(value).ok()?.split_once(':')?.0),
            _ => {}
        }
        rest = body.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A Binding request with these attributes.
    pub(crate) fn request(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in attributes {
            body.extend(kind.to_be_bytes());
            body.extend(u16::try_from(value.len()).expect("short").to_be_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let length = u16::try_from(body.len()).expect("short");
        [&BINDING_REQUEST.to_be_bytes()[..], &length.to_be_bytes(), &MAGIC, &[7; 12], &body].concat()
    }

    /// A check that proves to know the password of `ours`.
    pub(crate) fn signed_request(ours: &str0m::IceCreds, theirs: &str) -> Vec<u8> {
        let user = format!("{}:{theirs}", ours.ufrag);
        let unsigned = |extra: usize| {
            let mut request = request(&[(USERNAME, user.as_bytes()), (0x0024, &[0, 0, 0, 1])]);
            let length = u16::try_from(request.len() - HEADER_BYTES + extra).expect("short");
            request[2..4].copy_from_slice(&length.to_be_bytes());
            request
        };
        let mut request = unsigned(24);
        let tag = crate::crypto::hmac_sha1(ours.pass.as_bytes(), &[&request]);
        request.extend(MESSAGE_INTEGRITY.to_be_bytes());
        request.extend(20_u16.to_be_bytes());
        request.extend(tag);
        request
    }

    #[test]
    fn the_user_is_found_among_other_attributes_and_before_the_integrity() {
        let integrity = (MESSAGE_INTEGRITY, &[0; 20][..]);
        let good = request(&[(0x8022, b"client"), (USERNAME, b"ours:theirs"), integrity, (0x8028, b"crc!")]);
        assert_eq!(user(&good), Some("ours"));
        for bad in [
            request(&[(USERNAME, b"ours:theirs")]),
            request(&[integrity, (USERNAME, b"ours:theirs")]),
            request(&[(USERNAME, b"ours:theirs"), (USERNAME, b"others:theirs"), integrity]),
            request(&[(USERNAME, b"ours"), integrity]),
            request(&[(USERNAME, b"\xff:x"), integrity]),
            request(&[(USERNAME, &[b':'; 513]), integrity]),
            request(&[]),
            request(&vec![(0x8022, &b""[..]); 300]),
        ] {
            assert_eq!(user(&bad), None, "{bad:?}");
        }
        for at in 0..good.len() {
            assert_eq!(user(&good[..at]), None, "cut off after {at} bytes");
        }
        let answer = [&[1, 1], &good[2..]].concat();
        assert_eq!(user(&answer), None, "no request");
    }

    #[test]
    fn whom_we_find_the_library_finds() {
        let integrity = (MESSAGE_INTEGRITY, &[0; 20][..]);
        let datagram = request(&[(USERNAME, b"ours:theirs"), (0x0024, &[1; 4]), integrity]);
        let message = str0m::ice::StunMessage::parse(&datagram).expect("a request");
        assert_eq!(message.split_username(), Some(("ours", "theirs")));
        assert_eq!(user(&datagram), Some("ours"));
    }
}
