//! The embedded registry over HTTP: the four workflows of the distribution specification's conformance
//! suite in our own words, what stays in the directory, and a peer's client.

mod discovery;
mod layout;
mod limits;
mod management;
mod peer;
mod pull;
mod push;
mod registry;
