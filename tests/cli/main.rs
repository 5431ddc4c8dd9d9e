//! The program as a user meets it, through its binary.

mod arguments;
mod batch;
mod diff;
mod interrupts;
mod json;
mod pipeline;
mod program;
