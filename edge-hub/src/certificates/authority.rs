//! The hub's serving certificate when the operator gave none: a CA of this node alone, made at first start.
//!
//! The CA's certificate is what pods must trust; its key never leaves the state directory. The leaf is made anew at
//! every start, so that a changed listen address is always covered.

use std::{
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use proto_daemon::tls::CertificateFiles;

/// Ten years: the certificate of a node that stays cut off must not end its autonomy.
const VALIDITY_DAYS: i64 = 3650;

/// Why no serving certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The CA's own files are damaged.
    #[error(
        "{path} is damaged ({source}); remove the folder to have a new per-node CA made, then restart the pods"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rcgen::Error,
    },
    /// Signing failed.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// Makes sure that `directory` holds a CA (`ca.crt`, `ca.key`) and a fresh leaf (`serving.crt`, `serving.key`) for
/// the node's name, `localhost`, the in-cluster names and `addresses`. `now` dates the certificates.
///
/// # Errors
/// [`CertificateError`].
pub fn ensure_serving(
    directory: &Path,
    node_name: &str,
    addresses: &[IpAddr],
    now: time::OffsetDateTime,
) -> Result<CertificateFiles, CertificateError> {
    fs::create_dir_all(directory)
        .map_err(|source| CertificateError::File { path: directory.to_owned(), source })?;
    let ca_path = directory.join("ca.crt");
    let ca_key_path = directory.join("ca.key");
    if !ca_path.exists() || !ca_key_path.exists() {
        let (certificate, key) = make_ca(node_name, now)?;
        write_private(&ca_key_path, &key)?;
        write_private(&ca_path, &certificate)?;
    }
    let damaged = |path: &Path| {
        let path = path.to_owned();
        move |source| CertificateError::Damaged { path, source }
    };
    let ca_key = KeyPair::from_pem(&read(&ca_key_path)?).map_err(damaged(&ca_key_path))?;
    let issuer = Issuer::from_ca_cert_pem(&read(&ca_path)?, ca_key).map_err(damaged(&ca_path))?;

    let mut params = CertificateParams::new(vec![
        node_name.to_owned(),
        "localhost".to_owned(),
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        "kubernetes.default.svc.cluster.local".to_owned(),
    ])?;
    params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
    params.distinguished_name.push(DnType::CommonName, format!("edge-hub {node_name}"));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    set_validity(&mut params, now);
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, &issuer)?;
    let files =
        CertificateFiles { certificate: directory.join("serving.crt"), key: directory.join("serving.key") };
    let written = write_private(&files.key, &key.serialize_pem())
        .and_then(|()| write_private(&files.certificate, &leaf.pem()));
    match written {
        // A disk that is full or read-only: a key of before with a certificate of now would not fit, but the key is
        // written first, so that both are of before.
        Err(error) if is_pair(&files) => {
            tracing::warn!(%error, "the serving certificate cannot be made anew; the one of the last start stays");
            Ok(files)
        }
        other => other.map(|()| files),
    }
}

/// The certificate of the CA in `directory`, as PEM.
///
/// # Errors
/// [`CertificateError::File`].
pub fn pem(directory: &Path) -> Result<String, CertificateError> {
    read(&directory.join("ca.crt"))
}

/// Whether certificate and key are there and belong to each other.
fn is_pair(files: &CertificateFiles) -> bool {
    proto_daemon::tls::ReloadingResolver::new(files.clone()).is_ok()
}

fn make_ca(node_name: &str, now: time::OffsetDateTime) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("edge-hub CA of {node_name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params, now);
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn set_validity(params: &mut CertificateParams, now: time::OffsetDateTime) {
    // A day of grace on the left: edge clocks jump when they first hear of the time.
    params.not_before = now - time::Duration::days(1);
    params.not_after = now + time::Duration::days(VALIDITY_DAYS);
}

fn read(path: &Path) -> Result<String, CertificateError> {
    fs::read_to_string(path).map_err(|source| CertificateError::File { path: path.to_owned(), source })
}

/// Writes beside, syncs, renames: a power cut leaves the old file or the new one.
fn write_private(path: &Path, text: &str) -> Result<(), CertificateError> {
    let beside = path.with_extension("new");
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        // The rename itself is durable with its folder alone: an authority that pods trust must not be made twice.
        fs::File::open(path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
    };
    write().map_err(|source| CertificateError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ca_stays_and_the_leaf_is_new() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let now = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("a date");
        let address = [IpAddr::from([127, 0, 0, 1])];
        let first = ensure_serving(folder.path(), "a", &address, now).expect("made");
        let ca = fs::read(folder.path().join("ca.crt")).expect("there");
        let leaf = fs::read(&first.certificate).expect("there");
        ensure_serving(folder.path(), "a", &address, now).expect("made again");
        assert_eq!(fs::read(folder.path().join("ca.crt")).expect("there"), ca);
        assert_ne!(fs::read(&first.certificate).expect("there"), leaf);
    }

    #[test]
    fn a_disk_that_takes_no_new_leaf_keeps_the_one_of_before() {
        proto_daemon::tls::install_provider();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let now = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("a date");
        // A folder stands where the new file would be written.
        fs::create_dir(folder.path().join("serving.new")).expect("made");
        ensure_serving(folder.path(), "a", &[], now).expect_err("there is none of before");
        fs::remove_dir(folder.path().join("serving.new")).expect("removed");
        let files = ensure_serving(folder.path(), "a", &[], now).expect("made");
        let leaf = fs::read(&files.certificate).expect("there");
        fs::create_dir(folder.path().join("serving.new")).expect("made");
        ensure_serving(folder.path(), "a", &[], now).expect("the one of before is good");
        assert_eq!(fs::read(&files.certificate).expect("there"), leaf);
    }

    #[test]
    fn a_damaged_ca_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("ca.crt"), "x").expect("written");
        fs::write(folder.path().join("ca.key"), "x").expect("written");
        let now = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("a date");
        let error = ensure_serving(folder.path(), "a", &[], now).expect_err("refused");
        assert!(error.to_string().contains("ca.key"), "{error}");
    }
}
