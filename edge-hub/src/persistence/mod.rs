//! What goes from memory to the store and back: at the start, late, and when a store begins anew.

pub mod care;
pub mod records;
pub mod restore;
