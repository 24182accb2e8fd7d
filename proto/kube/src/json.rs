//! A bounded JSON scanner over borrowed text: it finds members, elements and strings without building values.
//!
//! The hub forwards JSON byte for byte, so it needs the places of a few values, never the values themselves.
//! The scanner checks structure (brackets, separators, literals, string ends) with an explicit stack of at most
//! [`MAX_DEPTH`] levels; it does not check the inner grammar of numbers or the control characters in strings.

use std::borrow::Cow;

/// Levels of nesting accepted before a text is refused; far above any Kubernetes object, far below any stack limit.
pub const MAX_DEPTH: usize = 512;

/// Where a text stopped being the JSON that was expected, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed JSON at byte {at}: {what}")]
pub struct JsonError {
    /// Offset in bytes from the start of the text that was scanned.
    pub at: usize,
    /// What was expected or found there.
    pub what: &'static str,
}

/// The members of the object `text` (exactly one object, white space around it allowed).
///
/// # Errors
/// When the text does not begin with an object.
pub fn members(text: &[u8]) -> Result<Members<'_>, JsonError> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.skip_white_space();
    cursor.expect(b'{', "expected an object")?;
    Ok(Members { cursor, state: State::First })
}

/// The elements of the array `text` (exactly one array, white space around it allowed).
///
/// # Errors
/// When the text does not begin with an array.
pub fn elements(text: &[u8]) -> Result<Elements<'_>, JsonError> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.skip_white_space();
    cursor.expect(b'[', "expected an array")?;
    Ok(Elements { cursor, state: State::First })
}

/// The value of the first member called `name` in the object `text`; `None` when there is none.
///
/// # Errors
/// When the text up to that member is not a well-formed object.
pub fn member<'a>(text: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, JsonError> {
    for entry in members(text)? {
        let (key, value) = entry?;
        if key == name {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// The text of the string literal `text`; borrowed unless it holds escapes.
///
/// # Errors
/// When it is not exactly one string literal, or not UTF-8.
pub fn string(text: &[u8]) -> Result<Cow<'_, str>, JsonError> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.skip_white_space();
    let found = cursor.string()?;
    cursor.finish()?;
    Ok(found)
}

/// Whether a value's text is the literal `null`.
#[must_use]
pub fn is_null(text: &[u8]) -> bool {
    text.trim_ascii() == b"null"
}

/// Appends `text` as a JSON string literal.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing a string to memory cannot fail");
}

/// If `text` begins as Go's typed encoder writes an object, `{"kind":"K","apiVersion":"V","metadata":`,
/// the two strings and the offset of the metadata.
pub(crate) fn leading_type_meta(text: &[u8]) -> Option<(Cow<'_, str>, Cow<'_, str>, usize)> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.literal(b"{\"kind\":").ok()?;
    let kind = cursor.string().ok()?;
    cursor.literal(b",\"apiVersion\":").ok()?;
    let api_version = cursor.string().ok()?;
    cursor.literal(b",").ok()?;
    let rest = cursor.at;
    cursor.literal(b"\"metadata\":").ok()?;
    Some((kind, api_version, rest))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    Next,
    Done,
}

/// A member of an object: its name and the text of its value.
pub type Member<'a> = (Cow<'a, str>, &'a [u8]);

/// Iterator over an object's members. Ends after the first error.
#[derive(Debug)]
pub struct Members<'a> {
    cursor: Cursor<'a>,
    state: State,
}

impl<'a> Members<'a> {
    fn step(&mut self) -> Result<Option<Member<'a>>, JsonError> {
        if !self.cursor.another(self.state, b'}')? {
            return Ok(None);
        }
        let key = self.cursor.string()?;
        self.cursor.colon()?;
        let value = self.cursor.value()?;
        Ok(Some((key, value)))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<Member<'a>, JsonError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::Done {
            return None;
        }
        let step = self.step();
        self.state = if matches!(step, Ok(Some(_))) { State::Next } else { State::Done };
        step.transpose()
    }
}

/// Iterator over the texts of an array's elements. Ends after the first error.
#[derive(Debug)]
pub struct Elements<'a> {
    cursor: Cursor<'a>,
    state: State,
}

impl<'a> Elements<'a> {
    fn step(&mut self) -> Result<Option<&'a [u8]>, JsonError> {
        if !self.cursor.another(self.state, b']')? {
            return Ok(None);
        }
        self.cursor.value().map(Some)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<&'a [u8], JsonError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::Done {
            return None;
        }
        let step = self.step();
        self.state = if matches!(step, Ok(Some(_))) { State::Next } else { State::Done };
        step.transpose()
    }
}

/// The kinds of the brackets that are open, one bit a level (set = object).
struct Nesting {
    bits: [u64; MAX_DEPTH / 64],
    depth: usize,
}

impl Nesting {
    fn push(&mut self, object: bool) -> bool {
        if self.depth == MAX_DEPTH {
            return false;
        }
        let (word, bit) = (self.depth / 64, 1 << (self.depth % 64));
        if object {
            self.bits[word] |= bit;
        } else {
            self.bits[word] &= !bit;
        }
        self.depth += 1;
        true
    }

    /// Whether the innermost open bracket is an object's; `None` at the top.
    fn top(&self) -> Option<bool> {
        let last = self.depth.checked_sub(1)?;
        Some(self.bits[last / 64] >> (last % 64) & 1 == 1)
    }
}

#[derive(Debug)]
struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn fail<T>(&self, what: &'static str) -> Result<T, JsonError> {
        Err(JsonError { at: self.at, what })
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_white_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), JsonError> {
        if self.peek() != Some(byte) {
            return self.fail(what);
        }
        self.at += 1;
        Ok(())
    }

    fn literal(&mut self, literal: &'static [u8]) -> Result<(), JsonError> {
        if !self.text[self.at..].starts_with(literal) {
            return self.fail("expected a value");
        }
        self.at += literal.len();
        Ok(())
    }

    fn colon(&mut self) -> Result<(), JsonError> {
        self.skip_white_space();
        self.expect(b':', "expected ':' after a member's name")
    }

    /// Goes to the next entry of the bracket being read; false (and nothing but white space may follow) at its end.
    fn another(&mut self, state: State, close: u8) -> Result<bool, JsonError> {
        self.skip_white_space();
        if self.peek() == Some(close) {
            self.at += 1;
            self.finish()?;
            return Ok(false);
        }
        if state == State::Next {
            self.expect(b',', "expected ',' or the closing bracket")?;
            self.skip_white_space();
        }
        Ok(true)
    }

    fn finish(&mut self) -> Result<(), JsonError> {
        self.skip_white_space();
        if self.at < self.text.len() {
            return self.fail("text after the end of the value");
        }
        Ok(())
    }

    /// Steps over a string literal; the range of its inside and whether it holds escapes.
    fn skip_string(&mut self) -> Result<(&'a [u8], bool), JsonError> {
        self.expect(b'"', "expected a string")?;
        let start = self.at;
        let mut escaped = false;
        loop {
            let Some(found) = memchr::memchr2(b'"', b'\\', &self.text[self.at..]) else {
                self.at = self.text.len();
                return self.fail("the text ends inside a string");
            };
            self.at += found;
            if self.text[self.at] == b'"' {
                let inside = &self.text[start..self.at];
                self.at += 1;
                return Ok((inside, escaped));
            }
            escaped = true;
            self.at = (self.at + 2).min(self.text.len());
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let start = self.at;
        let (inside, escaped) = self.skip_string()?;
        let bad = |what| JsonError { at: start, what };
        if escaped {
            let whole = &self.text[start..self.at];
            let text: String =
                serde_json::from_slice(whole).map_err(|_| bad("a string with a bad escape"))?;
            return Ok(Cow::Owned(text));
        }
        let text = std::str::from_utf8(inside).map_err(|_| bad("a string that is not UTF-8"))?;
        Ok(Cow::Borrowed(text))
    }

    /// Steps over one value; its text.
    fn value(&mut self) -> Result<&'a [u8], JsonError> {
        self.skip_white_space();
        let start = self.at;
        let mut nesting = Nesting { bits: [0; MAX_DEPTH / 64], depth: 0 };
        loop {
            if self.open_or_scalar(&mut nesting)? {
                continue;
            }
            loop {
                let Some(object) = nesting.top() else {
                    return Ok(&self.text[start..self.at]);
                };
                self.skip_white_space();
                match (self.peek(), object) {
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.at += 1;
                        nesting.depth -= 1;
                    }
                    (Some(b','), _) => {
                        self.at += 1;
                        if object {
                            self.skip_white_space();
                            self.skip_string()?;
                            self.colon()?;
                        }
                        break;
                    }
                    (None, _) => return self.fail("the text ends inside a value"),
                    _ => return self.fail("expected ',' or the closing bracket"),
                }
            }
        }
    }

    /// Reads a scalar or an empty bracket (false), or opens a bracket and stops before its first value (true).
    fn open_or_scalar(&mut self, nesting: &mut Nesting) -> Result<bool, JsonError> {
        self.skip_white_space();
        match self.peek() {
            Some(open @ (b'{' | b'[')) => {
                let object = open == b'{';
                self.at += 1;
                self.skip_white_space();
                if self.peek() == Some(if object { b'}' } else { b']' }) {
                    self.at += 1;
                    return Ok(false);
                }
                if !nesting.push(object) {
                    return self.fail("nested too deeply");
                }
                if object {
                    self.skip_string()?;
                    self.colon()?;
                }
                return Ok(true);
            }
            Some(b'"') => {
                self.skip_string()?;
            }
            Some(b't') => self.literal(b"true")?,
            Some(b'f') => self.literal(b"false")?,
            Some(b'n') => self.literal(b"null")?,
            Some(b'-' | b'0'..=b'9') => {
                while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
                    self.at += 1;
                }
            }
            None => return self.fail("the text ends where a value was expected"),
            Some(_) => return self.fail("expected a value"),
        }
        Ok(false)
    }
}
