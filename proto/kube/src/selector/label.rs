//! Label selectors: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.

use std::borrow::Cow;
use std::fmt;

use super::{MAX_VALUES, SelectorError, check_count, check_length, write_joined};
use crate::status::quote;

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
            if values.len() >= MAX_VALUES {
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
            "a valid label key {NAME_PATTERN} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
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
    Err(SelectorError::new(format!("<nil>: Invalid value: {}: {}", quote(key), problems.join("; "))))
}

fn check_values(key: &str, operator: LabelOperator, values: &[&str]) -> Result<(), SelectorError> {
    let mut errors: Vec<String> = Vec::new();
    for (index, value) in values.iter().enumerate() {
        if matches!(operator, LabelOperator::GreaterThan | LabelOperator::LessThan)
            && value.parse::<i64>().is_err()
        {
            errors.push(format!(
                "values[{index}]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer",
                quote(value)
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
                quote(value),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_selectors_print_canonically() {
        let cases = [
            ("", ""),
            (" \t", ""),
            ("a=b", "a=b"),
            ("a==b", "a=b"),
            ("a = b , c", "a=b,c"),
            ("z,!y,x!=1", "x!=1,!y,z"),
            ("x in (foo,,baz),y,z notin ()", "x in (,baz,foo),y,z notin ()"),
            ("x in (b,a,b)", "x in (a,b)"),
            ("x in (,)", "x in ()"),
            ("x notin (a,)", "x notin (,a)"),
            ("x=", "x="),
            ("x=,y", "x=,y"),
            ("in in (in,notin)", "in in (in,notin)"),
            ("notin=in", "notin=in"),
            ("n>5,n<010", "n>5,n<010"),
            ("a=b,a=b", "a=b"),
            ("!service.kubernetes.io/headless", "!service.kubernetes.io/headless"),
        ];
        for (text, canonical) in cases {
            let selector = LabelSelector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(selector.to_string(), canonical, "{text}");
            assert_eq!(selector.is_empty(), canonical.is_empty());
        }
        assert_eq!(LabelSelector::parse("a==b,c"), LabelSelector::parse("c, a=b"));
    }

    #[test]
    fn broken_label_selectors_are_refused_in_the_servers_words() {
        let long = format!("{}=b", "a".repeat(64));
        let cases = [
            ("a,", "found '', expected: identifier after ','"),
            (",a", "found ',', expected: !, identifier, or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("a=(", "unable to parse requirement: found '(', expected: identifier"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a in (b,,)", "unable to parse requirement: found ')', expected: ',', or identifier"),
            ("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'"),
            (
                "a>b",
                "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            ("-a", "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of"),
            (
                "/a",
                "unable to parse requirement: <nil>: Invalid value: \"/a\": prefix part must be non-empty",
            ),
            (
                "A/a",
                "unable to parse requirement: <nil>: Invalid value: \"A/a\": prefix part a lowercase RFC 1123",
            ),
            (
                "a/b/c",
                "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key must consist of",
            ),
            ("a=-", "unable to parse requirement: values[0][a]: Invalid value: \"-\": a valid label must be"),
            (long.as_str(), "unable to parse requirement: <nil>: Invalid value: \"aaa"),
            ("a\0", "the selector contains a NUL character"),
        ];
        for (text, message) in cases {
            let error = LabelSelector::parse(text).expect_err(text).to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }

    #[test]
    fn label_requirements_match_as_the_server_matches() {
        let labels = [("app", "web"), ("n", "7"), ("empty", "")];
        let matches = |text: &str| {
            LabelSelector::parse(text).expect(text).matches(|key| {
                let found = labels.iter().find(|(k, _)| *k == key);
                found.map(|(_, value)| Cow::Borrowed(*value))
            })
        };
        for yes in [
            "",
            "app",
            "app=web",
            "app!=db",
            "other!=db",
            "app in (db,web)",
            "app notin (db)",
            "other notin (db)",
            "!other",
            "n>6",
            "n<8",
            "empty=",
            "empty",
            "app=web,n>1",
        ] {
            assert!(matches(yes), "{yes}");
        }
        for no in [
            "other",
            "app=db",
            "app!=web",
            "other=web",
            "app in (db)",
            "app notin (web)",
            "other in ()",
            "!app",
            "n>7",
            "n<7",
            "app>1",
            "other>1",
            "other<1",
            "app=web,n>9",
        ] {
            assert!(!matches(no), "{no}");
        }
    }
}
