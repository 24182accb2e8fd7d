//! The lab's certificate authority and what it signs: one authority for servers and clients, keys of P-256.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use super::error::{LabError, Result};

/// How long the certificates of a lab hold, where nobody asks for another end.
pub(crate) const LIFETIME: Duration = Duration::days(365);

/// A certificate and its key as files in PEM.
#[derive(Debug, Clone)]
pub(crate) struct KeyPairFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl KeyPairFiles {
    /// `FOLDER/STEM.crt` and `FOLDER/STEM.key`.
    pub(crate) fn at(folder: &Path, stem: &str) -> Self {
        KeyPairFiles {
            certificate: folder.join(format!("{stem}.crt")),
            key: folder.join(format!("{stem}.key")),
        }
    }

    fn write(&self, certificate: &str, key: &str) -> Result<()> {
        write_private(&self.certificate, certificate)?;
        write_private(&self.key, key)
    }
}

/// Who a certificate speaks for, and to whom.
pub(crate) enum Subject<'a> {
    /// A client: user name (CN) and groups (O).
    Client {
        /// The Kubernetes user name.
        user: &'a str,
        /// Its groups.
        groups: &'a [&'a str],
    },
    /// A server: the names and addresses that clients reach it by.
    Server {
        /// The common name.
        name: &'a str,
        /// DNS names.
        dns: &'a [&'a str],
        /// Addresses.
        addresses: &'a [IpAddr],
    },
    /// A member of a pool, client and server.
    Member {
        /// `eyot://POOL/NODE`.
        uri: &'a str,
    },
}

/// The lab's certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// Makes a new authority and writes it as `FOLDER/ca.crt` and `FOLDER/ca.key`.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(LabError::io("create", folder))?;
        let params = authority_params();
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        KeyPairFiles::at(folder, "ca").write(&pem, &key.serialize_pem())?;
        Ok(Authority { issuer: Issuer::new(params, key), pem })
    }

    /// The authority that [`Authority::create`] left in `folder`.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let files = KeyPairFiles::at(folder, "ca");
        let read = |path: &Path| fs::read_to_string(path).map_err(LabError::io("read", path));
        let key = KeyPair::from_pem(&read(&files.key)?)?;
        Ok(Authority { issuer: Issuer::new(authority_params(), key), pem: read(&files.certificate)? })
    }

    /// The authority's certificate in PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs a new key for `subject` and writes both files.
    pub(crate) fn issue(&self, subject: &Subject<'_>, files: &KeyPairFiles) -> Result<()> {
        self.issue_for(subject, files, LIFETIME).map(drop)
    }

    /// As [`Authority::issue`], for a certificate that holds for `lifetime` from now; returns its end.
    pub(crate) fn issue_for(
        &self,
        subject: &Subject<'_>,
        files: &KeyPairFiles,
        lifetime: Duration,
    ) -> Result<OffsetDateTime> {
        let mut params = match subject {
            Subject::Client { user, groups } => params(user, groups),
            Subject::Server { name, .. } => params(name, &[]),
            Subject::Member { uri } => params(uri, &[]),
        };
        let end = OffsetDateTime::now_utc() + lifetime;
        params.not_after = end;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        match subject {
            Subject::Member { uri } => {
                params.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
                params.subject_alt_names = vec![rcgen::SanType::URI((*uri).try_into()?)];
            }
            Subject::Client { .. } => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            Subject::Server { dns, addresses, .. } => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                for name in *dns {
                    params.subject_alt_names.push(rcgen::SanType::DnsName((*name).try_into()?));
                }
                params.subject_alt_names.extend(addresses.iter().map(|ip| rcgen::SanType::IpAddress(*ip)));
            }
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        files.write(&certificate.pem(), &key.serialize_pem())?;
        Ok(end)
    }
}

fn authority_params() -> CertificateParams {
    let mut params = params("eyot-lab-ca", &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

/// Makes the key that signs ServiceAccount tokens: `FOLDER/service-account.key` and `.pub`, both PEM.
pub(crate) fn create_service_account_key(folder: &Path) -> Result<()> {
    let key = KeyPair::generate()?;
    write_private(&folder.join("service-account.key"), &key.serialize_pem())?;
    write_private(&folder.join("service-account.pub"), &key.public_key_pem())
}

fn params(name: &str, groups: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    let now = OffsetDateTime::now_utc();
    // A little before now, for a second machine whose clock is behind.
    params.not_before = now - Duration::minutes(5);
    params.not_after = now + LIFETIME;
    params
}

/// Writes a file that only its owner may read, in one step that leaves no half-written file under the name.
pub(crate) fn write_private(path: &Path, content: &str) -> Result<()> {
    let partial = path.with_added_extension("partial");
    fs::write(&partial, content).map_err(LabError::io("write", &partial))?;
    let owner_only = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&partial, owner_only).map_err(LabError::io("protect", &partial))?;
    fs::rename(&partial, path).map_err(LabError::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_group_is_kept_and_keys_are_private() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let authority = Authority::create(folder.path()).expect("authority");
        let files = KeyPairFiles::at(folder.path(), "node-1");
        let subject = Subject::Client { user: "system:node:node-1", groups: &["system:nodes"] };
        authority.issue(&subject, &files).expect("issued");
        let mode = fs::metadata(&files.key).expect("written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(
            fs::read_to_string(&files.certificate).expect("written").starts_with("-----BEGIN CERTIFICATE")
        );
        assert!(authority.pem().starts_with("-----BEGIN CERTIFICATE"));
    }
}
