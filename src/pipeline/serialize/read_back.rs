//! `--verify`: an archive that was just written is read from its medium, and compared with the plan.

use std::io::{self, Read};

use crate::archive::follow::Follower;
use crate::archive::plan::Plan;
use crate::medium::compression::decompress;

/// Reads all of `bytes`, which are compressed or not, and compares them with the plan.
pub fn compare(bytes: impl Read + Send + 'static, plan: &Plan) -> io::Result<()> {
    let mut follower = Follower::new(plan);
    let mut bytes = decompress(io::BufReader::with_capacity(1 << 20, bytes))?;
    let mut chunk = vec![0; 256 << 10];
    loop {
        match bytes.read(&mut chunk)? {
            0 => break,
            n => follower.take(&chunk[..n]).map_err(io::Error::other)?,
        }
    }
    if follower.is_complete() {
        return Ok(());
    }
    Err(cut(follower.standing().offset, plan))
}

/// Only `offset` bytes of the archive are there.
pub fn cut(offset: u64, plan: &Plan) -> io::Error {
    let length = plan.length;
    io::Error::other(format!("read back, it ends after {offset} of {length} bytes: write it to another medium"))
}
