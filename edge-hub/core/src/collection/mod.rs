//! One upstream list-watch's state: index, event ring, tombstones. The heart of the hub.

mod object;
mod spec;

pub use object::{Change, Envelope, Object, Tombstone, Watermark};
pub use spec::{CollectionSpec, Selection};
