//! TLS of a link: version 1.3 only, both certificates verified, no resumption, one protocol name.

use std::sync::Arc;

use proto::tunnel::ALPN;
use proto_daemon::tls::{self, ReloadingResolver, TlsError};
use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> TlsError {
    TlsError::Settings(Box::new(error))
}

/// TLS of the server: agents must show a certificate that one of `roots` signed.
///
/// # Errors
/// [`TlsError::Settings`].
pub fn server(own: Arc<ReloadingResolver>, roots: RootCertStore) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider());
    let verifier = verifier.build().map_err(refused)?;
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(refused)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(own);
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session shows no certificate: one that ended meanwhile would go on.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// TLS of the agent: the server must show a certificate that one of `roots` signed.
///
/// # Errors
/// [`TlsError::Settings`].
pub fn client(own: Arc<ReloadingResolver>, roots: RootCertStore) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(refused)?
        .with_root_certificates(roots)
        .with_client_cert_resolver(own);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}
