//! The decoder of PostgreSQL's own LZ compression, as page images carry it.
//!
//! A control byte announces eight items, lowest bit first: 0 = one literal byte; 1 = a match of two or three bytes:
//! `(offset high 4 bits | length - 3), offset low 8 bits [, length - 18 if the four length bits are all set]`.
//! Source: PostgreSQL `common/pg_lzcompress.c` (description of the format).

/// Unpacks `source` into the whole of `out`. `None` if the bytes do not add up to exactly that.
pub(super) fn decompress(source: &[u8], out: &mut [u8]) -> Option<()> {
    let mut source = source.iter().copied();
    let mut at = 0;
    while at < out.len() {
        let mut control = source.next()?;
        for _ in 0..8 {
            if at == out.len() {
                break;
            }
            if control & 1 == 0 {
                *out.get_mut(at)? = source.next()?;
                at += 1;
            } else {
                let (first, low) = (source.next()?, source.next()?);
                let mut len = usize::from(first & 0x0F) + 3;
                if len == 18 {
                    len += usize::from(source.next()?);
                }
                let back = usize::from(first & 0xF0) << 4 | usize::from(low);
                let from = at.checked_sub(back).filter(|_| back > 0)?;
                let end = (at + len).min(out.len());
                for to in at..end {
                    *out.get_mut(to)? = *out.get(from + to - at)?;
                }
                at = end;
            }
            control >>= 1;
        }
    }
    source.next().is_none().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &[u8], len: usize, want: Option<&[u8]>) {
        let mut out = vec![0; len];
        assert_eq!(decompress(source, &mut out).map(|()| &out[..]), want, "{source:x?}");
    }

    #[test]
    fn items() {
        check(&[0, b'a', b'b'], 2, Some(b"ab"));
        check(&[0b100, b'a', b'b', 0x00, 2], 5, Some(b"ababa"));
        check(&[0b10, b'x', 0x0F, 1, 2], 21, Some(&[b'x'; 21]));
        check(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9], 9, Some(&[1, 2, 3, 4, 5, 6, 7, 8, 9]));
    }

    #[test]
    fn damage() {
        check(&[], 1, None);
        check(&[0, b'a'], 2, None);
        check(&[0, b'a', b'b'], 1, None);
        check(&[1, 0x00, 1], 3, None);
        check(&[0b10, b'x', 0x00, 0], 4, None);
        check(&[0b10, b'x', 0x0F, 1], 30, None);
    }
}
