//! The shorter roads: clone, archive and unarchive, through the program.

mod archive;
mod clone;
#[path = "../cli/program.rs"]
mod program;
mod run;
mod unarchive;
