//! Lists are cut and put together without changing a byte of an item, and nothing else passes for a list.

mod arbitrary;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proto_kube::list::{self, ListError, ListHead};
use proto_kube::media_type::{Encoding, Form, Format};
use proto_kube::object::TypeMeta;
use proto_kube::wire;

const TABLE: Format = Format { encoding: Encoding::Json, form: Form::Table };

fn head(rv: &str, continue_token: &str) -> ListHead {
    ListHead {
        type_meta: TypeMeta::new("v1", "PodList"),
        resource_version: rv.into(),
        continue_token: continue_token.into(),
        columns: None,
    }
}

fn encode(format: Format, head: &ListHead, items: &[Bytes]) -> Bytes {
    list::encode_list(format, head, items.iter().cloned()).concat().into()
}

proptest! {
    #[test]
    fn protobuf_lists_round_trip(
        objects in vec(arbitrary::protobuf_object(), 0..6),
        rv in "[0-9]{0,10}",
        token in arbitrary::text(),
    ) {
        let items: Vec<Bytes> = objects.into_iter().map(Bytes::from).collect();
        let head = head(&rv, &token);
        let body = encode(Format::PROTOBUF, &head, &items);
        let (found, split) = list::split_list(Format::PROTOBUF, &body).unwrap();
        prop_assert_eq!(found, head);
        prop_assert_eq!(split, items);
    }

    #[test]
    fn json_lists_round_trip(
        objects in vec(arbitrary::json_item(), 0..6),
        rv in "[0-9]{0,10}",
        token in arbitrary::text(),
    ) {
        let items: Vec<Bytes> = objects.into_iter().map(Bytes::from).collect();
        let head = head(&rv, &token);
        let body = encode(Format::JSON, &head, &items);
        serde_json::from_slice::<serde_json::Value>(&body).expect("the list is JSON");
        let (found, split) = list::split_list(Format::JSON, &body).unwrap();
        prop_assert_eq!(found, head);
        prop_assert_eq!(split, items);
    }

    #[test]
    fn table_lists_round_trip(objects in vec(arbitrary::json_item(), 0..6), columns in proptest::option::of("[a-z]{0,5}")) {
        let items: Vec<Bytes> = objects.iter().map(|object| format!("{{\"cells\":[1],\"object\":{object}}}").into()).collect();
        let head = ListHead {
            type_meta: TypeMeta::table(),
            columns: columns.map(|name| format!("[{{\"name\":\"{name}\"}}]").into()),
            ..head("7", "")
        };
        let body = encode(TABLE, &head, &items);
        let (found, split) = list::split_list(TABLE, &body).unwrap();
        prop_assert_eq!(found, head);
        prop_assert_eq!(split, items);
    }

    #[test]
    fn json_documents_round_trip(members in arbitrary::json_members(), typed: bool) {
        let text = if typed {
            format!("{{\"kind\":\"Pod\",\"apiVersion\":\"v1\",{members}}}\n")
        } else {
            format!("{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",{members}}}\n")
        };
        let body = Bytes::from(text);
        let (type_meta, raw) = list::split_document(Format::JSON, &body).unwrap();
        prop_assert_eq!(&type_meta, &TypeMeta::new("v1", "Pod"));
        prop_assert_eq!(raw.starts_with(b"{\"metadata\""), typed, "typed objects are kept without kind and apiVersion");
        prop_assert_eq!(list::encode_document(Format::JSON, &type_meta, &raw), body);
    }

    #[test]
    fn protobuf_documents_round_trip(object in arbitrary::protobuf_object()) {
        let type_meta = TypeMeta::new("v1", "Pod");
        let body = list::encode_document(Format::PROTOBUF, &type_meta, &object);
        prop_assert!(body.starts_with(b"k8s\0"));
        prop_assert!(body.ends_with(&[0x1a, 0, 0x22, 0]));
        let (found, raw) = list::split_document(Format::PROTOBUF, &body).unwrap();
        prop_assert_eq!(found, type_meta);
        prop_assert_eq!(raw, object);
    }
}

#[test]
fn items_share_the_body() {
    let items = vec![Bytes::from_static(b"{\"metadata\":{\"name\":\"a\"}}")];
    for format in [Format::JSON, Format::PROTOBUF] {
        let body = encode(format, &head("1", ""), &items);
        let (_, split) = list::split_list(format, &body).unwrap();
        assert!(body.as_ptr_range().contains(&split[0].as_ptr()), "{format:?} items must not be copied");
    }
}

#[test]
fn what_kube_apiserver_writes_is_written_back() {
    let typed = "{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"42\"},\"items\":[{\"metadata\":{\"name\":\"a\"}},{\"metadata\":{\"name\":\"b\"}}]}\n";
    let body = Bytes::from(typed);
    let (head, items) = list::split_list(Format::JSON, &body).unwrap();
    assert_eq!(encode(Format::JSON, &head, &items), typed);

    let table = "{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{\"resourceVersion\":\"42\"},\"columnDefinitions\":[{\"name\":\"Name\"}],\"rows\":[{\"cells\":[\"a\"],\"object\":{\"metadata\":{\"name\":\"a\"}}}]}\n";
    let body = Bytes::from(table);
    let (head, items) = list::split_list(TABLE, &body).unwrap();
    assert_eq!(encode(TABLE, &head, &items), table);
    assert_eq!(list::encode_table_document(head.columns.as_deref(), &items[0], "42"), table);
}

#[test]
fn unstructured_lists_have_their_items_before_their_kind() {
    let body = Bytes::from_static(
        b"{\"apiVersion\":\"example.org/v1\",\"items\":[{\"apiVersion\":\"example.org/v1\",\"kind\":\"Widget\"}],\"kind\":\"WidgetList\",\"metadata\":{\"continue\":\"t\",\"resourceVersion\":\"9\"}}\n",
    );
    let (head, items) = list::split_list(Format::JSON, &body).unwrap();
    assert_eq!(head.type_meta, TypeMeta::new("example.org/v1", "WidgetList"));
    assert_eq!((head.resource_version.as_ref(), head.continue_token.as_ref()), ("9", "t"));
    assert_eq!(items, ["{\"apiVersion\":\"example.org/v1\",\"kind\":\"Widget\"}"]);
}

#[test]
fn an_item_whose_first_member_sorts_before_api_version_keeps_its_own_kind() {
    let whole = "{\"address\":1,\"apiVersion\":\"example.org/v1\",\"kind\":\"Widget\",\"metadata\":{}}\n";
    let (type_meta, raw) = list::split_document(Format::JSON, &Bytes::from(whole)).unwrap();
    assert_eq!(list::encode_document(Format::JSON, &type_meta, &raw), whole);
}

#[test]
fn an_empty_list_is_empty_and_nothing_else_is() {
    let null = Bytes::from_static(b"{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"1\"},\"items\":null}");
    assert!(list::split_list(Format::JSON, &null).unwrap().1.is_empty());

    let status = Bytes::from_static(
        b"{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"code\":500}",
    );
    assert!(matches!(list::split_list(Format::JSON, &status), Err(ListError::Kind { .. })));
    assert!(matches!(list::split_list(TABLE, &status), Err(ListError::Kind { .. })));
    let status = list::encode_document(Format::PROTOBUF, &TypeMeta::new("v1", "Status"), &[]);
    assert!(matches!(list::split_list(Format::PROTOBUF, &status), Err(ListError::Kind { .. })));

    let plain =
        Bytes::from_static(b"{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"metadata\":{},\"items\":[]}");
    let error = list::split_list(TABLE, &plain).unwrap_err();
    assert_eq!(error.to_string(), "the body is a `PodList`, expected a Table");
}

#[test]
fn a_body_cut_anywhere_is_an_error() {
    let items = vec![Bytes::from_static(b"{\"metadata\":{\"name\":\"a\"}}"); 2];
    let body = encode(Format::JSON, &head("1", "t"), &items);
    let end = body.trim_ascii().len();
    for cut in 0..end {
        list::split_list(Format::JSON, &body.slice(..cut)).expect_err("a cut list");
    }
    let mut object = Vec::new();
    wire::put_bytes(&mut object, 1, &[0x0a, 1, b'a']);
    let body = encode(Format::PROTOBUF, &head("1", "t"), &[object.into()]);
    // Cut between the two last, empty fields the document is whole to a protobuf reader; before them it is not.
    for cut in 0..body.len() - 4 {
        list::split_list(Format::PROTOBUF, &body.slice(..cut)).expect_err("a cut list");
    }
}

#[test]
fn compressed_documents_are_refused_by_name() {
    let mut body = list::encode_document(Format::PROTOBUF, &TypeMeta::new("v1", "Pod"), &[]).to_vec();
    wire::put_bytes(&mut body, 3, b"gzip");
    let error = list::split_document(Format::PROTOBUF, &body.into()).unwrap_err();
    assert_eq!(error.to_string(), "the document's content encoding `gzip` is not supported");
}

#[test]
fn a_document_with_a_second_api_version_still_comes_out_with_its_kind() {
    let twice = "{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"spec\":{},\"apiVersion\":\"v1\"}\n";
    let (type_meta, raw) = list::split_document(Format::JSON, &Bytes::from(twice)).unwrap();
    assert_eq!(list::encode_document(Format::JSON, &type_meta, &raw), twice);
}
