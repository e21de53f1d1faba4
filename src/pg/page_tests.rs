//! Tables for the page operations: a page is drawn as its tuples in line pointer order with their distance from the end.

use super::*;

fn page(tuples: &[&[u8]]) -> PageBytes {
    let mut page = [0; PAGE_SIZE];
    page.init(16);
    for (i, tuple) in tuples.iter().enumerate() {
        page.add_tuple(tuple, i as u16 + 1, AddMode::Insert).unwrap();
    }
    page
}

/// `text@distance` per line pointer; the distance counts from the special area.
fn draw(page: &PageBytes) -> String {
    let b = page.borders().unwrap();
    let cell = |n: u16| {
        let item = page.item(n).unwrap();
        match item.state() {
            ItemState::Unused => "-".to_string(),
            ItemState::Dead if item.is_empty() => "dead".to_string(),
            ItemState::Redirect => format!(">{}", item.offset()),
            _ => format!("{}@{}", String::from_utf8_lossy(page.tuple(n).unwrap()), b.special - item.offset()),
        }
    };
    let cells: Vec<String> = (1..=b.max_offset()).map(cell).collect();
    format!("{} [{}]", cells.join(" "), b.special - b.upper)
}

fn numbers(list: &[u16]) -> Vec<u8> {
    list.iter().flat_map(|n| n.to_le_bytes()).collect()
}

const ABCDE: &[&[u8]] = &[b"a", b"bbbbbbbbb", b"c", b"d", b"e"];

#[test]
fn init_and_add() {
    assert_eq!(draw(&page(ABCDE)), "a@8 bbbbbbbbb@24 c@32 d@40 e@48 [48]");
    let mut p = page(&[b"a", b"b"]);
    p.add_tuple(b"x", 1, AddMode::Insert).unwrap();
    assert_eq!(draw(&p), "x@24 a@8 b@16 [24]");
    assert_eq!(p.add_tuple(b"y", 5, AddMode::Insert), Err(PageError::NoItem(5)));
    assert_eq!(p.add_tuple(b"y", 0, AddMode::Insert), Err(PageError::NoItem(0)));
    assert_eq!(p.add_tuple(b"y", 2, AddMode::Overwrite), Err(PageError::ItemInUse(2)));
    assert_eq!(p.add_tuple(&[0; 8150], 2, AddMode::Insert), Err(PageError::NoRoom(8150)));
    assert_eq!(p.add_tuple(&[0; 70_000], 2, AddMode::Insert), Err(PageError::NoRoom(70_000)));
    p.set_item(2, ItemId::UNUSED).unwrap();
    p.add_tuple(b"z", 2, AddMode::Overwrite).unwrap();
    assert_eq!(draw(&p), "x@24 z@32 b@16 [32]");
}

#[test]
fn fills_to_the_last_byte() {
    let mut p = page(&[]);
    let room = PAGE_SIZE - 16 - PAGE_HEADER - 4;
    assert_eq!(p.reserve(room + 1, 1, AddMode::Insert), Err(PageError::NoRoom(room + 1)));
    let fits = room & !7;
    assert_eq!(p.reserve(fits, 1, AddMode::Insert), Ok(PAGE_SIZE - 16 - fits));
}

#[test]
fn deletes() {
    for (list, want) in [
        (&[][..], "a@8 bbbbbbbbb@24 c@32 d@40 e@48 [48]"),
        (&[2], "a@8 c@16 d@24 e@32 [32]"),
        (&[1, 5], "bbbbbbbbb@16 c@24 d@32 [32]"),
        (&[1, 2, 4], "c@8 e@16 [16]"),
        (&[1, 2, 3, 4, 5], " [0]"),
    ] {
        let mut p = page(ABCDE);
        p.delete_tuples(&numbers(list)).unwrap();
        assert_eq!(draw(&p), want, "{list:?}");
    }
    for bad in [&[0u16][..], &[6], &[2, 1], &[1, 1, 2]] {
        let mut p = page(ABCDE);
        assert_eq!(p.delete_tuples(&numbers(bad)), Err(PageError::Order), "{bad:?}");
        assert_eq!(p, page(ABCDE));
    }
}

#[test]
fn many_deletes_repack_in_line_pointer_order() {
    let mut p = page(&[b"1", b"2", b"3"]);
    p.add_tuple(b"0", 1, AddMode::Insert).unwrap();
    p.add_tuple(b"x", 5, AddMode::Insert).unwrap();
    p.add_tuple(b"y", 6, AddMode::Insert).unwrap();
    assert_eq!(draw(&p), "0@32 1@8 2@16 3@24 x@40 y@48 [48]");
    let mut few = p;
    few.delete_tuples(&numbers(&[5, 6])).unwrap();
    assert_eq!(draw(&few), "0@32 1@8 2@16 3@24 [32]");
    p.delete_tuples(&numbers(&[3, 5, 6])).unwrap();
    assert_eq!(draw(&p), "0@8 1@16 3@24 [24]");
}

#[test]
fn keeps_numbers() {
    let mut p = page(ABCDE);
    p.delete_tuple_keep_numbers(2).unwrap();
    assert_eq!(draw(&p), "a@8 - c@16 d@24 e@32 [32]");
    p.delete_tuple_keep_numbers(5).unwrap();
    assert_eq!(draw(&p), "a@8 - c@16 d@24 [24]");
}

#[test]
fn overwrites() {
    for (number, text, want) in [
        (2, &b"B"[..], "a@8 B@16 c@24 d@32 e@40 [40]"),
        (2, b"BBBBBBBBB", "a@8 BBBBBBBBB@24 c@32 d@40 e@48 [48]"),
        (1, b"AAAAAAAAA", "AAAAAAAAA@16 bbbbbbbbb@32 c@40 d@48 e@56 [56]"),
        (5, b"", "a@8 bbbbbbbbb@24 c@32 d@40"),
    ] {
        let mut p = page(ABCDE);
        p.overwrite_tuple(number, text).unwrap();
        if text.is_empty() {
            assert_eq!(p.tuple(number), Err(PageError::NoTuple(number)));
            p.set_lower(PAGE_HEADER + 16);
        }
        assert!(draw(&p).starts_with(want), "{}", draw(&p));
    }
    let mut p = page(ABCDE);
    assert_eq!(p.overwrite_tuple(1, &[0; 8192]), Err(PageError::NoRoom(8192)));
}

#[test]
fn repairs_fragmentation() {
    let mut p = page(ABCDE);
    p.set_item(2, ItemId::UNUSED).unwrap();
    p.set_item(3, ItemId::DEAD).unwrap();
    p.set_item(4, ItemId::redirect(1)).unwrap();
    p.set_item(5, ItemId::UNUSED).unwrap();
    p.repair_fragmentation().unwrap();
    assert_eq!((draw(&p).as_str(), p.flags()), ("a@8 - dead >1 [8]", PD_HAS_FREE_LINES));
    p.set_item(2, ItemId::DEAD).unwrap();
    p.repair_fragmentation().unwrap();
    assert_eq!((draw(&p).as_str(), p.flags()), ("a@8 dead dead >1 [8]", 0));
    for number in 1..=4 {
        p.set_item(number, ItemId::UNUSED).unwrap();
    }
    p.repair_fragmentation().unwrap();
    assert_eq!((draw(&p).as_str(), p.flags()), (" [0]", 0));
}

#[test]
fn truncates_line_pointers_but_keeps_the_first() {
    let mut p = page(ABCDE);
    for number in [2, 4, 5] {
        p.set_item(number, ItemId::UNUSED).unwrap();
    }
    p.truncate_line_pointers().unwrap();
    assert_eq!((draw(&p).as_str(), p.flags()), ("a@8 - c@32 [48]", PD_HAS_FREE_LINES));
    for number in [1, 3] {
        p.set_item(number, ItemId::UNUSED).unwrap();
    }
    p.truncate_line_pointers().unwrap();
    assert_eq!((draw(&p).as_str(), p.flags()), ("- [48]", PD_HAS_FREE_LINES));
}

#[test]
fn special_survives_in_an_empty_copy() {
    let mut p = page(ABCDE);
    p[PAGE_SIZE - 1] = 7;
    p.set_lsn(Lsn(0x1_0000_0002));
    let copy = p.empty_with_special().unwrap();
    assert_eq!((draw(&copy).as_str(), copy[PAGE_SIZE - 1], copy.lsn()), (" [0]", 7, Lsn(0)));
    assert_eq!((p.u32_at(0), p.u32_at(4)), (1, 2));
}

/// A damaged page is an error for each operation, never a panic.
#[test]
fn damage_is_an_error() {
    let mut seed = 1u64;
    let mut next = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as u32
    };
    let mut errors = 0;
    for _ in 0..20_000 {
        let mut p = page(ABCDE);
        for _ in 0..=next() % 3 {
            let at = 10 + next() as usize % 40;
            p[at] = next() as u8;
        }
        let n = (next() % 8) as u16;
        let done = match next() % 8 {
            0 => p.add_tuple(b"new", n, AddMode::Insert),
            1 => p.add_tuple(b"new", n, AddMode::Overwrite),
            2 => p.delete_tuple(n),
            3 => p.delete_tuples(&numbers(&[1, 2, n])),
            4 => p.delete_tuple_keep_numbers(n),
            5 => p.overwrite_tuple(n, &[7; 90]),
            6 => p.repair_fragmentation(),
            _ => p.truncate_line_pointers().and_then(|()| p.empty_with_special().map(|_| ())),
        };
        errors += usize::from(done.is_err());
    }
    assert!(errors > 5_000, "{errors}");
}
