//! A man in the middle on the loopback network: passes requests on as they are, and counts them. Invariant: what it does
//! not understand it passes on too, uncounted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request that passed.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// As the request line has it: a path, a URL at a proxy, HOST:PORT with CONNECT.
    pub target: String,
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
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (server, log) = (server.to_owned(), asked.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (server, log) = (server.clone(), log.clone());
                thread::spawn(move || pass(client, &server, &log));
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
fn pass(client: TcpStream, server: &str, log: &Mutex<Vec<Asked>>) -> Option<()> {
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
    while one(&mut requests, &to, log).is_some() {}
    to.shutdown(Shutdown::Write).ok()
}

/// One request, head and body.
fn one(client: &mut BufReader<TcpStream>, mut to: &TcpStream, log: &Mutex<Vec<Asked>>) -> Option<()> {
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
    log.lock().unwrap().push(Asked { method, target });
    if tunnel {
        client.get_ref().write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
        std::io::copy(client, &mut to).ok()?;
        return None;
    }
    to.write_all(head.as_bytes()).ok()?;
    std::io::copy(&mut client.take(length), &mut to).ok().filter(|n| *n == length).map(|_| ())
}
