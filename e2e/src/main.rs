//! The `eyot` command.
fn main() {}
