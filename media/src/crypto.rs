//! The cryptography of WebRTC for str0m: SRTP, HMAC and SHA by ring, the bare AES of RFC 3711 by `aes` and `ctr`, DTLS by
//! dimpl, and the certificate that an engine makes for itself when it starts.
//!
//! No ready provider of str0m does without aws-lc-rs and cmake. ring seals a packet of 1100 bytes in a third of the time
//! that RustCrypto's AES-GCM takes.
//!
//! Sources: RFC 3711 (AES-CM, key derivation), RFC 7714 (AES-GCM in SRTP), RFC 5764 (DTLS-SRTP).

use std::{
    sync::{Arc, LazyLock},
    time::Instant,
};

use aes::{
    Aes128, Aes256,
    cipher::{Array, BlockCipherEncrypt, KeyInit, KeyIvInit, StreamCipher},
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use ring::{
    aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey},
    digest, hmac,
};
use str0m_proto::crypto::{
    AeadAes128GcmCipher, AeadAes256GcmCipher, Aes128CmSha1_80Cipher, CryptoError, CryptoProvider,
    DtlsVersion, Sha1HmacProvider, Sha1Provider, Sha256Provider, SrtpProvider, SupportedAeadAes128Gcm,
    SupportedAeadAes256Gcm, SupportedAes128CmSha1_80,
    dtls::{DtlsCert, DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion},
};

/// Bytes of a GCM tag.
const TAG: usize = 16;

/// The provider that every session shares.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            srtp_provider: &Srtp,
            sha1_hmac_provider: &Hashes,
            sha1_provider: &Hashes,
            sha256_provider: &Hashes,
            dtls_provider: &Dtls,
        })
    });
    Arc::clone(&PROVIDER)
}

/// A fresh key pair on P-256 and a certificate that it signs itself: browsers hold it to the fingerprint in the SDP and
/// look at nothing else of it.
///
/// # Errors
/// The system gave no randomness.
pub fn certificate() -> Result<DtlsCert, rcgen::Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, "media-engine");
    let certificate = parameters.self_signed(&key)?;
    Ok(DtlsCert { certificate: certificate.der().to_vec(), private_key: key.serialize_der() })
}

/// HMAC-SHA1 of several parts as one, as STUN signs by.
#[must_use]
pub fn hmac_sha1(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key));
    parts.iter().for_each(|part| context.update(part));
    context.sign().as_ref().try_into().expect("SHA-1 has 20 bytes")
}

fn failed(what: &str) -> CryptoError {
    CryptoError::Other(what.to_owned())
}

#[derive(Debug)]
struct Hashes;

impl Sha1HmacProvider for Hashes {
    fn sha1_hmac(&self, key: &[u8], payloads: &[&[u8]]) -> [u8; 20] {
        hmac_sha1(key, payloads)
    }
}

impl Sha1Provider for Hashes {
    fn sha1(&self, data: &[u8]) -> [u8; 20] {
        let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, data);
        hash.as_ref().try_into().expect("SHA-1 has 20 bytes")
    }
}

impl Sha256Provider for Hashes {
    fn sha256(&self, data: &[u8]) -> [u8; 32] {
        digest::digest(&digest::SHA256, data).as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

#[derive(Debug)]
struct Srtp;

impl SrtpProvider for Srtp {
    fn aes_128_cm_sha1_80(&self) -> &'static dyn SupportedAes128CmSha1_80 {
        &Srtp
    }

    fn aead_aes_128_gcm(&self) -> &'static dyn SupportedAeadAes128Gcm {
        &Srtp
    }

    fn aead_aes_256_gcm(&self) -> &'static dyn SupportedAeadAes256Gcm {
        &Srtp
    }

    fn srtp_aes_128_ecb_round(&self, key: &[u8], input: &[u8], output: &mut [u8]) {
        ecb_round(&Aes128::new_from_slice(key).expect("str0m's keys have 16 bytes"), input, output);
    }

    fn srtp_aes_256_ecb_round(&self, key: &[u8], input: &[u8], output: &mut [u8]) {
        ecb_round(&Aes256::new_from_slice(key).expect("str0m's keys have 32 bytes"), input, output);
    }
}

/// One block; what follows it in `output`, which other libraries need for their padding, is left as it is.
fn ecb_round(cipher: &impl BlockCipherEncrypt, input: &[u8], output: &mut [u8]) {
    let mut block = Array::try_from(&input[..16]).expect("a block has 16 bytes");
    cipher.encrypt_block(&mut block);
    output[..16].copy_from_slice(&block);
}

impl SupportedAes128CmSha1_80 for Srtp {
    fn create_cipher(&self, key: [u8; 16], _encrypt: bool) -> Box<dyn Aes128CmSha1_80Cipher> {
        Box::new(CounterMode { key })
    }
}

impl SupportedAeadAes128Gcm for Srtp {
    fn create_cipher(&self, key: [u8; 16], _encrypt: bool) -> Box<dyn AeadAes128GcmCipher> {
        Box::new(Gcm::new(&AES_128_GCM, &key))
    }
}

impl SupportedAeadAes256Gcm for Srtp {
    fn create_cipher(&self, key: [u8; 32], _encrypt: bool) -> Box<dyn AeadAes256GcmCipher> {
        Box::new(Gcm::new(&AES_256_GCM, &key))
    }
}

struct CounterMode {
    key: [u8; 16],
}

impl std::fmt::Debug for CounterMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CounterMode(MASKED)")
    }
}

impl CounterMode {
    fn apply(&self, iv: &[u8; 16], input: &[u8], output: &mut [u8]) -> Result<(), CryptoError> {
        let output = output.get_mut(..input.len()).ok_or_else(|| failed("no room for the packet"))?;
        let mut cipher = ctr::Ctr128BE::<Aes128>::new(&self.key.into(), &(*iv).into());
        cipher.try_apply_keystream_b2b(input, output).map_err(|_| failed("the key stream is at its end"))
    }
}

impl Aes128CmSha1_80Cipher for CounterMode {
    fn encrypt(&mut self, iv: &[u8; 16], input: &[u8], output: &mut [u8]) -> Result<(), CryptoError> {
        self.apply(iv, input, output)
    }

    fn decrypt(&mut self, iv: &[u8; 16], input: &[u8], output: &mut [u8]) -> Result<(), CryptoError> {
        self.apply(iv, input, output)
    }
}

/// AES-GCM with a key of either length. Uniqueness of the nonces is str0m's: it makes them of SSRC, rollover counter and
/// sequence number.
#[derive(Debug)]
struct Gcm {
    key: LessSafeKey,
}

impl Gcm {
    fn new(algorithm: &'static Algorithm, key: &[u8]) -> Self {
        Self {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key).expect("the length is the algorithm's")),
        }
    }

    fn seal(&self, iv: [u8; 12], aad: &[u8], input: &[u8], output: &mut [u8]) -> Result<(), CryptoError> {
        let room = output.get_mut(..input.len() + TAG).ok_or_else(|| failed("no room for the packet"))?;
        let (text, tag) = room.split_at_mut(input.len());
        text.copy_from_slice(input);
        let sealed =
            self.key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(iv), Aad::from(aad), text);
        tag.copy_from_slice(sealed.map_err(|_| failed("seal"))?.as_ref());
        Ok(())
    }

    fn open(
        &self,
        iv: [u8; 12],
        aads: &[&[u8]],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, CryptoError> {
        let length = input.len().checked_sub(TAG).ok_or_else(|| failed("shorter than its tag"))?;
        let text = output.get_mut(..length).ok_or_else(|| failed("no room for the packet"))?;
        let (sealed, tag) = input.split_at(length);
        text.copy_from_slice(sealed);
        let joined;
        let aad = match aads {
            [one] => *one,
            // Only RTCP that is not encrypted has its associated data in two parts.
            several => {
                joined = several.concat();
                &joined
            }
        };
        let tag: [u8; TAG] = tag.try_into().expect("split off above");
        let nonce = Nonce::assume_unique_for_key(iv);
        self.key
            .open_in_place_separate_tag(nonce, Aad::from(aad), tag.into(), text, 0..)
            .map_err(|_| failed("wrong tag"))?;
        Ok(length)
    }
}

impl AeadAes128GcmCipher for Gcm {
    fn encrypt(
        &mut self,
        iv: &[u8; 12],
        aad: &[u8],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.seal(*iv, aad, input, output)
    }

    fn decrypt(
        &mut self,
        iv: &[u8; 12],
        aads: &[&[u8]],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, CryptoError> {
        self.open(*iv, aads, input, output)
    }
}

impl AeadAes256GcmCipher for Gcm {
    fn encrypt(
        &mut self,
        iv: &[u8; 12],
        aad: &[u8],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.seal(*iv, aad, input, output)
    }

    fn decrypt(
        &mut self,
        iv: &[u8; 12],
        aads: &[&[u8]],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, CryptoError> {
        self.open(*iv, aads, input, output)
    }
}

#[derive(Debug)]
struct Dtls;

impl DtlsProvider for Dtls {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        certificate().ok()
    }

    fn new_dtls(
        &self,
        certificate: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        // ICE has proven by then that the client is where it says: a cookie would only add a round trip.
        let mut builder = dimpl::Config::builder()
            .with_crypto_provider(dimpl::crypto::rust_crypto::default_provider())
            .use_server_cookie(false);
        if let Some(mtu) = mtu {
            builder = builder.mtu(mtu);
        }
        let config = Arc::new(builder.build()?);
        let certificate = certificate.clone();
        let dtls = match version {
            DtlsVersion::Dtls13 => dimpl::Dtls::new_13(config, certificate, now),
            DtlsVersion::Auto => dimpl::Dtls::new_auto(config, certificate, now),
            _ => dimpl::Dtls::new_12(config, certificate, now),
        };
        Ok(Box::new(Connection(dtls)))
    }
}

#[derive(Debug)]
struct Connection(dimpl::Dtls);

impl DtlsInstance for Connection {
    fn set_active(&mut self, active: bool) {
        self.0.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.0.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buffer: &'a mut [u8]) -> DtlsOutput<'a> {
        self.0.poll_output(buffer)
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.0.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.0.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.0.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.0.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.0.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.0.close()
    }
}

#[cfg(test)]
mod tests {
    use str0m_proto::crypto::{AeadAes128Gcm, AeadAes256Gcm, Aes128CmSha1_80};

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16);
        digits.chunks(2).map(|digits| pair(digits).expect("two digits")).collect()
    }

    fn array<const N: usize>(hex: &str) -> [u8; N] {
        bytes(hex).try_into().expect("the length that is wanted")
    }

    /// RFC 7714 s16: "Gallia est omnis divisa in partes tres".
    const PLAIN: &str =
        "47616c6c 69612065 7374206f 6d6e6973 20646976 69736120 696e2070 61727465 73207472 6573";
    const HEADER: &str = "8040f17b 8041f8d3 5501a0b2";
    const SALT: &str = "51756964 2070726f 2071756f";
    const SSRC: u32 = 0x5501_a0b2;
    const SEQUENCE: u16 = 0xf17b;

    #[test]
    fn rfc_7714_s16_1_1_rtp_by_aes_128_gcm() {
        let key = array("00010203 04050607 08090a0b 0c0d0e0f");
        let iv = AeadAes128Gcm::rtp_iv(array(SALT), SSRC, 0, SEQUENCE);
        assert_eq!(iv, array("51753c65 80c2726f 20718414"));
        let mut cipher = SupportedAeadAes128Gcm::create_cipher(&Srtp, key, true);
        let (plain, header) = (bytes(PLAIN), bytes(HEADER));
        let mut sealed = vec![0; plain.len() + TAG];
        cipher.encrypt(&iv, &header, &plain, &mut sealed).expect("sealed");
        let expected = "f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 0d294e6f 42a5f47a 51c7d19b 36de3adf 8833
            899d7f27 beb16a91 52cf765e e4390cce";
        assert_eq!(sealed, bytes(expected));
        let mut opened = vec![0; plain.len()];
        assert_eq!(cipher.decrypt(&iv, &[&header], &sealed, &mut opened).expect("opened"), plain.len());
        assert_eq!(opened, plain);
        sealed[3] ^= 1;
        assert!(cipher.decrypt(&iv, &[&header], &sealed, &mut opened).is_err(), "a wrong packet is refused");
        assert!(cipher.decrypt(&iv, &[&header], &sealed[..TAG - 1], &mut opened).is_err(), "and a short one");
    }

    #[test]
    fn rfc_7714_s16_2_1_rtp_by_aes_256_gcm() {
        let key = array("00010203 04050607 08090a0b 0c0d0e0f 10111213 14151617 18191a1b 1c1d1e1f");
        let iv = AeadAes256Gcm::rtp_iv(array(SALT), SSRC, 0, SEQUENCE);
        let mut cipher = SupportedAeadAes256Gcm::create_cipher(&Srtp, key, true);
        let (plain, header) = (bytes(PLAIN), bytes(HEADER));
        let mut sealed = vec![0; plain.len() + TAG];
        cipher.encrypt(&iv, &header, &plain, &mut sealed).expect("sealed");
        let expected = "32b1de78 a822fe12 ef9f78fa 332e33aa b1801238 9a58e2f3 b50b2a02 76ffae0f 1ba63799 b87b
            7aa3db36 dfffd6b0 f9bb7878 d7a76c13";
        assert_eq!(sealed, bytes(expected));
        let mut opened = vec![0; plain.len()];
        // The associated data in two parts, as for RTCP that is not encrypted.
        let (first, second) = header.split_at(5);
        cipher.decrypt(&iv, &[first, second], &sealed, &mut opened).expect("opened");
        assert_eq!(opened, plain);
    }

    #[test]
    fn rfc_3711_b2_counter_mode_key_stream() {
        let key = array("2B7E1516 28AED2A6 ABF71588 09CF4F3C");
        let salt = array("F0F1F2F3 F4F5F6F7 F8F9FAFB FCFD");
        let iv = Aes128CmSha1_80::rtp_iv(salt, 0, 0);
        assert_eq!(iv, array("F0F1F2F3 F4F5F6F7 F8F9FAFB FCFD0000"));
        let mut cipher = SupportedAes128CmSha1_80::create_cipher(&Srtp, key, true);
        // 0xff02 blocks as in the RFC, whose last three lines are those of counters FEFF to FF01.
        let mut stream = vec![0; 0xff02 * 16];
        cipher.encrypt(&iv, &vec![0; 0xff02 * 16], &mut stream).expect("a key stream");
        let expected = "E03EAD09 35C95E80 E166B16D D92B4EB4 D23513162B02D0F72A43A2FE4A5F97AB 41E95B3BB0A2E8DD477901E4FCA894C0";
        assert_eq!(stream[..48], bytes(expected));
        let last = "EC8CDF7398607CB0F2D21675EA9EA1E4 362B7C3C6773516318A077D7FC5073AE 6A2CC3787889374FBEB4C81B17BA6C44";
        assert_eq!(stream[stream.len() - 48..], bytes(last));
    }

    #[test]
    fn rfc_3711_b3_key_derivation() {
        let master = bytes("E1F97A0D 3E018BE0 D64FA32C 06DE4139");
        for (input, expected) in [
            ("0EC675AD 498AFEEB B6960B3A ABE60000", "C61E7A93 744F39EE 10734AFE 3FF7A087"),
            ("0EC675AD 498AFEE9 B6960B3A ABE60000", "30CBBC08 863D8C85 D49DB34A 9AE17AC6"),
            ("0EC675AD 498AFEEA B6960B3A ABE60000", "CEBE321F 6FF7716B 6FD4AB49 AF256A15"),
        ] {
            let mut output = [0; 32];
            Srtp.srtp_aes_128_ecb_round(&master, &bytes(input), &mut output);
            assert_eq!(output[..16], bytes(expected));
        }
    }

    #[test]
    fn rfc_2202_hmac_of_several_parts_is_that_of_the_whole() {
        let expected = bytes("effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
        assert_eq!(Hashes.sha1_hmac(b"Jefe", &[b"what do ya want for nothing?"]).to_vec(), expected);
        assert_eq!(Hashes.sha1_hmac(b"Jefe", &[b"what do ya want ", b"for nothing?"]).to_vec(), expected);
    }
}
