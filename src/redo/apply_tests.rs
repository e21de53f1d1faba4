//! Dispatch by key, chains, and foreign bytes. What each routine makes of a page is proven by the oracles over server-made WAL.

use super::*;
use crate::pg::version::PgVersion;
use crate::redo::testing::{Ref, heap_insert, heap_page, record};

const REL: RelTag = RelTag { spc: 1663, db: 5, rel: 16384, fork: Fork::Main };
const VM: RelTag = RelTag { fork: Fork::Vm, ..REL };

fn ctx() -> ApplyContext {
    ApplyContext::new(PgVersion::V15)
}

fn one(key: Key, base: Option<&[u8]>, record: &[u8]) -> Result<Vec<u8>, String> {
    replay(&ctx(), key, base, [(Lsn(0x50), record)]).map_err(|error| error.to_string())
}

fn words(list: &[u32]) -> Vec<u8> {
    list.iter().flat_map(|w| w.to_le_bytes()).collect()
}

#[test]
fn insert_builds_the_tuple() {
    let value = one(Key::rel_block(REL, 3), Some(&heap_page()), &heap_insert(REL, 3, 1, b"body")).unwrap();
    let page: &PageBytes = value.first_chunk().unwrap();
    let mut want = words(&[700, 0, 0]);
    want.extend_from_slice(&[0, 0, 3, 0, 1, 0, 1, 0, 0, 8, 24, 0]);
    want.extend_from_slice(b"body");
    assert_eq!((page.tuple(1).unwrap(), page.lsn()), (&want[..], Lsn(0x50)));
}

#[test]
fn errors_name_the_record_and_the_page() {
    let insert = heap_insert(REL, 3, 1, b"body");
    let key = Key::rel_block(REL, 3);
    let unknown = record(13, 0x20, &[Ref { rel: REL, block: 3, flags: 0, data: b"" }], b"");
    for (key, base, record, want) in [
        (
            key,
            None,
            &insert[..],
            "rmgr 10 opcode 00, record ending at 0/50, cannot be applied to RelBlock { rel: 1663/5/16384, block: 3 }: the page has no base",
        ),
        (
            key,
            Some(&[0; PAGE_SIZE][..]),
            &insert,
            "rmgr 10 opcode 00, record ending at 0/50, cannot be applied to RelBlock { rel: 1663/5/16384, block: 3 }: the page was never initialised",
        ),
        (
            Key::rel_block(REL, 4),
            Some(&[0; PAGE_SIZE]),
            &insert,
            "rmgr 10 opcode 00, record ending at 0/50, cannot be applied to RelBlock { rel: 1663/5/16384, block: 4 }: the record does not concern this page",
        ),
        (
            key,
            Some(&[0; PAGE_SIZE]),
            &unknown,
            "no redo routine for rmgr 13 opcode 20, record ending at 0/50, RelBlock { rel: 1663/5/16384, block: 3 }",
        ),
        (key, Some(&[0; 8200]), &insert, "base value of RelBlock { rel: 1663/5/16384, block: 3 } has 8200 bytes"),
        (Key::DB_DIR, None, &insert, "DbDir is not a page that WAL records change"),
        (key, None, &insert[..20], "record ending at 0/50 of RelBlock { rel: 1663/5/16384, block: 3 } does not decode"),
    ] {
        assert_eq!(one(key, base, record), Err(want.to_string()));
    }
}

#[test]
fn skips_what_a_fuzzy_base_holds_already() {
    let ctx = ApplyContext { skip_applied: true, ..ctx() };
    let mut base = heap_page();
    base.set_lsn(Lsn(0x50));
    let insert = heap_insert(REL, 3, 1, b"body");
    for (end, applied) in [(0x48, false), (0x50, false), (0x58, true)] {
        let value = replay(&ctx, Key::rel_block(REL, 3), Some(&base), [(Lsn(end), &insert[..])]).unwrap();
        assert_eq!(value != base, applied, "{end:x}");
    }
}

#[test]
fn heap_records_clear_map_bits_they_do_not_name() {
    let ones = || {
        let mut page = heap_page();
        page[24..].fill(0xFF);
        page.set_lsn(Lsn(0x10));
        page
    };
    let cleared =
        |heap_block: u32, bits: u8, page: &mut PageBytes| page[24 + (heap_block as usize % 32672) / 4] &= !(bits << (heap_block % 4 * 2));
    let heap = |block| Ref { rel: REL, block, flags: 0, data: b"" };
    let delete = |flags| [&words(&[700])[..], &[1, 0, 0, flags]].concat();
    let update = |flags| [&words(&[700])[..], &[1, 0, 0, flags], &words(&[0])[..], &[2, 0]].concat();
    // (record, map block, heap blocks and bits that go)
    type Case = (Vec<u8>, u32, Vec<(u32, u8)>);
    let cases: Vec<Case> = vec![
        (record(10, 0x00, &[heap(9)], &[1, 0, 1]), 0, vec![(9, 3)]),
        (record(10, 0x10, &[heap(32671)], &delete(1)), 0, vec![(32671, 3)]),
        (record(10, 0x10, &[heap(32673)], &delete(1)), 1, vec![(32673, 3)]),
        (record(10, 0x20, &[heap(6), heap(5)], &update(3)), 0, vec![(5, 3), (6, 3)]),
        (record(10, 0x20, &[heap(40000), heap(5)], &update(3)), 0, vec![(5, 3)]),
        (record(10, 0x20, &[heap(40000), heap(5)], &update(3)), 1, vec![(40000, 3)]),
        (record(10, 0x20, &[heap(6), heap(5)], &update(2)), 0, vec![(6, 3)]),
        (record(10, 0x40, &[heap(6)], &update(1)), 0, vec![(6, 3)]),
        (record(10, 0x60, &[heap(6)], &delete(1)), 0, vec![(6, 2)]),
        (record(9, 0x60, &[heap(6)], &delete(1)), 0, vec![(6, 2)]),
        (record(9, 0x50, &[heap(6)], &[1, 0, 0, 0]), 0, vec![(6, 3)]),
    ];
    for (record, map_block, gone) in cases {
        let mut want = ones();
        gone.iter().for_each(|(block, bits)| cleared(*block, *bits, &mut want));
        let value = one(Key::rel_block(VM, map_block), Some(&ones()), &record).unwrap();
        assert!(value == want, "{gone:?}");
        let other = one(Key::rel_block(VM, map_block + 2), Some(&ones()), &record);
        assert!(other.unwrap_err().ends_with("does not concern this page"), "{gone:?}");
    }
    let unflagged = record(10, 0x10, &[heap(9)], &delete(0));
    assert!(one(Key::rel_block(VM, 0), Some(&ones()), &unflagged).is_err());
    let truncate = record(2, 0x20, &[], &words(&[6, 1663, 5, 16384, 7]));
    let value = one(Key::rel_block(VM, 0), Some(&ones()), &truncate).unwrap();
    assert_eq!(&value[24..28], &[0xFF, 0x0F, 0, 0]);
    assert!(value[26..].iter().all(|b| *b == 0));
}

#[test]
fn transaction_ends_set_status_time_and_commit_timestamp() {
    let mut main = 5_000_000_000u64.to_le_bytes().to_vec();
    main.extend(words(&[0x02 | 0x01, 5, 1663, 3, 701, 702, 32768]));
    let commit = record(1, 0x80, &[], &main);
    let abort = record(1, 0x20, &[], &[9; 8]);
    let key = Key::slru_page(SlruKind::Clog, 0);
    let chain = |base: &[u8], records: &[&[u8]]| replay(&ctx(), key, Some(base), records.iter().map(|r| (Lsn(8), *r))).unwrap();
    let value = chain(&[0; PAGE_SIZE], &[&commit]);
    assert_eq!((value.len(), value[175], i64::from_be_bytes(*value[8192..].first_chunk().unwrap())), (8200, 0b01_0101, 5_000_000_000));
    let older = {
        let mut m = main.clone();
        m[..8].copy_from_slice(&7u64.to_le_bytes());
        record(1, 0x80, &[], &m)
    };
    assert_eq!(chain(&value, &[&older]), value);
    assert_eq!(chain(&[0; PAGE_SIZE], &[&abort])[175], 2);
    assert_eq!(chain(&[0; PAGE_SIZE], &[&abort]).len(), 8192);
    let next = one(Key::slru_page(SlruKind::Clog, 1), Some(&[0; PAGE_SIZE]), &commit).unwrap();
    assert_eq!((next[0], next.len()), (1, 8200));
    assert!(one(key, None, &commit).unwrap_err().ends_with("the page has no base"));
    assert_eq!(one(key, Some(&value), &record(3, 0, &[], &words(&[0]))).unwrap(), vec![0; PAGE_SIZE]);
    let stamps = one(Key::slru_page(SlruKind::CommitTs, 0), None, &commit).unwrap();
    assert_eq!(&stamps[7000..7010], &[0x00, 0xF2, 0x05, 0x2A, 1, 0, 0, 0, 0, 0]);
    assert_eq!(stamps[7010..7020], stamps[7000..7010]);
    assert!(one(Key::slru_page(SlruKind::CommitTs, 0), None, &abort).is_err());
}

#[test]
fn prepared_transactions_end_under_their_own_xid() {
    let mut main = vec![0; 8];
    main.extend(words(&[0x10 | 0x80 | 0x20, 40]));
    main.extend_from_slice(b"gid\0");
    main.extend([1u64, 77].iter().flat_map(|w| w.to_le_bytes()));
    let page = one(Key::slru_page(SlruKind::Clog, 0), Some(&[0; PAGE_SIZE]), &record(1, 0xC0, &[], &main)).unwrap();
    assert_eq!((page[10], page[175]), (2, 0));
    let stamps = one(Key::slru_page(SlruKind::CommitTs, 0), None, &record(1, 0xB0, &[], &main)).unwrap();
    assert_eq!(stamps[400], 77, "the time at the origin");
    main.truncate(20);
    assert!(one(Key::slru_page(SlruKind::Clog, 0), Some(&[0; PAGE_SIZE]), &record(1, 0xC0, &[], &main)).is_err());
}

#[test]
fn multixacts_write_members_and_two_offsets() {
    // multixact 2047, first member 1635: members, offsets and the next offset each cross a page
    let create = record(6, 0x20, &[], &words(&[2047, 1635, 2, 900, 4, 901, 1]));
    let page = |kind, number| one(Key::slru_page(kind, number), Some(&[0; PAGE_SIZE]), &create);
    let offsets = page(SlruKind::MultiXactOffsets, 0).unwrap();
    assert_eq!(&offsets[8188..], words(&[1635]));
    assert_eq!(&page(SlruKind::MultiXactOffsets, 1).unwrap()[..8], words(&[1637, 0]));
    assert_eq!(one(Key::slru_page(SlruKind::MultiXactOffsets, 1), None, &create).unwrap().len(), PAGE_SIZE);
    let members = page(SlruKind::MultiXactMembers, 0).unwrap();
    assert_eq!(&members[8160..8180], [0, 0, 0, 4].into_iter().chain(words(&[0, 0, 0, 900])).collect::<Vec<u8>>());
    let members = page(SlruKind::MultiXactMembers, 1).unwrap();
    assert_eq!(&members[..8], [1, 0, 0, 0].into_iter().chain(words(&[901])).collect::<Vec<u8>>());
    assert!(page(SlruKind::MultiXactMembers, 2).is_err());
    let wrap = record(6, 0x20, &[], &words(&[u32::MAX, u32::MAX, 1, 900, 0]));
    let first = one(Key::slru_page(SlruKind::MultiXactOffsets, 0), Some(&[0; PAGE_SIZE]), &wrap).unwrap();
    assert_eq!(&first[..8], words(&[0, 1]), "multixact 0 and offset 0 do not exist");
}

#[test]
fn what_replaces_a_page() {
    let key = Key::rel_block(REL, 3);
    for (bytes, key, want) in [
        (heap_insert(REL, 3, 1, b""), key, false),
        (record(10, 0x80, &[Ref { rel: REL, block: 3, flags: 0x40, data: b"x" }], b""), key, true),
        (record(10, 0x80, &[Ref { rel: REL, block: 3, flags: 0x40, data: b"x" }], b""), Key::rel_block(REL, 4), false),
        (record(3, 0, &[], &[0; 4]), Key::slru_page(SlruKind::Clog, 0), true),
        (record(3, 0, &[], &[0; 4]), Key::slru_page(SlruKind::CommitTs, 0), false),
        (record(6, 0x10, &[], &[0; 4]), Key::slru_page(SlruKind::MultiXactMembers, 0), true),
        (record(6, 0x20, &[], &[0; 4]), Key::slru_page(SlruKind::MultiXactOffsets, 0), false),
    ] {
        assert_eq!(replaces_page(&Record::decode(&bytes, PgVersion::V15).unwrap(), key), want);
    }
}

/// Any bytes in any record on any page: an error or a page, never a panic.
#[test]
fn foreign_bytes_never_panic() {
    let mut state = 3u64;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u32
    };
    let mut applied = 0;
    for round in 0..60_000u32 {
        let mut page = heap_page();
        if round % 2 == 0 {
            page.init(16);
        }
        for n in 1..=next() as u16 % 6 {
            let len = 8 + next() as usize % 60;
            let mut tuple: Vec<u8> = (0..len).map(|_| next() as u8).collect();
            tuple[6] = len as u8;
            tuple[7] = next() as u8 & 0x20;
            page.add_tuple(&tuple, n, crate::pg::page::AddMode::Insert).unwrap();
        }
        if next() % 4 == 0 {
            page[next() as usize % 60] = next() as u8;
        }
        let small = |next: &mut dyn FnMut() -> u32| if next().is_multiple_of(3) { next() as u8 } else { (next() % 4) as u8 };
        let data: Vec<u8> = (0..next() % 60).map(|_| small(&mut next)).collect();
        let main: Vec<u8> = (0..next() % 50).map(|_| small(&mut next)).collect();
        let rmid = [10, 9, 11, 15, 20, 17][next() as usize % 6];
        let info = (next() as u8) & 0xF0;
        let target = next() % 4;
        let refs: Vec<Ref<'_>> =
            (0..4).map(|i| Ref { rel: REL, block: i, flags: 0, data: if i == target { &data } else { &[] } }).collect();
        let version = PgVersion::ALL[next() as usize % 5];
        let bytes = record(rmid, info, &refs[..1 + next() as usize % 4], &main);
        let done = replay(&ApplyContext::new(version), Key::rel_block(REL, target), Some(&page), [(Lsn(8), &bytes[..])]);
        applied += usize::from(done.is_ok());
        let key = Key::slru_page(SlruKind::from_number((next() % 4) as u8).unwrap(), 0);
        let bytes = record([1, 3, 6, 18][next() as usize % 4], info, &[], &main);
        let done = replay(&ApplyContext::new(version), key, Some(&page), [(Lsn(8), &bytes[..])]);
        applied += usize::from(done.is_ok());
    }
    assert!(applied > 1000, "{applied}");
}
