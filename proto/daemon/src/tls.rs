//! Certificates and keys from PEM files, renewed without a restart, and the TLS settings that all of ours share.
//!
//! TLS 1.2 and 1.3 by the ring provider, ALPN `h2` then `http/1.1`. The provider is always named explicitly, so
//! that nothing depends on which library installed a process default first.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

/// The largest PEM file that is read, in bytes.
pub const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// Why TLS material was refused.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file could not be read.
    #[error("{}: cannot read; check the path and its permissions", path.display())]
    Read {
        /// The file as it was named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is larger than [`MAX_PEM_BYTES`].
    #[error("{}: larger than {MAX_PEM_BYTES} bytes", path.display())]
    TooLarge {
        /// The file as it was named.
        path: PathBuf,
    },
    /// The file is not PEM, or holds none of what is needed.
    #[error("{}: no {wanted} in PEM", path.display())]
    Pem {
        /// The file as it was named.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// What the parser said.
        source: rustls_pki_types::pem::Error,
    },
    /// Certificate and key do not belong together, or the key is of an unsupported kind.
    #[error("{}: certificate and key {} do not make an identity", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// A certificate authority cannot be used.
    #[error("{}: not usable as a certificate authority", path.display())]
    Authority {
        /// The file as it was named.
        path: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// The settings as a whole were refused.
    #[error("TLS settings were refused")]
    Settings(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A certificate chain and its key, each in a PEM file; both may be the same file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// The leaf's private key: PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
}

/// The provider of all cryptography in TLS.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Makes [`provider`] the process default for libraries that ask for one. The first call wins; others do nothing.
pub fn install_provider() {
    // The only error is that a default stands already, which is the wanted state.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The certificates of a PEM file, in order. Other sections are skipped.
///
/// # Errors
/// [`TlsError`]: unreadable, too large, or without a certificate.
pub fn load_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    parse_chain(path, &read_bounded(path)?)
}

/// The first private key of a PEM file. Other sections are skipped.
///
/// # Errors
/// [`TlsError`]: unreadable, too large, or without a key.
pub fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    parse_key(path, &read_bounded(path)?)
}

/// The certificate authorities of a PEM file.
///
/// # Errors
/// [`TlsError`]: unreadable, too large, without a certificate, or with one that is no authority.
pub fn load_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in load_chain(path)? {
        roots.add(certificate).map_err(|source| TlsError::Authority { path: path.into(), source })?;
    }
    Ok(roots)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = |source| TlsError::Read { path: path.into(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(read)?.take(MAX_PEM_BYTES + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > MAX_PEM_BYTES {
        return Err(TlsError::TooLarge { path: path.into() });
    }
    Ok(bytes)
}

fn parse_chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refused = |source| TlsError::Pem { path: path.into(), wanted: "certificate", source };
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(refused)?;
    if chain.is_empty() {
        return Err(refused(rustls_pki_types::pem::Error::NoItemsFound));
    }
    Ok(chain)
}

fn parse_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|source| TlsError::Pem {
        path: path.into(),
        wanted: "private key",
        source,
    })
}

/// What tells one version of a file from the next without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { inode: metadata.ino(), bytes: metadata.len(), modified }
    }

    /// Of both files; `None` where one is not there.
    fn of_pair(files: &CertificateFiles) -> Option<[Self; 2]> {
        let stamp = |path: &Path| std::fs::metadata(path).map(|metadata| Self::of(&metadata)).ok();
        Some([stamp(&files.certificate)?, stamp(&files.key)?])
    }
}

/// A certificate and key that follow their files: each handshake looks whether they changed and, if so, reads them
/// again; after [`Self::follow`] a thread of its own does, so that neither a handshake nor a request waits for a disk. A pair that is half replaced, unreadable or wrong is not taken; the last good one stays in use.
pub struct ReloadingResolver {
    files: CertificateFiles,
    current: RwLock<Arc<CertifiedKey>>,
    seen: Mutex<Seen>,
    is_followed: AtomicBool,
}

struct Seen {
    /// The stamps that `current` was read under.
    taken: Option<[Stamp; 2]>,
    /// The stamps of the last pair that was refused, so that it is logged once.
    refused: Option<Option<[Stamp; 2]>>,
}

impl ReloadingResolver {
    /// Reads the pair for the first time.
    ///
    /// # Errors
    /// [`TlsError`]: a file is unreadable or wrong, or the two do not belong together.
    pub fn new(files: CertificateFiles) -> Result<Arc<Self>, TlsError> {
        // Stamps before content: what changes in between is then read once more, never missed.
        let taken = Stamp::of_pair(&files);
        let current = RwLock::new(Arc::new(certified_key(&files)?));
        Ok(Arc::new(Self {
            files,
            current,
            seen: Mutex::new(Seen { taken, refused: None }),
            is_followed: AtomicBool::new(false),
        }))
    }

    /// From now on a thread looks at the files, once in `every`, for as long as somebody holds this.
    ///
    /// # Errors
    /// No thread could be started; then each handshake goes on to look.
    pub fn follow(self: &Arc<Self>, every: Duration) -> std::io::Result<()> {
        let followed = Arc::downgrade(self);
        std::thread::Builder::new().name("certificates".into()).spawn(move || {
            while let Some(resolver) = followed.upgrade() {
                resolver.refresh();
                drop(resolver);
                std::thread::sleep(every);
            }
        })?;
        self.is_followed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The pair in use; unless it is followed, read again first if its files changed.
    #[must_use]
    pub fn current(&self) -> Arc<CertifiedKey> {
        if !self.is_followed.load(Ordering::Relaxed) {
            self.refresh();
        }
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn refresh(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = Stamp::of_pair(&self.files);
        // What was refused is looked at again when it has changed: a writer may be between its two files.
        if stamps.is_some() && stamps == seen.taken || seen.refused == Some(stamps) {
            return;
        }
        match certified_key(&self.files) {
            Ok(fresh) => {
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                if fresh.cert != current.cert {
                    tracing::info!(certificate = %self.files.certificate.display(), "certificate renewed");
                }
                *current = Arc::new(fresh);
                *seen = Seen { taken: stamps, refused: None };
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "certificate not renewed; the last good one stays in use");
                seen.refused = Some(stamps);
            }
        }
    }
}

impl fmt::Debug for ReloadingResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReloadingResolver").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ReloadingResolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for ReloadingResolver {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Reads both files and checks that they belong together.
fn certified_key(files: &CertificateFiles) -> Result<CertifiedKey, TlsError> {
    let chain = load_chain(&files.certificate)?;
    let key = load_key(&files.key)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|source| TlsError::Pair {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    })
}

/// A pair that never changes, for [`server_config`] and [`client_config`].
///
/// # Errors
/// [`TlsError::Settings`]: the two do not belong together, or the key is of an unsupported kind.
pub fn fixed(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<SingleCertAndKey>, TlsError> {
    let pair =
        CertifiedKey::from_der(chain, key, &provider()).map_err(|error| TlsError::Settings(error.into()))?;
    Ok(Arc::new(SingleCertAndKey::from(pair)))
}

/// TLS of a server. With `client_roots` a client may show a certificate, which must then be signed by one of them;
/// a client without one is let in and left to the layers above.
///
/// # Errors
/// [`TlsError::Settings`]: the roots are empty or unusable.
pub fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    client_roots: Option<RootCertStore>,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Settings(error.into()))?;
    let builder = match client_roots {
        None => builder.with_no_client_auth(),
        Some(roots) => builder.with_client_cert_verifier(client_verifier(roots)?),
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = alpn();
    Ok(config)
}

/// A verifier of client certificates signed by one of `roots`.
///
/// # Errors
/// [`TlsError::Settings`]: the roots are empty or unusable.
pub fn client_verifier(roots: RootCertStore) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Settings(error.into()))
}

/// TLS of a server that lets every client finish its handshake, so that a wrong certificate can be answered in words
/// (401) instead of an alert. The client has proven that it owns the key of the certificate it showed, and nothing
/// more: the layer above must ask `verifier` whether that certificate means anything.
///
/// # Errors
/// [`TlsError::Settings`].
pub fn tolerant_server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Settings(error.into()))?
        .with_client_cert_verifier(Arc::new(AnyOwner(verifier)))
        .with_cert_resolver(certificate);
    config.alpn_protocols = alpn();
    Ok(config)
}

/// Checks that the client owns the certificate's key; leaves its issuer and dates to the layer above.
#[derive(Debug)]
pub(crate) struct AnyOwner(pub(crate) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyOwner {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// TLS of a client that trusts `roots` and, with `certificate`, shows its own.
///
/// # Errors
/// [`TlsError::Settings`].
pub fn client_config(
    roots: RootCertStore,
    certificate: Option<Arc<dyn ResolvesClientCert>>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Settings(error.into()))?
        .with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(certificate) => builder.with_client_cert_resolver(certificate),
    };
    config.alpn_protocols = alpn();
    Ok(config)
}

fn alpn() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    use rustls::{ClientConnection, ServerConnection};

    use super::*;

    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        pem: String,
    }

    impl Authority {
        fn new() -> Self {
            let mut params = CertificateParams::new(Vec::new()).expect("parameters");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().expect("a key");
            let pem = params.self_signed(&key).expect("a certificate").pem();
            Self { issuer: Issuer::new(params, key), pem }
        }

        /// Certificate and key in PEM, good for server `hub` and for a client.
        fn issue(&self) -> (String, String) {
            let mut params = CertificateParams::new(vec!["hub".into()]).expect("parameters");
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().expect("a key");
            (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
        }
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a temporary directory"))
        }

        /// Replaces by rename, as every careful writer of certificates does.
        fn put(&self, name: &str, text: &str) -> PathBuf {
            let (next, path) = (self.0.path().join("next"), self.0.path().join(name));
            std::fs::write(&next, text).expect("written");
            std::fs::rename(next, &path).expect("renamed");
            path
        }

        fn put_pair(&self, (certificate, key): &(String, String)) -> CertificateFiles {
            CertificateFiles { certificate: self.put("cert.pem", certificate), key: self.put("key.pem", key) }
        }

        fn roots(&self, authority: &Authority) -> RootCertStore {
            load_roots(&self.put("ca.pem", &authority.pem)).expect("an authority")
        }
    }

    /// Runs a handshake in memory; both ends after it, or the first error.
    fn handshake(
        client: ClientConfig,
        server: ServerConfig,
    ) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
        let name = "hub".try_into().expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        let mut bytes = Vec::new();
        while client.is_handshaking()
            || server.is_handshaking()
            || client.wants_write()
            || server.wants_write()
        {
            bytes.clear();
            while client.wants_write() {
                client.write_tls(&mut bytes).expect("memory");
            }
            server.read_tls(&mut bytes.as_slice()).expect("memory");
            server.process_new_packets()?;
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).expect("memory");
            }
            client.read_tls(&mut bytes.as_slice()).expect("memory");
            client.process_new_packets()?;
        }
        Ok((client, server))
    }

    fn leaf(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
    }

    #[test]
    fn a_client_certificate_is_wanted_but_not_needed_and_a_foreign_one_is_refused() {
        let (ours, foreign) = (Authority::new(), Authority::new());
        let folder = Folder::new();
        let roots = folder.roots(&ours);
        let server_pair = ReloadingResolver::new(folder.put_pair(&ours.issue())).expect("a pair");
        let server = || server_config(server_pair.clone(), Some(roots.clone())).expect("settings");
        let client = |pair: Option<(String, String)>| {
            let pair = pair.map(|(certificate, key)| {
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
                fixed(vec![leaf(&certificate)], key).expect("a pair") as Arc<dyn ResolvesClientCert>
            });
            client_config(roots.clone(), pair).expect("settings")
        };

        let (end, anonymous) = handshake(client(None), server()).expect("no certificate is let in");
        assert!(anonymous.peer_certificates().is_none());
        assert_eq!(end.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(end.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));

        let pair = ours.issue();
        let (_, known) = handshake(client(Some(pair.clone())), server()).expect("ours is let in");
        assert_eq!(known.peer_certificates(), Some(&[leaf(&pair.0)][..]));

        assert!(handshake(client(Some(foreign.issue())), server()).is_err());
        let stranger = client_config(folder.roots(&foreign), None).expect("settings");
        assert!(handshake(stranger, server()).is_err(), "a server of another authority is not trusted");
    }

    #[test]
    fn a_renewed_pair_is_used_from_the_next_handshake_on() {
        let (authority, folder) = (Authority::new(), Folder::new());
        let (first, second) = (authority.issue(), authority.issue());
        let resolver = ReloadingResolver::new(folder.put_pair(&first)).expect("a pair");
        assert_eq!(resolver.current().cert[0], leaf(&first.0));
        folder.put_pair(&second);
        let client = client_config(folder.roots(&authority), None).expect("settings");
        let server = server_config(resolver, None).expect("settings");
        let (end, _) = handshake(client, server).expect("a handshake");
        assert_eq!(end.peer_certificates(), Some(&[leaf(&second.0)][..]));
    }

    #[test]
    fn a_pair_that_is_followed_is_renewed_without_a_look_at_the_files_by_who_asks() {
        let (authority, folder) = (Authority::new(), Folder::new());
        let (first, second) = (authority.issue(), authority.issue());
        let resolver = ReloadingResolver::new(folder.put_pair(&first)).expect("a pair");
        resolver.is_followed.store(true, Ordering::Relaxed);
        folder.put_pair(&second);
        assert_eq!(resolver.current().cert[0], leaf(&first.0), "whoever follows it has not looked yet");
        resolver.follow(Duration::from_millis(1)).expect("a thread");
        while resolver.current().cert[0] != leaf(&second.0) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_pair_that_is_half_replaced_or_broken_leaves_the_last_good_one_in_use() {
        let (authority, folder) = (Authority::new(), Folder::new());
        let (first, second) = (authority.issue(), authority.issue());
        let files = folder.put_pair(&first);
        let resolver = ReloadingResolver::new(files.clone()).expect("a pair");
        for broken in [second.0.as_str(), "no PEM", ""] {
            folder.put("cert.pem", broken);
            assert_eq!(resolver.current().cert[0], leaf(&first.0), "{broken:?}");
        }
        std::fs::remove_file(&files.certificate).expect("removed");
        assert_eq!(resolver.current().cert[0], leaf(&first.0));
        folder.put_pair(&second);
        assert_eq!(resolver.current().cert[0], leaf(&second.0));
    }

    #[test]
    fn one_file_may_hold_certificate_and_key_as_the_kubelet_writes_it() {
        let (authority, folder) = (Authority::new(), Folder::new());
        let (certificate, key) = authority.issue();
        let path = folder.put("kubelet-client-current.pem", &format!("{certificate}{key}"));
        let files = CertificateFiles { certificate: path.clone(), key: path };
        assert_eq!(
            ReloadingResolver::new(files).expect("a pair").current().cert.as_slice(),
            [leaf(&certificate)]
        );
    }

    #[test]
    fn wrong_files_are_refused_by_name() {
        let (authority, folder) = (Authority::new(), Folder::new());
        let (certificate, key) = authority.issue();
        let only_key = folder.put("only-key.pem", &key);
        let only_certificate = folder.put("only-cert.pem", &certificate);
        let text = |error: TlsError| error.to_string();
        assert!(
            text(load_chain(&only_key).expect_err("no certificate")).contains("only-key.pem: no certificate")
        );
        assert!(
            text(load_key(&only_certificate).expect_err("no key")).contains("only-cert.pem: no private key")
        );
        assert!(text(load_roots(Path::new("/absent/ca")).expect_err("absent")).starts_with("/absent/ca"));
        let key = folder.put("other-key.pem", &authority.issue().1);
        let mismatch = ReloadingResolver::new(CertificateFiles { certificate: only_certificate, key });
        assert!(matches!(mismatch, Err(TlsError::Pair { .. })));
        let size = usize::try_from(MAX_PEM_BYTES).expect("fits") + 1;
        let big = folder.put("big.pem", &" ".repeat(size));
        assert!(matches!(load_chain(&big), Err(TlsError::TooLarge { .. })));
    }
}
