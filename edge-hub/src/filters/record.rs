//! Under what the store has what filters know.

use crate::{
    collections::{cell::Cell, label::Label},
    store::{BlobClass, BlobKey},
};

/// Key of the record that says which of OpenYurt's kinds the cluster has.
pub(super) const KINDS: &str = "kinds";
/// What begins the key of a collection's record.
const INPUTS: &str = "inputs ";

/// Where a collection's record lies.
#[must_use]
pub fn inputs_key(cell: &Cell) -> BlobKey {
    let key = format!("{INPUTS}{}", Label(&cell.spec)).into_bytes().into_boxed_slice();
    BlobKey { class: BlobClass::Filter, key }
}
