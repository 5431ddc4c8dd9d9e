//! Media other than tape, through the binary: volumes on disk, objects of S3, pipes, and what is full or breaks.

mod bad;
mod bad_store;
mod commands;
mod home;
mod objects;
mod pipes;
mod reaching;
mod store;
mod volumes;
