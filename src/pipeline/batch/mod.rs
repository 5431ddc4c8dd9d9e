//! Batches: a directory of numbered archives that is filled on the low side, carried over, and emptied on
//! the high side, run after run. What was done is kept in two small tables, which ace-dt reads and writes
//! as well.
//!
//! Invariant: a row of a table stands for an archive that is whole and verified; digests decide what is
//! done, never names that can move.

pub mod list;
pub mod sync_name;
mod table;
pub mod tracker;
