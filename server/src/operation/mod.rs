//! The operations of a shard, one module each.
//!
//! An operation checks its request, asks the engine, and sees to it that the responder answers:
//! at once, or when the engine has done it. None blocks the connection's task.

mod batch;
mod control;
mod cut;
mod digests;
mod mutation;
mod optimistic;
mod read;
mod remove;
mod scan;
mod settings;
mod source;
mod stat;
mod target;
mod write;

pub(crate) use batch::batch;
pub(crate) use control::{assign, create_index, drop_index, lock, release, set_index, set_size};
pub(crate) use cut::cut;
pub(crate) use digests::{digests, sums};
pub use optimistic::MAX_ATTEMPTS;
pub(crate) use optimistic::{pop, touch};
pub(crate) use read::{has, read};
pub(crate) use remove::remove;
pub(crate) use scan::scan;
pub use scan::{MAX_PAGE_DOCUMENTS, MAX_SCANS_AT_ONCE, PAGE_BYTES};
pub(crate) use source::source;
pub(crate) use stat::{buckets, stat};
pub(crate) use target::target;
pub(crate) use write::write;
