//! Each row of docs/reliability.md in a test through the binary: a registry that misbehaves in one way, the commands that
//! meet it, and what has to be true afterwards.

mod again;
mod answers;
mod bodies;
mod content;
mod endpoints;
mod foreign;
mod pipes;
mod redirects;
mod registry;
mod trial;
mod uploads;
mod wire;
