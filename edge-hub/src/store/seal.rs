//! Sealed bytes: `"EY"`, format version, one reserved byte, u32 length, nonce, ciphertext, tag. The head and the
//! place where the bytes belong are authenticated with them, so they open nowhere else.

use bytes::Bytes;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce},
    rand::{SecureRandom, SystemRandom},
};

const MAGIC: &[u8; 4] = b"EY\x01\0";
const HEAD: usize = MAGIC.len() + 4;
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
    let nonce = random::<NONCE_LEN>()?;
    let length = u32::try_from(plain.len()).map_err(|_too_long| SealError)?;
    let mut out = Vec::with_capacity(plain.len() + OVERHEAD);
    out.extend_from_slice(MAGIC);
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

/// Opens what `seal` made for the same place; `None` when a single bit differs.
pub(super) fn open(key: &LessSafeKey, context: &[u8], mut sealed: Vec<u8>) -> Option<Bytes> {
    if sealed.len() < OVERHEAD || &sealed[..MAGIC.len()] != MAGIC {
        return None;
    }
    let (head, rest) = sealed.split_at_mut(HEAD);
    let length = u32::from_le_bytes(head[MAGIC.len()..].try_into().ok()?) as usize;
    let (nonce, body) = rest.split_at_mut(NONCE_LEN);
    if body.len() != length + 16 {
        return None;
    }
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    key.open_in_place(nonce, Aad::from([&*head, context].concat()), body).ok()?;
    Some(Bytes::from(sealed).slice(HEAD + NONCE_LEN..HEAD + NONCE_LEN + length))
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
    }
}
