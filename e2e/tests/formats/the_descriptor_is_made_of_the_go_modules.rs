//! The shipped descriptor of the Kubernetes API is, byte for byte, what the Go modules of the lab's version give.
//!
//! `EYOT_WRITE_DESCRIPTOR=1 cargo test -p e2e --test formats descriptor` writes it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proto_kube::descriptor::{Descriptor, Flags, OPTION, Shape};
use proto_kube::wire::{put_bytes, put_varint_field};
use protox::file::{File, FileResolver};
use protox::prost_reflect::prost_types::field_descriptor_proto::Label;
use protox::prost_reflect::prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto};

use crate::go_modules::GoModules;
use crate::go_source::{GoField, GoPackage};

const WRITE: &str = "EYOT_WRITE_DESCRIPTOR";
/// The modules with kinds of their own; what they import comes with them.
const WITH_KINDS: [&str; 3] = ["k8s.io/api", "k8s.io/apiextensions-apiserver", "k8s.io/kube-aggregator"];
/// The Go types that write their JSON by themselves, and how. No message may use any other such type.
const MARSHALERS: [(&str, Shape); 10] = [
    ("FieldsV1", Shape::Raw),
    ("IntOrString", Shape::IntOrString),
    ("JSON", Shape::Raw),
    ("JSONSchemaPropsOrArray", Shape::ListOrMessage),
    ("JSONSchemaPropsOrBool", Shape::MessageOrBool),
    ("JSONSchemaPropsOrStringArray", Shape::ListOrMessage),
    ("MicroTime", Shape::MicroTime),
    ("Quantity", Shape::Quantity),
    ("RawExtension", Shape::Raw),
    ("Time", Shape::Time),
];

/// Lists of whole objects whose kind and version kube-apiserver writes, by a conversion that no tag tells of.
const TYPED: (&str, &str) = ("StatefulSetSpec", "volumeClaimTemplates");

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/kube/descriptor/kubernetes.binpb")
}

#[test]
fn descriptor() {
    let name = "the_descriptor_is_made_of_the_go_modules";
    let Some(modules) = GoModules::or_skip(name) else { return };
    let made = Generator::new(&modules).set();
    Descriptor::parse(made.clone().leak()).expect("the set can be read");
    if std::env::var_os(WRITE).is_some_and(|value| value == "1") {
        std::fs::write(shipped(), &made).expect("the set can be written");
    }
    let shipped = std::fs::read(shipped()).expect("the set is shipped");
    assert!(
        shipped == made,
        "the shipped set ({} bytes) is not what the modules give ({} bytes); {WRITE}=1 writes it anew",
        shipped.len(),
        made.len()
    );
    let notice = std::fs::read_to_string(shipped_notice()).expect("the notice is shipped");
    for (module, version, _) in modules.all() {
        assert!(
            notice.contains(&format!("{module} {version}")),
            "the notice does not name {module} {version}"
        );
    }
}

fn shipped_notice() -> PathBuf {
    shipped().with_file_name("NOTICE")
}

/// Finds `generated.proto` files by their import paths, which are Go package paths.
struct GoResolver(GoModules);

impl FileResolver for GoResolver {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let package = name.strip_suffix("/generated.proto").and_then(|package| self.0.package(package));
        let folder = package.ok_or_else(|| protox::Error::file_not_found(name))?;
        let text = std::fs::read_to_string(folder.join("generated.proto"))
            .map_err(|_| protox::Error::file_not_found(name))?;
        File::from_source(name, &text)
    }
}

/// Import paths of the `generated.proto` files below `folder`.
fn proto_files(module: &str, folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("a module's folder is readable") {
        let path = entry.expect("a module's folder is readable").path();
        let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
        if path.is_dir() {
            proto_files(&format!("{module}/{name}"), &path, found);
        } else if name == "generated.proto" {
            found.insert(format!("{module}/{name}"));
        }
    }
}

/// The path of the Go package that a file was generated from.
fn go_path(file: &FileDescriptorProto) -> &str {
    let go = file.options.as_ref().and_then(|options| options.go_package.as_deref());
    go.expect("a file names its Go package")
}

struct Generator {
    files: Vec<FileDescriptorProto>,
    /// By path.
    packages: BTreeMap<String, GoPackage>,
    /// Full names of the messages that some field refers to.
    used: BTreeSet<String>,
}

impl Generator {
    fn new(modules: &GoModules) -> Self {
        let mut names = BTreeSet::new();
        for (module, _, folder) in modules.all().filter(|(module, ..)| WITH_KINDS.contains(module)) {
            proto_files(module, folder, &mut names);
        }
        let mut compiler = protox::Compiler::with_file_resolver(GoResolver(modules.clone()));
        compiler.include_imports(true).include_source_info(false);
        compiler.open_files(&names).expect("what Kubernetes ships compiles");
        let mut files = compiler.file_descriptor_set().file;
        files.sort_by(|one, other| one.name.cmp(&other.name));
        let packages = files
            .iter()
            .map(|file| {
                let folder = modules.package(go_path(file)).expect("a file's Go package is in a module");
                (go_path(file).to_owned(), GoPackage::read(&folder).expect("Go source is readable"))
            })
            .collect();
        let fields = files.iter().flat_map(|file| &file.message_type).flat_map(|message| {
            message.field.iter().chain(message.nested_type.iter().flat_map(|entry| &entry.field))
        });
        let used = fields.map(|field| field.type_name().to_owned()).collect();
        Self { files, packages, used }
    }

    fn set(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for file in &self.files {
            put_bytes(&mut out, 1, &self.file(file));
        }
        out
    }

    fn file(&self, file: &FileDescriptorProto) -> Vec<u8> {
        let go = &self.packages[go_path(file)];
        let mut out = Vec::new();
        put_bytes(&mut out, 1, file.name().as_bytes());
        put_bytes(&mut out, 2, file.package().as_bytes());
        for dependency in &file.dependency {
            put_bytes(&mut out, 3, dependency.as_bytes());
        }
        for message in &file.message_type {
            let full_name = format!(".{}.{}", file.package(), message.name());
            if let Some(shape) = self.shape(go, message, &full_name) {
                put_bytes(&mut out, 4, &self.message(go, message, &full_name, shape));
            }
        }
        if let Some(group) = &go.group {
            let version = file.package().rsplit('.').next().expect("a package has a last part");
            let api_version =
                if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
            let mut options = Vec::new();
            put_bytes(&mut options, OPTION, api_version.as_bytes());
            put_bytes(&mut out, 8, &options);
        }
        out
    }

    /// How Go writes this message; `None` for one that nothing refers to and that is no kind or cannot be written.
    fn shape(&self, go: &GoPackage, message: &DescriptorProto, full_name: &str) -> Option<Shape> {
        if go.group.is_none() && !self.used.contains(full_name) {
            return None;
        }
        if go.is_slice(message.name()) {
            let [items] = message.field.as_slice() else {
                panic!("{full_name} wraps a slice in many fields")
            };
            assert_eq!((items.number(), items.label()), (1, Label::Repeated), "{full_name}");
            return Some(Shape::List);
        }
        if !go.is_marshaler(message.name()) {
            return Some(Shape::Object);
        }
        let known = MARSHALERS.iter().find(|(name, _)| *name == message.name()).map(|(_, shape)| *shape);
        assert!(
            known.is_some() || !self.used.contains(full_name),
            "{full_name} writes its JSON by itself, in a way that has no shape yet"
        );
        known
    }

    /// A message with its fields and its map entries, which have no Go source of their own.
    fn message(&self, go: &GoPackage, message: &DescriptorProto, full_name: &str, shape: Shape) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, message.name().as_bytes());
        for field in &message.field {
            let tags = (shape == Shape::Object).then(|| self.go_field(go, message, field, full_name));
            put_bytes(&mut out, 2, &write_field(field, tags, (message.name(), field.name()) == TYPED));
        }
        for entry in &message.nested_type {
            let mut nested = Vec::new();
            put_bytes(&mut nested, 1, entry.name().as_bytes());
            for field in &entry.field {
                put_bytes(&mut nested, 2, &write_field(field, None, false));
            }
            // MessageOptions.map_entry
            let mut options = Vec::new();
            put_varint_field(&mut options, 7, 1);
            put_bytes(&mut nested, 7, &options);
            put_bytes(&mut out, 3, &nested);
        }
        if shape != Shape::Object {
            let code = Shape::ALL.iter().find(|(_, known)| *known == shape).expect("every shape is listed").0;
            let mut options = Vec::new();
            put_varint_field(&mut options, OPTION, code);
            put_bytes(&mut out, 7, &options);
        }
        out
    }

    fn go_field<'a>(
        &'a self,
        go: &'a GoPackage,
        message: &DescriptorProto,
        field: &FieldDescriptorProto,
        full_name: &str,
    ) -> &'a GoField {
        let fields = match go.foreign(message.name()) {
            Some((package, name)) => self.packages.get(package).and_then(|package| package.fields(name)),
            None => go.fields(message.name()),
        };
        let fields = fields.unwrap_or_else(|| panic!("no Go struct for {full_name}"));
        let found = fields.get(&field.number());
        let found = found.unwrap_or_else(|| panic!("no Go field for {full_name}.{}", field.name()));
        assert!(found.inline == found.json_name.is_empty(), "{full_name}.{}: no JSON name", field.name());
        assert!(found.json_name != "-", "{full_name}.{} is not in the JSON", field.name());
        assert!(
            !found.omit_zero || field.type_name().ends_with(".meta.v1.Time"),
            "{full_name}.{}: omitzero is known of times only",
            field.name()
        );
        found
    }
}

fn write_field(field: &FieldDescriptorProto, tags: Option<&GoField>, typed: bool) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, field.name().as_bytes());
    let number = |number: i32| u64::try_from(number).expect("a number of a field, label or type is positive");
    put_varint_field(&mut out, 3, number(field.number()));
    // Required (of proto2) says nothing that optional does not to a reader of what was written.
    put_varint_field(&mut out, 4, if field.label() == Label::Repeated { 3 } else { 1 });
    put_varint_field(&mut out, 5, number(field.r#type().into()));
    if !field.type_name().is_empty() {
        put_bytes(&mut out, 6, field.type_name().as_bytes());
    }
    let Some(tags) = tags else { return out };
    let flags = [
        (tags.inline, Flags::INLINE),
        (tags.omit_empty, Flags::OMIT_EMPTY),
        (tags.omit_zero, Flags::OMIT_ZERO),
        (tags.pointer, Flags::POINTER),
        (typed, Flags::TYPED),
    ];
    let flags = flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag);
    if flags != 0 {
        let mut options = Vec::new();
        put_varint_field(&mut options, OPTION, flags.into());
        put_bytes(&mut out, 8, &options);
    }
    if !tags.inline && tags.json_name != field.name() {
        put_bytes(&mut out, 10, tags.json_name.as_bytes());
    }
    out
}
