//! The embedded registry over HTTP: the four workflows of the distribution specification's conformance
//! suite in our own words, what stays in the directory, limits, and the program as a process. Other people's clients
//! are in `tests/peers/`.

mod discovery;
mod layout;
mod limits;
mod management;
mod program;
mod pull;
mod push;
mod registry;
