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
    up: Arc<Direction>,
    down: Arc<Direction>,
}

/// Bytes that passed, and how many may.
struct Direction {
    passed: AtomicU64,
    most: AtomicU64,
}

impl Direction {
    fn new() -> Arc<Self> {
        Arc::new(Direction { passed: AtomicU64::new(0), most: AtomicU64::new(u64::MAX) })
    }

    fn is_stopped(&self) -> bool {
        self.passed.load(Relaxed) > self.most.load(Relaxed)
    }
}

impl Line {
    pub fn to(registry: &str) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let line = Line { address, up: Direction::new(), down: Direction::new() };
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
        self.up.passed.load(Relaxed)
    }

    /// Bytes from the registry.
    pub fn down(&self) -> u64 {
        self.down.passed.load(Relaxed)
    }

    /// Once a little more than so many bytes have gone to the registry from now on, the line stands still.
    pub fn stop_up_after(&self, bytes: u64) {
        self.up.most.store(self.up() + bytes, Relaxed);
    }

    /// Likewise of bytes from the registry.
    pub fn stop_down_after(&self, bytes: u64) {
        self.down.most.store(self.down() + bytes, Relaxed);
    }

    /// The line stands still.
    pub fn is_stopped(&self) -> bool {
        self.up.is_stopped() || self.down.is_stopped()
    }

    /// New connections pass all again. Those that stood still are cut, and what was on its way is lost.
    pub fn mend(&self) {
        self.up.most.store(u64::MAX, Relaxed);
        self.down.most.store(u64::MAX, Relaxed);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, direction: &Direction) {
    let mut piece = [0; PIECE];
    while let Ok(n) = from.read(&mut piece) {
        let stopped = direction.is_stopped();
        while direction.is_stopped() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if n == 0 || stopped || to.write_all(&piece[..n]).is_err() {
            break;
        }
        direction.passed.fetch_add(n as u64, Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    }
    // What was passed on arrives before the end does.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
