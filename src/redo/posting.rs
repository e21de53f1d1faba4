//! Index tuples of btree leaves: single heap TIDs and posting lists.
//!
//! | offset | size | name | meaning |
//! | --- | --- | --- | --- |
//! | 0 | 4 | block | high u16, low u16: heap block; with a posting list its offset in the tuple |
//! | 4 | 2 | position | heap line pointer; with a posting list 0x2000 and the number of TIDs |
//! | 6 | 2 | info | length 13 bits, 0x2000 = the TID field has another meaning |
//!
//! A posting list is an ascending array of 6-byte TIDs at the end of the tuple.
//! Source: PostgreSQL 15 `access/itup.h`, `access/nbtree.h`.

use super::StepError;
use crate::pg::page::align8;
use smallvec::SmallVec;

/// Size of an index tuple's header.
pub(super) const INDEX_HEADER: usize = 8;
pub(super) const TID: usize = 6;
const LEN_MASK: u16 = 0x1FFF;
const ALT_TID: u16 = 0x2000;
const IS_POSTING: u16 = 0x2000;
const COUNT_MASK: u16 = 0x0FFF;

/// A tuple under construction.
pub(super) type TupleBuf = SmallVec<[u8; 256]>;

fn u16_at(tuple: &[u8], at: usize) -> u16 {
    tuple.get(at..).and_then(|t| t.first_chunk()).map_or(0, |b| u16::from_le_bytes(*b))
}

fn put16(tuple: &mut [u8], at: usize, value: u16) {
    tuple[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// The length that the tuple's own header tells. Errors: longer than the bytes there are, or shorter than a header.
pub(super) fn tuple_len(tuple: &[u8]) -> Result<usize, StepError> {
    let len = usize::from(u16_at(tuple, 6) & LEN_MASK);
    if tuple.len() < INDEX_HEADER || len < INDEX_HEADER || len > tuple.len() {
        return Err(StepError::Range("index tuple length"));
    }
    Ok(len)
}

/// The block number in the tuple's TID field.
pub(super) fn block(tuple: &[u8]) -> u32 {
    u32::from(u16_at(tuple, 0)) << 16 | u32::from(u16_at(tuple, 2))
}

/// Changes the block number of a tuple of at least 8 bytes.
pub(super) fn set_block(tuple: &mut [u8], block: u32) {
    put16(tuple, 0, (block >> 16) as u16);
    put16(tuple, 2, block as u16);
}

/// Where a leaf tuple's TIDs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tids {
    /// End of the key; the posting list starts here.
    pub key_len: usize,
    pub count: usize,
    /// A posting list, or the one TID in the header.
    pub is_posting: bool,
}

impl Tids {
    /// Takes a leaf tuple apart. Errors: the posting list does not fit into it.
    pub fn of(tuple: &[u8]) -> Result<Tids, StepError> {
        let len = tuple_len(tuple)?;
        let position = u16_at(tuple, 4);
        if u16_at(tuple, 6) & ALT_TID == 0 || position & IS_POSTING == 0 {
            return Ok(Tids { key_len: len, count: 1, is_posting: false });
        }
        let (key_len, count) = (block(tuple) as usize, usize::from(position & COUNT_MASK));
        if key_len < INDEX_HEADER || key_len > len || count == 0 || key_len + count * TID > len {
            return Err(StepError::Range("posting list"));
        }
        Ok(Tids { key_len, count, is_posting: true })
    }

    /// The bytes of all TIDs.
    pub fn bytes<'t>(&self, tuple: &'t [u8]) -> &'t [u8] {
        if self.is_posting { &tuple[self.key_len..self.key_len + self.count * TID] } else { &tuple[..TID] }
    }
}

/// Inserts the TID of `new` into the posting list of `posting` before TID number `at`; its last TID moves to `new`.
///
/// Errors: not a posting list, or `at` is not inside of it.
pub(super) fn swap(posting: &mut [u8], new: &mut [u8], at: u16) -> Result<(), StepError> {
    let tids = Tids::of(posting)?;
    let at = usize::from(at);
    if !tids.is_posting || at == 0 || at >= tids.count || new.len() < INDEX_HEADER {
        return Err(StepError::Range("position in the posting list"));
    }
    let list = &mut posting[tids.key_len..tids.key_len + tids.count * TID];
    let mut last = [0; TID];
    last.copy_from_slice(&list[(tids.count - 1) * TID..]);
    list.copy_within(at * TID..(tids.count - 1) * TID, (at + 1) * TID);
    list[at * TID..(at + 1) * TID].copy_from_slice(&new[..TID]);
    new[..TID].copy_from_slice(&last);
    Ok(())
}

/// Length of a tuple with a key of `key_len` bytes and `count` TIDs.
pub(super) fn len_with(key_len: usize, count: usize) -> usize {
    if count > 1 { align8(key_len + count * TID) } else { key_len }
}

/// Writes the header of a tuple whose key (header included) stands in `tuple[..key_len]`, for `count` TIDs that the caller
/// puts behind the key (more than one) or passes as `only`.
pub(super) fn set_header(tuple: &mut [u8], key_len: usize, count: usize, only: &[u8]) -> Result<(), StepError> {
    let len = len_with(key_len, count);
    if len > usize::from(LEN_MASK) || tuple.len() < len || count > usize::from(COUNT_MASK) {
        return Err(StepError::Range("index tuple length"));
    }
    let info = u16_at(tuple, 6) & !LEN_MASK & !ALT_TID | len as u16;
    if count > 1 {
        put16(tuple, 6, info | ALT_TID);
        set_block(tuple, key_len as u32);
        put16(tuple, 4, count as u16 | IS_POSTING);
    } else {
        put16(tuple, 6, info);
        tuple[..TID].copy_from_slice(only.get(..TID).ok_or(StepError::Range("heap TID"))?);
    }
    Ok(())
}

/// The posting tuple `tuple` without the TIDs at `positions` (ascending), ready to be stored.
pub(super) fn without(tuple: &[u8], positions: impl Iterator<Item = u16>) -> Result<TupleBuf, StepError> {
    let tids = Tids::of(tuple)?;
    if !tids.is_posting {
        return Err(StepError::Range("posting list"));
    }
    let mut positions = positions.map(usize::from).peekable();
    let mut kept: SmallVec<[u8; 256]> = SmallVec::new();
    for (i, tid) in tids.bytes(tuple).chunks_exact(TID).enumerate() {
        if positions.next_if_eq(&i).is_none() {
            kept.extend_from_slice(tid);
        }
    }
    let count = kept.len() / TID;
    if count == 0 || positions.next().is_some() {
        return Err(StepError::Range("position in the posting list"));
    }
    let mut out = TupleBuf::from_slice(&tuple[..tids.key_len]);
    if count > 1 {
        out.extend_from_slice(&kept);
    }
    out.resize(align8(len_with(tids.key_len, count)), 0);
    set_header(&mut out, tids.key_len, count, &kept)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A posting tuple with an 8-byte key and TIDs (0, n).
    fn posting(list: &[u16]) -> TupleBuf {
        let mut t = TupleBuf::from_slice(&[0; 16]);
        t[8..16].copy_from_slice(b"key-----");
        list.iter().for_each(|n| t.extend_from_slice(&[0, 0, 0, 0, *n as u8, 0]));
        t.resize(len_with(16, list.len()), 0);
        set_header(&mut t, 16, list.len(), &[0, 0, 0, 0, list[0] as u8, 0]).unwrap();
        t
    }

    fn draw(tuple: &[u8]) -> Vec<u8> {
        Tids::of(tuple).unwrap().bytes(tuple).chunks_exact(TID).map(|t| t[4]).collect()
    }

    #[test]
    fn swaps() {
        let (mut p, mut new) = (posting(&[1, 3, 5]), posting(&[4]));
        swap(&mut p, &mut new, 2).unwrap();
        assert_eq!((draw(&p), draw(&new)), (vec![1, 3, 4], vec![5]));
        for bad in [0, 3, 4] {
            assert!(swap(&mut p, &mut new, bad).is_err(), "{bad}");
        }
        assert!(swap(&mut posting(&[1]), &mut new, 1).is_err());
    }

    #[test]
    fn removes() {
        for (gone, want) in [
            (&[1u16][..], Some(&[1, 5, 7][..])),
            (&[0, 1, 3], Some(&[5])),
            (&[], Some(&[1, 3, 5, 7])),
            (&[0, 1, 2, 3], None),
            (&[4], None),
            (&[1, 1], None),
        ] {
            let got = without(&posting(&[1, 3, 5, 7]), gone.iter().copied());
            assert_eq!(got.as_ref().ok().map(|t| draw(t)).as_deref(), want, "{gone:?}");
            if let Ok(tuple) = got {
                assert_eq!(tuple, posting(&want.unwrap().iter().map(|n| u16::from(*n)).collect::<Vec<_>>()));
            }
        }
    }

    #[test]
    fn damaged_lists() {
        let good = posting(&[1, 2, 3]);
        for (at, value) in [(2, 250), (2, 0), (4, 0), (4, 200), (6, 4), (7, 0x3F)] {
            let mut t = good.clone();
            t[at] = value;
            assert!(Tids::of(&t).is_err(), "{at} {value}");
        }
        assert!(Tids::of(&good[..7]).is_err());
    }
}
