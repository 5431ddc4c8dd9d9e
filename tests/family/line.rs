//! A line to a registry that is slow enough to be cut in the middle, and counts what passes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Passes at most so many bytes in a millisecond, for each connection and direction.
const PIECE: usize = 64 << 10;

/// Ends with the program.
pub struct Line {
    /// `127.0.0.1:PORT`
    pub address: String,
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
}

impl Line {
    pub fn to(registry: &str) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let line = Line { address, up: Arc::default(), down: Arc::default() };
        let (registry, up, down) = (registry.to_owned(), line.up.clone(), line.down.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&registry) else { continue };
                let (client2, server2) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (up, down) = (up.clone(), down.clone());
                std::thread::spawn(move || pass(client2, server2, &up));
                std::thread::spawn(move || pass(server, client, &down));
            }
        });
        line
    }

    /// Bytes to the registry.
    pub fn up(&self) -> u64 {
        self.up.load(Relaxed)
    }

    /// Bytes from the registry.
    pub fn down(&self) -> u64 {
        self.down.load(Relaxed)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, counted: &AtomicU64) {
    let mut piece = [0; PIECE];
    while let Ok(n) = from.read(&mut piece) {
        if n == 0 || to.write_all(&piece[..n]).is_err() {
            break;
        }
        counted.fetch_add(n as u64, Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    }
    // What was passed on arrives before the end does.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
