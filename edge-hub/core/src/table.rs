//! The cells of table rows that tell a time since then: made anew whenever a row is shown.
//!
//! The API server renders "5m" at the moment of the request, and kubectl prints it as it stands. A row that is held says
//! when it came, so that the time since then can be added. Where the cell is the object's age, it is made of its
//! `creationTimestamp`; of any other the row does not carry the time itself, so that it is right to the unit that the
//! API server had written: seconds up to ten minutes, minutes up to eight hours.

use std::time::Duration;

use bytes::Bytes;
use proto_kube::gvr::GroupVersionResource;
use proto_kube::json;
use proto_kube::media_type::{Encoding, Form, Format};
use proto_kube::object::row_metadata;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::definition::is_built_in;

/// The member of a held row that says when it came, in seconds since 1970.
const RECEIVED: &str = "received";
const SECOND: u64 = 1;
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;
/// The API server's clock and its word's way here.
const SKEW: u64 = 2;

/// An item as it is held, of a table with the moment at which it came.
#[must_use]
pub fn stamped(format: Format, raw: Bytes, now: Duration) -> Bytes {
    match raw.strip_prefix(b"{") {
        Some(rest) if is_table(format) => {
            let mut row = format!("{{\"{RECEIVED}\":{},", now.as_secs()).into_bytes();
            row.extend_from_slice(rest);
            row.into()
        }
        _ => raw,
    }
}

/// An item as it is shown, of a table with its times as of now. One that cannot be read is shown as it is held.
#[must_use]
pub fn shown(
    gvr: &GroupVersionResource,
    format: Format,
    columns: Option<&[u8]>,
    raw: &Bytes,
    now: Duration,
) -> Bytes {
    if !is_table(format) {
        return raw.clone();
    }
    render(gvr, columns.unwrap_or_default(), raw, now.as_secs()).map_or_else(|| raw.clone(), Bytes::from)
}

fn is_table(format: Format) -> bool {
    (format.encoding, format.form) == (Encoding::Json, Form::Table)
}

#[derive(Deserialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    class: String,
}

/// How a column tells a time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Not at all.
    No,
    /// The whole cell is the age of the object, as far as anybody knows.
    Age,
    /// The whole cell is the time since something.
    Since,
    /// `5 (3m ago)`.
    InBrackets,
    /// The time since something, while the row says that it is running.
    WhileRunning,
}

fn told(column: &Column, gvr: &GroupVersionResource, is_built_in: bool) -> Told {
    match (&*column.name, &*column.class) {
        ("Age", _) => Told::Age,
        (_, "date") => Told::Since,
        _ if !is_built_in => Told::No,
        ("Last Seen" | "First Seen" | "Last Schedule", _) => Told::Since,
        ("Restarts", _) if &*gvr.resource == "pods" => Told::InBrackets,
        ("Duration", _) if &*gvr.resource == "jobs" => Told::WhileRunning,
        _ => Told::No,
    }
}

fn render(gvr: &GroupVersionResource, columns: &[u8], row: &[u8], now: u64) -> Option<Vec<u8>> {
    let received: Option<u64> = json::member(row, RECEIVED)
        .ok()?
        .and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok());
    // A clock behind the moment at which the row came does not know the time.
    let elapsed = received.map_or(0, |received| now.saturating_sub(received));
    let columns: Vec<Column> = serde_json::from_slice(columns).unwrap_or_default();
    let mut out = Vec::with_capacity(row.len());
    for member in json::members(row).ok()? {
        let (name, value) = member.ok()?;
        if name == RECEIVED {
            continue;
        }
        out.push(if out.is_empty() { b'{' } else { b',' });
        json::write_string(&mut out, &name);
        out.push(b':');
        match (&*name, received) {
            ("cells", Some(received)) if elapsed > 0 => {
                let created = created(row);
                let age_then = created.map(|created| received.saturating_sub(created));
                let cells = Cells { gvr, columns: &columns, age_then, elapsed };
                cells.write(&mut out, value)?;
            }
            _ => out.extend_from_slice(value),
        }
    }
    if out.is_empty() {
        return None;
    }
    out.push(b'}');
    Some(out)
}

/// `creationTimestamp` of the row's object, in seconds since 1970.
fn created(row: &[u8]) -> Option<u64> {
    let metadata = row_metadata(row).ok()?;
    let text = json::string(json::member(metadata, "creationTimestamp").ok()??).ok()?;
    OffsetDateTime::parse(&text, &Rfc3339).ok()?.unix_timestamp().try_into().ok()
}

struct Cells<'a> {
    gvr: &'a GroupVersionResource,
    columns: &'a [Column],
    /// How old the object was when the row came.
    age_then: Option<u64>,
    elapsed: u64,
}

impl Cells<'_> {
    fn write(&self, out: &mut Vec<u8>, cells: &[u8]) -> Option<()> {
        let cells: Vec<&[u8]> = json::elements(cells).ok()?.collect::<Result<_, _>>().ok()?;
        let is_running = cells.contains(&b"\"Running\"".as_slice());
        let is_built_in = is_built_in(self.gvr);
        out.push(b'[');
        for (number, cell) in cells.iter().enumerate() {
            if number > 0 {
                out.push(b',');
            }
            let told =
                self.columns.get(number).map_or(Told::No, |column| told(column, self.gvr, is_built_in));
            let text = (told != Told::No).then(|| json::string(cell).ok()).flatten();
            let moved = text.and_then(|text| match told {
                Told::Age => self.age(&text),
                Told::Since => self.since(&text),
                Told::WhileRunning if is_running => self.since(&text),
                Told::InBrackets => self.in_brackets(&text),
                Told::WhileRunning | Told::No => None,
            });
            match moved {
                Some(moved) => json::write_string(out, &moved),
                None => out.extend_from_slice(cell),
            }
        }
        out.push(b']');
        Some(())
    }

    /// A definition may call something else an age; then the cell never was the time since the creation.
    fn age(&self, text: &str) -> Option<String> {
        let near = |age: &u64| (age.saturating_sub(SKEW)..=age + SKEW).any(|age| human(age) == text);
        match self.age_then.filter(near) {
            Some(then) => Some(human(then.saturating_add(self.elapsed))),
            None => self.since(text),
        }
    }

    fn since(&self, text: &str) -> Option<String> {
        Some(human(parse(text)?.saturating_add(self.elapsed)))
    }

    fn in_brackets(&self, text: &str) -> Option<String> {
        let (count, rest) = text.split_once(" (")?;
        let then = parse(rest.strip_suffix(" ago)")?)?;
        Some(format!("{count} ({} ago)", human(then.saturating_add(self.elapsed))))
    }
}

/// As `HumanDuration` of `k8s.io/apimachinery/pkg/util/duration` writes it.
fn human(seconds: u64) -> String {
    let two = |count: u64, unit: char, rest: u64, small: char| match rest {
        0 => format!("{count}{unit}"),
        _ => format!("{count}{unit}{rest}{small}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds / MINUTE, 'm', seconds % MINUTE, 's'),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(seconds / HOUR, 'h', seconds % HOUR / MINUTE, 'm'),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(seconds / DAY, 'd', seconds % DAY / HOUR, 'h'),
        691_200..63_072_000 => format!("{}d", seconds / DAY),
        63_072_000..252_288_000 => two(seconds / YEAR, 'y', seconds % YEAR / DAY, 'd'),
        _ => format!("{}y", seconds / YEAR),
    }
}

/// Reads what [`human`] writes; `None` for anything else (`<unknown>`, `<none>`, a date).
fn parse(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut seconds: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = rest.split_at_checked(digits)?;
        let size = match unit.bytes().next()? {
            b's' => SECOND,
            b'm' => MINUTE,
            b'h' => HOUR,
            b'd' => DAY,
            b'y' => YEAR,
            _ => return None,
        };
        seconds = seconds.checked_add(number.parse::<u64>().ok()?.checked_mul(size)?)?;
        rest = unit.get(1..)?;
    }
    (!text.is_empty()).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const TABLE: Format = Format { encoding: Encoding::Json, form: Form::Table };
    const CREATED: u64 = 1_767_225_600;

    fn pods() -> GroupVersionResource {
        GroupVersionResource::new("", "v1", "pods")
    }

    /// The cells that are shown `later` seconds after a row came with these.
    fn cells(
        gvr: &GroupVersionResource,
        columns: &[(&str, &str)],
        cells: &Value,
        age: u64,
        later: u64,
    ) -> Value {
        let columns: Vec<Value> =
            columns.iter().map(|(name, class)| json!({"name": name, "type": class})).collect();
        let row = json!({"cells": cells, "object": {"kind": "PartialObjectMetadata", "metadata":
            {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}}});
        let came = Duration::from_secs(CREATED + age);
        let held = stamped(TABLE, Bytes::from(row.to_string()), came);
        let columns = json!(columns).to_string();
        let shown = shown(gvr, TABLE, Some(columns.as_bytes()), &held, came + Duration::from_secs(later));
        let mut shown: Value = serde_json::from_slice(&shown).expect("JSON");
        assert_eq!(shown["object"], row["object"]);
        assert_eq!(shown.as_object().map(serde_json::Map::len), Some(2), "nothing of the hub's own");
        shown["cells"].take()
    }

    #[test]
    fn cells_that_tell_a_time_are_as_of_now() {
        let (string, date) = ("string", "date");
        let columns = [("Name", string), ("Restarts", string), ("Age", string)];
        let pod = json!(["5s", "3 (59s ago)", "119s"]);
        assert_eq!(cells(&pods(), &columns, &pod, 119, 80), json!(["5s", "3 (2m19s ago)", "3m19s"]));
        assert_eq!(
            cells(&pods(), &columns, &json!(["a", 0, "<unknown>"]), 5, 80),
            json!(["a", 0, "<unknown>"])
        );
        // Of its creation an age is known to the second, whatever was written of it.
        assert_eq!(
            cells(&pods(), &columns, &json!(["a", "0", "12m"]), 12 * 60 + 59, 1),
            json!(["a", "0", "13m"])
        );
        let events = GroupVersionResource::new("", "v1", "events");
        let columns = [("Last Seen", string), ("Type", string), ("First Seen", string)];
        assert_eq!(
            cells(&events, &columns, &json!(["10s", "Normal", "8m"]), 9, 130),
            json!(["2m20s", "Normal", "10m"])
        );
        let jobs = GroupVersionResource::new("batch", "v1", "jobs");
        let columns = [("Status", string), ("Duration", string)];
        assert_eq!(cells(&jobs, &columns, &json!(["Running", "10s"]), 9, 10), json!(["Running", "20s"]));
        assert_eq!(cells(&jobs, &columns, &json!(["Complete", "10s"]), 9, 10), json!(["Complete", "10s"]));
        let widgets = GroupVersionResource::new("example.org", "v1", "widgets");
        let columns = [("Last Seen", string), ("Since", date), ("Age", date)];
        assert_eq!(
            cells(&widgets, &columns, &json!(["10s", "10s", "9s"]), 9, 10),
            json!(["10s", "20s", "19s"])
        );
    }

    #[test]
    fn what_is_no_held_row_is_shown_as_it_is() {
        let now = Duration::from_secs(CREATED);
        for raw in ["{\"cells\":[\"5s\"],\"object\":null}", "[]", "{", ""] {
            let raw = Bytes::from(raw);
            assert_eq!(
                shown(&pods(), TABLE, Some(b"[{\"name\":\"Age\",\"type\":\"string\"}]"), &raw, now),
                raw
            );
        }
        let object = Bytes::from_static(b"{\"metadata\":{}}");
        assert_eq!(stamped(Format::JSON, object.clone(), now), object);
        assert_eq!(shown(&pods(), Format::JSON, None, &object, now), object);
    }

    #[test]
    fn durations_read_as_the_api_server_writes_them() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (190, "3m10s"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (12_000, "3h20m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ] {
            assert_eq!(human(seconds), text);
        }
    }

    proptest! {
        #[test]
        fn a_duration_is_read_back_to_its_last_unit(seconds in 0_u64..(20 * YEAR)) {
            let read = parse(&human(seconds)).expect("a duration");
            prop_assert!(read <= seconds && human(read) == human(seconds));
        }

        #[test]
        fn no_row_breaks_the_reader(row in "\\PC{0,60}", columns in "\\PC{0,60}", now in any::<u64>()) {
            let row = stamped(TABLE, Bytes::from(format!("{{{row}")), Duration::from_secs(1));
            let _ = shown(&pods(), TABLE, Some(columns.as_bytes()), &row, Duration::from_secs(now));
        }
    }
}
