//! A server that responds to pushes and keeps nothing: what the client can send at most.
//!
//! It reads bodies into one small buffer and hashes nothing, so that a registry that is as fast in
//! a workload is limited by the client, not by itself. Nothing can be read from it.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How much is read at once; also the longest head of a request.
const READ_BYTES: usize = 128 * 1024;
/// The most headers of a request.
const HEADERS_MAX: usize = 64;

/// Responds on all connections of the listener.
///
/// # Errors
///
/// If no further connections can be accepted.
pub async fn serve_sink(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A client that closes its connection has ended its run.
            let _ = serve(stream).await;
        });
    }
}

async fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = SinkConnection { stream, buffer: vec![0; READ_BYTES], from: 0, to: 0 };
    while let Some(head) = connection.read_head().await? {
        match head.framing {
            SinkFraming::Length(length) => connection.skip(length).await?,
            SinkFraming::Chunked => connection.skip_chunks().await?,
        }
        connection.stream.write_all(head.response().as_bytes()).await?;
    }
    Ok(())
}

/// Where the body of a request ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum SinkFraming {
    Length(u64),
    Chunked,
}

#[derive(Debug)]
struct SinkHead {
    method: String,
    target: String,
    framing: SinkFraming,
    bytes: usize,
}

impl SinkHead {
    /// The head at the beginning of these bytes, if it is whole.
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(size) = parsed.parse(bytes).map_err(io::Error::other)?
        else {
            return Ok(None);
        };
        let mut framing = SinkFraming::Length(0);
        for httparse::Header { name, value } in parsed.headers.iter() {
            if name.eq_ignore_ascii_case("transfer-encoding") {
                framing = SinkFraming::Chunked;
            } else if name.eq_ignore_ascii_case("content-length") {
                let text = std::str::from_utf8(value).map_err(io::Error::other)?;
                framing = SinkFraming::Length(text.trim().parse().map_err(io::Error::other)?);
            }
        }
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let (method, target) = (text(parsed.method), text(parsed.path));
        Ok(Some(Self { method, target, framing, bytes: size }))
    }

    fn response(&self) -> String {
        let end = "Content-Length: 0\r\n\r\n";
        let path = self.target.split('?').next().unwrap_or_default();
        match self.method.as_str() {
            "GET" if path == "/v2/" => format!("HTTP/1.1 200 OK\r\n{end}"),
            "POST" => format!("HTTP/1.1 202 Accepted\r\nLocation: {path}1\r\n{end}"),
            "PATCH" => format!("HTTP/1.1 202 Accepted\r\nLocation: {path}\r\n{end}"),
            "PUT" => format!("HTTP/1.1 201 Created\r\n{end}"),
            _ => format!("HTTP/1.1 404 Not Found\r\n{end}"),
        }
    }
}

#[derive(Debug)]
struct SinkConnection {
    stream: TcpStream,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

impl SinkConnection {
    /// The next head; nothing if the client has closed the connection.
    async fn read_head(&mut self) -> io::Result<Option<SinkHead>> {
        loop {
            if let Some(head) = SinkHead::parse(self.unread())? {
                self.from += head.bytes;
                return Ok(Some(head));
            }
            let nothing_came = self.from == self.to;
            match self.fill().await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && nothing_came => {
                    return Ok(None);
                }
                filled => filled?,
            }
        }
    }

    async fn skip(&mut self, length: u64) -> io::Result<()> {
        let mut missing = length;
        loop {
            let here = (self.to - self.from).min(usize::try_from(missing).unwrap_or(usize::MAX));
            self.from += here;
            missing -= u64::try_from(here).unwrap_or(missing);
            if missing == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    async fn skip_chunks(&mut self) -> io::Result<()> {
        loop {
            let parsed = httparse::parse_chunk_size(self.unread())
                .map_err(|_| io::Error::other("a chunk size that is none"))?;
            let httparse::Status::Complete((used, size)) = parsed else {
                self.fill().await?;
                continue;
            };
            self.from += used;
            // What follows a chunk, or the last one without trailers.
            self.skip(size).await?;
            self.skip(2).await?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.from..self.to).unwrap_or_default()
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.from > 0 {
            self.buffer.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        let room = self.buffer.get_mut(self.to..).unwrap_or_default();
        if room.is_empty() {
            return Err(io::Error::other("a head that is too long"));
        }
        match self.stream.read(room).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.to += read;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_is_answered_as_a_push_expects() {
        let head = |text: &str| SinkHead::parse(text.as_bytes()).unwrap();
        let post = head("POST /v2/a/blobs/uploads/ HTTP/1.1\r\nContent-Length: 0\r\n\r\n").unwrap();
        assert_eq!(post.framing, SinkFraming::Length(0));
        assert!(post.response().contains("Location: /v2/a/blobs/uploads/1\r\n"));
        let patch = "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(head(patch).unwrap().framing, SinkFraming::Chunked);
        let put = head("PUT /v2/a/blobs/uploads/1?digest=x HTTP/1.1\r\nContent-Length: 9\r\n\r\n");
        let put = put.unwrap();
        assert_eq!(put.framing, SinkFraming::Length(9));
        assert!(put.response().starts_with("HTTP/1.1 201"));
        let look = head("HEAD /v2/a/blobs/sha256:x HTTP/1.1\r\n\r\n").unwrap();
        assert!(look.response().starts_with("HTTP/1.1 404"));
        assert!(head("POST / HTTP/1.1\r\n").is_none());
        assert!(SinkHead::parse(b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n").is_err());
    }
}
