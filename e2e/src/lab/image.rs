//! The image of a lab's pods, made on the spot from the static program that this one carries: an OCI archive that
//! containerd imports, so that no registry is needed. The sandbox of every pod is the same image that only waits.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::error::{LabError, Result};
use super::objects::{POD_IMAGE, POD_PROGRAM, SANDBOX_IMAGE, UNUSED_IMAGE};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The program of the pods; `pod/main.rs` says what it does.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/eyot-pod"));

/// Whether the program of the pods could be built.
pub(super) fn is_there() -> bool {
    !PROGRAM.is_empty()
}

/// The images of a lab's pods: (name, what its container runs).
pub(crate) const PODS: &[(&str, [&str; 2])] =
    &[(POD_IMAGE, [POD_PROGRAM, "serve"]), (SANDBOX_IMAGE, [POD_PROGRAM, "pause"])];

/// An image that no pod uses.
pub(crate) const UNUSED: &[(&str, [&str; 2])] = &[(UNUSED_IMAGE, [POD_PROGRAM, "unused"])];

/// Writes `images` into one OCI archive at `path`.
pub(crate) fn write_archive(path: &Path, images: &[(&str, [&str; 2])]) -> Result<()> {
    let layer = layer(PROGRAM).map_err(LabError::io("write", path))?;
    let images: Vec<(&str, &[&str])> = images.iter().map(|(name, command)| (*name, &command[..])).collect();
    write_images(path, layer, &images)
}

/// Writes one image whose only layer is `files` (path in the image, file here) and whose command is the first of them.
pub(crate) fn write_program_archive(path: &Path, name: &str, files: &[(String, PathBuf)]) -> Result<()> {
    let mut layer = tar::Builder::new(Vec::new());
    for (target, source) in files {
        let bytes = fs::read(source).map_err(LabError::io("read", source))?;
        append(&mut layer, target.trim_start_matches('/'), &bytes, 0o755)
            .map_err(LabError::io("write", path))?;
    }
    let layer = layer.into_inner().map_err(LabError::io("write", path))?;
    let command: Vec<&str> = files.first().map(|(target, _)| target.as_str()).into_iter().collect();
    write_images(path, layer, &[(name, &command)])
}

fn write_images(path: &Path, layer: Vec<u8>, images: &[(&str, &[&str])]) -> Result<()> {
    let mut blobs = Blobs::default();
    let layer_descriptor = blobs.add(LAYER, layer);
    let diff_id = layer_descriptor["digest"].clone();
    let mut manifests = Vec::new();
    for (name, command) in images {
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Entrypoint": command, "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        });
        let config = blobs.add(CONFIG, config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer_descriptor],
        });
        let mut manifest = blobs.add(MANIFEST, manifest.to_string().into_bytes());
        manifest["annotations"] = json!({ "io.containerd.image.name": name });
        manifests.push(manifest);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    archive(path, &blobs, &index).map_err(LabError::io("write", path))
}

/// The content of an archive by digest.
#[derive(Default)]
struct Blobs {
    /// (hex digest, bytes).
    list: Vec<(String, Vec<u8>)>,
}

impl Blobs {
    /// Keeps `bytes` and returns its descriptor.
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = super::hex::hex(ring::digest::digest(&ring::digest::SHA256, &bytes).as_ref());
        let descriptor =
            json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() });
        self.list.push((digest, bytes));
        descriptor
    }
}

fn archive(path: &Path, blobs: &Blobs, index: &Value) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut archive = tar::Builder::new(fs::File::create(path)?);
    append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    append(&mut archive, "index.json", index.to_string().as_bytes(), 0o644)?;
    for (digest, bytes) in &blobs.list {
        append(&mut archive, &format!("blobs/sha256/{digest}"), bytes, 0o644)?;
    }
    archive.into_inner()?.flush()
}

/// The one layer: the program, and the folders that a container expects.
fn layer(program: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for (folder, mode) in [("bin/", 0o755), ("etc/", 0o755), ("state/", 0o755), ("tmp/", 0o1777)] {
        let mut header = header(0, mode);
        header.set_entry_type(tar::EntryType::Directory);
        layer.append_data(&mut header, folder, std::io::empty())?;
    }
    append(&mut layer, POD_PROGRAM.trim_start_matches('/'), program, 0o755)?;
    // kubectl cp runs `tar` in the container; the program is one, by that name.
    let mut link = header(0, 0o777);
    link.set_entry_type(tar::EntryType::Symlink);
    layer.append_link(&mut link, "bin/tar", POD_PROGRAM)?;
    layer.into_inner()
}

fn append(
    archive: &mut tar::Builder<impl std::io::Write>,
    name: &str,
    bytes: &[u8],
    mode: u32,
) -> std::io::Result<()> {
    archive.append_data(&mut header(bytes.len(), mode), name, bytes)
}

/// A header without owner and time, so that the same program gives the same digest everywhere.
fn header(size: usize, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// This machine's architecture in the words of OCI.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read as _;

    #[test]
    fn every_descriptor_of_the_archive_leads_to_the_bytes_it_names() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("images.tar");
        write_archive(&path, PODS).expect("archive");

        let mut files = BTreeMap::new();
        let mut archive = tar::Archive::new(fs::File::open(&path).expect("written"));
        for entry in archive.entries().expect("a tar") {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a name").display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            files.insert(name, bytes);
        }
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("a digest").trim_start_matches("sha256:");
            let bytes = &files[&format!("blobs/sha256/{digest}")];
            assert_eq!(
                super::super::hex::hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref()),
                digest
            );
            assert_eq!(descriptor["size"], bytes.len());
            bytes.clone()
        };
        let index = parse(&files["index.json"]);
        let manifests = index["manifests"].as_array().expect("manifests");
        let names: Vec<_> =
            manifests.iter().map(|each| each["annotations"]["io.containerd.image.name"].as_str()).collect();
        assert_eq!(names, [Some(POD_IMAGE), Some(SANDBOX_IMAGE)]);
        for descriptor in manifests {
            let manifest = parse(&blob(descriptor));
            let config = parse(&blob(&manifest["config"]));
            blob(&manifest["layers"][0]);
            assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        }
    }
}
