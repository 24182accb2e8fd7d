//! The page that an engine serves at `/`: one HTML file that publishes and plays, and comes back by itself.

/// The page.
pub const HTML: &str = include_str!("page.html");
