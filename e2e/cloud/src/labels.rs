//! Label selectors, read token by token as the server reads them, so that both refuse the same texts in the same words.

use serde_json::Value;

use crate::status::Status;
use crate::validate;

/// A parsed label selector; the empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelSelector {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Above(i64),
    Below(i64),
}

impl LabelSelector {
    /// Parse the `labelSelector` parameter.
    ///
    /// # Errors
    /// 400 when the text is no selector.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let mut parser = Parser { tokens: tokens(text), at: 0 };
        parser.selector().map(|terms| Self { terms }).map_err(Status::bad_request)
    }

    /// The same, and this label with this value.
    #[must_use]
    pub(crate) fn and(mut self, key: &str, value: &str) -> Self {
        self.terms.push(Term { key: key.into(), test: Test::In(vec![value.into()]) });
        self
    }

    /// True when there is no term.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Does the object carry matching labels?
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.terms.iter().all(|term| {
            let value = labels.get(&term.key).and_then(Value::as_str);
            let number = value.and_then(|value| value.parse::<i64>().ok());
            match &term.test {
                Test::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
                Test::NotIn(values) => value.is_none_or(|v| values.iter().all(|x| x != v)),
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::Above(bound) => number.is_some_and(|n| n > *bound),
                Test::Below(bound) => number.is_some_and(|n| n < *bound),
            }
        })
    }
}

/// Operators, brackets and commas are tokens of their own; what is between them is a word.
fn tokens(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = false;
    for c in text.chars() {
        let special = "=!(),<>".contains(c);
        let doubled =
            c == '=' && inside && found.last().is_some_and(|last| matches!(last.as_str(), "=" | "!"));
        if c.is_whitespace() {
            inside = false;
        } else if doubled || !special && inside && !found.last().is_some_and(|last| is_operator(last)) {
            found.last_mut().expect("there is one inside of which we are").push(c);
        } else {
            found.push(c.into());
            inside = true;
        }
    }
    found
}

fn is_operator(token: &str) -> bool {
    token.starts_with(|c: char| "=!(),<>".contains(c))
}

struct Parser {
    tokens: Vec<String>,
    at: usize,
}

impl Parser {
    /// The token that comes next; empty at the end.
    fn next(&self) -> &str {
        self.tokens.get(self.at).map_or("", String::as_str)
    }

    fn take(&mut self) -> String {
        let token = self.next().to_owned();
        self.at += 1;
        token
    }

    fn at_word(&self) -> bool {
        !self.next().is_empty() && !is_operator(self.next())
    }

    fn selector(&mut self) -> Result<Vec<Term>, String> {
        let mut terms = Vec::new();
        loop {
            if self.next().is_empty() {
                return Ok(terms);
            }
            if !self.at_word() && self.next() != "!" {
                return Err(format!("found '{}', expected: !, identifier, or 'end of string'", self.next()));
            }
            terms.push(self.term().map_err(|why| format!("unable to parse requirement: {why}"))?);
            match self.take().as_str() {
                "" => return Ok(terms),
                "," if self.at_word() || self.next() == "!" => {}
                "," => return Err(format!("found '{}', expected: identifier after ','", self.next())),
                other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn term(&mut self) -> Result<Term, String> {
        let absent = self.next() == "!";
        if absent {
            self.at += 1;
        }
        if !self.at_word() {
            return Err(format!("found '{}', expected: identifier", self.next()));
        }
        let key = self.take();
        validate::label_key(&key).map_err(|why| format!("key: Invalid value: {key:?}: {why}"))?;
        if matches!(self.next(), "" | ",") || absent {
            return Ok(Term { key, test: if absent { Test::Absent } else { Test::Exists } });
        }
        let operator = self.take();
        let test = match operator.as_str() {
            "in" => Test::In(self.values(&key)?),
            "notin" => Test::NotIn(self.values(&key)?),
            "=" | "==" => Test::In(vec![self.value(&key)?]),
            "!=" => Test::NotIn(vec![self.value(&key)?]),
            ">" => Test::Above(self.number()?),
            "<" => Test::Below(self.number()?),
            other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        Ok(Term { key, test })
    }

    /// A value that may be empty.
    fn value(&mut self, key: &str) -> Result<String, String> {
        if matches!(self.next(), "" | ",") {
            return Ok(String::new());
        }
        if !self.at_word() {
            return Err(format!("found '{}', expected: identifier", self.next()));
        }
        let value = self.take();
        validate::label_value(&value)
            .map_err(|why| format!("values[0][{key}]: Invalid value: {value:?}: {why}"))?;
        Ok(value)
    }

    fn number(&mut self) -> Result<i64, String> {
        let value = self.take();
        value.parse().map_err(|_| {
            format!(
                "values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            )
        })
    }

    /// Values in brackets; missing ones are empty.
    fn values(&mut self, key: &str) -> Result<Vec<String>, String> {
        if self.next() != "(" {
            return Err(format!("found '{}' expected: '('", self.next()));
        }
        self.at += 1;
        let mut values = Vec::new();
        loop {
            let bracket = self.next() == ")";
            values.push(if bracket { String::new() } else { self.value(key)? });
            match self.next() {
                "," => self.at += 1,
                ")" => {
                    self.at += 1;
                    return Ok(values);
                }
                other => return Err(format!("found '{other}', expected: ',' or ')'")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn label_terms_mean_what_the_server_says() {
        let object = json!({"metadata": {"labels": {"app": "sfu", "tier": "edge", "size": "5"}}});
        for (text, expected) in [
            ("", true),
            ("app=sfu", true),
            ("app==sfu,tier=edge", true),
            ("app!=sfu", false),
            ("other!=x", true),
            ("app in (a, sfu),tier", true),
            ("app notin (a,sfu)", false),
            ("other notin (a)", true),
            ("app in ()", false),
            ("!other", true),
            ("!app", false),
            ("size>4,size<6", true),
            ("size>5", false),
            ("app>4", false),
            ("!service.kubernetes.io/headless", true),
        ] {
            assert_eq!(LabelSelector::parse(text).expect(text).matches(&object), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused_in_the_words_of_the_server() {
        for (text, words) in [
            ("a b c", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in (x", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("=x", "found '=', expected: !, identifier, or 'end of string'"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("a=b,", "found '', expected: identifier after ','"),
        ] {
            let refused = LabelSelector::parse(text).unwrap_err();
            assert_eq!((refused.code, refused.message.as_str()), (400, words), "{text}");
        }
    }
}
