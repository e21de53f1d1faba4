//! A client of PostgreSQL's own protocol: physical replication and plain SQL, over the streams of `Env`.
//!
//! In: a connection string. Out: WAL as it arrives, slots, results of simple queries. What always holds: every wait has a time
//! limit from the node's clock, bytes of the server are checked before use, and no password reaches a log or an error.

pub mod client;
pub mod connection;
pub mod connstr;
pub mod copy_out;
pub mod error;
pub mod message;
pub mod tls;

pub use client::{CopyEvent, CopyStream, ReplicationClient, SlotState, SystemIdentity};
pub use connection::{Connection, Mode, ResultSet};
pub use connstr::{ConnStr, ConnStrError, Password, SslMode};
pub use copy_out::CopyOut;
pub use error::{ReplicationError, ServerError};
