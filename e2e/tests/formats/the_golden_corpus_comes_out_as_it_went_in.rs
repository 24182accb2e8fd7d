//! Every object of Kubernetes' own golden corpus, of every version in it, goes through scanner, editor, splice and
//! transcoder: protobuf comes out byte for byte, JSON as Kubernetes wrote it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proto_kube::edit::{self, Rewrite};
use proto_kube::list::{ListHead, encode_document, encode_list, split_document, split_list};
use proto_kube::media_type::Format;
use proto_kube::object::{TypeMeta, annotations, labels, scan};
use proto_kube::transcode::{TranscodeError, to_json};
use proto_kube::wire;
use serde_json::Value;

use crate::go_modules::GoModules;

const NEWEST: &str = "HEAD";
const MAGIC: &[u8] = b"k8s\0";
const METADATA: u32 = 1;
const MANAGED_FIELDS: u32 = 17;
const MAX_BYTES: usize = 1 << 20;

/// One object of the corpus in all its forms.
struct Golden {
    /// `v1.34.0/apps.v1.Deployment`.
    name: String,
    protobuf: Bytes,
    json: Bytes,
    /// What Kubernetes of the newest version makes of it.
    read_by_newest: Value,
}

/// The objects of one version, and their file names without endings.
fn version(folder: &Path, version: &str) -> Vec<(String, Golden)> {
    let folder = folder.join(version);
    let read = |name: String| std::fs::read(folder.join(name)).map(Bytes::from);
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).expect("the corpus is readable") {
        let name = entry.expect("the corpus is readable").file_name().to_string_lossy().into_owned();
        names.extend(
            name.strip_suffix(".pb").filter(|name| !name.contains("after_roundtrip")).map(str::to_owned),
        );
    }
    let golden = |name: &str| {
        let json = read(format!("{name}.json")).expect("each object is there in JSON, too");
        let after = read(format!("{name}.after_roundtrip.json")).unwrap_or_else(|_| json.clone());
        Golden {
            name: format!("{version}/{name}"),
            protobuf: read(format!("{name}.pb")).expect("the corpus is readable"),
            json,
            read_by_newest: serde_json::from_slice(&after).expect("the corpus is JSON"),
        }
    };
    names.into_iter().map(|name| (name.clone(), golden(&name))).collect()
}

fn versions(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the corpus is readable");
    let folders =
        entries.map(|entry| entry.expect("the corpus is readable")).filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> =
        folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn corpus(test: &str) -> Option<PathBuf> {
    let modules = GoModules::or_skip(test)?;
    Some(modules.package("k8s.io/api/testdata").expect("k8s.io/api is one of the modules"))
}

#[test]
fn golden_corpus() {
    let Some(folder) = corpus("the_golden_corpus_comes_out_as_it_went_in") else { return };
    let versions = versions(&folder);
    assert!(versions.len() >= 3 && versions.contains(&NEWEST.to_owned()), "a corpus of {versions:?}");
    let newest: BTreeSet<String> = version(&folder, NEWEST).into_iter().map(|(name, _)| name).collect();
    let mut counts = Vec::new();
    for name in &versions {
        let (mut passed, mut gone) = (0, Vec::new());
        for (file, golden) in version(&folder, name) {
            golden.splits_and_joins();
            golden.scans_alike();
            golden.edits_keep_the_rest();
            if golden.transcodes() {
                passed += 1;
            } else {
                assert!(!newest.contains(&file), "{}: a kind that the descriptor must know", golden.name);
                gone.push(file);
            }
        }
        counts.push(format!("{name}: {passed} kinds equal, {} no longer in Kubernetes {gone:?}", gone.len()));
    }
    println!("{}", counts.join("\n"));
}

impl Golden {
    /// Type and bare message. A watch event is no document: it does not say its own type.
    fn message(&self) -> (TypeMeta, Bytes) {
        if !self.is_document() {
            let unknown = self.protobuf.slice(MAGIC.len()..);
            let raw =
                wire::last(&unknown, 2).expect("well formed").expect("a message").bytes().expect("bytes");
            return (TypeMeta::new("v1", "WatchEvent"), unknown.slice_ref(raw));
        }
        split_document(Format::PROTOBUF, &self.protobuf).expect("a document")
    }

    fn raw(&self) -> Bytes {
        self.message().1
    }

    fn is_document(&self) -> bool {
        self.read_by_newest.get("kind").is_some()
    }

    /// Whether the object has an ObjectMeta; options and reviews of a moment have none.
    fn has_metadata(&self) -> bool {
        self.read_by_newest["metadata"]["uid"].is_string()
    }

    fn splits_and_joins(&self) {
        if !self.is_document() {
            return assert!(self.name.ends_with("/core.v1.WatchEvent"), "{} has no kind", self.name);
        }
        let name = &self.name;
        for (format, body) in [(Format::PROTOBUF, &self.protobuf), (Format::JSON, &self.json)] {
            let (type_meta, raw) =
                split_document(format, body).unwrap_or_else(|error| panic!("{name}: {error}"));
            let again = encode_document(format, &type_meta, &raw);
            assert!(again.trim_ascii_end() == body.trim_ascii_end(), "{name}: the document changed");
            let list_kind = format!("{}List", type_meta.kind);
            let head = ListHead {
                type_meta: TypeMeta::new(type_meta.api_version.clone(), list_kind),
                resource_version: "42".into(),
                continue_token: "more".into(),
                columns: None,
            };
            let items = [raw.clone(), raw.clone(), raw];
            let list = Bytes::from(encode_list(format, &head, items.iter().cloned()).concat());
            let (read_head, read) =
                split_list(format, &list).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(read_head, head, "{name}");
            assert!(read == items, "{name}: an item changed in a list");
            let again = encode_list(format, &read_head, read.into_iter()).concat();
            assert!(again == list, "{name}: the list changed");
        }
    }

    fn scans_alike(&self) {
        if !self.has_metadata() {
            return;
        }
        let (raw, name) = (self.raw(), &self.name);
        let protobuf = scan(Format::PROTOBUF, &raw).expect("metadata");
        let json = scan(Format::JSON, &self.json).expect("metadata");
        assert_eq!(protobuf, json, "{name}");
        assert!(!protobuf.uid.is_empty(), "{name}");
        assert_eq!(labels(Format::PROTOBUF, &raw), labels(Format::JSON, &self.json), "{name}");
        assert_eq!(annotations(Format::PROTOBUF, &raw), annotations(Format::JSON, &self.json), "{name}");
    }

    fn edits_keep_the_rest(&self) {
        if !self.has_metadata() {
            return;
        }
        let (raw, name) = (self.raw(), &self.name);
        let version = scan(Format::PROTOBUF, &raw).expect("metadata").resource_version.into_owned();
        let same = edit::with_resource_version(Format::PROTOBUF, &raw, &version).expect("an edit");
        assert!(same == raw, "{name}: its own version changed it");
        let kept = edit::rewrite(&raw, &[METADATA], &mut |_| Ok(Rewrite::Keep)).expect("an edit");
        assert!(kept == raw, "{name}: keeping everything changed it");

        let metadata =
            wire::last(&raw, METADATA).expect("well formed").expect("metadata").bytes().expect("bytes");
        let managed = wire::last(metadata, MANAGED_FIELDS).expect("well formed").expect("managedFields");
        let without = edit::remove(&raw, &[METADATA, MANAGED_FIELDS]).expect("an edit");
        assert!(without.len() < raw.len(), "{name}: managedFields stayed");
        let managed = managed.bytes().expect("bytes");
        let again = edit::append(&without, &[METADATA, MANAGED_FIELDS], managed).expect("an edit");
        assert!(again == raw, "{name}: managedFields did not go back to their place");
    }

    /// Whether the descriptor knows the kind; then its JSON must be that of Kubernetes.
    fn transcodes(&self) -> bool {
        let name = &self.name;
        let (type_meta, raw) = self.message();
        let made = match to_json(&type_meta, &raw, MAX_BYTES) {
            Err(TranscodeError::Unknown { .. }) => return false,
            made => made.unwrap_or_else(|error| panic!("{name}: {error}")),
        };
        let made: Value = serde_json::from_slice(&made).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut expected = self.read_by_newest.clone();
        let members = expected.as_object_mut().expect("an object");
        members.retain(|key, _| !["kind", "apiVersion"].contains(&key.as_str()));
        // kube-apiserver names the type of a StatefulSet's claims; the corpus is made without that step.
        if &*type_meta.kind == "StatefulSet" {
            for claim in expected["spec"]["volumeClaimTemplates"].as_array_mut().expect("claims") {
                (claim["kind"], claim["apiVersion"]) = ("PersistentVolumeClaim".into(), "v1".into());
            }
        }
        if made != expected {
            panic!("{name}:\nmade     {made}\nexpected {expected}");
        }
        true
    }
}
