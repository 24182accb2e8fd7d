//! Who a client is: what its certificate or its token says, and what the API server says of that.

pub mod authenticate;
pub mod peer;
pub mod reviews;
pub mod signature;
pub mod token_reviews;
mod websocket;
