//! HTTP/1.1 by hand, so that it can be broken on purpose: requests as they arrived, answers that may stop, stall, be cut
//! or lie about their length. Invariant: what is sent is exactly what an [`Answer`] says, byte for byte.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// The head of a request.
#[derive(Clone, Debug)]
pub struct Head {
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A value of the query, percent-decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        let query = self.target.split_once('?')?.1;
        url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path().contains(part)
    }
}

/// What goes into a body.
#[derive(Clone)]
pub enum Body {
    Bytes(Bytes),
    /// `start`, then `length` times a blank, then `end`: for bodies that nobody wants in memory.
    Blanks {
        start: &'static [u8],
        length: u64,
        end: &'static [u8],
    },
}

impl Body {
    pub fn len(&self) -> u64 {
        match self {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Blanks { start, length, end } => start.len() as u64 + length + end.len() as u64,
        }
    }
}

/// How a body is delivered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Delivery {
    Whole,
    /// The connection is reset after so many bytes of the body.
    ResetAfter(u64),
    /// The connection is closed, as if all were well, after so many bytes of the body.
    CloseAfter(u64),
    /// Nothing more comes after so many bytes, and the connection stays open.
    StallAfter(u64),
    /// So many bytes a second.
    Trickle(u64),
    /// In chunks, without a length.
    Chunked,
    /// In chunks, and closed after so many bytes without the last chunk.
    ChunkedCut(u64),
    /// The length says less than is sent.
    Overlong,
    /// All of it, and then the connection is closed without a word about it.
    ThenClose,
}

/// An answer before it is sent. `Content-Length` is added.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
    pub delivery: Delivery,
}

impl Answer {
    pub fn new(status: u16) -> Self {
        Answer { status, headers: Vec::new(), body: Body::Bytes(Bytes::new()), delivery: Delivery::Whole }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.set(name, value);
        self
    }

    pub fn body(mut self, bytes: impl Into<Bytes>) -> Self {
        self.body = Body::Bytes(bytes.into());
        self
    }

    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.remove(name);
        self.headers.push((name.into(), value.to_string()));
    }

    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    pub fn bytes(&self) -> Bytes {
        match &self.body {
            Body::Bytes(bytes) => bytes.clone(),
            Body::Blanks { .. } => Bytes::new(),
        }
    }
}

/// One connection, from the registry's side.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        Connection { stream: BufReader::new(stream) }
    }

    /// The next request's head; `None` when the client has closed.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let (method, target) = (words.next().unwrap_or_default().into(), words.next().unwrap_or_default().into());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end().split_once(':') {
                Some((name, value)) => headers.push((name.to_string(), value.trim().to_string())),
                None => return Ok(Some(Head { method, target, headers })),
            }
        }
    }

    /// The request's body, `limit` bytes of it at most; what follows is left unread.
    pub async fn body(&mut self, head: &Head, limit: u64) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if head.header("transfer-encoding").is_some() {
            loop {
                let mut line = String::new();
                self.stream.read_line(&mut line).await?;
                let size = u64::from_str_radix(line.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
                let wanted = size.min(limit - body.len() as u64);
                (&mut self.stream).take(wanted).read_to_end(&mut body).await?;
                if wanted < size {
                    return Ok(body);
                }
                self.stream.read_line(&mut String::new()).await?;
                if size == 0 {
                    return Ok(body);
                }
            }
        }
        let length: u64 = head.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        (&mut self.stream).take(length.min(limit)).read_to_end(&mut body).await?;
        if (body.len() as u64) < length.min(limit) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(body)
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        // Failing to set it means that the peer has gone already, which serves as well.
        let _ = self.stream.get_ref().set_zero_linger();
    }

    /// Keeps the connection open and says nothing until the client gives up.
    pub async fn hang(&mut self) {
        let _ = tokio::io::copy(&mut self.stream, &mut tokio::io::sink()).await;
    }

    /// Sends an answer. `false` when the connection is not to be used again.
    pub async fn send(mut self, method: &str, answer: &Answer) -> io::Result<Option<Connection>> {
        let length = answer.body.len();
        let chunked = matches!(answer.delivery, Delivery::Chunked | Delivery::ChunkedCut(_)) && method != "HEAD";
        let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let has_length = answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if chunked {
            head += "Transfer-Encoding: chunked\r\n";
        } else if !has_length && answer.status != 204 {
            let said = if answer.delivery == Delivery::Overlong { length.saturating_sub(7) } else { length };
            head += &format!("Content-Length: {said}\r\n");
        }
        self.stream.write_all((head + "\r\n").as_bytes()).await?;
        if method == "HEAD" || answer.status == 204 {
            return Ok((answer.delivery != Delivery::ThenClose).then_some(self));
        }
        match answer.delivery {
            Delivery::Whole => {
                self.bytes(&answer.body, length, false).await?;
                Ok(Some(self))
            }
            Delivery::Chunked => {
                self.bytes(&answer.body, length, true).await?;
                self.stream.write_all(b"0\r\n\r\n").await?;
                Ok(Some(self))
            }
            Delivery::ChunkedCut(n) => {
                self.bytes(&answer.body, n.min(length), true).await?;
                Ok(None)
            }
            Delivery::ThenClose | Delivery::Overlong => {
                self.bytes(&answer.body, length, false).await?;
                Ok(None)
            }
            Delivery::CloseAfter(n) => {
                self.bytes(&answer.body, n.min(length), false).await?;
                Ok(None)
            }
            Delivery::ResetAfter(n) => {
                self.bytes(&answer.body, n.min(length), false).await?;
                self.stream.flush().await?;
                // What was sent is to arrive before the reset does.
                tokio::time::sleep(Duration::from_millis(30)).await;
                self.reset();
                Ok(None)
            }
            Delivery::StallAfter(n) => {
                self.bytes(&answer.body, n.min(length), false).await?;
                self.hang().await;
                Ok(None)
            }
            Delivery::Trickle(rate) => {
                for piece in answer.bytes().chunks((rate / 8).max(1) as usize) {
                    self.stream.write_all(piece).await?;
                    tokio::time::sleep(Duration::from_millis(125)).await;
                }
                Ok(Some(self))
            }
        }
    }

    async fn bytes(&mut self, body: &Body, length: u64, chunked: bool) -> io::Result<()> {
        match body {
            Body::Bytes(bytes) => {
                for piece in bytes[..length as usize].chunks(16 << 10) {
                    if chunked {
                        self.stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
                    }
                    self.stream.write_all(piece).await?;
                    if chunked {
                        self.stream.write_all(b"\r\n").await?;
                    }
                }
                Ok(())
            }
            Body::Blanks { start, length, end } => {
                self.stream.write_all(start).await?;
                let blanks = vec![b' '; 1 << 20];
                let mut left = *length;
                while left > 0 {
                    let n = left.min(blanks.len() as u64);
                    self.stream.write_all(&blanks[..n as usize]).await?;
                    left -= n;
                }
                self.stream.write_all(end).await
            }
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Other",
    }
}
