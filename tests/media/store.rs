//! A store of objects on a free port of 127.0.0.1 (moto), and a proxy before it that does what a test wants to each
//! request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

/// What the proxy does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Pass,
    /// Changes a byte in the middle of what is sent.
    Alter,
    /// Answers with an error of the store.
    Fail,
    /// Ends the connection.
    Reset,
    /// Never answers, and the store never sees it.
    Hold,
    /// Never answers, but the store has done it.
    Swallow,
}

/// A request, as far as tests tell them apart.
pub struct Request {
    pub method: String,
    pub target: String,
}

impl Request {
    /// Number of the part that it sends, from 1.
    pub fn part(&self) -> Option<u32> {
        let (_, rest) = self.target.split_once("partNumber=")?;
        rest.split('&').next()?.parse().ok().filter(|_| self.method == "PUT")
    }
}

type Rule = dyn FnMut(&Request) -> Action + Send;

/// The store of all tests in this process; it ends with it. The pipe is held for that.
struct Moto {
    port: u16,
    _alive: ChildStdin,
}

fn moto() -> Option<&'static Moto> {
    static MOTO: OnceLock<Option<Moto>> = OnceLock::new();
    let started = MOTO.get_or_init(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|directory| directory.join("moto_server").is_file()) {
            let required = std::env::var("MIRROR_REQUIRE_PEERS").is_ok_and(|v| v == "1");
            assert!(!required, "moto_server is required but not in $PATH: pip install 'moto[server]'");
            return None;
        }
        let script = "moto_server -H 127.0.0.1 -p 0 2>&1 & read -r _; kill $!";
        let mut command = Command::new("sh");
        let mut child = command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let port = loop {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "moto_server ended");
            if let Some((_, rest)) = line.split_once("http://127.0.0.1:") {
                break rest.trim().parse().unwrap();
            }
        };
        let alive = child.stdin.take().unwrap();
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut lines, &mut std::io::sink());
            let _ = child.wait();
        });
        Some(Moto { port, _alive: alive })
    });
    if started.is_none() {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let _ = writeln!(
            std::io::stderr(),
            "\n*** SKIPPED {test} (a test against other programs): no moto_server in $PATH"
        );
    }
    started.as_ref()
}

/// A bucket of its own behind a proxy of its own.
pub struct Store {
    moto: u16,
    pub port: u16,
    bucket: &'static str,
    rule: Arc<Mutex<Box<Rule>>>,
    /// Bytes of all answers.
    answered: Arc<Mutex<u64>>,
}

impl Store {
    /// `None`: the program that plays the store is not here.
    pub fn new(bucket: &'static str) -> Option<Store> {
        let moto = moto()?.port;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let rule: Arc<Mutex<Box<Rule>>> = Arc::new(Mutex::new(Box::new(|_| Action::Pass)));
        let answered = Arc::new(Mutex::new(0));
        let store = Store { moto, port, bucket, rule: rule.clone(), answered: answered.clone() };
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (rule, answered) = (rule.clone(), answered.clone());
                std::thread::spawn(move || serve(connection, moto, &rule, &answered));
            }
        });
        assert!(store.ask("PUT", "", b"").starts_with(b"HTTP/1.1 200"));
        Some(store)
    }

    pub fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    pub fn set(&self, rule: impl FnMut(&Request) -> Action + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// Bytes of all answers since the last time.
    pub fn answered(&self) -> u64 {
        std::mem::take(&mut *self.answered.lock().unwrap())
    }

    /// An object as the store has it; `None`: it is not there.
    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        let answer = self.ask("GET", key, b"");
        let head = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        answer.starts_with(b"HTTP/1.1 200").then(|| answer[head..].to_vec())
    }

    pub fn put(&self, key: &str, bytes: &[u8]) {
        assert!(self.ask("PUT", key, bytes).starts_with(b"HTTP/1.1 200"));
    }

    pub fn remove(&self, key: &str) {
        assert!(self.ask("DELETE", key, b"").starts_with(b"HTTP/1.1 204"));
    }

    /// Ids of uploads that did not end.
    pub fn uploads(&self) -> usize {
        String::from_utf8_lossy(&self.ask("GET", "?uploads", b"")).matches("<UploadId>").count()
    }

    fn ask(&self, method: &str, key: &str, body: &[u8]) -> Vec<u8> {
        let (bucket, length) = (self.bucket, body.len());
        // Any key is as good as another, but one is wanted.
        let who = "Authorization: AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        let head = format!(
            "{method} /{bucket}/{key} HTTP/1.1\r\nHost: 127.0.0.1\r\n{who}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        exchange(self.moto, head.as_bytes(), body)
    }
}

fn exchange(port: u16, head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    connection.write_all(head).unwrap();
    connection.write_all(body).unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).unwrap();
    answer
}

/// One request of a connection, which ends with it.
fn serve(client: TcpStream, moto: u16, rule: &Mutex<Box<Rule>>, answered: &Mutex<u64>) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let (mut head, mut first, mut length) = (Vec::new(), String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap(),
            "connection" => continue,
            "\r\n" => break,
            _ => {}
        }
        if first.is_empty() {
            first.clone_from(&line);
        }
        head.extend_from_slice(line.as_bytes());
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let mut words = first.split(' ').map(str::to_owned);
    let request = Request { method: words.next().unwrap(), target: words.next().unwrap() };
    let action = (rule.lock().unwrap())(&request);
    let answer = match action {
        Action::Reset => {
            let _ = client.shutdown(Shutdown::Both);
            return;
        }
        Action::Hold => return wait_for_end(reader),
        Action::Fail => {
            let xml = "<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>";
            let status = "HTTP/1.1 500 Internal Server Error";
            format!("{status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{xml}", xml.len()).into_bytes()
        }
        Action::Pass | Action::Alter | Action::Swallow => {
            if action == Action::Alter {
                body[length / 2] ^= 1;
            }
            exchange(moto, &head, &body)
        }
    };
    if action == Action::Swallow {
        return wait_for_end(reader);
    }
    *answered.lock().unwrap() += answer.len() as u64;
    let mut client = client;
    let _ = client.write_all(&answer);
    let _ = client.shutdown(Shutdown::Write);
}

/// Until the other side goes away.
fn wait_for_end(mut reader: BufReader<TcpStream>) {
    let _ = std::io::copy(&mut reader, &mut std::io::sink());
}
