//! Keys and certificates of a test cluster: one authority, serving and client certificates, the token key.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e_cloud::{Principal, TokenSigner};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refuses what was made.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The client verifier cannot be built.
    #[error("cannot verify clients")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// What should be PEM is none.
    #[error("cannot read PEM")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// The token key cannot be made.
    #[error("cannot make the token key")]
    TokenKey,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Identity {
    /// The certificate chain, leaf first, in PEM.
    pub certificate_pem: String,
    /// The private key (PKCS #8) in PEM.
    pub key_pem: String,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    /// A certificate with a key, both PEM, whether or not they belong together.
    ///
    /// # Errors
    /// When one of them is no PEM.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        Ok(Self {
            certificate_pem: certificate_pem.into(),
            key_pem: key_pem.into(),
            certificate: CertificateDer::from_pem_slice(certificate_pem.as_bytes())?,
            key: PrivatePkcs8KeyDer::from_pem_slice(key_pem.as_bytes())?.secret_pkcs8_der().to_vec(),
        })
    }

    /// The certificate in DER.
    #[must_use]
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// The key in DER.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

/// A certificate authority that signs for clients and servers alike.
pub struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn new(name: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// An authority that exists already: its certificate and key in PEM.
    ///
    /// # Errors
    /// When they are no certificate and key.
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, KeyPair::from_pem(key_pem)?)?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())?;
        Ok(Self { certificate, pem: certificate_pem.into(), issuer })
    }

    /// The authority's certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.pem.clone()
    }

    /// A store that trusts this authority alone.
    ///
    /// # Errors
    /// When the TLS library refuses the certificate.
    pub fn roots(&self) -> Result<Arc<RootCertStore>, PkiError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        Ok(Arc::new(roots))
    }

    /// A serving certificate for host names and IP addresses.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn server(&self, names: &[&str]) -> Result<Identity, PkiError> {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// A client certificate: the user name as CN, one group as O.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn client(&self, user: &str, group: &str) -> Result<Identity, PkiError> {
        self.certificate_for(user, Some(group), ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A certificate with this common name and organization, or none, for one purpose.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn certificate_for(
        &self,
        user: &str,
        group: Option<&str>,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Result<Identity, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![purpose];
        self.sign(params)
    }

    /// The client certificate of a node's kubelet, in force for one day that begins so long from now; negative for the
    /// past.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn node_in(&self, name: &str, begins: time::Duration) -> Result<Identity, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{name}"));
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = time::OffsetDateTime::now_utc() + begins;
        params.not_after = params.not_before + time::Duration::days(1);
        self.sign(params)
    }

    /// The client certificate of a node's kubelet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn node(&self, name: &str) -> Result<Identity, PkiError> {
        self.client(&format!("system:node:{name}"), "system:nodes")
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Identity, PkiError> {
        let key = KeyPair::generate()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
        })
    }

    /// TLS as the model cloud serves it: client certificates are asked for, not demanded.
    pub(super) fn server_config(&self, identity: &Identity) -> Result<Arc<ServerConfig>, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider.clone())
            .allow_unauthenticated()
            .build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![identity.certificate()], identity.key())?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// User name and groups of a verified client certificate: CN and O.
pub(super) fn principal(certificate: &CertificateDer<'_>) -> Option<Principal> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?;
    let groups: Vec<&str> = subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
    Some(Principal::new(user, &groups))
}

/// Signs ServiceAccount tokens with ES256.
pub struct TokenKey {
    key: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
}

impl TokenKey {
    /// A new P-256 key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new(key_id: &str) -> Result<Self, PkiError> {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(|_| PkiError::TokenKey)?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random)
            .map_err(|_| PkiError::TokenKey)?;
        Ok(Self { key, random, key_id: key_id.into() })
    }
}

impl TokenSigner for TokenKey {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.key.sign(&self.random, message).expect("the system gave randomness for the key");
        signature.as_ref().to_vec()
    }

    fn public_jwk(&self) -> Value {
        // An uncompressed point: 0x04, then x and y of 32 bytes each.
        let point = self.key.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        json!({
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_client_certificate_names_user_and_group() {
        let authority = Authority::new("ca").unwrap();
        let found = principal(&authority.node("n1").unwrap().certificate()).unwrap();
        assert_eq!(found, Principal::node("n1"));
    }

    #[test]
    fn the_published_key_verifies_what_the_token_key_signs() {
        let key = TokenKey::new("k").unwrap();
        let jwk = key.public_jwk();
        let part = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
        let point = [vec![4], part("x"), part("y")].concat();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        public.verify(b"header.claims", &key.sign(b"header.claims")).unwrap();
    }
}
