//! Edits change the field they name and nothing else, fields unknown here included.

mod arbitrary;

use proptest::prelude::*;
use proto_kube::edit::{self, EditError, Rewrite};
use proto_kube::media_type::{Encoding, Form, Format};
use proto_kube::object;
use proto_kube::wire;

/// A message as its records, the nested metadata's records apart.
fn records(message: &[u8]) -> Vec<(u32, Vec<u8>)> {
    wire::fields(message)
        .map(|field| field.unwrap())
        .map(|field| (field.number, field.record.to_vec()))
        .collect()
}

fn without(message: &[u8], number: u32) -> Vec<(u32, Vec<u8>)> {
    records(message).into_iter().filter(|(found, _)| *found != number).collect()
}

fn metadata(raw: &[u8]) -> &[u8] {
    wire::last(raw, 1).unwrap().unwrap().bytes().unwrap()
}

fn field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_bytes(&mut out, number, value);
    out
}

proptest! {
    #[test]
    fn a_protobuf_resource_version_alone_changes(raw in arbitrary::protobuf_object(), rv in "[0-9]{1,20}") {
        let edited = edit::with_resource_version(Format::PROTOBUF, &raw, &rv).unwrap();
        prop_assert_eq!(without(&edited, 1), without(&raw, 1));
        prop_assert_eq!(without(metadata(&edited), 6), without(metadata(&raw), 6));
        prop_assert_eq!(&object::scan(Format::PROTOBUF, &edited).unwrap().resource_version, &rv);
    }

    #[test]
    fn setting_what_is_there_changes_nothing(raw in arbitrary::protobuf_object()) {
        let rv = object::scan(Format::PROTOBUF, &raw).unwrap().resource_version.into_owned();
        prop_assume!(!rv.is_empty());
        prop_assert_eq!(edit::with_resource_version(Format::PROTOBUF, &raw, &rv).unwrap(), raw);
    }

    #[test]
    fn a_json_resource_version_alone_changes(item in arbitrary::json_item(), rv in "[0-9]{1,20}", table: bool) {
        let (format, item) = if table {
            (Format { encoding: Encoding::Json, form: Form::Table }, format!("{{\"cells\":[],\"object\":{item}}}"))
        } else {
            (Format::JSON, item)
        };
        let edited = edit::with_resource_version(format, item.as_bytes(), &rv).unwrap();
        prop_assert_eq!(&object::scan(format, &edited).unwrap().resource_version, &rv);
        // Putting the old text back gives the old object: nothing else was touched.
        let old = object::scan(format, item.as_bytes()).unwrap().resource_version;
        if !old.is_empty() {
            prop_assert_eq!(edit::with_resource_version(format, &edited, &old).unwrap(), item.as_bytes());
        } else {
            let edited = String::from_utf8(edited).unwrap();
            let put = format!("\"resourceVersion\":\"{rv}\",");
            prop_assert_eq!(edited.replacen(&put, "", 1), item);
        }
    }

    #[test]
    fn keeping_every_field_keeps_every_byte(raw in arbitrary::protobuf_object()) {
        prop_assert_eq!(edit::rewrite(&raw, &[1, 11], &mut |_| Ok(Rewrite::Keep)).unwrap(), &raw[..]);
        prop_assert_eq!(edit::remove(&raw, &[1, 49]).unwrap(), &raw[..]);
    }

    #[test]
    fn removed_is_gone_and_appended_is_last(raw in arbitrary::protobuf_object()) {
        let bare = edit::remove(&raw, &[1, 11]).unwrap();
        prop_assert_eq!(records(metadata(&bare)), without(metadata(&raw), 11));
        let longer = edit::append(&raw, &[1, 17], b"managed").unwrap();
        let mut expected = records(metadata(&raw));
        expected.push((17, field(17, b"managed")));
        prop_assert_eq!(records(metadata(&longer)), expected);
        prop_assert_eq!(without(&longer, 1), without(&raw, 1));
    }

    #[test]
    fn partial_metadata_is_the_metadata_alone(raw in arbitrary::protobuf_object(), item in arbitrary::json_item()) {
        let partial = edit::partial_metadata(Encoding::Protobuf, &raw).unwrap();
        prop_assert_eq!(partial, field(1, metadata(&raw)));

        let partial = edit::partial_metadata(Encoding::Json, item.as_bytes()).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&partial).unwrap();
        let whole: serde_json::Value = serde_json::from_str(&item).unwrap();
        prop_assert_eq!(&value["metadata"], &whole["metadata"]);
        prop_assert_eq!(&value["kind"], "PartialObjectMetadata");
        prop_assert_eq!(value.as_object().unwrap().len(), 3);
    }
}

#[test]
fn an_environment_is_appended_to_every_container_and_to_nothing_else() {
    let container = |name: &str| field(2, &field(1, name.as_bytes()));
    let spec = [container("a"), field(1, b"volume"), container("b")].concat();
    let pod = [field(1, b""), field(2, &spec)].concat();
    let edited = edit::append(&pod, &[2, 2, 7], b"E=1").unwrap();
    let with_env = |name: &str| field(2, &[field(1, name.as_bytes()), field(7, b"E=1")].concat());
    let spec = [with_env("a"), field(1, b"volume"), with_env("b")].concat();
    assert_eq!(edited, [field(1, b""), field(2, &spec)].concat());

    let empty = field(1, b"");
    assert_eq!(edit::append(&empty, &[2, 2, 7], b"E=1").unwrap(), empty);
}

#[test]
fn a_missing_field_is_put_where_the_server_would_write_it() {
    let object = [field(1, b"meta"), field(3, b"status")].concat();
    let edited = edit::set(&object, &[2, 10], b"n1").unwrap();
    assert_eq!(edited, [field(1, b"meta"), field(2, &field(10, b"n1")), field(3, b"status")].concat());
    // A parent that comes late is used where it stands, not made a second time.
    let object = [field(3, b"status"), field(2, &field(1, b"volume"))].concat();
    let edited = edit::set(&object, &[2, 10], b"n1").unwrap();
    assert_eq!(
        edited,
        [field(3, b"status"), field(2, &[field(1, b"volume"), field(10, b"n1")].concat())].concat()
    );
}

#[test]
fn entries_are_dropped_or_replaced_one_by_one() {
    let message = [field(2, b"keep"), field(2, b"drop"), field(2, b"change")].concat();
    let edited = edit::rewrite(&message, &[2], &mut |value| {
        Ok(match value {
            b"drop" => Rewrite::Remove,
            b"change" => Rewrite::Replace(b"changed".to_vec()),
            _ => Rewrite::Keep,
        })
    });
    assert_eq!(edited.unwrap(), [field(2, b"keep"), field(2, b"changed")].concat());
}

#[test]
fn json_without_a_version_gets_one() {
    let cases = [
        ("{\"metadata\":{}}", "{\"metadata\":{\"resourceVersion\":\"7\"}}"),
        ("{\"metadata\":{ \"name\":\"a\"}}", "{\"metadata\":{\"resourceVersion\":\"7\", \"name\":\"a\"}}"),
        ("{\"metadata\":null,\"spec\":1}", "{\"metadata\":{\"resourceVersion\":\"7\"},\"spec\":1}"),
        (
            "{\"a\":\"resourceVersion\",\"metadata\":{\"resourceVersion\": \"6\" }}",
            "{\"a\":\"resourceVersion\",\"metadata\":{\"resourceVersion\": \"7\" }}",
        ),
    ];
    for (before, after) in cases {
        let edited = edit::with_resource_version(Format::JSON, before.as_bytes(), "7").unwrap();
        assert_eq!(String::from_utf8(edited).unwrap(), after);
    }
}

#[test]
fn unusable_paths_and_objects_without_metadata_are_refused() {
    assert_eq!(edit::set(b"", &[], b""), Err(EditError::Path(0)));
    assert_eq!(edit::remove(b"", &[1; 17]), Err(EditError::Path(17)));
    for format in [Format::JSON, Format::PROTOBUF] {
        let raw: &[u8] = if format == Format::JSON { b"{}" } else { b"" };
        let error = edit::with_resource_version(format, raw, "1").unwrap_err();
        assert_eq!(error.to_string(), "the object has no `metadata`");
        edit::partial_metadata(format.encoding, raw).expect_err("no metadata");
    }
}

#[test]
fn of_a_repeated_parent_the_last_is_edited() {
    let object = [field(1, b""), field(1, &field(6, b"5")), field(2, b"spec")].concat();
    let edited = edit::with_resource_version(Format::PROTOBUF, &object, "7").unwrap();
    assert_eq!(edited, [field(1, b""), field(1, &field(6, b"7")), field(2, b"spec")].concat());
}
