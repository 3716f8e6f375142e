//! [`SendingIo`]: a TCP connection that sends files in place of placeholders (see
//! [`super::files`]).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::files::{FileQueue, is_placeholder};
use super::settings_frames::CountedIo;

/// More data follows, so the response headers wait for the first bytes of the body (`MSG_MORE` of
/// Linux; placeholders exist only there).
const MSG_MORE: i32 = 0x8000;

/// A connection with its queue of file parts.
#[derive(Debug)]
pub(super) struct SendingIo {
    pub(super) io: TokioIo<CountedIo<TcpStream>>,
    pub(super) files: Option<Arc<FileQueue>>,
}

impl SendingIo {
    /// Retries a write when the socket is writable again.
    fn poll_with(
        &self,
        task: &mut Context<'_>,
        mut write: impl FnMut(&TcpStream, &FileQueue) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let Some(files) = &self.files else {
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        };
        let stream = self.io.inner().get_ref();
        loop {
            ready!(stream.poll_write_ready(task))?;
            match stream.try_io(Interest::WRITABLE, || write(stream, files)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_file(&self, task: &mut Context<'_>, length: usize) -> Poll<io::Result<usize>> {
        self.poll_with(task, |stream, files| files.send(stream, length))
    }
}

impl Read for SendingIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(task, buffer)
    }
}

impl Write for SendingIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if is_placeholder(bytes) {
            return self.poll_file(task, bytes.len());
        }
        Pin::new(&mut self.io).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(task)
    }

    /// Otherwise hyper would copy buffers, including placeholders, into one.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(place) = buffers.iter().position(|buffer| is_placeholder(buffer)) else {
            return Pin::new(&mut self.io).poll_write_vectored(task, buffers);
        };
        match buffers.split_at_checked(place) {
            Some((before, _)) if before.iter().any(|buffer| !buffer.is_empty()) => self
                .poll_with(task, |stream, _| {
                    SockRef::from(stream).send_vectored_with_flags(before, MSG_MORE)
                }),
            _ => self.poll_file(task, buffers.get(place).map_or(0, |buffer| buffer.len())),
        }
    }
}
