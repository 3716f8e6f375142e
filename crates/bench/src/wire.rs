//! One HTTP/1.1 connection: a request at a time, bodies read into one buffer and thrown away.
//!
//! Made for little work on the client's side: a head and its body leave in one call, nothing is
//! copied on the way out, and what comes in is read into a buffer that stays in the processor's
//! cache.

use std::io::{self, IoSlice};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::failure::OperationError;
use crate::stream::ConnectionStream;

/// What is read at once; also the longest head of a response.
const READ_BYTES: usize = 128 * 1024;
/// The most headers of a response.
const HEADERS_MAX: usize = 64;
/// The longest body that is kept rather than thrown away: a page of a list, a token.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a chunk of a body of unknown length is: what Go's client sends, and so docker.
pub(crate) const CHUNK_BYTES: usize = 32 * 1024;

#[derive(Clone, Copy, Debug)]
pub(crate) enum RequestBody<'a> {
    /// None, and nothing said of it.
    None,
    /// Both one after the other, their length in the head.
    Sized(&'a [u8], &'a [u8]),
    /// Both one after the other, in chunks.
    Chunked(&'a [u8], &'a [u8]),
}

/// What becomes of the body of a response.
#[derive(Debug, Default)]
pub(crate) enum BodySink {
    /// It is counted.
    #[default]
    Count,
    /// It is counted and hashed.
    Hash(Sha256),
    /// It is kept.
    Keep(Vec<u8>),
}

impl BodySink {
    /// Forgets what came: the response that is to be read is another one.
    pub(crate) fn restart(&mut self) {
        match self {
            Self::Count => {}
            Self::Hash(hash) => hash.reset(),
            Self::Keep(kept) => kept.clear(),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), OperationError> {
        match self {
            Self::Count => {}
            Self::Hash(hash) => hash.update(bytes),
            Self::Keep(kept) if kept.len() + bytes.len() > KEPT_BYTES_MAX => {
                return Err(OperationError::Protocol("a list that is too long"));
            }
            Self::Keep(kept) => kept.extend_from_slice(bytes),
        }
        Ok(())
    }
}

/// A response, whose body is in the sink.
#[derive(Debug, Default)]
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    /// The length that its head gives, also to HEAD.
    pub(crate) length: Option<u64>,
    /// How much of a body came.
    pub(crate) received: u64,
    pub(crate) location: Option<String>,
    pub(crate) challenge: Option<String>,
    pub(crate) server: Option<String>,
}

/// Why there is no response.
#[derive(Debug)]
pub(crate) struct BrokenConnection {
    pub(crate) failure: OperationError,
    /// Whether nothing of a response came.
    pub(crate) silent: bool,
}

/// Where the body of a response ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum BodyFraming {
    Length(u64),
    Chunked,
    UntilClosed,
}

/// A head that was read.
#[derive(Debug)]
struct ResponseHead {
    response: HttpResponse,
    framing: BodyFraming,
    bytes: usize,
    keeps: bool,
}

#[derive(Debug)]
pub(crate) struct HttpConnection {
    stream: ConnectionStream,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
    /// Whether another request may follow.
    usable: bool,
    /// Whether a response came on it before.
    used: bool,
}

impl HttpConnection {
    pub(crate) fn new(stream: ConnectionStream) -> Self {
        Self { stream, buffer: vec![0; READ_BYTES], from: 0, to: 0, usable: true, used: false }
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.usable
    }

    pub(crate) fn was_used(&self) -> bool {
        self.used
    }

    /// Sends a request and reads the whole response. Whatever fails, the connection is not usable
    /// any more.
    pub(crate) async fn exchange(
        &mut self,
        head: &[u8],
        body: RequestBody<'_>,
        to_head: bool,
        sink: &mut BodySink,
    ) -> Result<HttpResponse, BrokenConnection> {
        self.usable = false;
        // A server that refuses a body may respond and close before the body is whole: the response counts.
        let sent = self.send(head, body).await;
        let head = match self.read_head(to_head).await {
            Ok(head) => head,
            Err(failure) => {
                let failure = sent.err().map_or(failure, OperationError::Broken);
                return Err(BrokenConnection { failure, silent: self.to == 0 });
            }
        };
        let ResponseHead { mut response, framing, keeps, .. } = head;
        response.received = self
            .read_body(framing, sink)
            .await
            .map_err(|failure| BrokenConnection { failure, silent: false })?;
        self.usable = keeps && sent.is_ok() && self.from == self.to;
        self.used = true;
        Ok(response)
    }

    async fn send(&mut self, head: &[u8], body: RequestBody<'_>) -> io::Result<()> {
        match body {
            RequestBody::None => self.stream.write_all(head).await?,
            RequestBody::Sized(first, last) => {
                let mut slices = [IoSlice::new(head), IoSlice::new(first), IoSlice::new(last)];
                write_all(&mut self.stream, &mut slices).await?;
            }
            RequestBody::Chunked(first, last) => {
                let mut slices = vec![IoSlice::new(head)];
                let ends = [chunk_head(first.len() % CHUNK_BYTES), chunk_head(last.len())];
                chunked(first, &ends[0], &mut slices);
                chunked(last, &ends[1], &mut slices);
                slices.push(IoSlice::new(b"0\r\n\r\n"));
                write_all(&mut self.stream, &mut slices).await?;
            }
        }
        self.stream.flush().await
    }

    /// Reads the head of a response, past those that only say that one will come.
    async fn read_head(&mut self, to_head: bool) -> Result<ResponseHead, OperationError> {
        (self.from, self.to) = (0, 0);
        loop {
            if let Some(head) = parse(self.unread(), to_head)? {
                self.from += head.bytes;
                if head.response.status >= 200 {
                    return Ok(head);
                }
            } else {
                self.fill().await?;
            }
        }
    }

    async fn read_body(
        &mut self,
        framing: BodyFraming,
        sink: &mut BodySink,
    ) -> Result<u64, OperationError> {
        match framing {
            BodyFraming::Length(length) => self.read_sized(length, sink).await,
            BodyFraming::Chunked => self.read_chunked(sink).await,
            BodyFraming::UntilClosed => {
                let mut received = 0;
                loop {
                    let unread = self.unread();
                    sink.take(unread)?;
                    received += u64::try_from(unread.len()).unwrap_or(u64::MAX);
                    self.from = self.to;
                    match self.fill().await {
                        Err(OperationError::Broken(error))
                            if error.kind() == io::ErrorKind::UnexpectedEof =>
                        {
                            return Ok(received);
                        }
                        filled => filled?,
                    }
                }
            }
        }
    }

    async fn read_sized(
        &mut self,
        length: u64,
        sink: &mut BodySink,
    ) -> Result<u64, OperationError> {
        let mut missing = length;
        loop {
            let unread = self.unread();
            let here = unread.len().min(usize::try_from(missing).unwrap_or(usize::MAX));
            sink.take(unread.get(..here).unwrap_or_default())?;
            self.from += here;
            missing -= u64::try_from(here).unwrap_or(missing);
            if missing == 0 {
                return Ok(length);
            }
            self.fill().await?;
        }
    }

    async fn read_chunked(&mut self, sink: &mut BodySink) -> Result<u64, OperationError> {
        let mut received = 0;
        loop {
            let size = loop {
                match httparse::parse_chunk_size(self.unread()) {
                    Ok(httparse::Status::Complete((used, size))) => {
                        self.from += used;
                        break size;
                    }
                    Ok(httparse::Status::Partial) => self.fill().await?,
                    Err(_) => return Err(OperationError::Protocol("a chunk size that is none")),
                }
            };
            if size == 0 {
                self.read_trailers().await?;
                return Ok(received);
            }
            received += self.read_sized(size, sink).await?;
            self.read_sized(2, &mut BodySink::Count).await?;
        }
    }

    async fn read_trailers(&mut self) -> Result<(), OperationError> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            match httparse::parse_headers(self.unread(), &mut headers) {
                Ok(httparse::Status::Complete((used, _))) => {
                    self.from += used;
                    return Ok(());
                }
                Ok(httparse::Status::Partial) => self.fill().await?,
                Err(_) => return Err(OperationError::Protocol("trailers that are none")),
            }
        }
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.from..self.to).unwrap_or_default()
    }

    /// Reads more.
    async fn fill(&mut self) -> Result<(), OperationError> {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        } else if self.to == self.buffer.len() && self.from > 0 {
            self.buffer.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        let room = self.buffer.get_mut(self.to..).unwrap_or_default();
        if room.is_empty() {
            return Err(OperationError::Protocol("a head that is too long"));
        }
        match self.stream.read(room).await.map_err(OperationError::Broken)? {
            0 => Err(OperationError::Broken(io::ErrorKind::UnexpectedEof.into())),
            read => {
                self.to += read;
                Ok(())
            }
        }
    }
}

async fn write_all(
    stream: &mut ConnectionStream,
    mut slices: &mut [IoSlice<'_>],
) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match stream.write_vectored(slices).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => IoSlice::advance_slices(&mut slices, written),
        }
    }
    Ok(())
}

fn chunk_head(len: usize) -> String {
    format!("{len:x}\r\n")
}

/// Adds bytes as chunks; `end` is the head of the last one, if that is shorter.
fn chunked<'a>(bytes: &'a [u8], end: &'a str, slices: &mut Vec<IoSlice<'a>>) {
    for chunk in bytes.chunks(CHUNK_BYTES) {
        let head = if chunk.len() == CHUNK_BYTES { "8000\r\n" } else { end };
        slices.extend([head.as_bytes(), chunk, b"\r\n"].map(IoSlice::new));
    }
}

/// The head at the beginning of these bytes, if it is whole.
fn parse(bytes: &[u8], to_head: bool) -> Result<Option<ResponseHead>, OperationError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let size = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(OperationError::Protocol("a head that is not HTTP/1.1")),
    };
    let mut response =
        HttpResponse { status: parsed.code.unwrap_or_default(), ..HttpResponse::default() };
    let (mut chunked, mut keeps) = (false, parsed.version == Some(1));
    for httparse::Header { name, value } in parsed.headers.iter() {
        let text = || std::str::from_utf8(value).ok().map(|text| text.trim().to_owned());
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            14 if is("content-length") => response.length = length(value)?,
            17 if is("transfer-encoding") => chunked = true,
            10 if is("connection") => keeps = keeps && !value.eq_ignore_ascii_case(b"close"),
            8 if is("location") => response.location = text(),
            16 if is("www-authenticate") => response.challenge = choose(response.challenge, text()),
            6 if is("server") => response.server = text(),
            _ => {}
        }
    }
    let framing = match (response.status, response.length) {
        (100..200 | 204 | 304, _) => BodyFraming::Length(0),
        _ if to_head => BodyFraming::Length(0),
        _ if chunked => BodyFraming::Chunked,
        (_, Some(length)) => BodyFraming::Length(length),
        (_, None) => BodyFraming::UntilClosed,
    };
    keeps = keeps && framing != BodyFraming::UntilClosed;
    Ok(Some(ResponseHead { response, framing, bytes: size, keeps }))
}

fn length(value: &[u8]) -> Result<Option<u64>, OperationError> {
    let length = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or(OperationError::Protocol("a length that is no number"))
}

/// Of several challenges the one for a token.
fn choose(one: Option<String>, other: Option<String>) -> Option<String> {
    match (one, other) {
        (Some(one), _) if one.to_ascii_lowercase().starts_with("bearer") => Some(one),
        (one, None) => one,
        (_, other) => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn head(text: &str, to_head: bool) -> Option<(u16, BodyFraming, bool)> {
        let head = parse(text.as_bytes(), to_head).unwrap()?;
        assert_eq!(head.bytes, text.find("\r\n\r\n").unwrap() + 4);
        Some((head.response.status, head.framing, head.keeps))
    }

    #[test]
    fn where_a_body_ends_follows_from_the_head() {
        let ok = "HTTP/1.1 200 OK\r\n";
        for (rest, to_head, expected) in [
            ("Content-Length: 5\r\n\r\nhello", false, (200, BodyFraming::Length(5), true)),
            ("content-length: 5\r\n\r\n", true, (200, BodyFraming::Length(0), true)),
            ("Transfer-Encoding: chunked\r\n\r\n", false, (200, BodyFraming::Chunked, true)),
            ("\r\n", false, (200, BodyFraming::UntilClosed, false)),
            (
                "Connection: close\r\nContent-Length: 0\r\n\r\n",
                false,
                (200, BodyFraming::Length(0), false),
            ),
        ] {
            assert_eq!(head(&format!("{ok}{rest}"), to_head), Some(expected), "{rest}");
        }
        assert_eq!(
            head("HTTP/1.1 204 No Content\r\n\r\n", false),
            Some((204, BodyFraming::Length(0), true))
        );
        let old = "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n";
        assert_eq!(head(old, false), Some((200, BodyFraming::Length(1), false)));
    }

    #[test]
    fn incomplete_responses_are_awaited_and_malformed_ones_rejected() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Le", false).unwrap().is_none());
        assert!(parse(b"SSH-2.0-OpenSSH\r\n\r\n", false).is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", false).is_err());
    }

    #[test]
    fn a_bearer_challenge_takes_precedence() {
        for order in [["Basic realm=x", "Bearer realm=y"], ["Bearer realm=y", "Basic realm=x"]] {
            let [one, other] = order.map(|text| Some(text.to_owned()));
            assert_eq!(choose(one, other).unwrap(), "Bearer realm=y");
        }
    }

    #[test]
    fn bytes_become_chunks_of_one_size_and_a_shorter_one() {
        let bytes = vec![7; 2 * CHUNK_BYTES + 3];
        let end = chunk_head(3);
        let mut slices = Vec::new();
        chunked(&bytes, &end, &mut slices);
        let lens: Vec<_> = slices.iter().map(|slice| slice.len()).collect();
        assert_eq!(lens, [6, CHUNK_BYTES, 2, 6, CHUNK_BYTES, 2, 3, 3, 2]);
        assert_eq!(&*slices[6], b"3\r\n");
    }
}
