//! A request as it will be sent, byte for byte, and a response as it came.

use std::fmt;

use bytes::Bytes;
use serde_json::Value;

/// A body and how it is framed.
#[derive(Clone, Debug)]
pub enum Body {
    /// No body and no header about it.
    None,
    /// Bytes, with their true Content-Length unless the request gives another.
    Sized(Bytes),
    /// `Transfer-Encoding: chunked`, one chunk each.
    Chunked(Vec<Bytes>),
}

/// A request. Nothing in it is validated or escaped: that is the server's work.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// The request target, as it continues the wire.
    pub target: String,
    /// Headers beside Host, Connection and those that frame the body.
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

impl Request {
    /// A request without headers or a body.
    pub fn new(method: &str, target: impl Into<String>) -> Self {
        Self {
            method: method.to_owned(),
            target: target.into(),
            headers: Vec::new(),
            body: Body::None,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sets a body with its Content-Length.
    #[must_use]
    pub fn body(mut self, bytes: impl Into<Bytes>) -> Self {
        self.body = Body::Sized(bytes.into());
        self
    }

    /// Sets a body in chunks, without Content-Length.
    #[must_use]
    pub fn chunked<I: Into<Bytes>>(mut self, chunks: impl IntoIterator<Item = I>) -> Self {
        self.body = Body::Chunked(chunks.into_iter().map(Into::into).collect());
        self
    }

    /// The first value of a header of this request.
    pub fn header_value(&self, name: &str) -> Option<&str> {
        first(&self.headers, name)
    }

    /// The path without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The first value of a query parameter, as it was sent.
    pub fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    /// Everything up to the body.
    pub fn head(&self, host: &str) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        let mut line = |name: &str, value: &str| head.push_str(&format!("{name}: {value}\r\n"));
        if self.header_value("Host").is_none() {
            line("Host", host);
        }
        for (name, value) in &self.headers {
            line(name, value);
        }
        match &self.body {
            Body::Sized(bytes) if self.header_value("Content-Length").is_none() => {
                line("Content-Length", &bytes.len().to_string());
            }
            Body::Chunked(_) => line("Transfer-Encoding", "chunked"),
            _ => {}
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// The body as it continues the wire.
    pub fn encoded_body(&self) -> Vec<Bytes> {
        match &self.body {
            Body::None => Vec::new(),
            Body::Sized(bytes) => vec![bytes.clone()],
            Body::Chunked(chunks) => {
                let mut frames = Vec::new();
                for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                    frames.push(Bytes::from(format!("{:x}\r\n", chunk.len())));
                    frames.push(chunk.clone());
                    frames.push(Bytes::from_static(b"\r\n"));
                }
                frames.push(Bytes::from_static(b"0\r\n\r\n"));
                frames
            }
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.method, self.target.escape_debug())?;
        write_headers(f, &self.headers)?;
        match &self.body {
            Body::None => Ok(()),
            Body::Sized(bytes) => write_body(f, bytes),
            Body::Chunked(chunks) => write_body(f, &chunks.concat()),
        }
    }
}

/// A response, whole.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers, in order, with their names as they came.
    pub headers: Vec<(String, String)>,
    /// The body, with chunked framing taken off.
    pub body: Bytes,
}

impl Response {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        first(&self.headers, name)
    }

    /// Every value of a header, in order.
    pub fn header_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null if it is something else.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The code of the first error in the body.
    pub fn error_code(&self) -> Option<String> {
        Some(self.json().pointer("/errors/0/code")?.as_str()?.to_owned())
    }

    /// The target of a `Link` with `rel="next"`.
    pub fn next_link(&self) -> Option<String> {
        let (target, parameters) = self.header("Link")?.strip_prefix('<')?.split_once('>')?;
        parameters.contains("rel=\"next\"").then(|| target.to_owned())
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.status)?;
        write_headers(f, &self.headers)?;
        write_body(f, &self.body)
    }
}

fn first<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

fn write_headers(f: &mut fmt::Formatter<'_>, headers: &[(String, String)]) -> fmt::Result {
    headers.iter().try_for_each(|(name, value)| writeln!(f, "{name}: {value}"))
}

fn write_body(f: &mut fmt::Formatter<'_>, body: &[u8]) -> fmt::Result {
    const SHOWN_BYTES_MAX: usize = 400;
    let shown = &body[..body.len().min(SHOWN_BYTES_MAX)];
    writeln!(f, "({} bytes) {}", body.len(), shown.escape_ascii())
}
