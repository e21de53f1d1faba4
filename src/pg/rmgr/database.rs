//! Databases, tablespaces and relation maps come and go.

use super::MalformedRecord;
use super::cut::Cut;
use crate::pg::version::PgVersion;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseChange {
    /// All files of `from` are copied: (tablespace, database) pairs.
    CreateByFileCopy {
        to: (u32, u32),
        from: (u32, u32),
    },
    /// Pages follow as records of their own.
    CreateWalLogged {
        to: (u32, u32),
    },
    Drop {
        db: u32,
        tablespaces: Vec<u32>,
    },
}

/// Reads a database record. Opcodes: 14: 00 copy, 10 drop; later: 00 copy, 10 logged, 20 drop.
pub fn parse_database(info: u8, main: &[u8], version: PgVersion) -> Result<DatabaseChange, MalformedRecord> {
    const WHAT: &str = "database";
    let mut cut = Cut::new(main, WHAT);
    match (info & 0xF0, version) {
        (0x00, _) => {
            let (db, spc, from_db, from_spc) = (cut.u32()?, cut.u32()?, cut.u32()?, cut.u32()?);
            Ok(DatabaseChange::CreateByFileCopy { to: (spc, db), from: (from_spc, from_db) })
        }
        (0x10, PgVersion::V14) | (0x20, _) => {
            let (db, count) = (cut.u32()?, cut.count()?);
            Ok(DatabaseChange::Drop { db, tablespaces: cut.items(count, 4, Cut::u32)? })
        }
        (0x10, _) => {
            let (db, spc) = (cut.u32()?, cut.u32()?);
            Ok(DatabaseChange::CreateWalLogged { to: (spc, db) })
        }
        _ => Err(MalformedRecord(WHAT)),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TablespaceChange {
    Create { oid: u32, path: String },
    Drop { oid: u32 },
}

/// Reads a tablespace record: 00 create (oid, path with NUL), 10 drop.
pub fn parse_tablespace(info: u8, main: &[u8]) -> Result<TablespaceChange, MalformedRecord> {
    const WHAT: &str = "tablespace";
    let mut cut = Cut::new(main, WHAT);
    let oid = cut.u32()?;
    match info & 0xF0 {
        0x00 => {
            let path = cut.rest().split(|b| *b == 0).next().unwrap_or_default();
            let path = std::str::from_utf8(path).map_err(|_| MalformedRecord(WHAT))?.to_string();
            Ok(TablespaceChange::Create { oid, path })
        }
        0x10 => Ok(TablespaceChange::Drop { oid }),
        _ => Err(MalformedRecord(WHAT)),
    }
}

/// A relation map: of (tablespace, database), the whole file.
pub fn parse_relmap(main: &[u8]) -> Result<((u32, u32), &[u8]), MalformedRecord> {
    let mut cut = Cut::new(main, "relation map");
    let (db, spc, len) = (cut.u32()?, cut.u32()?, cut.count()?);
    Ok(((spc, db), cut.take(len)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse() {
        let words = |w: &[u32]| w.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        let copy = DatabaseChange::CreateByFileCopy { to: (1663, 20), from: (1663, 1) };
        assert_eq!(parse_database(0, &words(&[20, 1663, 1, 1663]), PgVersion::V15), Ok(copy));
        let drop = DatabaseChange::Drop { db: 20, tablespaces: vec![1663, 99] };
        assert_eq!(parse_database(0x20, &words(&[20, 2, 1663, 99]), PgVersion::V15), Ok(drop.clone()));
        assert_eq!(parse_database(0x10, &words(&[20, 2, 1663, 99]), PgVersion::V14), Ok(drop));
        assert!(parse_database(0x20, &words(&[20, 3, 1663, 99]), PgVersion::V15).is_err());
        let create = [&words(&[70_000])[..], b"/srv/x\0"].concat();
        assert_eq!(parse_tablespace(0, &create), Ok(TablespaceChange::Create { oid: 70_000, path: "/srv/x".into() }));
        assert_eq!(parse_relmap(&words(&[5, 1663, 4, 7])), Ok(((1663, 5), &[7, 0, 0, 0][..])));
        assert!(parse_relmap(&words(&[5, 1663, 5, 7])).is_err());
    }
}
