//! Names of resource managers and records as `pg_waldump` prints them.

use super::id;
use crate::pg::version::PgVersion;
use std::borrow::Cow;

const RMGRS: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

/// Name of a resource manager; those of extensions, and unknown ones, are called by their number.
pub fn rmgr_name(rmid: u8) -> Cow<'static, str> {
    match RMGRS.get(usize::from(rmid)) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(format!("custom{rmid:03}")),
    }
}

/// Name of the record with this `info`. Unknown ones are called `UNKNOWN (xx)`.
pub fn record_name(rmid: u8, info: u8, version: PgVersion) -> Cow<'static, str> {
    match known_name(rmid, info & 0xF0, version) {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(format!("UNKNOWN ({:x})", info & 0xF0)),
    }
}

fn known_name(rmid: u8, op: u8, version: PgVersion) -> Option<&'static str> {
    let table: &[(u8, &'static str)] = match rmid {
        id::XLOG if op == 0xE0 && version < PgVersion::V17 => return None,
        id::XLOG => &XLOG,
        // The highest bit says that the record has an xinfo word.
        id::XACT => return find(&XACT, op & 0x70),
        id::SMGR => &[(0x10, "CREATE"), (0x20, "TRUNCATE")],
        id::CLOG | id::COMMIT_TS => &[(0x00, "ZEROPAGE"), (0x10, "TRUNCATE")],
        id::DBASE if version < PgVersion::V15 => &[(0x00, "CREATE"), (0x10, "DROP")],
        id::DBASE => &[(0x00, "CREATE_FILE_COPY"), (0x10, "CREATE_WAL_LOG"), (0x20, "DROP")],
        id::TBLSPC => &[(0x00, "CREATE"), (0x10, "DROP")],
        id::MULTIXACT => &[(0x00, "ZERO_OFF_PAGE"), (0x10, "ZERO_MEM_PAGE"), (0x20, "CREATE_ID"), (0x30, "TRUNCATE_ID")],
        id::RELMAP => &[(0x00, "UPDATE")],
        id::STANDBY => &[(0x00, "LOCK"), (0x10, "RUNNING_XACTS"), (0x20, "INVALIDATIONS")],
        id::HEAP2 => match find(if version < PgVersion::V17 { &PRUNE_TO_16 } else { &PRUNE_FROM_17 }, op) {
            None => &HEAP2,
            found => return found,
        },
        id::HEAP => &HEAP,
        id::BTREE => &BTREE,
        id::HASH => &HASH,
        id::GIN => &GIN,
        id::GIST => &GIST,
        id::SEQ => &[(0x00, "LOG")],
        id::SPGIST => &SPGIST,
        id::BRIN => &BRIN,
        id::REPLORIGIN => &[(0x00, "SET"), (0x10, "DROP")],
        id::GENERIC => return Some("Generic"),
        id::LOGICALMSG => &[(0x00, "MESSAGE")],
        _ => &[],
    };
    find(table, op)
}

fn find(table: &[(u8, &'static str)], op: u8) -> Option<&'static str> {
    table.iter().find(|(number, _)| *number == op).map(|(_, name)| *name)
}

const XLOG: [(u8, &str); 14] = [
    (0x00, "CHECKPOINT_SHUTDOWN"),
    (0x10, "CHECKPOINT_ONLINE"),
    (0x20, "NOOP"),
    (0x30, "NEXTOID"),
    (0x40, "SWITCH"),
    (0x50, "BACKUP_END"),
    (0x60, "PARAMETER_CHANGE"),
    (0x70, "RESTORE_POINT"),
    (0x80, "FPW_CHANGE"),
    (0x90, "END_OF_RECOVERY"),
    (0xA0, "FPI_FOR_HINT"),
    (0xB0, "FPI"),
    (0xD0, "OVERWRITE_CONTRECORD"),
    (0xE0, "CHECKPOINT_REDO"),
];

const XACT: [(u8, &str); 7] = [
    (0x00, "COMMIT"),
    (0x10, "PREPARE"),
    (0x20, "ABORT"),
    (0x30, "COMMIT_PREPARED"),
    (0x40, "ABORT_PREPARED"),
    (0x50, "ASSIGNMENT"),
    (0x60, "INVALIDATION"),
];

const PRUNE_TO_16: [(u8, &str); 3] = [(0x10, "PRUNE"), (0x20, "VACUUM"), (0x30, "FREEZE_PAGE")];
const PRUNE_FROM_17: [(u8, &str); 3] = [(0x10, "PRUNE_ON_ACCESS"), (0x20, "PRUNE_VACUUM_SCAN"), (0x30, "PRUNE_VACUUM_CLEANUP")];
const HEAP2: [(u8, &str); 6] =
    [(0x00, "REWRITE"), (0x40, "VISIBLE"), (0x50, "MULTI_INSERT"), (0xD0, "MULTI_INSERT+INIT"), (0x60, "LOCK_UPDATED"), (0x70, "NEW_CID")];

const HEAP: [(u8, &str); 11] = [
    (0x00, "INSERT"),
    (0x80, "INSERT+INIT"),
    (0x10, "DELETE"),
    (0x20, "UPDATE"),
    (0xA0, "UPDATE+INIT"),
    (0x30, "TRUNCATE"),
    (0x40, "HOT_UPDATE"),
    (0xC0, "HOT_UPDATE+INIT"),
    (0x50, "HEAP_CONFIRM"),
    (0x60, "LOCK"),
    (0x70, "INPLACE"),
];

const BTREE: [(u8, &str); 15] = [
    (0x00, "INSERT_LEAF"),
    (0x10, "INSERT_UPPER"),
    (0x20, "INSERT_META"),
    (0x30, "SPLIT_L"),
    (0x40, "SPLIT_R"),
    (0x50, "INSERT_POST"),
    (0x60, "DEDUP"),
    (0x70, "DELETE"),
    (0x80, "UNLINK_PAGE"),
    (0x90, "UNLINK_PAGE_META"),
    (0xA0, "NEWROOT"),
    (0xB0, "MARK_PAGE_HALFDEAD"),
    (0xC0, "VACUUM"),
    (0xD0, "REUSE_PAGE"),
    (0xE0, "META_CLEANUP"),
];

const HASH: [(u8, &str); 13] = [
    (0x00, "INIT_META_PAGE"),
    (0x10, "INIT_BITMAP_PAGE"),
    (0x20, "INSERT"),
    (0x30, "ADD_OVFL_PAGE"),
    (0x40, "SPLIT_ALLOCATE_PAGE"),
    (0x50, "SPLIT_PAGE"),
    (0x60, "SPLIT_COMPLETE"),
    (0x70, "MOVE_PAGE_CONTENTS"),
    (0x80, "SQUEEZE_PAGE"),
    (0x90, "DELETE"),
    (0xA0, "SPLIT_CLEANUP"),
    (0xB0, "UPDATE_META_PAGE"),
    (0xC0, "VACUUM_ONE_PAGE"),
];

const GIN: [(u8, &str); 9] = [
    (0x10, "CREATE_PTREE"),
    (0x20, "INSERT"),
    (0x30, "SPLIT"),
    (0x40, "VACUUM_PAGE"),
    (0x50, "DELETE_PAGE"),
    (0x60, "UPDATE_META_PAGE"),
    (0x70, "INSERT_LISTPAGE"),
    (0x80, "DELETE_LISTPAGE"),
    (0x90, "VACUUM_DATA_LEAF_PAGE"),
];

const GIST: [(u8, &str); 6] =
    [(0x00, "PAGE_UPDATE"), (0x10, "DELETE"), (0x20, "PAGE_REUSE"), (0x30, "PAGE_SPLIT"), (0x60, "PAGE_DELETE"), (0x70, "ASSIGN_LSN")];

const SPGIST: [(u8, &str); 8] = [
    (0x10, "ADD_LEAF"),
    (0x20, "MOVE_LEAFS"),
    (0x30, "ADD_NODE"),
    (0x40, "SPLIT_TUPLE"),
    (0x50, "PICKSPLIT"),
    (0x60, "VACUUM_LEAF"),
    (0x70, "VACUUM_ROOT"),
    (0x80, "VACUUM_REDIRECT"),
];

const BRIN: [(u8, &str); 8] = [
    (0x00, "CREATE_INDEX"),
    (0x10, "INSERT"),
    (0x90, "INSERT+INIT"),
    (0x20, "UPDATE"),
    (0xA0, "UPDATE+INIT"),
    (0x30, "SAMEPAGE_UPDATE"),
    (0x40, "REVMAP_EXTEND"),
    (0x50, "DESUMMARIZE"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        use PgVersion::*;
        for (rmid, info, version, want) in [
            (id::XLOG, 0x00, V15, "XLOG/CHECKPOINT_SHUTDOWN"),
            (id::XLOG, 0xE0, V16, "XLOG/UNKNOWN (e0)"),
            (id::XLOG, 0xE0, V17, "XLOG/CHECKPOINT_REDO"),
            (id::XACT, 0x80, V15, "Transaction/COMMIT"),
            (id::XACT, 0xE0, V15, "Transaction/INVALIDATION"),
            (id::SMGR, 0x11, V15, "Storage/CREATE"),
            (id::DBASE, 0x10, V14, "Database/DROP"),
            (id::DBASE, 0x10, V15, "Database/CREATE_WAL_LOG"),
            (id::DBASE, 0x20, V18, "Database/DROP"),
            (id::HEAP, 0xC2, V15, "Heap/HOT_UPDATE+INIT"),
            (id::HEAP, 0x90, V15, "Heap/UNKNOWN (90)"),
            (id::HEAP2, 0x10, V16, "Heap2/PRUNE"),
            (id::HEAP2, 0x10, V17, "Heap2/PRUNE_ON_ACCESS"),
            (id::HEAP2, 0xD0, V18, "Heap2/MULTI_INSERT+INIT"),
            (id::BTREE, 0xB0, V15, "Btree/MARK_PAGE_HALFDEAD"),
            (id::GENERIC, 0x30, V15, "Generic/Generic"),
            (22, 0x00, V15, "custom022/UNKNOWN (0)"),
            (134, 0x10, V15, "custom134/UNKNOWN (10)"),
        ] {
            assert_eq!(format!("{}/{}", rmgr_name(rmid), record_name(rmid, info, version)), want);
        }
    }
}
