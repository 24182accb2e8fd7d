//! What lists and events become in a collection.

use bytes::Bytes;
use edge_hub_core::{
    clock::Now,
    collection::{Envelope, Object},
    reflector::Failure,
    table,
};
use proto_kube::{
    inflate::{Inflate, InflateError},
    list::{ListHead, split_list},
    media_type::Format,
    object::{TypeMeta, scan},
    watch::WatchEvent,
};

/// Packed bytes of a page from which it is read on a thread of its own: some 10 ms of work, during which the one thread
/// of the hub would neither serve nor answer a probe.
const LARGE_PAGE: usize = 128 * 1024;

/// One page of a list.
pub(super) struct Page {
    pub(super) head: ListHead,
    pub(super) objects: Vec<Object>,
    /// Unpacked.
    pub(super) bytes: usize,
}

/// Pages of a list, or the initial events of a watch, until they are complete.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) objects: Vec<Object>,
    pub(super) envelope: Option<Envelope>,
}

impl Gathered {
    /// Bytes of the objects.
    pub(super) fn bytes(&self) -> usize {
        self.objects.iter().map(|object| object.raw.len()).sum()
    }
}

/// Unpacks and takes apart one page; off the thread that serves when it is large.
///
/// # Errors
/// The body is damaged, too large, or no list of objects.
pub(super) async fn read_page(
    format: Format,
    inflate: Inflate,
    packed: Bytes,
    limit: usize,
    now: Now,
) -> Result<Page, PageError> {
    if packed.len() < LARGE_PAGE {
        return take_apart(format, inflate, packed, limit, now);
    }
    let read = tokio::task::spawn_blocking(move || take_apart(format, inflate, packed, limit, now));
    read.await.unwrap_or_else(|ended| Err(PageError::Unreadable(ended.to_string())))
}

/// Why a page cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum PageError {
    /// It unpacks to more than is taken at once.
    #[error("it unpacks to more than {0} bytes")]
    TooLarge(usize),
    /// It is damaged, or no list of objects.
    #[error("{0}")]
    Unreadable(String),
}

fn take_apart(
    format: Format,
    mut inflate: Inflate,
    packed: Bytes,
    limit: usize,
    now: Now,
) -> Result<Page, PageError> {
    let body = inflate.whole(packed, limit).map_err(|error| match error {
        InflateError::TooLarge(limit) => PageError::TooLarge(limit),
        damaged => PageError::Unreadable(damaged.to_string()),
    })?;
    let (head, items) =
        split_list(format, &body).map_err(|error| PageError::Unreadable(error.to_string()))?;
    let objects = items.into_iter().map(|raw| object_from(format, raw, now)).collect::<Result<_, _>>();
    let objects = objects.map_err(|_| PageError::Unreadable("an item has no key or version".into()))?;
    Ok(Page { head, objects, bytes: body.len() })
}

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
