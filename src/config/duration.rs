//! Durations as people write them: `10m`, `20s`, `7 days`.

use serde::{Deserialize, Deserializer, Serializer};
use std::time::Duration;

/// A century: no setting means more.
pub const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

pub fn serialize<S: Serializer>(duration: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&humantime::format_duration(*duration))
}

pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
}

fn parse(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= DURATION_MAX => Ok(duration),
        Ok(_) => Err(format!("\"{text}\" is more than a hundred years")),
        Err(error) => Err(format!("\"{text}\" is not a duration such as 20s, 10m or 7days: {error}")),
    }
}

/// Also takes a number of seconds.
pub mod or_seconds {
    use super::{Deserialize, Deserializer, Duration};

    pub use super::serialize;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Seconds(u32),
        Text(String),
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        match Form::deserialize(d).map_err(|_| serde::de::Error::custom("expected a number of seconds or a duration such as 20s"))? {
            Form::Seconds(seconds) => Ok(Duration::from_secs(seconds.into())),
            Form::Text(text) => super::parse(&text).map_err(serde::de::Error::custom),
        }
    }
}
