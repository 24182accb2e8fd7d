//! What lists and events become in a collection.

use bytes::Bytes;
use edge_hub_core::{
    clock::Now,
    collection::{Envelope, Object},
    reflector::Failure,
    table,
};
use proto_kube::{
    list::ListHead,
    media_type::Format,
    object::{TypeMeta, scan},
    watch::WatchEvent,
};

pub(super) fn object_from(format: Format, raw: Bytes, now: Now) -> Result<Object, Failure> {
    let meta = scan(format, &raw).map_err(|_| Failure::BadAnswer)?;
    let key = meta.key();
    let uid = meta.uid.into_owned().into_boxed_str();
    let resource_version = meta.resource_version.parse().map_err(|_| Failure::BadAnswer)?;
    Ok(Object { key, uid, resource_version, raw: table::stamped(format, raw, now.unix) })
}

pub(super) fn envelope_of_list(head: &ListHead) -> Envelope {
    let list_kind = head.type_meta.kind.clone();
    // A Table is its own list; every other list kind is the item's kind with "List" behind it.
    let kind = match list_kind.strip_suffix("List") {
        Some(kind) => kind.into(),
        None => list_kind.clone(),
    };
    Envelope {
        type_meta: TypeMeta { api_version: head.type_meta.api_version.clone(), kind },
        list_kind,
        columns: head.columns.clone(),
    }
}

pub(super) fn envelope_of_event(event: &WatchEvent) -> Envelope {
    let list_kind = if &*event.type_meta.kind == "Table" {
        event.type_meta.kind.clone()
    } else {
        format!("{}List", event.type_meta.kind).into_boxed_str()
    };
    Envelope { type_meta: event.type_meta.clone(), list_kind, columns: event.columns.clone() }
}
