//! What a LIST, WATCH or GET asks for in its query string, checked as the API server checks it.

use std::borrow::Cow;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::resource_request::{ResourceRequest, Verb};
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{Status, StatusCause, quote};

/// Longest query string that is read, in bytes.
pub const MAX_QUERY_BYTES: usize = 64 * 1024;
/// Most `key=value` pairs of a query string.
const MAX_PAIRS: usize = 128;
/// Longest time a watch can ask for; clients ask for minutes, and later arithmetic must not overflow.
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How `resourceVersion` of a LIST or WatchList is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VersionMatch {
    /// The state at exactly this version.
    Exact,
    /// The state at this version or any later one.
    NotOlderThan,
}

/// How much of each object a Table row carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IncludeObject {
    /// Its metadata.
    #[default]
    Metadata,
    /// Nothing.
    None,
    /// All of it.
    Object,
}

/// The options of a LIST or WATCH.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// `labelSelector`.
    pub labels: LabelSelector,
    /// `fieldSelector`.
    pub fields: FieldSelector,
    /// `resourceVersion` as sent; `None` when absent or empty.
    pub resource_version: Option<Box<str>>,
    /// `resourceVersionMatch`.
    pub version_match: Option<VersionMatch>,
    /// `limit`; `None` when absent, zero or negative.
    pub limit: Option<u64>,
    /// `continue`; `None` when absent or empty.
    pub continue_token: Option<Box<str>>,
    /// `timeoutSeconds`; `None` when absent or 0, zero when negative, at most 30 days.
    pub timeout: Option<Duration>,
    /// Whether this is a WATCH.
    pub watch: bool,
    /// `allowWatchBookmarks`.
    pub allow_bookmarks: bool,
    /// `sendInitialEvents` as sent.
    ///
    /// Servers with WatchList treat a watch without it, without `resourceVersionMatch` and at
    /// `resourceVersion` "" or "0" as if it said true: see [`ListOptions::sends_initial_events`].
    pub send_initial_events: Option<bool>,
    /// `pretty`.
    pub pretty: bool,
    /// `includeObject`.
    pub include_object: IncludeObject,
}

impl ListOptions {
    /// Whether so many objects are more than `limit` lets one answer have.
    #[must_use]
    pub fn is_more_than_a_page(&self, objects: usize) -> bool {
        self.limit.is_some_and(|limit| u64::try_from(objects).is_ok_and(|objects| objects > limit))
    }

    /// Reads a query string (without the `?`) and checks it.
    ///
    /// # Errors
    /// 400 for values that cannot be read, 422 with causes for options that do not go together.
    pub fn parse(query: Option<&str>) -> Result<Self, Status> {
        let query = Query::read(query)?;
        let decoded = Decoded::read(&query)?;
        decoded.validate()?;
        decoded.finish()
    }

    /// Reads the options of a LIST or WATCH whose path may say more than its query: the old
    /// `/watch/` prefix and an object's name after it.
    ///
    /// # Errors
    /// As [`ListOptions::parse`], and 400 when the path names another object than the field selector.
    pub fn for_request(request: &ResourceRequest, query: Option<&str>) -> Result<Self, Status> {
        let mut options = Self::parse(query)?;
        options.watch = request.verb == Verb::Watch;
        if let Some(name) = request.name.as_deref() {
            if options.fields.is_empty() {
                options.fields = FieldSelector::for_name(name);
            } else if options.fields.exact_value("metadata.name") != Some(name) {
                return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name"));
            }
        }
        Ok(options)
    }

    /// `resourceVersion` as a number: `None` when absent, `Some(0)` for "any".
    ///
    /// # Errors
    /// 400 when it is no number.
    pub fn parsed_rv(&self) -> Result<Option<u64>, Status> {
        parse_resource_version(self.resource_version.as_deref())
    }

    /// Whether a watch with these options begins with the current state as ADDED events, said or implied.
    #[must_use]
    pub fn sends_initial_events(&self) -> bool {
        let unversioned = matches!(self.resource_version.as_deref(), None | Some("0"));
        self.watch && self.send_initial_events.unwrap_or(unversioned)
    }
}

/// The options of a GET of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetOptions {
    /// `resourceVersion` as sent; `None` when absent or empty.
    pub resource_version: Option<Box<str>>,
    /// `pretty`.
    pub pretty: bool,
    /// `includeObject`.
    pub include_object: IncludeObject,
}

impl GetOptions {
    /// Reads a query string (without the `?`).
    ///
    /// # Errors
    /// 400 for a resource version that is no number or a query beyond bounds, 422 for an unknown
    /// `includeObject`.
    pub fn parse(query: Option<&str>) -> Result<Self, Status> {
        let query = Query::read(query)?;
        let resource_version = query.text("resourceVersion");
        parse_resource_version(resource_version.as_deref())?;
        Ok(Self { resource_version, pretty: query.pretty(), include_object: query.include_object()? })
    }
}

/// Reads a resource version: decimal, unsigned, 64 bits; absent or empty is `None`.
///
/// # Errors
/// 400 in the server's words when it is anything else.
pub fn parse_resource_version(text: Option<&str>) -> Result<Option<u64>, Status> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(version) if digits => Ok(Some(version)),
        _ => {
            let why = if digits { "value out of range" } else { "invalid syntax" };
            let shown = quote(text);
            Err(Status::bad_request(format!(
                "invalid resource version: resourceVersion: Invalid value: {shown}: strconv.ParseUint: parsing {shown}: {why}"
            )))
        }
    }
}

/// What the request resolver needs of a query before the options are checked.
pub(crate) struct Peek {
    pub(crate) watch: bool,
    pub(crate) name: Option<Box<str>>,
}

impl Peek {
    /// Reads leniently: with an unreadable query the resolver still honours `watch`.
    pub(crate) fn read(query: Option<&str>) -> Result<Self, Status> {
        let query = Query::read(query)?;
        Ok(match Decoded::read(&query) {
            Ok(decoded) => Self {
                watch: decoded.options.watch,
                name: decoded.options.fields.exact_value("metadata.name").map(Box::from),
            },
            Err(_) => Self { watch: query.flag("watch").unwrap_or(false), name: None },
        })
    }
}

/// Pairs of a query string, decoded; the first value of a key counts.
struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    /// Pairs with a `;` or a broken escape are dropped, as the server's URL parser drops them.
    fn read(query: Option<&'a str>) -> Result<Self, Status> {
        let query = query.unwrap_or("");
        if query.len() > MAX_QUERY_BYTES {
            return Err(Status::bad_request(format!("the query is longer than {MAX_QUERY_BYTES} bytes")));
        }
        let mut pairs = Vec::new();
        for pair in query.split('&') {
            if pair.is_empty() || pair.contains(';') {
                continue;
            }
            if pairs.len() == MAX_PAIRS {
                return Err(Status::bad_request(format!("the query has more than {MAX_PAIRS} parameters")));
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Some(key), Some(value)) = (unescape(key)?, unescape(value)?) {
                pairs.push((key, value));
            }
        }
        Ok(Self { pairs })
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| &**value)
    }

    fn text(&self, key: &str) -> Option<Box<str>> {
        self.get(key).filter(|value| !value.is_empty()).map(Box::from)
    }

    /// Any value but `0` and `false` is true, the empty one too.
    fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    fn integer(&self, key: &str) -> Result<Option<i64>, Status> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value.parse().map(Some).map_err(|error: std::num::ParseIntError| {
            let why = match error.kind() {
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
                    "value out of range"
                }
                _ => "invalid syntax",
            };
            Status::bad_request(format!("strconv.ParseInt: parsing {}: {why}", quote(value)))
        })
    }

    fn pretty(&self) -> bool {
        matches!(self.get("pretty"), Some("1" | "t" | "T" | "TRUE" | "true" | "True"))
    }

    fn include_object(&self) -> Result<IncludeObject, Status> {
        match self.get("includeObject") {
            None | Some("" | "Metadata") => Ok(IncludeObject::Metadata),
            Some("None") => Ok(IncludeObject::None),
            Some("Object") => Ok(IncludeObject::Object),
            Some(other) => Err(Status::invalid(
                "meta.k8s.io",
                "TableOptions",
                "",
                vec![StatusCause {
                    reason: Cow::Borrowed("FieldValueInvalid"),
                    message: format!(
                        "Invalid value: {}: must be 'Metadata', 'Object', 'None', or empty",
                        quote(other)
                    ),
                    field: "includeObject".to_owned(),
                }],
            )),
        }
    }
}

/// `None` for a broken escape; an error for bytes that are no text.
fn unescape(text: &str) -> Result<Option<Cow<'_, str>>, Status> {
    let not_text = || Status::bad_request("the query is not valid UTF-8");
    if !escapes_are_whole(text) {
        return Ok(None);
    }
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        let decoded = percent_decode_str(&spaced).decode_utf8().map_err(|_| not_text())?;
        return Ok(Some(Cow::Owned(decoded.into_owned())));
    }
    percent_decode_str(text).decode_utf8().map(Some).map_err(|_| not_text())
}

/// Whether every `%` is followed by two hexadecimal digits.
pub(crate) fn escapes_are_whole(text: &str) -> bool {
    let bytes = text.as_bytes();
    memchr::memchr_iter(b'%', bytes)
        .all(|at| bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)))
}

/// Options that could be read but are not checked yet.
struct Decoded<'a> {
    options: ListOptions,
    version_match: &'a str,
    include_object: Result<IncludeObject, Status>,
}

impl<'a> Decoded<'a> {
    /// Reads in the server's order (numbers, then selectors), so that the first error is the server's too.
    fn read(query: &'a Query<'_>) -> Result<Self, Status> {
        let unreadable = |error: crate::selector::SelectorError| Status::bad_request(error.to_string());
        let timeout = query.integer("timeoutSeconds")?.filter(|&t| t != 0);
        let limit = query.integer("limit")?;
        let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or(""));
        let labels = labels.map_err(unreadable)?;
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or(""));
        let fields = fields.map_err(unreadable)?;
        Ok(Self {
            options: ListOptions {
                labels,
                fields,
                resource_version: query.text("resourceVersion"),
                version_match: None,
                limit: limit.and_then(|l| u64::try_from(l).ok()).filter(|&l| l > 0),
                continue_token: query.text("continue"),
                timeout: timeout
                    .map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(MAX_TIMEOUT)),
                watch: query.flag("watch").unwrap_or(false),
                allow_bookmarks: query.flag("allowWatchBookmarks").unwrap_or(false),
                send_initial_events: query.flag("sendInitialEvents"),
                pretty: query.pretty(),
                include_object: IncludeObject::default(),
            },
            version_match: query.get("resourceVersionMatch").unwrap_or(""),
            include_object: query.include_object(),
        })
    }

    fn validate(&self) -> Result<(), Status> {
        let causes = if self.options.watch { self.watch_causes() } else { self.list_causes() };
        if !causes.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "ListOptions", "", causes));
        }
        let pinned = !matches!(self.options.resource_version.as_deref(), None | Some("0"));
        if !self.options.watch && self.options.continue_token.is_some() && pinned {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        Ok(())
    }

    fn list_causes(&self) -> Vec<StatusCause> {
        let mut causes = Vec::new();
        let options = &self.options;
        if !self.version_match.is_empty() {
            if options.resource_version.is_none() {
                causes.push(match_forbidden(
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if options.continue_token.is_some() {
                causes.push(match_forbidden(MATCH_WITH_CONTINUE));
            }
            if !matches!(self.version_match, "Exact" | "NotOlderThan") {
                causes.push(self.match_unsupported(r#""Exact", "NotOlderThan", """#));
            }
            if self.version_match == "Exact" && options.resource_version.as_deref() == Some("0") {
                causes.push(match_forbidden(
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
        if options.send_initial_events.is_some() {
            causes.push(forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
        causes
    }

    fn watch_causes(&self) -> Vec<StatusCause> {
        let mut causes = Vec::new();
        let options = &self.options;
        let not_older = self.version_match == "NotOlderThan";
        if options.send_initial_events.is_some() && !not_older {
            causes.push(match_forbidden(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if !self.version_match.is_empty() {
            if options.send_initial_events.is_none() {
                causes.push(match_forbidden(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
            if !not_older {
                causes.push(self.match_unsupported(r#""NotOlderThan""#));
            }
            if options.continue_token.is_some() {
                causes.push(match_forbidden(MATCH_WITH_CONTINUE));
            }
        }
        causes
    }

    fn match_unsupported(&self, supported: &str) -> StatusCause {
        StatusCause {
            reason: Cow::Borrowed("FieldValueNotSupported"),
            message: format!(
                "Unsupported value: {}: supported values: {supported}",
                quote(self.version_match)
            ),
            field: "resourceVersionMatch".to_owned(),
        }
    }

    fn finish(mut self) -> Result<ListOptions, Status> {
        self.options.version_match = match self.version_match {
            "Exact" => Some(VersionMatch::Exact),
            "NotOlderThan" => Some(VersionMatch::NotOlderThan),
            _ => None,
        };
        self.options.include_object = self.include_object?;
        Ok(self.options)
    }
}

const MATCH_WITH_CONTINUE: &str = "resourceVersionMatch is forbidden when continue is provided";

fn match_forbidden(why: &str) -> StatusCause {
    forbidden("resourceVersionMatch", why)
}

fn forbidden(field: &str, why: &str) -> StatusCause {
    StatusCause {
        reason: Cow::Borrowed("FieldValueForbidden"),
        message: format!("Forbidden: {why}"),
        field: field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::request_info::RequestInfo;

    fn parse(query: &str) -> ListOptions {
        ListOptions::parse(Some(query)).unwrap_or_else(|status| panic!("{query}: {status}"))
    }

    #[test]
    fn the_queries_of_real_informers_are_read() {
        let list = parse("fieldSelector=spec.nodeName%3Dn1&limit=500&resourceVersion=0");
        assert_eq!(list.fields.to_string(), "spec.nodeName=n1");
        assert_eq!(list.limit, Some(500));
        assert_eq!(list.parsed_rv(), Ok(Some(0)));
        assert!(!list.watch && !list.sends_initial_events());

        let watch = parse(
            "allowWatchBookmarks=true&fieldSelector=spec.clusterIP%21%3DNone&labelSelector=%21service.kubernetes.io%2Fservice-proxy-name&resourceVersion=123&timeout=7m12s&timeoutSeconds=432&watch=true",
        );
        assert!(watch.watch && watch.allow_bookmarks);
        assert_eq!(watch.labels.to_string(), "!service.kubernetes.io/service-proxy-name");
        assert_eq!(watch.fields.to_string(), "spec.clusterIP!=None");
        assert_eq!(watch.timeout, Some(Duration::from_secs(432)));
        assert_eq!(watch.parsed_rv(), Ok(Some(123)));
        assert!(!watch.sends_initial_events());

        let watch_list = parse(
            "allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&sendInitialEvents=true&timeoutSeconds=432&watch=true",
        );
        assert_eq!(watch_list.send_initial_events, Some(true));
        assert_eq!(watch_list.version_match, Some(VersionMatch::NotOlderThan));
        assert_eq!(watch_list.parsed_rv(), Ok(None));
        assert!(watch_list.sends_initial_events());
        assert!(parse("watch=1&resourceVersion=0").sends_initial_events());
        assert_eq!(ListOptions::parse(None), Ok(ListOptions::default()));
    }

    #[test]
    fn values_are_read_as_the_server_reads_them() {
        assert_eq!(parse("limit=0&timeoutSeconds=0"), ListOptions::default());
        assert_eq!(parse("limit=-3").limit, None);
        assert_eq!(parse("timeoutSeconds=-3").timeout, Some(Duration::ZERO));
        assert_eq!(parse("timeoutSeconds=9223372036854775807").timeout, Some(MAX_TIMEOUT));
        assert_eq!(parse("resourceVersion=&continue=").resource_version, None);
        assert_eq!(parse("labelSelector=a+in+(b)").labels.to_string(), "a in (b)");
        assert_eq!(parse("resourceVersion=1&resourceVersion=2").parsed_rv(), Ok(Some(1)));
        // Dropped like the server's URL parser drops them.
        assert_eq!(parse("resourceVersion=%zz&a;b=1&resourceVersion=2").parsed_rv(), Ok(Some(2)));
        assert!(parse("pretty=true").pretty && !parse("pretty=yes").pretty);
        assert_eq!(parse("includeObject=Object").include_object, IncludeObject::Object);
        assert_eq!(parse("includeObject=None").include_object, IncludeObject::None);
        assert_eq!(parse("unknown=1&=&&"), ListOptions::default());
    }

    /// The causes of a 422, each as `field reason message`.
    fn causes(query: &str) -> Vec<String> {
        let status = ListOptions::parse(Some(query)).expect_err(query);
        assert_eq!((status.code, &*status.reason), (422, "Invalid"), "{query}");
        let details = status.details.expect("causes are in the details");
        assert_eq!((&*details.group, &*details.kind), ("meta.k8s.io", "ListOptions"));
        let show = |c: &StatusCause| format!("{} {} {}", c.field, c.reason, c.message);
        details.causes.iter().map(show).collect()
    }

    #[test]
    fn a_version_match_that_does_not_go_with_the_rest_is_422() {
        for (query, why) in [
            (
                "resourceVersionMatch=Exact",
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            ("resourceVersionMatch=NotOlderThan&resourceVersion=1&continue=x", MATCH_WITH_CONTINUE),
            (
                "resourceVersionMatch=Exact&resourceVersion=0",
                "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ),
            (
                "watch=1&sendInitialEvents=true",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
            (
                "watch=1&sendInitialEvents=false",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
            (
                "watch=1&resourceVersionMatch=NotOlderThan&resourceVersion=5",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ),
            (
                "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&continue=x",
                MATCH_WITH_CONTINUE,
            ),
        ] {
            let expected = format!("resourceVersionMatch FieldValueForbidden Forbidden: {why}");
            assert_eq!(causes(query), [expected], "{query}");
        }
    }

    #[test]
    fn unsupported_and_several_options_are_422_with_every_cause() {
        assert_eq!(
            causes("resourceVersionMatch=bogus&resourceVersion=1"),
            [
                "resourceVersionMatch FieldValueNotSupported Unsupported value: \"bogus\": supported values: \"Exact\", \"NotOlderThan\", \"\""
            ]
        );
        assert_eq!(
            causes("sendInitialEvents=false"),
            ["sendInitialEvents FieldValueForbidden Forbidden: sendInitialEvents is forbidden for list"]
        );
        assert_eq!(
            causes("watch=1&sendInitialEvents=true&resourceVersionMatch=Exact"),
            [
                "resourceVersionMatch FieldValueForbidden Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                "resourceVersionMatch FieldValueNotSupported Unsupported value: \"Exact\": supported values: \"NotOlderThan\"",
            ]
        );
        let two = ListOptions::parse(Some("resourceVersionMatch=Exact&sendInitialEvents=1"));
        assert_eq!(
            two.expect_err("two causes").message,
            "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided, sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list]"
        );
    }

    #[test]
    fn values_that_cannot_be_read_are_400() {
        for (query, message) in [
            ("limit=x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
            ("labelSelector=a,&limit=y", "strconv.ParseInt: parsing \"y\": invalid syntax"),
            ("limit=", "strconv.ParseInt: parsing \"\": invalid syntax"),
            (
                "timeoutSeconds=9223372036854775808",
                "strconv.ParseInt: parsing \"9223372036854775808\": value out of range",
            ),
            ("labelSelector=a,", "found '', expected: identifier after ','"),
            ("fieldSelector=a", "invalid selector: 'a'; can't understand 'a'"),
            (
                "continue=x&resourceVersion=7",
                "specifying resource version is not allowed when using continue",
            ),
            ("continue=%ff", "the query is not valid UTF-8"),
        ] {
            let status = ListOptions::parse(Some(query)).expect_err(query);
            assert_eq!((status.code, status.message.as_str()), (400, message), "{query}");
        }
        for text in ["x", "-1", "+1", "1.0", "18446744073709551616", " 1"] {
            let options = ListOptions { resource_version: Some(text.into()), ..ListOptions::default() };
            assert_eq!(options.parsed_rv().expect_err(text).code, 400, "{text}");
        }
        assert_eq!(parse_resource_version(Some("18446744073709551615")), Ok(Some(u64::MAX)));
        let status = ListOptions::parse(Some("includeObject=All")).expect_err("unknown");
        assert_eq!(status.code, 422);
        let long = format!("continue={}", "x".repeat(MAX_QUERY_BYTES));
        assert_eq!(ListOptions::parse(Some(&long)).expect_err("long").code, 400);
        let many = "a=b&".repeat(MAX_PAIRS + 1);
        assert_eq!(ListOptions::parse(Some(&many)).expect_err("many").code, 400);
    }

    #[test]
    fn a_name_in_the_path_becomes_a_field_selector() {
        let read = |path: &str, query: &str| match RequestInfo::parse("GET", path, Some(query)).expect(path) {
            RequestInfo::Resource(request) => ListOptions::for_request(&request, Some(query)),
            RequestInfo::NonResource(other) => panic!("{other:?}"),
        };
        let named = "/api/v1/watch/namespaces/a/pods/b";
        let options = read(named, "").expect("a name alone");
        assert!(options.watch);
        assert_eq!(options.fields.single_name(), Some("b"));
        let options = read(named, "fieldSelector=metadata.name%3Db,x%3Dy").expect("the same name");
        assert_eq!(options.fields.to_string(), "metadata.name=b,x=y");
        let status = read(named, "fieldSelector=metadata.name%3Dc").expect_err("another name");
        assert_eq!(status.message, "fieldSelector metadata.name doesn't match requested name");
        let listed = read("/api/v1/pods", "fieldSelector=metadata.name%3Dc").expect("a list");
        assert_eq!(listed.fields.single_name(), Some("c"));
        assert!(!listed.watch);
    }

    #[test]
    fn a_get_reads_its_own_options_only() {
        let options = GetOptions::parse(Some("resourceVersion=0&pretty=1&limit=x")).expect("valid");
        assert_eq!(options.resource_version.as_deref(), Some("0"));
        assert!(options.pretty);
        assert_eq!(GetOptions::parse(Some("resourceVersion=x")).expect_err("no number").code, 400);
    }

    proptest! {
        #[test]
        fn no_query_breaks_the_parser(query in prop_oneof![
            any::<String>(),
            "((watch|limit|continue|resourceVersion|resourceVersionMatch|sendInitialEvents|timeoutSeconds|labelSelector|fieldSelector)=(1|0|x|true|Exact|NotOlderThan|a%3Db|%|-9)?&){0,6}",
        ]) {
            if let Ok(options) = ListOptions::parse(Some(&query)) {
                prop_assert!(options.send_initial_events.is_none() || options.watch);
                prop_assert!(options.version_match.is_none() || options.continue_token.is_none());
                prop_assert!(options.limit != Some(0));
            } else if let Err(status) = ListOptions::parse(Some(&query)) {
                prop_assert!(matches!(status.code, 400 | 422));
            }
        }
    }
}
