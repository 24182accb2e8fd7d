//! What the messages of the Kubernetes API look like: numbers, JSON names, and Go's rules for what is left out.
//!
//! The table is read once, on first use, from a `google.protobuf.FileDescriptorSet` that travels in the program; its
//! names stay slices of that text. Protobuf's own options do not say how Go writes JSON, so the set carries that in
//! one option of ours, numbered [`OPTION`]: a file's is the `apiVersion` of its kinds, a message's its [`Shape`], a
//! field's its [`Flags`]. A `json_name` is there only where it differs from the field's name.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::LazyLock;

use crate::object::TypeMeta;
use crate::wire::{self, Field as WireField, Value, WireError};

/// The set, made by `e2e/tests/formats`; see the NOTICE beside it.
static KUBERNETES: &[u8] = include_bytes!("../descriptor/kubernetes.binpb");
static TABLE: LazyLock<Descriptor> =
    LazyLock::new(|| Descriptor::parse(KUBERNETES).expect("the set that was shipped is well formed"));

/// The number of our option of files, messages and fields, from the range left to private use.
pub const OPTION: u32 = 50_510;
/// The group version whose kinds belong to every other one, too (`Status`, `DeleteOptions`).
const META: &str = "meta.k8s.io/v1";

/// How Go writes a message as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// An object of its fields.
    Object,
    /// The array in field 1: a Go slice, which protobuf has to wrap.
    List,
    /// RFC 3339 with whole seconds, of {1: seconds}.
    Time,
    /// RFC 3339 with microseconds, of {1: seconds, 2: nanoseconds}.
    MicroTime,
    /// The string in field 1, `0` when there is none.
    Quantity,
    /// A number or a string, of {1: type, 2: number, 3: string}.
    IntOrString,
    /// The JSON text in field 1.
    Raw,
    /// The array in field 2 where it has elements, else the message in field 1.
    ListOrMessage,
    /// The message in field 2 where there is one, else the boolean in field 1.
    MessageOrBool,
}

impl Shape {
    /// Every shape with its number in the set.
    pub const ALL: [(u64, Self); 9] = [
        (0, Self::Object),
        (1, Self::List),
        (2, Self::Time),
        (3, Self::MicroTime),
        (4, Self::Quantity),
        (5, Self::IntOrString),
        (6, Self::Raw),
        (7, Self::ListOrMessage),
        (8, Self::MessageOrBool),
    ];
}

/// What Go's struct tag and type say of a field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// Its fields stand among those of the message around it.
    pub const INLINE: u8 = 1;
    /// Not written when empty: false, 0, `""`, no element, no pointer.
    pub const OMIT_EMPTY: u8 = 2;
    /// Not written when it is the zero value.
    pub const OMIT_ZERO: u8 = 4;
    /// A pointer: what is there is written, even if it is zero.
    pub const POINTER: u8 = 8;
    /// A list of whole objects, each of which says its kind and version.
    pub const TYPED: u8 = 16;

    pub(crate) fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }
}

/// The type of a field's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Double,
    Int32,
    Int64,
    Bool,
    String,
    Bytes,
    /// A message by its index in the table.
    Message(u16),
}

/// How often a field's value occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cardinality {
    Single,
    List,
    /// Keys are strings.
    Map,
}

/// A field of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) cardinality: Cardinality,
    pub(crate) flags: Flags,
}

/// A message: its fields are a range of the table's, in the order of their numbers.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    fields: Range<u32>,
}

/// The kinds of one group version.
#[derive(Debug)]
struct GroupVersion {
    api_version: &'static str,
    /// Its messages in the table.
    messages: Range<usize>,
}

/// Every message of a set of files.
#[derive(Debug, Default)]
pub struct Descriptor {
    groups: Vec<GroupVersion>,
    messages: Vec<Message>,
    fields: Vec<Field>,
}

/// Why a set of files is not one that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptorError {
    /// It is not protobuf.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A field's type is none that Kubernetes uses.
    #[error("field {0} has a type that is not supported")]
    Type(String),
    /// A field's type is not in the set.
    #[error("{0} is not in the set")]
    Unknown(String),
    /// More messages or fields than the table can number.
    #[error("the set has too many messages or fields")]
    TooMany,
}

impl Descriptor {
    /// The Kubernetes API as this program knows it.
    #[must_use]
    pub fn kubernetes() -> &'static Self {
        &TABLE
    }

    /// Whether objects of this type can be read. Kinds added by custom resources never can.
    #[must_use]
    pub fn knows(&self, type_meta: &TypeMeta) -> bool {
        self.find(type_meta).is_some()
    }

    /// Whether any kind of this group version (`v1`, `apps/v1`) is known.
    #[must_use]
    pub fn has_group_version(&self, api_version: &str) -> bool {
        self.groups.iter().any(|group| group.api_version == api_version)
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.groups.capacity() * size_of::<GroupVersion>()
            + self.messages.capacity() * size_of::<Message>()
            + self.fields.capacity() * size_of::<Field>()
    }

    pub(crate) fn find(&self, type_meta: &TypeMeta) -> Option<&Message> {
        let of_group = |api_version: &str| {
            let mut groups = self.groups.iter().filter(move |group| group.api_version == api_version);
            groups.find_map(|group| {
                self.messages[group.messages.clone()].iter().find(|message| *message.name == *type_meta.kind)
            })
        };
        of_group(&type_meta.api_version).or_else(|| of_group(META))
    }

    /// The type of the objects that are this message.
    pub(crate) fn type_meta(&self, index: u16) -> TypeMeta {
        let group = self.groups.iter().find(|group| group.messages.contains(&usize::from(index)));
        TypeMeta::new(group.map_or("", |group| group.api_version), self.message(index).name)
    }

    pub(crate) fn message(&self, index: u16) -> &Message {
        &self.messages[usize::from(index)]
    }

    pub(crate) fn fields(&self, message: &Message) -> &[Field] {
        &self.fields[message.fields.start as usize..message.fields.end as usize]
    }

    /// Reads an encoded `FileDescriptorSet` with our options in it.
    ///
    /// # Errors
    /// When it is malformed, is not whole, or uses what Kubernetes does not.
    pub fn parse(set: &'static [u8]) -> Result<Self, DescriptorError> {
        let files = parse::files(set)?;
        let mut table = Self::default();
        let mut indexes = HashMap::new();
        for file in &files {
            let first = table.messages.len();
            for message in &file.messages {
                let index = u16::try_from(table.messages.len()).map_err(|_| DescriptorError::TooMany)?;
                indexes.insert((file.package, message.name), index);
                table.messages.push(Message { name: message.name, shape: message.shape, fields: 0..0 });
            }
            if !file.api_version.is_empty() {
                let messages = first..table.messages.len();
                table.groups.push(GroupVersion { api_version: file.api_version, messages });
            }
        }
        let messages = files.iter().flat_map(|file| file.messages.iter().map(move |message| (file, message)));
        for (index, (file, message)) in messages.enumerate() {
            let first = table.length()?;
            for field in &message.fields {
                table.fields.push(field.resolve(file.package, message, &indexes)?);
            }
            let range = first..table.length()?;
            table.fields[first as usize..].sort_by_key(|field| field.number);
            table.messages[index].fields = range;
        }
        table.groups.shrink_to_fit();
        table.messages.shrink_to_fit();
        table.fields.shrink_to_fit();
        Ok(table)
    }

    fn length(&self) -> Result<u32, DescriptorError> {
        u32::try_from(self.fields.len()).map_err(|_| DescriptorError::TooMany)
    }
}

/// The set's files as they are written, before types are looked up.
mod parse {
    use super::{
        Cardinality, DescriptorError, Field, Flags, HashMap, Kind, OPTION, Shape, Value, WireError,
        WireField, wire,
    };

    /// Numbers inside the messages of `descriptor.proto`.
    const SET_FILE: u32 = 1;
    const FILE_PACKAGE: u32 = 2;
    const FILE_MESSAGE: u32 = 4;
    const FILE_OPTIONS: u32 = 8;
    const MESSAGE_NAME: u32 = 1;
    const MESSAGE_FIELD: u32 = 2;
    const MESSAGE_NESTED: u32 = 3;
    const MESSAGE_OPTIONS: u32 = 7;
    const FIELD_NAME: u32 = 1;
    const FIELD_NUMBER: u32 = 3;
    const FIELD_LABEL: u32 = 4;
    const FIELD_TYPE: u32 = 5;
    const FIELD_TYPE_NAME: u32 = 6;
    const FIELD_OPTIONS: u32 = 8;
    const FIELD_JSON_NAME: u32 = 10;
    const LABEL_REPEATED: u64 = 3;
    const MAP_KEY: u32 = 1;
    const MAP_VALUE: u32 = 2;

    pub(super) struct File {
        pub(super) package: &'static str,
        pub(super) api_version: &'static str,
        pub(super) messages: Vec<Message>,
    }

    pub(super) struct Message {
        pub(super) name: &'static str,
        pub(super) shape: Shape,
        pub(super) fields: Vec<RawField>,
        /// Map entries.
        nested: Vec<Message>,
    }

    pub(super) struct RawField {
        name: &'static str,
        json_name: Option<&'static str>,
        number: u64,
        repeated: bool,
        type_code: u64,
        type_name: &'static str,
        flags: Flags,
    }

    fn varint(field: &WireField<'_>) -> u64 {
        match field.value {
            Value::Varint(value) => value,
            _ => 0,
        }
    }

    fn option(options: &'static [u8]) -> Result<Option<WireField<'static>>, WireError> {
        wire::last(options, OPTION)
    }

    pub(super) fn files(set: &'static [u8]) -> Result<Vec<File>, DescriptorError> {
        let mut files = Vec::new();
        for entry in wire::fields(set) {
            let entry = entry?;
            if entry.number == SET_FILE {
                files.push(file(entry.bytes()?)?);
            }
        }
        Ok(files)
    }

    fn file(text: &'static [u8]) -> Result<File, DescriptorError> {
        let mut file = File { package: "", api_version: "", messages: Vec::new() };
        for field in wire::fields(text) {
            let field = field?;
            match field.number {
                FILE_PACKAGE => file.package = field.string()?,
                FILE_MESSAGE => file.messages.push(message(field.bytes()?, true)?),
                FILE_OPTIONS => {
                    if let Some(option) = option(field.bytes()?)? {
                        file.api_version = option.string()?;
                    }
                }
                _ => {}
            }
        }
        Ok(file)
    }

    /// Only map entries are nested in a message, so one level is read.
    fn message(text: &'static [u8], with_nested: bool) -> Result<Message, DescriptorError> {
        let mut message = Message { name: "", shape: Shape::Object, fields: Vec::new(), nested: Vec::new() };
        for field in wire::fields(text) {
            let field = field?;
            match field.number {
                MESSAGE_NAME => message.name = field.string()?,
                MESSAGE_FIELD => message.fields.push(raw_field(field.bytes()?)?),
                MESSAGE_NESTED if with_nested => message.nested.push(self::message(field.bytes()?, false)?),
                MESSAGE_OPTIONS => {
                    let code = option(field.bytes()?)?.as_ref().map_or(0, varint);
                    let shape = Shape::ALL.iter().find(|(known, _)| *known == code);
                    message.shape = shape.ok_or_else(|| DescriptorError::Type(message.name.to_owned()))?.1;
                }
                _ => {}
            }
        }
        Ok(message)
    }

    fn raw_field(text: &'static [u8]) -> Result<RawField, DescriptorError> {
        let mut found = RawField {
            name: "",
            json_name: None,
            number: 0,
            repeated: false,
            type_code: 0,
            type_name: "",
            flags: Flags::default(),
        };
        for field in wire::fields(text) {
            let field = field?;
            match field.number {
                FIELD_NAME => found.name = field.string()?,
                FIELD_JSON_NAME => found.json_name = Some(field.string()?),
                FIELD_NUMBER => found.number = varint(&field),
                FIELD_LABEL => found.repeated = varint(&field) == LABEL_REPEATED,
                FIELD_TYPE => found.type_code = varint(&field),
                FIELD_TYPE_NAME => found.type_name = field.string()?,
                FIELD_OPTIONS => {
                    let flags = option(field.bytes()?)?.as_ref().map_or(0, varint);
                    found.flags =
                        Flags(u8::try_from(flags).map_err(|_| DescriptorError::Type(found.name.to_owned()))?);
                }
                _ => {}
            }
        }
        Ok(found)
    }

    impl RawField {
        /// The field of the table, its type looked up among `indexes` by package and name.
        pub(super) fn resolve(
            &self,
            package: &'static str,
            message: &Message,
            indexes: &HashMap<(&'static str, &'static str), u16>,
        ) -> Result<Field, DescriptorError> {
            let number = u32::try_from(self.number).map_err(|_| self.unsupported(message))?;
            let name = self.json_name.unwrap_or(self.name);
            let entry = self.map_entry(package, message);
            let (cardinality, kind) = match entry {
                Some(entry) => {
                    let part = |number: u32| {
                        entry.fields.iter().find(move |field| field.number == u64::from(number))
                    };
                    let (Some(key), Some(value)) = (part(MAP_KEY), part(MAP_VALUE)) else {
                        return Err(self.unsupported(message));
                    };
                    if key.kind(message, indexes)? != Kind::String {
                        return Err(self.unsupported(message));
                    }
                    (Cardinality::Map, value.kind(message, indexes)?)
                }
                None if self.repeated => (Cardinality::List, self.kind(message, indexes)?),
                None => (Cardinality::Single, self.kind(message, indexes)?),
            };
            Ok(Field { number, name, kind, cardinality, flags: self.flags })
        }

        fn map_entry<'a>(&self, package: &str, message: &'a Message) -> Option<&'a Message> {
            let rest = self.type_name.strip_prefix('.')?.strip_prefix(package)?.strip_prefix('.')?;
            let entry = rest.strip_prefix(message.name)?.strip_prefix('.')?;
            message.nested.iter().find(|nested| nested.name == entry)
        }

        fn kind(
            &self,
            message: &Message,
            indexes: &HashMap<(&'static str, &'static str), u16>,
        ) -> Result<Kind, DescriptorError> {
            Ok(match self.type_code {
                1 => Kind::Double,
                3 => Kind::Int64,
                5 => Kind::Int32,
                8 => Kind::Bool,
                9 => Kind::String,
                11 => {
                    let name = self.type_name.strip_prefix('.').and_then(|name| name.rsplit_once('.'));
                    let index = name.and_then(|name| indexes.get(&name));
                    Kind::Message(*index.ok_or_else(|| DescriptorError::Unknown(self.type_name.to_owned()))?)
                }
                12 => Kind::Bytes,
                _ => return Err(self.unsupported(message)),
            })
        }

        fn unsupported(&self, message: &Message) -> DescriptorError {
            DescriptorError::Type(format!("{}.{}", message.name, self.name))
        }
    }
}
