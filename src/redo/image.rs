//! Full-page images: unpack one and fill its hole.

use super::StepError;
use super::pglz;
use crate::pg::page::PageBytes;
use crate::pg::xlog::record::{BlockImage, ImageCompression};
use crate::types::PAGE_SIZE;

/// Writes the page that `image` holds over all of `page`; the hole becomes zeros. The LSN is that inside the image.
///
/// Errors: the image does not unpack to exactly a page.
pub fn restore_image(image: &BlockImage<'_>, page: &mut PageBytes) -> Result<(), StepError> {
    let (start, len) = (usize::from(image.hole_offset), usize::from(image.hole_length));
    let packed_len = PAGE_SIZE.checked_sub(len).filter(|_| start + len <= PAGE_SIZE).ok_or(StepError::Image)?;
    let mut buffer = [0; PAGE_SIZE];
    let unpacked = match image.compression {
        ImageCompression::None => image.bytes,
        compression => {
            let out = &mut buffer[..packed_len];
            unpack(compression, image.bytes, out)?;
            &*out
        }
    };
    if unpacked.len() != packed_len {
        return Err(StepError::Image);
    }
    let (head, tail) = unpacked.split_at_checked(start).ok_or(StepError::Image)?;
    page[..start].copy_from_slice(head);
    page[start..start + len].fill(0);
    page[start + len..].copy_from_slice(tail);
    Ok(())
}

fn unpack(compression: ImageCompression, bytes: &[u8], out: &mut [u8]) -> Result<(), StepError> {
    let want = out.len();
    let got = match compression {
        ImageCompression::None => None,
        ImageCompression::Pglz => pglz::decompress(bytes, out).map(|()| want),
        ImageCompression::Lz4 => lz4_flex::block::decompress_into(bytes, out).ok(),
        ImageCompression::Zstd => zstd::bulk::decompress_to_buffer(bytes, out).ok(),
    };
    if got == Some(want) { Ok(()) } else { Err(StepError::Image) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> PageBytes {
        let mut page = [0; PAGE_SIZE];
        for (i, byte) in page.iter_mut().enumerate() {
            *byte = if (100..8000).contains(&i) { 0 } else { (i / 3) as u8 };
        }
        page
    }

    fn check(compression: ImageCompression, bytes: &[u8], hole: (u16, u16)) -> Result<(), StepError> {
        let image = BlockImage { bytes, hole_offset: hole.0, hole_length: hole.1, apply: true, compression };
        let mut out = [0xEE; PAGE_SIZE];
        restore_image(&image, &mut out)?;
        assert_eq!(out, page(), "{compression:?} {hole:?}");
        Ok(())
    }

    #[test]
    fn each_packing() {
        let page = page();
        for hole in [(0, 0), (100, 7900), (150, 7000)] {
            let (start, end) = (usize::from(hole.0), usize::from(hole.0 + hole.1));
            let cut = [&page[..start], &page[end..]].concat();
            check(ImageCompression::None, &cut, hole).unwrap();
            check(ImageCompression::Lz4, &lz4_flex::block::compress(&cut), hole).unwrap();
            check(ImageCompression::Zstd, &zstd::bulk::compress(&cut, 1).unwrap(), hole).unwrap();
            for compression in [ImageCompression::None, ImageCompression::Lz4, ImageCompression::Zstd, ImageCompression::Pglz] {
                assert_eq!(check(compression, &cut[1..], (hole.0, hole.1)), Err(StepError::Image));
                assert_eq!(check(compression, &[], hole), Err(StepError::Image));
            }
        }
    }
}
