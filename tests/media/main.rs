//! Media other than tape, through the binary: volumes on disk, pipes, and what is full or breaks.

mod home;
mod volumes;
