//! Content negotiation: which encodings and forms a client takes, and which one a body is in.

use serde::{Deserialize, Serialize};

use crate::status::Status;

/// Longest `Accept` header that is read, in bytes; real ones stay under 300.
const MAX_ACCEPT_BYTES: usize = 4096;
/// Most clauses of one `Accept` header; real ones have up to 5.
const MAX_CLAUSES: usize = 32;

/// What the API server names in its 406 answers.
const SERVED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// How bytes are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// `application/json`.
    Json,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// What is laid out: the objects themselves or a transformation of them, `meta.k8s.io/v1` always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// The objects as they are.
    Object,
    /// `Table`: what `kubectl get` prints; JSON only.
    Table,
    /// `PartialObjectMetadata` and its list: metadata alone.
    PartialMetadata,
}

/// One way a resource can travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Format {
    /// Byte layout.
    pub encoding: Encoding,
    /// Content.
    pub form: Form,
}

impl Format {
    /// Whole objects in JSON.
    pub const JSON: Self = Self { encoding: Encoding::Json, form: Form::Object };
    /// Whole objects in protobuf.
    pub const PROTOBUF: Self = Self { encoding: Encoding::Protobuf, form: Form::Object };

    /// `Content-Type` of an answer in this format; a watch stream says so unless it is JSON.
    #[must_use]
    pub fn content_type(self, watch: bool) -> &'static str {
        match (self.encoding, watch) {
            (Encoding::Json, _) => "application/json",
            (Encoding::Protobuf, false) => "application/vnd.kubernetes.protobuf",
            (Encoding::Protobuf, true) => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }

    /// `Accept` to send upstream for a LIST in this format.
    ///
    /// Protobuf falls back to JSON (custom resources have no protobuf). A transformed form never falls
    /// back to whole objects: the answer's Content-Type would not tell the two apart.
    #[must_use]
    pub fn accept_list(self) -> &'static str {
        match (self.encoding, self.form) {
            (Encoding::Protobuf, Form::PartialMetadata) => {
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,\
                 application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
            }
            (Encoding::Json, Form::PartialMetadata) => {
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
            }
            _ => self.accept_object(),
        }
    }

    /// `Accept` to send upstream for a WATCH or for a GET of one object in this format.
    ///
    /// It differs from [`Format::accept_list`] because the server refuses `as=PartialObjectMetadata` for
    /// lists and `as=PartialObjectMetadataList` for anything else.
    #[must_use]
    pub fn accept_object(self) -> &'static str {
        match (self.encoding, self.form) {
            (Encoding::Json, Form::Object) => "application/json",
            (Encoding::Protobuf, Form::Object) => "application/vnd.kubernetes.protobuf,application/json",
            (_, Form::Table) => "application/json;as=Table;g=meta.k8s.io;v=v1",
            (Encoding::Json, Form::PartialMetadata) => {
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
            }
            (Encoding::Protobuf, Form::PartialMetadata) => {
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,\
                 application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
            }
        }
    }

    /// Reads a `Content-Type`; `None` when it is no format of ours (yaml, cbor, text).
    ///
    /// The form comes from an `as=` parameter when the sender wrote one, else it is [`Form::Object`]:
    /// API servers do not write it, so whoever asked for a form has to remember it.
    #[must_use]
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        if content_type.len() > MAX_ACCEPT_BYTES {
            return None;
        }
        let (media, parameters) = match content_type.split_once(';') {
            Some((media, parameters)) => (media, parameters),
            None => (content_type, ""),
        };
        let media = media.trim().to_ascii_lowercase();
        let encoding = match media.as_str() {
            "application/json" => Encoding::Json,
            "application/vnd.kubernetes.protobuf" => Encoding::Protobuf,
            _ => return None,
        };
        match Conversion::read(parameters).target() {
            Target::Known(form) if form_fits(encoding, form) => Some(Self { encoding, form }),
            _ => None,
        }
    }
}

/// The server has no protobuf tables.
fn form_fits(encoding: Encoding, form: Form) -> bool {
    !(encoding == Encoding::Protobuf && form == Form::Table)
}

/// The formats a client takes, in its order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptable {
    formats: Vec<Format>,
    wants_other: bool,
    prefers_yaml: bool,
    pretty: bool,
}

impl Acceptable {
    /// Negotiates `accept` the way the API server does; an absent or empty header means JSON.
    ///
    /// `user_agent` decides only about pretty-printing (curl, Wget and browsers get it).
    ///
    /// # Errors
    /// 406 when nothing in the header can be served, by us or by the server; 400 when the header is
    /// beyond all bounds.
    pub fn parse(accept: Option<&str>, user_agent: Option<&str>) -> Result<Self, Status> {
        let by_hand = user_agent.is_some_and(|agent| {
            ["curl", "Wget", "Mozilla/5.0"].iter().any(|prefix| agent.starts_with(prefix))
        });
        let header = accept.unwrap_or("");
        if header.is_empty() {
            let formats = vec![Format::JSON];
            return Ok(Self { formats, wants_other: false, prefers_yaml: false, pretty: by_hand });
        }
        if header.len() > MAX_ACCEPT_BYTES {
            return Err(Status::bad_request(format!(
                "the Accept header is longer than {MAX_ACCEPT_BYTES} bytes"
            )));
        }
        let mut clauses: Vec<Clause<'_>> = header.split(',').filter_map(Clause::read).collect();
        if clauses.len() > MAX_CLAUSES {
            return Err(Status::bad_request(format!(
                "the Accept header has more than {MAX_CLAUSES} media types"
            )));
        }
        sort_by_preference(&mut clauses);
        Self::choose(&clauses, by_hand)
    }

    fn choose(clauses: &[Clause<'_>], by_hand: bool) -> Result<Self, Status> {
        let mut formats: Vec<Format> = Vec::new();
        let (mut wants_other, mut prefers_yaml) = (false, false);
        let mut first_is_pretty = None;
        for clause in clauses {
            match clause.outcome() {
                Outcome::Refused => continue,
                Outcome::Other if formats.is_empty() => {
                    prefers_yaml |= !wants_other && clause.is_plain_yaml();
                    wants_other = true;
                }
                Outcome::Other => {}
                Outcome::Serve(found) => {
                    for format in found {
                        if !formats.contains(&format) {
                            formats.push(format);
                        }
                    }
                }
            }
            first_is_pretty.get_or_insert(clause.conversion.pretty);
        }
        match first_is_pretty {
            None => Err(Status::not_acceptable(&SERVED)),
            Some(pretty) => Ok(Self { formats, wants_other, prefers_yaml, pretty: pretty || by_hand }),
        }
    }

    /// The formats we know, most wanted first; empty only when [`Acceptable::wants_other`].
    #[must_use]
    pub fn formats(&self) -> &[Format] {
        &self.formats
    }

    /// Whether the first choice the server could serve is one that is never cached: YAML, CBOR,
    /// `v1beta1` tables or metadata, aggregated discovery.
    #[must_use]
    pub fn wants_other(&self) -> bool {
        self.wants_other
    }

    /// Whether the first choice is whole objects in YAML.
    #[must_use]
    pub fn prefers_yaml(&self) -> bool {
        self.prefers_yaml
    }

    /// Whether JSON should be indented for a human reader (unless the query says `pretty=false`).
    #[must_use]
    pub fn pretty(&self) -> bool {
        self.pretty
    }
}

/// One media range of an `Accept` header.
#[derive(Clone, Debug)]
struct Clause<'a> {
    kind: &'a str,
    subtype: &'a str,
    quality: f32,
    conversion: Conversion<'a>,
}

/// The parameters that ask for a transformation, and the few others that matter.
#[derive(Clone, Debug, Default)]
struct Conversion<'a> {
    kind: Option<&'a str>,
    group: Option<&'a str>,
    version: Option<&'a str>,
    stream: Option<&'a str>,
    pretty: bool,
    quality: Option<f32>,
}

enum Target {
    Known(Form),
    Other,
    Unknown,
}

enum Outcome {
    Serve(Vec<Format>),
    Other,
    Refused,
}

impl<'a> Conversion<'a> {
    fn read(parameters: &'a str) -> Self {
        let mut found = Self::default();
        for parameter in parameters.split(';') {
            let mut parts = parameter.split('=');
            let (Some(key), Some(value), None) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let value = value.trim();
            match key.trim() {
                "as" => found.kind = Some(value),
                "g" => found.group = Some(value),
                "v" => found.version = Some(value),
                "stream" => found.stream = Some(value),
                "pretty" => found.pretty = value == "1",
                // An unreadable quality counts as 0, like a parser that drops its error.
                "q" => found.quality = Some(value.parse().ok().filter(|q: &f32| !q.is_nan()).unwrap_or(0.0)),
                _ => {}
            }
        }
        found
    }

    fn target(&self) -> Target {
        if self.stream.is_some_and(|stream| stream != "watch") {
            return Target::Unknown;
        }
        if self.kind.is_none() && self.group.is_none() && self.version.is_none() {
            return Target::Known(Form::Object);
        }
        let form = match self.kind {
            Some("Table") => Form::Table,
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Form::PartialMetadata,
            Some("APIGroupDiscoveryList") => return Target::Other,
            _ => return Target::Unknown,
        };
        match (self.group, self.version) {
            (Some("meta.k8s.io"), Some("v1")) => Target::Known(form),
            (Some("meta.k8s.io"), Some("v1beta1")) => Target::Other,
            _ => Target::Unknown,
        }
    }
}

impl<'a> Clause<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (range, parameters) = text.split_once(';').unwrap_or((text, ""));
        let (kind, subtype) = match range.split_once('/') {
            Some((kind, subtype)) if !subtype.contains('/') && !subtype.is_empty() => {
                (kind.trim(), subtype.trim())
            }
            None if range.trim() == "*" => ("*", "*"),
            _ => return None,
        };
        let conversion = Conversion::read(parameters);
        Some(Self { kind, subtype, quality: conversion.quality.unwrap_or(1.0), conversion })
    }

    fn is_plain_yaml(&self) -> bool {
        (self.kind, self.subtype) == ("application", "yaml")
            && matches!(self.conversion.target(), Target::Known(Form::Object))
    }

    fn outcome(&self) -> Outcome {
        let encodings: &[Encoding] = match (self.kind, self.subtype) {
            ("application", "json") => &[Encoding::Json],
            ("application", "vnd.kubernetes.protobuf") => &[Encoding::Protobuf],
            // JSON first, as the server lists it first; the rest only when that cannot be.
            ("application" | "*", "*") => &[Encoding::Json, Encoding::Protobuf],
            ("application", "yaml" | "cbor" | "cbor-seq") => {
                return match self.conversion.target() {
                    Target::Unknown => Outcome::Refused,
                    _ => Outcome::Other,
                };
            }
            _ => return Outcome::Refused,
        };
        let form = match self.conversion.target() {
            Target::Known(form) => form,
            Target::Other => return Outcome::Other,
            Target::Unknown => return Outcome::Refused,
        };
        let formats: Vec<Format> = encodings
            .iter()
            .filter(|&&encoding| form_fits(encoding, form))
            .map(|&encoding| Format { encoding, form })
            .collect();
        if formats.is_empty() { Outcome::Refused } else { Outcome::Serve(formats) }
    }

    /// The order the server sorts by. It is not transitive, so the sort itself is part of the behaviour.
    fn is_before(&self, other: &Self) -> bool {
        self.quality > other.quality
            || (self.kind != "*" && other.kind == "*")
            || (self.subtype != "*" && other.subtype == "*")
    }
}

/// Insertion sort, because the server's sort is one for headers of this size.
fn sort_by_preference(clauses: &mut [Clause<'_>]) {
    for end in 1..clauses.len() {
        let mut at = end;
        while at > 0 && clauses[at].is_before(&clauses[at - 1]) {
            clauses.swap(at, at - 1);
            at -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Format = Format { encoding: Encoding::Json, form: Form::Table };
    const JSON_META: Format = Format { encoding: Encoding::Json, form: Form::PartialMetadata };
    const PROTO_META: Format = Format { encoding: Encoding::Protobuf, form: Form::PartialMetadata };

    #[test]
    fn the_accept_headers_of_real_clients_negotiate() {
        let cases: &[(&str, &[Format], bool)] = &[
            ("", &[Format::JSON], false),
            ("application/json", &[Format::JSON], false),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                &[Format::PROTOBUF, Format::JSON],
                false,
            ),
            ("application/json, */*", &[Format::JSON, Format::PROTOBUF], false),
            ("*/*", &[Format::JSON, Format::PROTOBUF], false),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                &[TABLE, Format::JSON],
                false,
            ),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
                &[PROTO_META, JSON_META, Format::JSON],
                false,
            ),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
                &[PROTO_META, JSON_META, Format::JSON],
                false,
            ),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
                &[Format::JSON],
                true,
            ),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList;profile=nopeer,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
                &[Format::JSON],
                true,
            ),
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                &[Format::JSON, Format::PROTOBUF],
                false,
            ),
            ("application/json;stream=watch", &[Format::JSON], false),
            ("application/yaml", &[], true),
            ("application/cbor,application/json", &[Format::JSON], true),
            ("application/json,application/yaml", &[Format::JSON], false),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", &[], true),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
                &[Format::JSON],
                false,
            ),
            ("application/json;as=Other;v=v1;g=x, */*;as=Table;g=meta.k8s.io;v=v1", &[TABLE], false),
        ];
        for (accept, formats, other) in cases {
            let got =
                Acceptable::parse(Some(accept), None).unwrap_or_else(|status| panic!("{accept}: {status}"));
            assert_eq!(got.formats(), *formats, "{accept}");
            assert_eq!(got.wants_other(), *other, "{accept}");
        }
        assert_eq!(Acceptable::parse(None, None).expect("absent means JSON").formats(), &[Format::JSON]);
    }

    #[test]
    fn quality_orders_clauses_and_wildcards_yield_as_in_the_server() {
        let first = |accept| Acceptable::parse(Some(accept), None).expect("acceptable").formats()[0];
        assert_eq!(first("application/json;q=0.5,application/vnd.kubernetes.protobuf"), Format::PROTOBUF);
        assert_eq!(first("application/json;q=x,application/vnd.kubernetes.protobuf;q=0.1"), Format::PROTOBUF);
        assert_eq!(first("*/*;q=1,application/vnd.kubernetes.protobuf;q=0.5"), Format::PROTOBUF);
        assert_eq!(first("application/vnd.kubernetes.protobuf;q=0.5,*/*"), Format::JSON);
    }

    #[test]
    fn nothing_acceptable_is_406_in_the_servers_words() {
        for accept in [
            "text/plain",
            "application/xml, text/html",
            "application/json;stream=other",
            "application/json;as=Table;v=v2;g=meta.k8s.io",
            "application/json/x",
            ",",
            "application/",
        ] {
            let status = Acceptable::parse(Some(accept), None).expect_err(accept);
            assert_eq!(status.code, 406, "{accept}");
            assert_eq!(status.reason, "NotAcceptable");
            assert_eq!(
                status.message,
                "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
            );
        }
    }

    #[test]
    fn headers_beyond_the_bounds_are_refused() {
        let long = "application/json;x=".to_owned() + &"y".repeat(MAX_ACCEPT_BYTES);
        assert_eq!(Acceptable::parse(Some(&long), None).expect_err("long").code, 400);
        let many = vec!["a/b"; MAX_CLAUSES + 1].join(",");
        assert_eq!(Acceptable::parse(Some(&many), None).expect_err("many").code, 400);
    }

    #[test]
    fn pretty_is_asked_for_by_parameter_or_by_a_human_agent() {
        let pretty = |accept, agent| Acceptable::parse(accept, agent).expect("acceptable").pretty();
        assert!(pretty(Some("application/json;pretty=1"), None));
        assert!(!pretty(Some("application/json;pretty=true"), None));
        assert!(pretty(Some("*/*"), Some("curl/8.5.0")));
        assert!(pretty(None, Some("Mozilla/5.0 (X11)")));
        assert!(!pretty(Some("*/*"), Some("kubectl/v1.32.4")));
    }

    #[test]
    fn content_types_are_read_back() {
        let read = Format::from_content_type;
        for watch in [false, true] {
            for format in [Format::JSON, Format::PROTOBUF] {
                assert_eq!(read(format.content_type(watch)), Some(format));
            }
        }
        assert_eq!(read("Application/JSON; charset=utf-8"), Some(Format::JSON));
        assert_eq!(read("application/json;as=Table;v=v1;g=meta.k8s.io"), Some(TABLE));
        assert_eq!(
            read("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
            Some(PROTO_META)
        );
        for none in ["", "text/plain", "application/yaml", "application/cbor-seq", "application/jsonx"] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn what_we_send_upstream_negotiates_to_what_we_meant() {
        for format in [Format::JSON, Format::PROTOBUF, TABLE, JSON_META, PROTO_META] {
            for accept in [format.accept_list(), format.accept_object()] {
                let got = Acceptable::parse(Some(accept), None).expect(accept);
                assert_eq!(got.formats()[0], format, "{accept}");
                assert!(got.formats().iter().all(|f| f.form == format.form), "{accept}");
            }
        }
    }
}
