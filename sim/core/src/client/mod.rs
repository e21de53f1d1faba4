//! Clients of a pageserver: its HTTP API and its page service.

pub mod http;
pub mod pages;
