//! A man in the middle on the loopback network: passes requests on as they are, and counts them. Invariant: what it does
//! not understand it passes on too, uncounted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// A request that passed.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// As the request line has it: a path, a URL at a proxy, HOST:PORT with CONNECT.
    pub target: String,
    /// Requests that were here when it came, itself among them.
    pub beside: usize,
}

/// What makes a server slow: it works on so many requests at once, each for so long; the others wait.
#[derive(Clone, Copy)]
pub struct Slow {
    pub at_once: usize,
    pub service: Duration,
}

#[derive(Default)]
struct Gate {
    slow: Option<Slow>,
    /// Requests here, and those of them that are worked on.
    inside: Mutex<(usize, usize)>,
    left: Condvar,
}

impl Gate {
    /// Counts a request in: how many there are now.
    fn enter(&self) -> usize {
        let mut inside = self.inside.lock().unwrap();
        inside.0 += 1;
        inside.0
    }

    /// Keeps it as long as the server would, and counts it out.
    fn pass(&self) {
        let mut inside = self.inside.lock().unwrap();
        if let Some(slow) = self.slow {
            inside = self.left.wait_while(inside, |inside| inside.1 >= slow.at_once).unwrap();
            inside.1 += 1;
            drop(inside);
            thread::sleep(slow.service);
            inside = self.inside.lock().unwrap();
            inside.1 -= 1;
        }
        inside.0 -= 1;
        self.left.notify_one();
    }
}

/// Passes everything that comes to `address` on to one place. Ends with the process.
pub struct Middle {
    /// `127.0.0.1:PORT`
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Middle {
    /// In front of a server; as a proxy, the server that all names lead to.
    pub fn before(server: &str) -> Middle {
        Middle::start(server, None)
    }

    /// In front of a server that is slow.
    pub fn before_slow(server: &str, slow: Slow) -> Middle {
        Middle::start(server, Some(slow))
    }

    fn start(server: &str, slow: Option<Slow>) -> Middle {
        let gate = Arc::new(Gate { slow, ..Gate::default() });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (server, log) = (server.to_owned(), asked.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (server, log, gate) = (server.clone(), log.clone(), gate.clone());
                thread::spawn(move || pass(client, &server, &log, &gate));
            }
        });
        Middle { address, asked }
    }

    /// What passed since this was last asked for.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// One connection, to its end.
fn pass(client: TcpStream, server: &str, log: &Mutex<Vec<Asked>>, gate: &Gate) -> Option<()> {
    let to = TcpStream::connect(server).ok()?;
    for stream in [&client, &to] {
        stream.set_nodelay(true).ok()?;
    }
    let (mut answers, mut back) = (to.try_clone().ok()?, client.try_clone().ok()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut answers, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    let mut requests = BufReader::new(client);
    while one(&mut requests, &to, log, gate).is_some() {}
    to.shutdown(Shutdown::Write).ok()
}

/// One request, head and body.
fn one(client: &mut BufReader<TcpStream>, mut to: &TcpStream, log: &Mutex<Vec<Asked>>, gate: &Gate) -> Option<()> {
    let mut head = String::new();
    let mut length = 0;
    loop {
        let start = head.len();
        client.read_line(&mut head).ok().filter(|n| *n > 0)?;
        let line = &head[start..];
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
    }
    let mut words = head.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let tunnel = method == "CONNECT";
    log.lock().unwrap().push(Asked { method, target, beside: gate.enter() });
    gate.pass();
    if tunnel {
        client.get_ref().write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
        std::io::copy(client, &mut to).ok()?;
        return None;
    }
    to.write_all(head.as_bytes()).ok()?;
    std::io::copy(&mut client.take(length), &mut to).ok().filter(|n| *n == length).map(|_| ())
}
