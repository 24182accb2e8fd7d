//! The time that a pure core is told: it never reads a clock itself.

use std::time::Duration;

/// One reading of both clocks, taken by the shell.
///
/// Intervals (cache ages, rate limits) are measured on `monotonic`; moments that outlive the process or come from
/// outside (token expiry, lease renewal) are compared with `unix`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Now {
    /// Time since an arbitrary origin of this process; never goes back.
    pub monotonic: Duration,
    /// Wall clock, since 1970-01-01T00:00:00Z; may jump in both directions.
    pub unix: Duration,
}
