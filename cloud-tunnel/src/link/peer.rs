//! Who is at the other end: what its certificate says, and nothing that it says itself.

use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

/// The user name that the certificates of nodes begin with.
const NODE_PREFIX: &str = "system:node:";

fn common_name<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    certificate.subject().iter_common_name().next()?.as_str().ok()
}

/// The node that the leaf of `chain` speaks for: its subject is `system:node:NAME`.
///
/// # Errors
/// What it is instead.
pub fn node_of(chain: Option<&[CertificateDer<'_>]>) -> Result<String, String> {
    let leaf = chain.and_then(<[_]>::first).ok_or("no certificate was shown")?;
    let (_, certificate) =
        x509_parser::parse_x509_certificate(leaf).map_err(|_| "the certificate cannot be read")?;
    let name = common_name(&certificate).unwrap_or_default();
    let node = name.strip_prefix(NODE_PREFIX).filter(|node| !node.is_empty());
    node.map(str::to_owned).ok_or_else(|| format!("the certificate is {name:?}'s, and no node's"))
}

/// In how many seconds the certificate of `pair` ends, negative if it has; `None` if it cannot be read.
#[must_use]
pub fn expires_in(pair: &CertifiedKey, unix_seconds: u64) -> Option<i64> {
    let (_, leaf) = x509_parser::parse_x509_certificate(pair.cert.first()?).ok()?;
    Some(leaf.validity().not_after.timestamp() - i64::try_from(unix_seconds).unwrap_or(i64::MAX))
}
