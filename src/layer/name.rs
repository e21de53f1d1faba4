//! Names of layer files: `<key start>-<key end>__<lsn start>-<lsn end>` for deltas, `…__<lsn>` for images; ends exclusive.

use crate::types::key::KEY_LEN;
use crate::types::{Key, Lsn};
use std::fmt::{self, Write as _};
use std::ops::Range;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LayerKind {
    Delta,
    Image,
}

/// Bytes of the longest name: two keys, two LSNs, four separators.
const TEXT_LEN_MAX: usize = 2 * 2 * KEY_LEN + 2 * 16 + 4;

/// What a layer covers; names it locally and remotely. Unique within a timeline.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LayerName {
    pub kind: LayerKind,
    pub keys: Range<Key>,
    /// For an image at L: `L..L+1`.
    pub lsns: Range<Lsn>,
}

impl LayerName {
    pub fn delta(keys: Range<Key>, lsns: Range<Lsn>) -> LayerName {
        LayerName { kind: LayerKind::Delta, keys, lsns }
    }

    pub fn image(keys: Range<Key>, lsn: Lsn) -> LayerName {
        LayerName { kind: LayerKind::Image, keys, lsns: lsn..Lsn(lsn.0 + 1) }
    }

    /// A delta of the whole key space, as a flush writes it.
    pub fn is_level0(&self) -> bool {
        self.kind == LayerKind::Delta && self.keys == (Key::MIN..Key::MAX)
    }

    /// The name as text, allocated once: an index has thousands.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(TEXT_LEN_MAX);
        let _ = write!(text, "{self}");
        text
    }
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}__{:016X}", self.keys.start, self.keys.end, self.lsns.start.0)?;
        match self.kind {
            LayerKind::Delta => write!(f, "-{:016X}", self.lsns.end.0),
            LayerKind::Image => Ok(()),
        }
    }
}

impl fmt::Debug for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not the name of a layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not the name of a layer file")]
pub struct ParseLayerNameError(String);

fn parse_key(text: &str) -> Option<Key> {
    if text.len() != 2 * KEY_LEN {
        return None;
    }
    let mut bytes = [0; KEY_LEN];
    for (i, byte) in bytes.iter_mut().enumerate() {
        let digits = text.get(2 * i..2 * i + 2)?;
        *byte = digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u8::from_str_radix(digits, 16).ok())??;
    }
    Some(Key::from_bytes(&bytes))
}

fn parse_lsn(text: &str) -> Option<Lsn> {
    let valid = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then(|| u64::from_str_radix(text, 16).ok())?.map(Lsn)
}

impl FromStr for LayerName {
    type Err = ParseLayerNameError;

    fn from_str(text: &str) -> Result<LayerName, ParseLayerNameError> {
        let parse = || {
            let (keys, lsns) = text.split_once("__")?;
            let (start, end) = keys.split_once('-')?;
            let keys = parse_key(start)?..parse_key(end)?;
            let name = match lsns.split_once('-') {
                Some((start, end)) => LayerName::delta(keys, parse_lsn(start)?..parse_lsn(end)?),
                None => LayerName::image(keys, parse_lsn(lsns).filter(|l| *l < Lsn::MAX)?),
            };
            (name.keys.start < name.keys.end && name.lsns.start < name.lsns.end).then_some(name)
        };
        parse().ok_or_else(|| ParseLayerNameError(text.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        let delta = LayerName::delta(Key::MIN..Key::MAX, Lsn(0x10)..Lsn(0x20));
        let image = LayerName::image(Key::MIN..Key::CHECKPOINT, Lsn(0x18));
        for name in [&delta, &image] {
            assert_eq!(name.to_string().parse::<LayerName>().as_ref(), Ok(name));
        }
        assert_eq!((delta.text().len(), delta.text()), (TEXT_LEN_MAX, delta.to_string()));
        assert_eq!(image.lsns, Lsn(0x18)..Lsn(0x19));
        let text = delta.to_string();
        for bad in
            ["", "x", &text[1..], &text[..text.len() - 1], &text.replace('-', "_"), &format!("{}-{}__{:016X}", Key::MAX, Key::MIN, 1)]
        {
            assert!(bad.parse::<LayerName>().is_err(), "{bad}");
        }
    }
}
