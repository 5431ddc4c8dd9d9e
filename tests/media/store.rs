//! A store of objects on a free port of 127.0.0.1 (moto), and a proxy before it that does what a test wants to each
//! request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use crate::home::{Ended, Home, end};

/// What the proxy does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Pass,
    /// Changes a byte in the middle of what is sent.
    Alter,
    /// Answers with an error of the store: its status and code.
    Error(u16, &'static str),
    /// Does it when it is told to.
    Wait,
    /// Does it as `Rename`, and answers with an error.
    Lose,
    /// Does it, and calls every ETag otherwise than by its MD5.
    Rename,
    /// Both: the store cannot be told from one that did not alter it, but by reading back.
    AlterAndRename,
    /// Answers with a half of the object, and then says nothing.
    Stall,
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
    /// All lines before the body.
    pub head: String,
}

impl Request {
    /// Number of the part that it sends, from 1.
    pub fn part(&self) -> Option<u32> {
        let (_, rest) = self.target.split_once("partNumber=")?;
        rest.split('&').next()?.parse().ok().filter(|_| self.method == "PUT")
    }
}

impl Request {
    /// Ends an upload: the parts are put together.
    pub fn completes(&self) -> bool {
        self.method == "POST" && self.target.contains("uploadId")
    }

    /// Value of a header; empty without it.
    pub fn header(&self, name: &str) -> &str {
        let value = |line: &'_ str| line.split_once(':').is_some_and(|(n, _)| n.eq_ignore_ascii_case(name));
        self.head.lines().find(|line| value(line)).and_then(|line| line.split_once(": ")).map_or("", |(_, v)| v)
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

const SECRET: &str = "a-secret";

/// Runs a program that is to keep secrets.
pub fn ended(command: Command) -> Ended {
    let ended = end(command);
    assert!(!ended.stderr.contains(SECRET) && !ended.stdout.contains(SECRET));
    ended
}

/// A bucket, reached past the proxy.
#[derive(Clone, Copy)]
pub struct Named {
    moto: u16,
    bucket: &'static str,
}

/// A bucket of its own behind a proxy of its own.
pub struct Store {
    named: Named,
    pub port: u16,
    rule: Arc<Mutex<Box<Rule>>>,
    /// Requests that wait are let through.
    released: Arc<(Mutex<bool>, Condvar)>,
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
        let released = Arc::default();
        let named = Named { moto, bucket };
        let store = Store { named, port, rule: rule.clone(), released, answered: answered.clone() };
        let released = store.released.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (rule, answered, released) = (rule.clone(), answered.clone(), released.clone());
                std::thread::spawn(move || serve(connection, moto, &rule, &answered, &released));
            }
        });
        assert!(store.named.ask("PUT", "", b"").starts_with(b"HTTP/1.1 200"));
        Some(store)
    }

    /// The program, with this store for its endpoint, and credentials in the environment.
    pub fn command(&self, home: &Home, arguments: &[&str]) -> Command {
        let mut command = home.command(arguments);
        for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("AWS_") || n.to_uppercase().ends_with("_PROXY"))
        {
            command.env_remove(name);
        }
        command.env_remove("XDG_STATE_HOME").env("MIRROR_SILENCE_TIMEOUT", "5");
        command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port));
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", SECRET);
        command
    }

    pub fn mirror(&self, home: &Home, arguments: &[&str]) -> Ended {
        ended(self.command(home, arguments))
    }

    pub fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.named.bucket)
    }

    pub fn set(&self, rule: impl FnMut(&Request) -> Action + Send + 'static) {
        *self.released.0.lock().unwrap() = false;
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    /// Lets go on what waits, and all that comes.
    pub fn release(&self) {
        *self.rule.lock().unwrap() = Box::new(|_| Action::Pass);
        *self.released.0.lock().unwrap() = true;
        self.released.1.notify_all();
    }

    pub fn name(&self) -> Named {
        self.named
    }

    /// Bytes of all answers since the last time.
    pub fn answered(&self) -> u64 {
        std::mem::take(&mut *self.answered.lock().unwrap())
    }

    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.named.object(key)
    }

    pub fn put(&self, key: &str, bytes: &[u8]) {
        self.named.put(key, bytes);
    }

    pub fn remove(&self, key: &str) {
        self.named.remove(key);
    }

    pub fn uploads(&self) -> usize {
        self.named.uploads()
    }
}

impl Named {
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
fn serve(
    client: TcpStream,
    moto: u16,
    rule: &Mutex<Box<Rule>>,
    answered: &Mutex<u64>,
    released: &(Mutex<bool>, Condvar),
) {
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
    let (method, asked) = (words.next().unwrap(), words.next().unwrap());
    // As a proxy is asked: the bucket may be in the name of the host.
    if let Some((host, path)) = asked.strip_prefix("http://").and_then(|rest| rest.split_once('/')) {
        let target = match host.split_once(".s3.") {
            Some((bucket, _)) => format!("/{bucket}/{path}"),
            None => format!("/{path}"),
        };
        let line = first.replacen(&asked, &target, 1);
        head.splice(..first.len(), line.bytes());
        let named = String::from_utf8_lossy(&head).replacen(host, "127.0.0.1", 1);
        head = named.into_bytes();
    }
    let request = Request { method, target: asked, head: String::from_utf8_lossy(&head).into_owned() };
    let action = (rule.lock().unwrap())(&request);
    let mut answer = match action {
        Action::Reset => {
            let _ = client.shutdown(Shutdown::Both);
            return;
        }
        Action::Hold => return wait_for_end(reader),
        Action::Wait => {
            drop(released.1.wait_while(released.0.lock().unwrap(), |released| !*released).unwrap());
            exchange(moto, &head, &body)
        }
        Action::Error(status, code) => error(status, code),
        _ => {
            if matches!(action, Action::Alter | Action::AlterAndRename) {
                body[length / 2] ^= 1;
            }
            if matches!(action, Action::Rename | Action::AlterAndRename | Action::Lose) {
                rename(&mut head);
                rename(&mut body);
            }
            let answer = exchange(moto, &head, &body);
            if action == Action::Lose { error(500, "InternalError") } else { answer }
        }
    };
    if action == Action::Swallow {
        return wait_for_end(reader);
    }
    if matches!(action, Action::Rename | Action::AlterAndRename) {
        rename(&mut answer);
    }
    if action == Action::Stall {
        answer.truncate(answer.len() / 2);
    }
    *answered.lock().unwrap() += answer.len() as u64;
    let mut client = client;
    let _ = client.write_all(&answer);
    if action == Action::Stall {
        return wait_for_end(reader);
    }
    let _ = client.shutdown(Shutdown::Write);
}

fn error(status: u16, code: &str) -> Vec<u8> {
    let xml = format!("<Error><Code>{code}</Code><Message>We encountered an internal error.</Message></Error>");
    let length = xml.len();
    let head = format!("HTTP/1.1 {status} No\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    (head + &xml).into_bytes()
}

/// Turns all ETags of heads and of XML into others, and those back.
fn rename(bytes: &mut [u8]) {
    let is_head = bytes.windows(4).take(10_000).position(|w| w == b"\r\n\r\n");
    let (head, body) = bytes.split_at_mut(is_head.map_or(0, |at| at + 4));
    for text in [head, body] {
        if text.starts_with(b"<") || is_head.is_some() && text.len() < 10_000 {
            rename_in(text);
        }
    }
}

fn rename_in(bytes: &mut [u8]) {
    let lower = bytes.to_ascii_lowercase();
    for name in [&b"etag"[..], b"if-match"] {
        for at in lower.windows(name.len()).enumerate().filter(|(_, w)| *w == name).map(|(at, _)| at + name.len()) {
            let start = at + lower[at..].iter().take_while(|b| b" :>\"&quot;".contains(b)).count();
            let run = lower[start..].iter().take_while(|b| b.is_ascii_hexdigit()).count();
            if run >= 32 {
                for digit in &mut bytes[start..start + run] {
                    let value = char::from(*digit).to_digit(16).unwrap();
                    *digit = char::from_digit(15 - value, 16).unwrap() as u8;
                }
            }
        }
    }
}

/// Until the other side goes away.
fn wait_for_end(mut reader: BufReader<TcpStream>) {
    let _ = std::io::copy(&mut reader, &mut std::io::sink());
}
