//! Field selectors: `spec.nodeName=n1,status.phase!=Failed`.

use std::borrow::Cow;
use std::fmt;

use super::{SelectorError, check_count, check_length, write_joined};

/// How a field requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldOperator {
    /// `path=value` (or `==`).
    Eq,
    /// `path!=value`.
    Ne,
}

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldRequirement {
    /// The field, e.g. `spec.nodeName`.
    pub path: Box<str>,
    /// How its value is compared.
    pub operator: FieldOperator,
    /// The value, unescaped.
    pub value: Box<str>,
}

impl fmt::Display for FieldRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = match self.operator {
            FieldOperator::Eq => "=",
            FieldOperator::Ne => "!=",
        };
        write!(f, "{}{operator}", self.path)?;
        for c in self.value.chars() {
            if matches!(c, '\\' | ',' | '=') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        Ok(())
    }
}

/// A field selector: all requirements must hold; the default (empty) one selects everything.
///
/// `Display` escapes values with backslashes as the API server does; terms are sorted by their text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

/// The field every kind can be selected by.
const NAME_PATH: &str = "metadata.name";

impl FieldSelector {
    /// Reads `spec.nodeName=n1,status.phase!=Failed`; `\\`, `\,` and `\=` stand for the bare characters.
    ///
    /// # Errors
    /// When a term has no operator, a value has a stray `,` or `=` or an unknown escape, or a bound of
    /// this module is exceeded. Whether a path can be evaluated is not known here.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        check_length(text)?;
        let mut requirements = Vec::new();
        // Sorted before they are read, so that of several broken terms the server's first is ours too.
        let mut terms: Vec<&str> = split_terms(text).collect();
        terms.sort_unstable();
        for term in terms {
            if term.is_empty() {
                continue;
            }
            let Some((path, operator, value)) = split_term(term) else {
                return Err(SelectorError::new(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                )));
            };
            let value = unescape(value)?;
            if path.is_empty() && value.is_empty() {
                // A bare operator selects everything.
                continue;
            }
            requirements.push(FieldRequirement { path: path.into(), operator, value: value.into() });
            check_count(requirements.len())?;
        }
        requirements.sort_by_cached_key(ToString::to_string);
        requirements.dedup();
        Ok(Self { requirements })
    }

    /// The selector of one object: `metadata.name=<name>`.
    #[must_use]
    pub fn for_name(name: &str) -> Self {
        Self {
            requirements: vec![FieldRequirement {
                path: NAME_PATH.into(),
                operator: FieldOperator::Eq,
                value: name.into(),
            }],
        }
    }

    /// The terms, sorted by their text.
    #[must_use]
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// Whether an object with these fields is selected; `get` gives a field's value, "" when it is unset.
    ///
    /// `None` when the answer hangs on a field `get` cannot evaluate.
    pub fn matches<'a>(&self, mut get: impl FnMut(&str) -> Option<Cow<'a, str>>) -> Option<bool> {
        let mut known = true;
        for requirement in &self.requirements {
            match get(&requirement.path) {
                None => known = false,
                Some(value) => {
                    let equal = *value == *requirement.value;
                    if equal != (requirement.operator == FieldOperator::Eq) {
                        return Some(false);
                    }
                }
            }
        }
        known.then_some(true)
    }

    /// Whether everything is selected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The name, when the selector is `metadata.name=<name>` and nothing else.
    #[must_use]
    pub fn single_name(&self) -> Option<&str> {
        match self.requirements.as_slice() {
            [_] => self.exact_value(NAME_PATH),
            _ => None,
        }
    }

    /// The value some term requires `path` to have.
    #[must_use]
    pub fn exact_value(&self, path: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|r| r.operator == FieldOperator::Eq && *r.path == *path)
            .map(|r| &*r.value)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_joined(f, &self.requirements)
    }
}

impl std::str::FromStr for FieldSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Cuts at commas that no backslash guards.
fn split_terms(text: &str) -> impl Iterator<Item = &str> {
    let mut guarded = false;
    text.split(move |c: char| {
        let cut = c == ',' && !guarded;
        guarded = c == '\\' && !guarded;
        cut
    })
}

/// Cuts at the first operator; paths know no escapes.
fn split_term(term: &str) -> Option<(&str, FieldOperator, &str)> {
    let equals = term.find('=')?;
    let (path, value) = (&term[..equals], &term[equals + 1..]);
    if let Some(path) = path.strip_suffix('!') {
        return Some((path, FieldOperator::Ne, value));
    }
    let value = value.strip_prefix('=').unwrap_or(value);
    Some((path, FieldOperator::Eq, value))
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(SelectorError::new(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    )));
                }
            },
            // The server prints the character's number here.
            ',' | '=' => {
                return Err(SelectorError::new(format!(
                    "invalid field selector: unescaped character in value: {}",
                    u32::from(c)
                )));
            }
            c => plain.push(c),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_selectors_print_canonically_and_unescape() {
        let cases = [
            ("", ""),
            (",,", ""),
            ("spec.nodeName=n1", "spec.nodeName=n1"),
            ("metadata.name==x", "metadata.name=x"),
            ("spec.clusterIP!=None", "spec.clusterIP!=None"),
            ("b=2,a=1,b=2", "a=1,b=2"),
            (r"a=x\,y\=z\\", r"a=x\,y\=z\\"),
            ("a=", "a="),
            ("=", ""),
            ("!=,==,a=b", "a=b"),
            ("=x", "=x"),
            ("a!b=c", "a!b=c"),
        ];
        for (text, canonical) in cases {
            let selector = FieldSelector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(selector.to_string(), canonical, "{text}");
        }
        let escaped = FieldSelector::parse(r"a=x\,y\=z\\").expect("escapes are known");
        assert_eq!(&*escaped.requirements()[0].value, r"x,y=z\");
    }

    #[test]
    fn broken_field_selectors_are_refused_in_the_servers_words() {
        for (text, message) in [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            ("b,a", "invalid selector: 'b,a'; can't understand 'a'"),
            ("a=b,c", "invalid selector: 'a=b,c'; can't understand 'c'"),
            (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
            (r"a=b\", r"invalid field selector: invalid escape sequence: \"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
        ] {
            let error = FieldSelector::parse(text).expect_err(text).to_string();
            assert_eq!(error, message, "{text}");
        }
    }

    #[test]
    fn field_requirements_say_when_they_cannot_tell() {
        let get = |path: &str| match path {
            "metadata.name" => Some(Cow::Borrowed("x")),
            "spec.nodeName" => Some(Cow::Borrowed("")),
            _ => None,
        };
        for (text, expected) in [
            ("", Some(true)),
            ("metadata.name=x", Some(true)),
            ("metadata.name!=x", Some(false)),
            ("spec.nodeName=", Some(true)),
            ("spec.nodeName!=", Some(false)),
            ("spec.other=1", None),
            ("metadata.name=x,spec.other=1", None),
            ("metadata.name=y,spec.other=1", Some(false)),
            ("a.unknown=1,metadata.name=y", Some(false)),
        ] {
            let selector = FieldSelector::parse(text).expect(text);
            assert_eq!(selector.matches(get), expected, "{text}");
        }
    }

    #[test]
    fn the_one_object_a_selector_names_is_found() {
        let name = |text| FieldSelector::parse(text).expect(text).single_name().map(str::to_owned);
        assert_eq!(name("metadata.name=x").as_deref(), Some("x"));
        assert_eq!(name("metadata.name!=x"), None);
        assert_eq!(name("metadata.name=x,spec.nodeName=n"), None);
        let both = FieldSelector::parse("metadata.name=x,spec.nodeName=n").expect("two terms");
        assert_eq!(both.exact_value("metadata.name"), Some("x"));
        assert_eq!(both.exact_value("spec.nodeName"), Some("n"));
        assert_eq!(FieldSelector::for_name("a,b").to_string(), r"metadata.name=a\,b");
    }
}
