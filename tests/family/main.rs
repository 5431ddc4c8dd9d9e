//! The shorter roads: clone, archive and unarchive, through the program.

mod archive;
mod clone;
mod increments;
mod killed;
mod line;
#[path = "../cli/program.rs"]
mod program;
mod run;
mod unarchive;
