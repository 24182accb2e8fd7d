//! What Go's structs say of their JSON: read from the source's struct tags, as gofmt lays them out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One Go package, as far as JSON and protobuf are concerned.
#[derive(Default)]
pub(crate) struct GoPackage {
    /// The constant `GroupName`.
    pub(crate) group: Option<String>,
    structs: BTreeMap<String, BTreeMap<i32, GoField>>,
    /// Types defined as another package's: name to (that package, its name there).
    foreign: BTreeMap<String, (String, String)>,
    slices: BTreeSet<String>,
    marshalers: BTreeSet<String>,
}

/// A struct's field that protobuf knows.
#[derive(Debug, Clone)]
pub(crate) struct GoField {
    /// Empty for inlined structs.
    pub(crate) json_name: String,
    pub(crate) inline: bool,
    pub(crate) omit_empty: bool,
    pub(crate) omit_zero: bool,
    pub(crate) pointer: bool,
}

impl GoPackage {
    pub(crate) fn read(folder: &Path) -> std::io::Result<Self> {
        let mut package = Self::default();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let written_by_hand = name.ends_with(".go")
                && !name.ends_with("_test.go")
                && !name.starts_with("zz_generated")
                && !name.starts_with("generated.");
            if written_by_hand {
                package.read_file(&std::fs::read_to_string(&path)?);
            }
        }
        Ok(package)
    }

    /// The fields of the struct `name` by their protobuf numbers.
    pub(crate) fn fields(&self, name: &str) -> Option<&BTreeMap<i32, GoField>> {
        self.structs.get(name)
    }

    /// The other package whose type `name` is, and the name there.
    pub(crate) fn foreign(&self, name: &str) -> Option<&(String, String)> {
        self.foreign.get(name)
    }

    /// Whether the type `name` is a slice.
    pub(crate) fn is_slice(&self, name: &str) -> bool {
        self.slices.contains(name)
    }

    /// Whether the type `name` writes its JSON by itself.
    pub(crate) fn is_marshaler(&self, name: &str) -> bool {
        self.marshalers.contains(name)
    }

    fn read_file(&mut self, text: &str) {
        let (mut inside, mut imports) = (None::<String>, BTreeMap::new());
        for line in text.lines() {
            match &inside {
                Some(_) if line == "}" => inside = None,
                Some(name) => {
                    if let Some((number, field)) = GoField::read(line.trim()) {
                        self.structs.entry(name.clone()).or_default().insert(number, field);
                    }
                }
                None => {
                    if let Some((alias, package)) = read_import(line) {
                        imports.insert(alias, package);
                    }
                    inside = self.read_declaration(line, &imports);
                }
            }
        }
    }

    /// A line outside of any struct; the name of the struct that it opens.
    fn read_declaration(&mut self, line: &str, imports: &BTreeMap<&str, &str>) -> Option<String> {
        if let Some(value) = line.strip_prefix("const GroupName = ") {
            self.group = Some(value.trim_matches('"').to_owned());
        }
        if let Some((receiver, _)) =
            line.strip_prefix("func (").and_then(|rest| rest.split_once(") MarshalJSON("))
        {
            let name = receiver.rsplit([' ', '*']).next().unwrap_or_default();
            self.marshalers.insert(name.to_owned());
        }
        let (name, rest) = line.strip_prefix("type ")?.split_once(' ')?;
        if let Some((alias, foreign)) = rest.split_once('.')
            && let Some(package) = imports.get(alias)
        {
            self.foreign.insert(name.to_owned(), ((*package).to_owned(), foreign.to_owned()));
        }
        if rest.starts_with("[]") {
            self.slices.insert(name.to_owned());
        }
        if rest == "struct {" {
            self.structs.entry(name.to_owned()).or_default();
            return Some(name.to_owned());
        }
        None
    }
}

impl GoField {
    /// A field's line: `Name Type `tags`` or, embedded, `Type `tags``. `None` when protobuf does not know it.
    fn read(line: &str) -> Option<(i32, Self)> {
        if line.starts_with("//") {
            return None;
        }
        let (declaration, tags) = line.split_once('`')?;
        let protobuf = tag(tags, "protobuf")?;
        let number = protobuf.split(',').nth(1)?.parse().ok()?;
        let words: Vec<&str> = declaration.split_whitespace().collect();
        let embedded = words.len() == 1;
        let mut json = tag(tags, "json").unwrap_or_default().split(',');
        let json_name = json.next().unwrap_or_default().to_owned();
        let options: Vec<&str> = json.collect();
        let field = Self {
            inline: embedded && json_name.is_empty(),
            json_name,
            omit_empty: options.contains(&"omitempty"),
            omit_zero: options.contains(&"omitzero"),
            pointer: words.last().is_some_and(|declared| declared.starts_with('*')),
        };
        Some((number, field))
    }
}

/// A line of an import block: the name that the package has in this file, and its path.
fn read_import(line: &str) -> Option<(&str, &str)> {
    let (alias, package) = line.strip_prefix('\t')?.strip_suffix('"')?.split_once('"')?;
    let alias = alias.trim();
    Some((if alias.is_empty() { package.rsplit('/').next()? } else { alias }, package))
}

fn tag<'a>(tags: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tags.split_once(&format!("{name}:\""))?;
    Some(rest.split_once('"')?.0)
}
