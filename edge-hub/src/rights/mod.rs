//! Who may do what: the API server's words, kept up to date, and the kinds of which each user is shown something else.

pub mod aggregated;
pub mod authorize;
pub mod renew;
