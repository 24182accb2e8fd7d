//! The decisions of a pool's coordinator, pure: no sockets, no clock, no tokio.
//!
//! [`Replica`] is the pool's one copy of a kind, [`Subscription`] what one member is told of it, [`RelayPolicy`] where a
//! member may be led to.

mod relay;
mod replica;
mod subscription;

pub use relay::{RelayPolicy, RelayRefusal};
pub use replica::{Envelope, Item, Limits, Older, Replica, What};
pub use subscription::Subscription;
