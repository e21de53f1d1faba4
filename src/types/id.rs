//! Identifiers of tenants and timelines: 16 bytes, written as 32 lower-case hexadecimal digits.

use std::fmt;
use std::str::FromStr;

/// The text was not 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a {what} id: expected 32 hexadecimal digits")]
pub struct ParseIdError {
    what: &'static str,
    text: String,
}

fn parse_hex(what: &'static str, text: &str) -> Result<[u8; 16], ParseIdError> {
    let bad = || ParseIdError { what, text: text.to_string() };
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let value = u128::from_str_radix(text, 16).map_err(|_| bad())?;
    Ok(value.to_be_bytes())
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A new identifier drawn from `rng`.
            pub fn generate(rng: &mut impl rand_core::Rng) -> $name {
                let mut bytes = [0; 16];
                rng.fill_bytes(&mut bytes);
                $name(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<$name, ParseIdError> {
                parse_hex($what, text).map($name)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<$name, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id!(
    /// Names a tenant: a set of timelines that share history.
    TenantId,
    "tenant"
);
hex_id!(
    /// Names a timeline: one branch of a tenant's history. Not PostgreSQL's `TimeLineID`, which is called TLI here.
    TimelineId,
    "timeline"
);

impl TimelineId {
    /// The PostgreSQL system identifier of a cluster that starts from this timeline: non-zero, top bit 0
    /// (clients read it as a signed number).
    pub fn system_identifier(&self) -> u64 {
        let id = xxhash_rust::xxh3::xxh3_64(&self.0) & (u64::MAX >> 1);
        id.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        let text = "0123456789abcdef0123456789abcdef";
        assert_eq!(text.parse::<TenantId>().unwrap().to_string(), text);
        assert_eq!(text.to_uppercase().parse::<TenantId>().unwrap().to_string(), text);
        for bad in ["", "0", "0123456789abcdef0123456789abcdeg", "+123456789abcdef0123456789abcdef"] {
            assert!(bad.parse::<TimelineId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn system_identifier_is_positive() {
        for i in 0..1000u128 {
            let id = TimelineId(i.to_be_bytes()).system_identifier();
            assert!(id > 0 && id < 1 << 63);
        }
    }
}
