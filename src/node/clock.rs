//! The only place that reads clocks; everything below `node` gets `now` as an argument.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the one reading of the monotonic clock")]
pub fn instant() -> Instant {
    Instant::now()
}

/// Wall clock in milliseconds since 1970-01-01 UTC; 0 if the system clock stands before that day.
#[expect(clippy::disallowed_methods, reason = "a reading of the wall clock")]
pub fn unix_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Wall clock in seconds since 1970-01-01 UTC; 0 if the system clock stands before that day.
#[expect(clippy::disallowed_methods, reason = "the one reading of the wall clock")]
pub fn unix() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
