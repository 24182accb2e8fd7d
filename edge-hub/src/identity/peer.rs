//! What a client's TLS certificate says of it.

use std::time::Duration;

use edge_hub_core::{clock::Now, identity::Principal};
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;

use crate::certificates::expiry::Validity;

/// What the TLS handshake told of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// No client certificate.
    Anonymous,
    /// This node's own certificate, which holds within its time: a connection may outlast that, and the clock change.
    Node(Validity),
    /// A certificate of somebody else; its subject's common name.
    Foreign(String),
    /// A certificate that does not hold, and why.
    Invalid(String),
}

impl Peer {
    /// Judges the chain that a client showed; the handshake proved no more than that it owns the leaf's key.
    pub fn of(
        certificates: Option<&[CertificateDer<'_>]>,
        node: &Principal,
        verifier: &dyn ClientCertVerifier,
        now: Now,
    ) -> Self {
        let Some((leaf, chain)) = certificates.and_then(<[_]>::split_first) else { return Self::Anonymous };
        let verify = |unix| verifier.verify_client_cert(leaf, chain, UnixTime::since_unix_epoch(unix));
        let verified = verify(now.unix);
        let parsed = x509_parser::parse_x509_certificate(leaf);
        let certificate = match (parsed, &verified) {
            (Ok((_, certificate)), _) => certificate,
            (Err(_), Ok(_)) => return Self::Foreign("unreadable".to_owned()),
            (Err(_), Err(error)) => return Self::Invalid(error.to_string()),
        };
        let validity = Validity::of(&certificate);
        let out_of_date = match verified {
            Ok(_) => None,
            // Wrong with it is the moment alone, and that of its own time, not of its authority's.
            Err(error) => match its_own_time(&error, &certificate).map(verify) {
                Some(Ok(_)) if !validity.holds(now.unix) => Some(error.to_string()),
                _ => return Self::Invalid(error.to_string()),
            },
        };
        let subject = certificate.subject();
        let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
        let organizations =
            subject.iter_organization().filter_map(|name| name.as_str().ok().map(str::to_owned));
        let groups = organizations.chain([String::from("system:authenticated")]);
        match (Principal::new(name, groups) == *node, out_of_date) {
            (true, _) => Self::Node(validity),
            (false, None) => Self::Foreign(name.to_owned()),
            (false, Some(why)) => Self::Invalid(why),
        }
    }
}

/// A moment at which the certificate is in force, if all that is wrong with it may be the moment.
fn its_own_time(error: &rustls::Error, certificate: &X509Certificate<'_>) -> Option<Duration> {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let rustls::Error::InvalidCertificate(error) = error else { return None };
    let validity = certificate.validity();
    let seconds = match error {
        Expired | ExpiredContext { .. } => validity.not_after.timestamp(),
        NotValidYet | NotValidYetContext { .. } => validity.not_before.timestamp(),
        _ => return None,
    };
    u64::try_from(seconds).ok().map(Duration::from_secs)
}
