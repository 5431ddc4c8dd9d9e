//! A server on a free loopback port whose every answer a test writes by hand. It records what it was asked.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A request: head, and the body as far as it was read.
#[derive(Clone, Debug)]
pub struct Asked {
    pub at: Instant,
    pub method: String,
    /// Path with query.
    pub target: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn is(&self, method: &str, start: &str) -> bool {
        self.method == method && self.target.starts_with(start)
    }
}

/// What the server does with a request.
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Sends only so many bytes of the body, then resets.
    cut: Option<usize>,
    /// Reads only so many bytes of the request's body, then resets without an answer.
    drop_after: Option<usize>,
}

pub fn reply(status: u16) -> Reply {
    Reply { status, headers: Vec::new(), body: Vec::new(), cut: None, drop_after: None }
}

impl Reply {
    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    pub fn drop_after(mut self, bytes: usize) -> Self {
        self.drop_after = Some(bytes);
        self
    }
}

pub struct Server {
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// `answer` sees the head of a request (its body is still empty) and how many came before it.
    pub async fn start(answer: impl Fn(&Asked, &[Asked]) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (answer, log) = (Arc::new(answer), asked.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log) = (answer.clone(), log.clone());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while one(&mut stream, &*answer, &log).await.is_some() {}
                });
            }
        });
        Server { address, asked }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How many requests of that method were for targets that begin so.
    pub fn count(&self, method: &str, start: &str) -> usize {
        self.asked().iter().filter(|a| a.is(method, start)).count()
    }
}

async fn one(
    stream: &mut BufReader<TcpStream>,
    answer: &(dyn Fn(&Asked, &[Asked]) -> Reply + Send + Sync),
    log: &Mutex<Vec<Asked>>,
) -> Option<()> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request = Asked { at: Instant::now(), method, target, headers, body: Vec::new() };
    let reply = {
        let mut log = log.lock().unwrap();
        let reply = answer(&request, &log);
        log.push(request.clone());
        reply
    };
    let length = request.header("content-length").and_then(|l| l.parse::<usize>().ok()).unwrap_or(0);
    request.body = vec![0; reply.drop_after.unwrap_or(length)];
    stream.read_exact(&mut request.body).await.ok()?;
    if let Some(logged) = log.lock().unwrap().iter_mut().rfind(|a| a.at == request.at && a.target == request.target) {
        logged.body = request.body.clone();
    }
    if reply.drop_after.is_some() {
        return None;
    }
    let mut out = format!("HTTP/1.1 {} X\r\n", reply.status);
    for (name, value) in &reply.headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    if !reply.headers.iter().any(|(n, _)| n == "Content-Length") {
        out.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    out.push_str("\r\n");
    let stream = stream.get_mut();
    stream.write_all(out.as_bytes()).await.ok()?;
    if request.method != "HEAD" {
        stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())]).await.ok()?;
    }
    stream.flush().await.ok()?;
    reply.cut.is_none().then_some(())
}
