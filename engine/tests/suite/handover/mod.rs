//! Ranges that move from one shard to another while they change: what the engines of both do.
//!
//! * `shards`: the two shards, each on a simulated machine; `progress`: the driver, which knows nothing but pages
//!   of the source and its log;
//! * `history`: a range goes to and fro, whatever happens meanwhile;
//! * `receiving`: what the target stores of what comes, and shows of it; `beside_writers`: the same, while others
//!   write there;
//! * `limits`: quotas and evictions on either side;
//! * `freezing`: how the source freezes the range and gives it up;
//! * `log_reading`: what the source holds of its log for who reads it, and what such a reader is shown.

mod beside_writers;
mod freezing;
mod history;
mod limits;
mod log_reading;
mod progress;
mod receiving;
mod shards;
