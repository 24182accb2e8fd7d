//! Label and field selectors: the API server's two little query languages.
//!
//! Both parse into a canonical form (sorted, without duplicates, `==` written as `=`), so that two
//! spellings of one question are one value: equal, with equal hash and equal text.

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;

/// Longest selector that is read, in bytes.
pub const MAX_SELECTOR_BYTES: usize = 16 * 1024;
/// Most requirements of one selector.
pub const MAX_REQUIREMENTS: usize = 256;
/// Most values of one `in (..)` or `notin (..)`.
pub const MAX_VALUES: usize = 1024;

/// A selector that cannot be read, in the API server's words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct SelectorError(String);

impl SelectorError {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

fn check_length(text: &str) -> Result<(), SelectorError> {
    if text.len() > MAX_SELECTOR_BYTES {
        return Err(SelectorError::new(format!("the selector is longer than {MAX_SELECTOR_BYTES} bytes")));
    }
    Ok(())
}

fn check_count(count: usize) -> Result<(), SelectorError> {
    if count > MAX_REQUIREMENTS {
        return Err(SelectorError::new(format!(
            "the selector has more than {MAX_REQUIREMENTS} requirements"
        )));
    }
    Ok(())
}

/// How a label requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LabelOperator {
    /// `key`: the label exists.
    Exists,
    /// `!key`: it does not.
    DoesNotExist,
    /// `key=value` (or `==`).
    Equals,
    /// `key!=value`: another value, or no such label.
    NotEquals,
    /// `key in (a,b)`.
    In,
    /// `key notin (a,b)`: none of them, or no such label.
    NotIn,
    /// `key>5`: both are whole numbers.
    GreaterThan,
    /// `key<5`: both are whole numbers.
    LessThan,
}

/// One term of a label selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelRequirement {
    key: Box<str>,
    operator: LabelOperator,
    values: Box<[Box<str>]>,
}

impl LabelRequirement {
    /// The label's name.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How the label's value is compared.
    #[must_use]
    pub fn operator(&self) -> LabelOperator {
        self.operator
    }

    /// The values to compare with: sorted and unique, none for the two existence operators.
    #[must_use]
    pub fn values(&self) -> &[Box<str>] {
        &self.values
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|v| **v == *value);
        match self.operator {
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
            LabelOperator::Equals | LabelOperator::In => value.is_some_and(listed),
            LabelOperator::NotEquals | LabelOperator::NotIn => !value.is_some_and(listed),
            LabelOperator::GreaterThan => self.compares(value, |label, bound| label > bound),
            LabelOperator::LessThan => self.compares(value, |label, bound| label < bound),
        }
    }

    fn compares(&self, value: Option<&str>, holds: fn(i64, i64) -> bool) -> bool {
        let label = value.and_then(|value| value.parse().ok());
        let bound = self.values.first().and_then(|bound| bound.parse().ok());
        matches!((label, bound), (Some(label), Some(bound)) if holds(label, bound))
    }
}

impl fmt::Display for LabelRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, between, after) = match self.operator {
            LabelOperator::Exists => ("", "", ""),
            LabelOperator::DoesNotExist => ("!", "", ""),
            LabelOperator::Equals => ("", "=", ""),
            LabelOperator::NotEquals => ("", "!=", ""),
            LabelOperator::In => ("", " in (", ")"),
            LabelOperator::NotIn => ("", " notin (", ")"),
            LabelOperator::GreaterThan => ("", ">", ""),
            LabelOperator::LessThan => ("", "<", ""),
        };
        write!(f, "{before}{}{between}", self.key)?;
        for (index, value) in self.values.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(value)?;
        }
        f.write_str(after)
    }
}

/// A label selector: all requirements must hold; the default (empty) one selects everything.
///
/// `Display` writes what the API server's `Selector.String()` would, requirements sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelSelector {
    requirements: Vec<LabelRequirement>,
}

impl LabelSelector {
    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.
    ///
    /// # Errors
    /// When the text is no selector, a key or value is no label, or a bound of this module is exceeded.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        check_length(text)?;
        let mut requirements = LabelParser::new(text)?.parse()?;
        requirements.sort();
        requirements.dedup();
        Ok(Self { requirements })
    }

    /// Whether an object with these labels is selected; `get` gives a label's value.
    pub fn matches<'a>(&self, mut get: impl FnMut(&str) -> Option<Cow<'a, str>>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(get(&requirement.key).as_deref()))
    }

    /// Whether everything is selected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The terms, sorted by key.
    #[must_use]
    pub fn requirements(&self) -> &[LabelRequirement] {
        &self.requirements
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_joined(f, &self.requirements)
    }
}

impl std::str::FromStr for LabelSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

fn write_joined(f: &mut fmt::Formatter<'_>, terms: &[impl fmt::Display]) -> fmt::Result {
    for (index, term) in terms.iter().enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        write!(f, "{term}")?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    End,
    /// An operator or a bracket.
    Symbol(&'a str),
    /// A key, a value or one of the words `in` and `notin`.
    Word(&'a str),
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::End => "",
            Token::Symbol(text) | Token::Word(text) => text,
        }
    }

    fn is(self, symbol: &str) -> bool {
        matches!(self, Token::Symbol(text) if text == symbol)
    }
}

/// Recursive descent without recursion: the language has one level of brackets.
struct LabelParser<'a> {
    tokens: Vec<Token<'a>>,
    position: usize,
}

impl<'a> LabelParser<'a> {
    fn new(text: &'a str) -> Result<Self, SelectorError> {
        if text.contains('\0') {
            return Err(SelectorError::new("the selector contains a NUL character"));
        }
        let is_space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
        let is_symbol = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
        let mut tokens = Vec::new();
        let mut rest = text.trim_start_matches(is_space);
        while let Some(first) = rest.chars().next() {
            let length = if rest.starts_with("==") || rest.starts_with("!=") {
                2
            } else if is_symbol(first) {
                1
            } else {
                rest.find(|c| is_space(c) || is_symbol(c)).unwrap_or(rest.len())
            };
            let (token, tail) = rest.split_at(length);
            tokens.push(if is_symbol(first) { Token::Symbol(token) } else { Token::Word(token) });
            rest = tail.trim_start_matches(is_space);
        }
        Ok(Self { tokens, position: 0 })
    }

    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.position).copied().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.position += 1;
        token
    }

    fn parse(&mut self) -> Result<Vec<LabelRequirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(requirements),
                token if matches!(token, Token::Word(_)) || token.is("!") => {}
                token => {
                    return Err(SelectorError::new(format!(
                        "found '{}', expected: !, identifier, or 'end of string'",
                        token.text()
                    )));
                }
            }
            requirements.push(
                self.requirement()
                    .map_err(|error| SelectorError::new(format!("unable to parse requirement: {error}")))?,
            );
            check_count(requirements.len())?;
            match self.next() {
                Token::End => return Ok(requirements),
                token if token.is(",") => {
                    let after = self.peek();
                    if !matches!(after, Token::Word(_)) && !after.is("!") {
                        return Err(SelectorError::new(format!(
                            "found '{}', expected: identifier after ','",
                            after.text()
                        )));
                    }
                }
                token => {
                    return Err(SelectorError::new(format!(
                        "found '{}', expected: ',' or 'end of string'",
                        token.text()
                    )));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<LabelRequirement, SelectorError> {
        let negated = self.peek().is("!");
        if negated {
            self.position += 1;
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => {
                return Err(SelectorError::new(format!("found '{}', expected: identifier", other.text())));
            }
        };
        check_key(key)?;
        let after = self.peek();
        let (operator, values) = if negated {
            (LabelOperator::DoesNotExist, Vec::new())
        } else if after == Token::End || after.is(",") {
            (LabelOperator::Exists, Vec::new())
        } else {
            let operator = self.operator()?;
            let mut values = match operator {
                LabelOperator::In | LabelOperator::NotIn => self.value_set()?,
                _ => vec![self.single_value()?],
            };
            values.sort_unstable();
            values.dedup();
            (operator, values)
        };
        check_values(key, operator, &values)?;
        Ok(LabelRequirement {
            key: key.into(),
            operator,
            values: values.into_iter().map(Box::from).collect(),
        })
    }

    fn operator(&mut self) -> Result<LabelOperator, SelectorError> {
        match self.next().text() {
            "in" => Ok(LabelOperator::In),
            "notin" => Ok(LabelOperator::NotIn),
            "=" | "==" => Ok(LabelOperator::Equals),
            "!=" => Ok(LabelOperator::NotEquals),
            ">" => Ok(LabelOperator::GreaterThan),
            "<" => Ok(LabelOperator::LessThan),
            other => {
                Err(SelectorError::new(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")))
            }
        }
    }

    fn single_value(&mut self) -> Result<&'a str, SelectorError> {
        match self.peek() {
            Token::Word(value) => {
                self.position += 1;
                Ok(value)
            }
            token if token == Token::End || token.is(",") => Ok(""),
            token => Err(SelectorError::new(format!("found '{}', expected: identifier", token.text()))),
        }
    }

    /// `(a,b)`, where an empty place between commas or brackets is the empty value.
    fn value_set(&mut self) -> Result<Vec<&'a str>, SelectorError> {
        let open = self.next();
        if !open.is("(") {
            return Err(SelectorError::new(format!("found '{}' expected: '('", open.text())));
        }
        if self.peek().is(")") {
            self.position += 1;
            return Ok(vec![""]);
        }
        let mut values = Vec::new();
        loop {
            if values.len() > MAX_VALUES {
                return Err(SelectorError::new(format!("a requirement has more than {MAX_VALUES} values")));
            }
            match self.next() {
                Token::Word(value) => {
                    values.push(value);
                    let after = self.peek();
                    if after.is(")") {
                        break;
                    }
                    if !after.is(",") {
                        return Err(SelectorError::new(format!(
                            "found '{}', expected: ',' or ')'",
                            after.text()
                        )));
                    }
                }
                token if token.is(",") => {
                    if values.is_empty() {
                        values.push("");
                    }
                    if self.peek().is(")") {
                        values.push("");
                        break;
                    }
                    if self.peek().is(",") {
                        self.position += 1;
                        values.push("");
                    }
                }
                token => {
                    return Err(SelectorError::new(format!(
                        "found '{}', expected: ',', or identifier",
                        token.text()
                    )));
                }
            }
        }
        self.position += 1;
        Ok(values)
    }
}

const NAME_PATTERN: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_PATTERN: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const SUBDOMAIN_PATTERN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// Letters and digits at both ends; `-`, `_` and `.` allowed between.
fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_subdomain(text: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.split('.').all(|label| {
        let bytes = label.as_bytes();
        is_edge(bytes.first())
            && is_edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
    })
}

fn check_key(key: &str) -> Result<(), SelectorError> {
    let mut problems: Vec<String> = Vec::new();
    let parts: Vec<&str> = key.splitn(4, '/').collect();
    let (prefix, name) = match parts.as_slice() {
        [name] => (None, Some(*name)),
        [prefix, name] => (Some(*prefix), Some(*name)),
        _ => (None, None),
    };
    match prefix {
        Some("") => problems.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            if prefix.len() > 253 {
                problems.push("prefix part must be no more than 253 characters".to_owned());
            }
            if !is_subdomain(prefix) {
                problems.push(format!("prefix part {SUBDOMAIN_PATTERN}"));
            }
        }
        None => {}
    }
    match name {
        None => problems.push(format!(
            "a qualified name {NAME_PATTERN} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        )),
        Some(name) => {
            if name.is_empty() {
                problems.push("name part must be non-empty".to_owned());
            } else if name.len() > 63 {
                problems.push("name part must be no more than 63 characters".to_owned());
            }
            if !is_name(name) {
                problems.push(format!("name part {NAME_PATTERN}"));
            }
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(SelectorError::new(format!(
        "<nil>: Invalid value: {}: {}",
        crate::status::quote(key),
        problems.join("; ")
    )))
}

fn check_values(key: &str, operator: LabelOperator, values: &[&str]) -> Result<(), SelectorError> {
    let mut errors: Vec<String> = Vec::new();
    for (index, value) in values.iter().enumerate() {
        if matches!(operator, LabelOperator::GreaterThan | LabelOperator::LessThan)
            && value.parse::<i64>().is_err()
        {
            errors.push(format!(
                "values[{index}]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer",
                crate::status::quote(value)
            ));
        }
        let mut problems = Vec::new();
        if value.len() > 63 {
            problems.push("must be no more than 63 characters");
        }
        if !value.is_empty() && !is_name(value) {
            problems.push(VALUE_PATTERN);
        }
        if !problems.is_empty() {
            errors.push(format!(
                "values[{index}][{key}]: Invalid value: {}: {}",
                crate::status::quote(value),
                problems.join("; ")
            ));
        }
    }
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(SelectorError::new(one.as_str())),
        many => Err(SelectorError::new(format!("[{}]", many.join(", ")))),
    }
}

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
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let Some((path, operator, value)) = split_term(term) else {
                return Err(SelectorError::new(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                )));
            };
            requirements.push(FieldRequirement {
                path: path.into(),
                operator,
                value: unescape(value)?.into(),
            });
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
    let (path, rest) = term.split_at(equals);
    if let Some(path) = path.strip_suffix('!') {
        return Some((path, FieldOperator::Ne, &rest[1..]));
    }
    let value = rest.strip_prefix("==").unwrap_or(&rest[1..]);
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
