//! TLS among the members of a pool: both ends show a certificate of the pool's authority that names them by the URI
//! `eyot://POOL/NODE`. Addresses and DNS names mean nothing there, and TLS is 1.3.

use std::sync::Arc;

use proto::member::Member;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, ResolvesServerCert};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::extensions::GeneralName;

use crate::tls::{AnyOwner, TlsError, client_verifier, provider};

/// Why a certificate makes nobody a member. The text goes to whoever showed it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMember {
    /// None was shown.
    #[error("a member certificate is needed, and none was shown")]
    NoCertificate,
    /// It is of another authority, out of date, or damaged.
    #[error("the certificate does not hold here: {0}; is it of this pool's authority?")]
    Untrusted(String),
    /// It names nobody, or more than one.
    #[error("the certificate names no member of a pool: it needs exactly one URI, eyot://POOL/NODE")]
    Unnamed,
    /// It is of another pool.
    #[error("{found} is a member of another pool; this one is {pool}")]
    OtherPool {
        /// Who showed it.
        found: Member,
        /// The pool here.
        pool: Box<str>,
    },
    /// It is somebody else's.
    #[error("{wanted} was dialled and {found} answered")]
    Other {
        /// Who answered.
        found: Member,
        /// Who was dialled.
        wanted: Member,
    },
}

/// The member that a certificate names.
///
/// # Errors
/// [`NoMember::Unnamed`].
pub fn named(certificate: &CertificateDer<'_>) -> Result<Member, NoMember> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| NoMember::Unnamed)?;
    let names = parsed.subject_alternative_name().map_err(|_| NoMember::Unnamed)?.ok_or(NoMember::Unnamed)?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Member::parse(uri).map_err(|_| NoMember::Unnamed),
        _ => Err(NoMember::Unnamed),
    }
}

/// Judges the clients of a server that members alone may use.
#[derive(Clone, Debug)]
pub struct Doorkeeper {
    pool: Box<str>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Doorkeeper {
    /// Lets in members of `pool` whose certificate is of one of `roots`.
    ///
    /// # Errors
    /// [`TlsError::Settings`]: the roots are empty or unusable.
    pub fn new(pool: &str, roots: RootCertStore) -> Result<Self, TlsError> {
        Ok(Self { pool: pool.into(), verifier: client_verifier(roots)? })
    }

    /// TLS of the server. Every client finishes its handshake, so that it can be told in words why it is not let in: the
    /// layer above must [`judge`](Self::judge) it.
    ///
    /// # Errors
    /// [`TlsError::Settings`].
    pub fn server_config(&self, certificate: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError::Settings(error.into()))?
            .with_client_cert_verifier(Arc::new(AnyOwner(Arc::clone(&self.verifier))))
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A session that is resumed shows no certificate.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Who showed this chain, leaf first.
    ///
    /// # Errors
    /// [`NoMember`].
    pub fn judge(&self, chain: Option<&[CertificateDer<'_>]>, now: UnixTime) -> Result<Member, NoMember> {
        let (leaf, rest) = chain.and_then(<[_]>::split_first).ok_or(NoMember::NoCertificate)?;
        let untrusted = |error: rustls::Error| NoMember::Untrusted(error.to_string());
        self.verifier.verify_client_cert(leaf, rest, now).map_err(untrusted)?;
        let found = named(leaf)?;
        if found.pool == self.pool {
            Ok(found)
        } else {
            Err(NoMember::OtherPool { found, pool: self.pool.clone() })
        }
    }
}

/// TLS of a client that dials the member `wanted` and shows its own certificate.
///
/// # Errors
/// [`TlsError::Settings`].
pub fn client_config(
    roots: RootCertStore,
    certificate: Arc<dyn ResolvesClientCert>,
    wanted: Member,
) -> Result<ClientConfig, TlsError> {
    let verifier = MemberVerifier { roots, wanted, provider: provider() };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError::Settings(error.into()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Checks chain, dates and usage as for any server, and in place of a DNS name the member's.
#[derive(Debug)]
struct MemberVerifier {
    roots: RootCertStore,
    wanted: Member,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for MemberVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        // A certificate error of ours would be shown as a value of this program and not in words.
        let refused = |why: NoMember| rustls::Error::General(why.to_string());
        let found = named(leaf).map_err(refused)?;
        if found != self.wanted {
            return Err(refused(NoMember::Other { found, wanted: self.wanted.clone() }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    };
    use rustls::sign::SingleCertAndKey;
    use rustls_pki_types::PrivateKeyDer;

    use super::*;

    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        root: CertificateDer<'static>,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::new(Vec::new()).expect("parameters");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().expect("a key");
            let root = params.self_signed(&key).expect("a certificate").der().clone();
            Self { issuer: Issuer::new(params, key), root }
        }

        fn roots(&self) -> RootCertStore {
            let mut roots = RootCertStore::empty();
            roots.add(self.root.clone()).expect("an authority");
            roots
        }

        fn issue(&self, uris: &[&str]) -> (CertificateDer<'static>, Arc<SingleCertAndKey>) {
            let mut params = CertificateParams::new(Vec::new()).expect("parameters");
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let uri = |uri: &&str| SanType::URI((*uri).try_into().expect("ASCII"));
            params.subject_alt_names = uris.iter().map(uri).collect();
            let key = KeyPair::generate().expect("a key");
            let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").der().clone();
            let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
            let pair = crate::tls::fixed(vec![certificate.clone()], key).expect("a pair");
            (certificate, pair)
        }
    }

    #[test]
    fn only_members_of_this_pool_are_let_in_and_the_others_are_told_why() {
        let (ours, foreign) = (Authority::new(), Authority::new());
        let door = Doorkeeper::new("a", ours.roots()).expect("settings");
        let judge = |certificate: CertificateDer<'static>| door.judge(Some(&[certificate]), UnixTime::now());
        let member = Member::parse("eyot://a/n1").expect("a name");
        assert_eq!(judge(ours.issue(&["eyot://a/n1"]).0), Ok(member));
        assert_eq!(door.judge(None, UnixTime::now()), Err(NoMember::NoCertificate));
        assert!(matches!(judge(foreign.issue(&["eyot://a/n1"]).0), Err(NoMember::Untrusted(_))));
        assert!(matches!(judge(ours.issue(&["eyot://b/n1"]).0), Err(NoMember::OtherPool { .. })));
        for uris in [&[][..], &["https://a/n1"], &["eyot://a/n1", "eyot://a/n2"]] {
            assert_eq!(judge(ours.issue(uris).0), Err(NoMember::Unnamed), "{uris:?}");
        }
    }

    #[test]
    fn a_member_that_answers_in_the_place_of_another_is_not_believed() {
        let (ours, foreign) = (Authority::new(), Authority::new());
        let wanted = Member::parse("eyot://a/n1").expect("a name");
        let verifier = MemberVerifier { roots: ours.roots(), wanted, provider: provider() };
        let name = ServerName::try_from("10.0.0.1").expect("a name");
        let judge = |certificate: &CertificateDer<'static>| {
            verifier.verify_server_cert(certificate, &[], &name, &[], UnixTime::now()).map(drop)
        };
        assert_eq!(judge(&ours.issue(&["eyot://a/n1"]).0), Ok(()));
        for (authority, uri) in [(&ours, "eyot://a/n2"), (&ours, "eyot://b/n1"), (&foreign, "eyot://a/n1")] {
            assert!(judge(&authority.issue(&[uri]).0).is_err(), "{uri}");
        }
    }
}
