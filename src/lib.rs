//! `mirror` moves OCI content across an air gap: it *plans* exactly what must move, *streams* it once,
//! and *proves* on the other side that all of it arrived.
//!
//! ```text
//! low side                                                                 high side
//! sources ──resolve──▶ plan ──▶ store ──▶ archive ──▶ medium ═══gap═══▶ medium ──▶ archive ──▶ store ──▶ mapping ──▶ stores
//! ```
//!
//! The rooms, from the ground up; a room imports only from floors below it (docs/architecture.md):
//!
//! 1. [`image`]: pure nouns. 2. [`medium`]: where the bytes of an archive live; [`config`]: the
//!    configuration file and credentials. 3. [`store`]: where images live; [`archive`]: how they travel;
//!    [`mapping`]: where they land. 4. [`source`]: what to take. 5. [`pipeline`]: the verbs. 6. [`serve`]:
//!    the embedded registry. 7. [`cli`]: arguments in, outcome out.

pub mod archive;
pub mod cli;
pub mod config;
pub mod image;
pub mod mapping;
pub mod medium;
pub mod pipeline;
pub mod serve;
pub mod source;
pub mod store;
