//! Which file of a crate imports which, and the circles among them.
//!
//! A file is a module. A path that begins with `crate`, `self` or `super`, or with the name of a module below, leads to the
//! file that has the item: through a `pub use` to where that points. A `mod` and a `pub use` are no imports: a parent that
//! shows what its children have does not need them.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};
use syn::{Attribute, File, Ident, ItemMod, ItemUse, UseTree, Visibility};

/// A module's path below the crate: empty for the crate itself.
type Module = Vec<String>;

/// What one file says of others.
#[derive(Default)]
struct Said {
    /// Paths, as written.
    paths: Vec<Vec<String>>,
    /// What is shown under which name, and where that is, as written.
    shown: BTreeMap<String, Vec<String>>,
}

impl Visit<'_> for Said {
    fn visit_item_mod(&mut self, module: &ItemMod) {
        if !is_for_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, import: &ItemUse) {
        let mut leaves = Vec::new();
        flatten(&import.tree, &mut Vec::new(), &mut leaves);
        for (path, name) in leaves {
            if matches!(import.vis, Visibility::Inherited) {
                self.paths.push(path);
            } else {
                self.shown.insert(name, path);
            }
        }
    }

    // `pub(super)` imports nothing.
    fn visit_visibility(&mut self, _: &Visibility) {}

    fn visit_path(&mut self, path: &syn::Path) {
        // A name alone is a local one, or was imported.
        if path.segments.len() > 1 {
            self.paths.push(path.segments.iter().map(|segment| text(&segment.ident)).collect());
        }
        visit::visit_path(self, path);
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<Ident>().is_ok_and(|condition| condition == "test")
    })
}

fn text(ident: &Ident) -> String {
    ident.to_string()
}

/// Each path that a `use` names, and the name that it gets here.
fn flatten(tree: &UseTree, before: &mut Vec<String>, leaves: &mut Vec<(Vec<String>, String)>) {
    let with = |last: String| before.iter().cloned().chain([last]).collect();
    match tree {
        UseTree::Path(path) => {
            before.push(text(&path.ident));
            flatten(&path.tree, before, leaves);
            before.pop();
        }
        UseTree::Name(name) if name.ident == "self" => {
            leaves.push((before.clone(), before.last().cloned().unwrap_or_default()));
        }
        UseTree::Name(name) => leaves.push((with(text(&name.ident)), text(&name.ident))),
        UseTree::Rename(renamed) => leaves.push((with(text(&renamed.ident)), text(&renamed.rename))),
        UseTree::Glob(_) => leaves.push((before.clone(), "*".to_owned())),
        UseTree::Group(group) => group.items.iter().for_each(|item| flatten(item, before, leaves)),
    }
}

/// The files of one crate, by the path of each below `src`, and what is in it.
pub(crate) struct Crate {
    said: BTreeMap<Module, Said>,
}

impl Crate {
    /// Reads the files.
    ///
    /// # Errors
    /// The first one that is no Rust.
    pub(crate) fn read<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut said = BTreeMap::new();
        for (name, text) in files {
            let parsed: File = syn::parse_file(text).map_err(|error| format!("{name}: {error}"))?;
            let mut found = Said::default();
            found.visit_file(&parsed);
            said.insert(module_of(name), found);
        }
        Ok(Self { said })
    }

    /// Which module each imports.
    fn arrows(&self) -> BTreeMap<&Module, BTreeSet<&Module>> {
        let arrows_of = |module, said: &Said| {
            let targets = said.paths.iter().filter_map(|path| self.target(module, path, 0));
            targets.filter(|target| *target != module).collect()
        };
        self.said.iter().map(|(module, said)| (module, arrows_of(module, said))).collect()
    }

    /// The module that has what `path` names in `module`; `None` for what is of another crate.
    fn target(&self, module: &Module, path: &[String], depth: usize) -> Option<&Module> {
        let (first, mut rest) = path.split_first()?;
        let mut at = module.clone();
        match first.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                at.pop()?;
                while let Some((_, later)) = rest.split_first().filter(|(next, _)| *next == "super") {
                    at.pop()?;
                    rest = later;
                }
            }
            name => {
                at.push(name.to_owned());
                self.said.contains_key(&at).then_some(())?;
            }
        }
        while let Some((next, later)) = rest.split_first() {
            at.push(next.clone());
            if !self.said.contains_key(&at) {
                at.pop();
                // What is shown there stands elsewhere.
                let shown = self.said.get(&at).and_then(|said| said.shown.get(next));
                if let (Some(shown), true) = (shown, depth < 8) {
                    return self.target(&at, shown, depth + 1);
                }
                break;
            }
            rest = later;
        }
        self.said.get_key_value(&at).map(|(module, _)| module)
    }

    /// Modules that import one another, in circles of whatever length.
    pub(crate) fn circles(&self) -> Vec<Vec<String>> {
        let arrows = self.arrows();
        let reach = |from: &Module| {
            let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
            while let Some(next) = open.pop() {
                for to in arrows.get(next).into_iter().flatten() {
                    if reached.insert(*to) {
                        open.push(to);
                    }
                }
            }
            reached
        };
        let reaches: BTreeMap<&Module, BTreeSet<&Module>> =
            arrows.keys().map(|module| (*module, reach(module))).collect();
        let mut circles = BTreeSet::new();
        for (module, reached) in &reaches {
            let circle: Vec<String> = reached
                .iter()
                .filter(|other| reaches[**other].contains(module))
                .map(|other| other.join("::"))
                .collect();
            if !circle.is_empty() {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }
}

/// `a/b.rs` and `a/b/mod.rs` are `a::b`; `lib.rs` and `main.rs` are the crate.
fn module_of(name: &str) -> Module {
    let name = name.trim_end_matches(".rs");
    let mut parts: Module = name.split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

#[test]
fn a_circle_is_found_through_what_is_shown_elsewhere_and_not_in_tests() {
    let circles = |files: &[(&str, &str)]| Crate::read(files.iter().copied()).expect("Rust").circles();
    let lib = ("lib.rs", "pub mod a; mod b; mod c; pub use b::Thing;");
    let direct = [
        lib,
        ("a.rs", "use crate::Thing; pub fn f(_: Thing) {}"),
        ("b/mod.rs", "pub struct Thing; fn g() { super::a::f(Thing) }"),
        ("c.rs", "use crate::a::f;"),
    ];
    assert_eq!(circles(&direct), [["a", "b"]]);
    let in_tests = [
        lib,
        ("a.rs", "use crate::Thing; pub fn f(_: Thing) {}"),
        ("b/mod.rs", "pub struct Thing; #[cfg(test)] mod tests { use crate::a::f; }"),
        ("c.rs", "use crate::a::f;"),
    ];
    assert!(circles(&in_tests).is_empty());
    let long = [
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "fn f() { crate::b::g() }"),
        ("b.rs", "use super::c; pub fn g() { c::h() }"),
        ("c.rs", "use crate::{a::{self, f}, b}; pub fn h() { f(); a::f(); b::g() }"),
    ];
    assert_eq!(circles(&long), [["a", "b", "c"]]);
}
