//! The one integration binary: a folder per boundary.

mod api;
mod auth;
mod cli;
mod control_plane;
mod demo;
mod documentation;
mod export;
mod page_service;
mod pal;
mod postgres;
mod recovery;
mod redo;
mod replication;
mod seams;
mod support;
mod tidy;
