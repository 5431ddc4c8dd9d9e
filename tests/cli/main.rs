//! The program as a user meets it, through its binary.

mod arguments;
mod bad_input;
mod batch;
mod caches;
mod diff;
mod dry_run;
#[path = "../support/entries.rs"]
mod entries;
mod fixtures;
mod inspect;
mod interrupts;
mod json;
mod pipeline;
mod program;
mod terminal;
mod together;
mod tutorial;
mod verify;
