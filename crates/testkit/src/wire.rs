//! One TCP connection, by the byte: writes what it is told, and reads HTTP/1.1 responses strictly. A
//! response whose framing is wrong (two lengths, a body where none may be, bytes after the end) is
//! an error here, so that every test checks it.
//!
//! Every wait ends after [`WAIT_MAX`]: a server that hangs fails a test instead of stopping it.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Response;

/// The longest that anything is waited for. Reached only by a server that hangs.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    read: BytesMut,
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = within(TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: BytesMut::new() })
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        within(self.stream.write_all(bytes)).await
    }

    /// Says that nothing more will be sent.
    pub async fn finish_writing(&mut self) -> Result<()> {
        within(self.stream.shutdown()).await
    }

    /// Breaks the connection off: what was not read yet is lost, as when a client is killed.
    pub fn reset(self) -> Result<()> {
        self.stream.set_zero_linger()
    }

    /// Sends frames and reads the response at the same time, since a server may respond before the
    /// body is whole. A failed write is not an error as long as there is a response.
    pub async fn exchange(&mut self, method: &str, frames: Vec<Bytes>) -> Result<Response> {
        let (mut from, mut to) = self.stream.split();
        let send = async {
            for frame in frames {
                to.write_all(&frame).await?;
            }
            Ok::<_, Error>(())
        };
        let receive = read_response(&mut from, &mut self.read, method);
        tokio::pin!(send, receive);
        within(async {
            tokio::select! {
                biased;
                response = &mut receive => response,
                sent = &mut send => receive.await.map_err(|error| sent.err().unwrap_or(error)),
            }
        })
        .await
    }

    /// Reads one response to a request with this method; interim (1xx) ones count.
    pub async fn response(&mut self, method: &str) -> Result<Response> {
        within(read_response(&mut self.stream, &mut self.read, method)).await
    }

    /// Reads the status and headers of a response, and leaves its body on the wire.
    pub async fn response_head(&mut self) -> Result<Response> {
        within(read_head(&mut self.stream, &mut self.read)).await
    }

    /// Reads exactly this many bytes.
    pub async fn bytes(&mut self, len: usize) -> Result<Bytes> {
        within(async {
            while self.read.len() < len {
                fill(&mut self.stream, &mut self.read).await?;
            }
            Ok(self.read.split_to(len).freeze())
        })
        .await
    }

    /// Waits for the server to close, and gives what came before that. A reset counts as closed.
    pub async fn closed(&mut self) -> Result<Bytes> {
        within(async {
            loop {
                match self.stream.read_buf(&mut self.read).await {
                    Ok(0) => break,
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                    Ok(_) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(self.read.split().freeze())
        })
        .await
    }
}

async fn within<T>(step: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(WAIT_MAX, step).await.map_err(|_| Error::from(ErrorKind::TimedOut))?
}

trait WireSource: AsyncReadExt + Unpin {}
impl<T: AsyncReadExt + Unpin> WireSource for T {}

async fn fill(from: &mut impl WireSource, read: &mut BytesMut) -> Result<()> {
    match from.read_buf(read).await? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

async fn line(from: &mut impl WireSource, read: &mut BytesMut) -> Result<String> {
    loop {
        if let Some(end) = read.windows(2).position(|pair| pair == b"\r\n") {
            let line = read.split_to(end);
            read.advance(2);
            return String::from_utf8(line.to_vec()).map_err(|_| wrong("a head that is not UTF-8"));
        }
        fill(from, read).await?;
    }
}

async fn read_head(from: &mut impl WireSource, read: &mut BytesMut) -> Result<Response> {
    let first = line(from, read).await?;
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .ok_or_else(|| wrong(format!("status line {first:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = line(from, read).await?;
        if line.is_empty() {
            return Ok(Response { status, headers, body: Bytes::new() });
        }
        let (name, value) =
            line.split_once(':').ok_or_else(|| wrong(format!("header {line:?}")))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

async fn read_response(
    from: &mut impl WireSource,
    read: &mut BytesMut,
    method: &str,
) -> Result<Response> {
    let mut response = read_head(from, read).await?;
    let without_body =
        method == "HEAD" || response.status < 200 || [204, 304].contains(&response.status);
    let length = content_length(&response)?;
    let chunked = response.header("Transfer-Encoding").is_some();
    response.body = match (without_body, length, chunked) {
        (_, Some(_), true) => return Err(wrong("both Content-Length and Transfer-Encoding")),
        (true, ..) => Bytes::new(),
        (false, Some(length), false) => sized(from, read, length).await?,
        (false, None, true) => dechunked(from, read).await?,
        (false, None, false) => return Err(wrong("a response whose body has no framing")),
    };
    Ok(response)
}

fn content_length(response: &Response) -> Result<Option<usize>> {
    let mut lengths = response.header_all("Content-Length");
    let Some(length) = lengths.next() else { return Ok(None) };
    if lengths.next().is_some() || response.status == 204 {
        return Err(wrong("a Content-Length where none may be"));
    }
    length.parse().map(Some).map_err(|_| wrong(format!("Content-Length {length:?}")))
}

async fn sized(from: &mut impl WireSource, read: &mut BytesMut, length: usize) -> Result<Bytes> {
    while read.len() < length {
        fill(from, read).await?;
    }
    Ok(read.split_to(length).freeze())
}

async fn dechunked(from: &mut impl WireSource, read: &mut BytesMut) -> Result<Bytes> {
    let mut body = BytesMut::new();
    loop {
        let size = line(from, read).await?;
        let size =
            usize::from_str_radix(&size, 16).map_err(|_| wrong(format!("chunk size {size:?}")))?;
        let chunk = sized(from, read, size).await?;
        if !line(from, read).await?.is_empty() {
            return Err(wrong("a chunk longer than its size"));
        }
        if size == 0 {
            return Ok(body.freeze());
        }
        body.extend_from_slice(&chunk);
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the response has {}", what.into()))
}
