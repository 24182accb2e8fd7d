//! Who a member of a pool is: the name in its certificate, `eyot://POOL/NODE`, and nothing else.

use std::fmt;

/// The scheme of a member's URI.
const SCHEME: &str = "eyot://";
/// Names are those of Kubernetes objects: a DNS subdomain.
const LONGEST_NAME: usize = 253;

/// A node as a member of a pool. `Display` writes the URI that its certificate carries as a subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The pool.
    pub pool: Box<str>,
    /// The node.
    pub node: Box<str>,
}

/// A text that names no member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a member of a pool is named eyot://POOL/NODE, both lower-case names of Kubernetes objects")]
pub struct NotAMember;

impl Member {
    /// The member `node` of `pool`.
    ///
    /// # Errors
    /// [`NotAMember`] where one of the two can name no object.
    pub fn new(pool: &str, node: &str) -> Result<Self, NotAMember> {
        if is_name(pool) && is_name(node) {
            Ok(Self { pool: pool.into(), node: node.into() })
        } else {
            Err(NotAMember)
        }
    }

    /// Reads a URI.
    ///
    /// # Errors
    /// [`NotAMember`].
    pub fn parse(uri: &str) -> Result<Self, NotAMember> {
        let (pool, node) =
            uri.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')).ok_or(NotAMember)?;
        Self::new(pool, node)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.pool, self.node)
    }
}

/// Whether a pool or a node may be named so: a DNS subdomain in lower case, as Kubernetes names objects.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        let ends = [label.bytes().next(), label.bytes().next_back()];
        label.len() <= 63
            && ends
                .iter()
                .all(|end| end.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()))
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    text.len() <= LONGEST_NAME && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_read_as_it_is_written() {
        let member = Member::new("hangzhou-1", "node-7.example").expect("two names");
        assert_eq!(member.to_string(), "eyot://hangzhou-1/node-7.example");
        assert_eq!(Member::parse(&member.to_string()), Ok(member));
    }

    #[test]
    fn what_names_no_member_is_refused() {
        for text in [
            "",
            "eyot://",
            "eyot://pool",
            "eyot://pool/",
            "eyot:///node",
            "eyot://pool/node/more",
            "eyot://Pool/node",
            "eyot://pool/-node",
            "eyot://pool/no de",
            "https://pool/node",
            "eyot://pool/n\u{f6}de",
            "eyot://pool/..",
        ] {
            assert_eq!(Member::parse(text), Err(NotAMember), "{text:?}");
        }
        assert_eq!(Member::new("pool", &"a".repeat(64)), Err(NotAMember));
    }
}
