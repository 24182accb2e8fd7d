//! Sealed bytes: `"EY"`, format version, how they are packed, u32 length, nonce, ciphertext, tag. The head and the
//! place where the bytes belong are authenticated with them, so they open nowhere else.
//!
//! Packed are objects and documents, each by itself (LZ4): sled keeps in memory what it wrote, and a disk wears out.
//! A thief of the disk learns how well a record packs; nothing of another's is ever packed with it.

use bytes::Bytes;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce},
    rand::{SecureRandom, SystemRandom},
};

const MAGIC: &[u8; 3] = b"EY\x01";
const HEAD: usize = MAGIC.len() + 1 + 4;
const PLAIN: u8 = 0;
const LZ4: u8 = 1;
/// Shorter bytes are not worth it.
const WORTH_PACKING: usize = 256;
/// Longest bytes that are unpacked; larger ones are kept as they are.
const MAX_UNPACKED: usize = 64 << 20;
/// Bytes that sealing adds.
pub(super) const OVERHEAD: usize = HEAD + NONCE_LEN + 16;

/// The operating system gave no randomness, or 4 GiB were to be sealed at once.
#[derive(Debug, thiserror::Error)]
#[error("sealing failed")]
pub(super) struct SealError;

/// `N` random bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_unspecified| SealError)?;
    Ok(bytes)
}

/// Seals `plain` for the place `context`.
pub(super) fn seal(key: &LessSafeKey, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
    seal_as(PLAIN, key, context, plain)
}

/// As [`seal`], packed where that saves an eighth.
pub(super) fn seal_packed(key: &LessSafeKey, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
    if (WORTH_PACKING..=MAX_UNPACKED).contains(&plain.len()) {
        let packed = lz4_flex::block::compress_prepend_size(plain);
        if packed.len() < plain.len() - plain.len() / 8 {
            return seal_as(LZ4, key, context, &packed);
        }
    }
    seal(key, context, plain)
}

fn seal_as(packing: u8, key: &LessSafeKey, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let nonce = random::<NONCE_LEN>()?;
    let length = u32::try_from(plain.len()).map_err(|_too_long| SealError)?;
    let mut out = Vec::with_capacity(plain.len() + OVERHEAD);
    out.extend_from_slice(MAGIC);
    out.push(packing);
    out.extend_from_slice(&length.to_le_bytes());
    let aad = Aad::from([&out[..], context].concat());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plain);
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut out[HEAD + NONCE_LEN..])
        .map_err(|_unspecified| SealError)?;
    debug_assert_eq!(tag.as_ref().len(), AES_256_GCM.tag_len());
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

/// Opens what [`seal`] or [`seal_packed`] made for the same place; `None` when a single bit differs.
pub(super) fn open(key: &LessSafeKey, context: &[u8], mut sealed: Vec<u8>) -> Option<Bytes> {
    if sealed.len() < OVERHEAD || &sealed[..MAGIC.len()] != MAGIC {
        return None;
    }
    let (head, rest) = sealed.split_at_mut(HEAD);
    let packing = head[MAGIC.len()];
    let length = u32::from_le_bytes(head[MAGIC.len() + 1..].try_into().ok()?) as usize;
    let (nonce, body) = rest.split_at_mut(NONCE_LEN);
    if body.len() != length + 16 {
        return None;
    }
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    key.open_in_place(nonce, Aad::from([&*head, context].concat()), body).ok()?;
    match packing {
        PLAIN => Some(Bytes::from(sealed).slice(HEAD + NONCE_LEN..HEAD + NONCE_LEN + length)),
        LZ4 => unpack(&body[..length]),
        _ => None,
    }
}

fn unpack(packed: &[u8]) -> Option<Bytes> {
    let length = u32::from_le_bytes(*packed.first_chunk()?) as usize;
    if length > MAX_UNPACKED {
        return None;
    }
    let plain = lz4_flex::block::decompress_size_prepended(packed).ok()?;
    (plain.len() == length).then(|| Bytes::from(plain))
}

#[cfg(test)]
mod tests {
    use super::{super::AtRestKey, *};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_sealed_opens_only_unchanged_and_in_its_place(
            plain in proptest::collection::vec(any::<u8>(), 0..200), bit in any::<usize>(), cut in any::<usize>()
        ) {
            let key = AtRestKey::from_bytes(&[1; 32]).aead(&[b"test"]);
            let sealed = seal(&key, b"place", &plain).unwrap();
            prop_assert_eq!(open(&key, b"place", sealed.clone()).unwrap(), plain);
            prop_assert!(open(&key, b"other", sealed.clone()).is_none());
            let mut flipped = sealed.clone();
            let bit = bit % (sealed.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(open(&key, b"place", flipped).is_none());
            prop_assert!(open(&key, b"place", sealed[..cut % sealed.len()].to_vec()).is_none());
        }

        #[test]
        fn what_was_packed_opens_as_it_was(part in proptest::collection::vec(any::<u8>(), 0..400), times in 0_usize..40) {
            let key = AtRestKey::from_bytes(&[1; 32]).aead(&[b"test"]);
            let plain = part.repeat(times);
            let sealed = seal_packed(&key, b"place", &plain).unwrap();
            prop_assert!(sealed.len() <= plain.len() + OVERHEAD);
            if part.len() >= 100 && times >= 10 {
                prop_assert!(sealed.len() < plain.len() / 2);
            }
            prop_assert_eq!(open(&key, b"place", sealed).unwrap(), plain);
        }

        #[test]
        fn what_is_no_packed_record_does_not_open(packed in proptest::collection::vec(any::<u8>(), 0..64)) {
            let key = AtRestKey::from_bytes(&[1; 32]).aead(&[b"test"]);
            let sealed = seal_as(LZ4, &key, b"place", &packed).unwrap();
            // By chance it may be one; then it is as long as it says.
            if let Some(plain) = open(&key, b"place", sealed) {
                prop_assert_eq!(Some(&u32::try_from(plain.len()).unwrap().to_le_bytes()), packed.first_chunk());
            }
        }
    }

    #[test]
    fn nothing_is_unpacked_that_claims_to_be_longer_than_it_may_be() {
        let mut packed = lz4_flex::block::compress_prepend_size(&[7; 4096]);
        assert_eq!(unpack(&packed).unwrap().len(), 4096);
        for claimed in [4095, 4097, MAX_UNPACKED + 1, u32::MAX as usize] {
            packed[..4].copy_from_slice(&u32::try_from(claimed).unwrap().to_le_bytes());
            assert_eq!(unpack(&packed), None, "{claimed}");
        }
    }

    #[test]
    fn a_packing_of_later_versions_is_not_opened() {
        let key = AtRestKey::from_bytes(&[1; 32]).aead(&[b"test"]);
        assert!(open(&key, b"place", seal_as(LZ4 + 1, &key, b"place", b"plain").unwrap()).is_none());
    }
}
