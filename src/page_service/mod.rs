//! The page service: pages out, over the PostgreSQL protocol.
//!
//! ```text
//! listener -> connection (login, commands) -> pagestream (requests in order) -> timeline::read
//!                |  extended (prepared ones)  -> basebackup (COPY OUT of a tar) -> export
//! ```

mod basebackup;
pub mod connection;
mod extended;
mod gzip;
pub mod listener;
mod login;
pub mod pagestream;
pub mod protocol;
