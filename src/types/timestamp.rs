//! PostgreSQL's timestamps, and the text form of the API.

use chrono::{DateTime, SecondsFormat, Utc};
use std::fmt;
use std::str::FromStr;

/// Microseconds since 2000-01-01 00:00:00 UTC, as WAL has them. Source: `TimestampTz` in PostgreSQL's `datatype/timestamp.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTimestamp(pub i64);

/// Seconds from the Unix epoch to PostgreSQL's (2000-01-01 UTC). Source: PostgreSQL 15 `datatype/timestamp.h`.
pub const POSTGRES_EPOCH_UNIX_SECONDS: i64 = 946_684_800;
const EPOCH_MICROS: i64 = POSTGRES_EPOCH_UNIX_SECONDS * 1_000_000;

/// RFC 3339 in UTC with microseconds; a damaged value that no calendar has is written as its number.
impl fmt::Display for PgTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.checked_add(EPOCH_MICROS).and_then(DateTime::<Utc>::from_timestamp_micros) {
            Some(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => write!(f, "{} µs since 2000", self.0),
        }
    }
}

/// The text is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a time: expected RFC 3339, as in 2026-11-21T18:30:00Z or 2026-11-21T20:30:00+02:00 (in a URL \"+\" is %2B)")]
pub struct ParseTimestampError(String);

impl FromStr for PgTimestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<PgTimestamp, ParseTimestampError> {
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| ParseTimestampError(text.to_string()))?;
        Ok(PgTimestamp(time.timestamp_micros() - EPOCH_MICROS))
    }
}

impl serde::Serialize for PgTimestamp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        for (micros, text) in
            [(0, "2000-01-01T00:00:00.000000Z"), (-1, "1999-12-31T23:59:59.999999Z"), (848_606_400_000_007, "2026-11-21T20:00:00.000007Z")]
        {
            assert_eq!(PgTimestamp(micros).to_string(), text);
            assert_eq!(text.parse(), Ok(PgTimestamp(micros)));
        }
        assert_eq!("2000-01-01T02:00:00+02:00".parse(), Ok(PgTimestamp(0)));
        assert_eq!(PgTimestamp(i64::MAX).to_string(), "9223372036854775807 µs since 2000");
        for bad in ["", "now", "2026-11-21", "2026-11-21T20:00:00", "2026-13-21T20:00:00Z", "2026-11-21T20:00:00 02:00"] {
            assert!(bad.parse::<PgTimestamp>().is_err(), "{bad}");
        }
    }
}
