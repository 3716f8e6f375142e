//! [`CountedIo`]: a connection whose HTTP/2 SETTINGS frames are counted.
//!
//! A client changes its settings once, or a few times as it measures the connection. Each frame may change
//! the window of every stream, and costs h2 microseconds for a few bytes (7 µs with 255 streams); h2 itself
//! does not limit them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::activity::{Activity, Overrun};

/// Maximum number of SETTINGS frames of a client at once, and how many more it may send each second.
pub(super) const SETTINGS_FRAMES_MAX: u32 = 100;
const SETTINGS_FRAMES_PER_SECOND: u32 = 10;

/// What a client sends first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The length, the type, the flags and the stream of a frame (RFC 9113 section 4.1).
const HEADER_BYTES: usize = 9;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;

/// Where in its frames a client's bytes stand.
#[derive(Debug)]
enum FramePosition {
    /// So many bytes of the preface have come.
    Preface(usize),
    Header {
        bytes: [u8; HEADER_BYTES],
        filled: usize,
    },
    /// So many bytes are left of a frame.
    Payload(usize),
    /// It is not HTTP/2.
    Other,
}

#[derive(Debug)]
struct FrameCounter {
    position: FramePosition,
    /// How many SETTINGS frames may come now.
    left: f64,
    since: Instant,
}

impl FrameCounter {
    fn new() -> Self {
        let left = f64::from(SETTINGS_FRAMES_MAX);
        Self { position: FramePosition::Preface(0), left, since: Instant::now() }
    }

    /// Follows the next bytes. `false`: they have too many SETTINGS frames.
    fn follow(&mut self, bytes: &[u8]) -> bool {
        let count = self.count(bytes);
        if count > 0 {
            let now = Instant::now();
            let earned = now.duration_since(self.since).as_secs_f64();
            let earned = earned * f64::from(SETTINGS_FRAMES_PER_SECOND);
            self.left = (self.left + earned).min(f64::from(SETTINGS_FRAMES_MAX)) - f64::from(count);
            self.since = now;
        }
        self.left >= 0.0
    }

    /// The number of SETTINGS frames that begin in the next bytes, other than acknowledgements.
    fn count(&mut self, mut bytes: &[u8]) -> u32 {
        let mut count = 0;
        while !bytes.is_empty() {
            bytes = match &mut self.position {
                FramePosition::Other => return count,
                FramePosition::Preface(come) => {
                    let expected = PREFACE.get(*come..).unwrap_or_default();
                    let (now, rest) = bytes.split_at(expected.len().min(bytes.len()));
                    *come += now.len();
                    if !expected.starts_with(now) {
                        self.position = FramePosition::Other;
                    } else if *come == PREFACE.len() {
                        self.position = FramePosition::header();
                    }
                    rest
                }
                FramePosition::Header { bytes: header, filled } => {
                    let room = header.get_mut(*filled..).unwrap_or_default();
                    let (now, rest) = bytes.split_at(room.len().min(bytes.len()));
                    room.iter_mut().zip(now).for_each(|(room, byte)| *room = *byte);
                    *filled += now.len();
                    if *filled == HEADER_BYTES {
                        let [a, b, c, kind, flags, ..] = *header;
                        count += u32::from(kind == SETTINGS && flags & ACK == 0);
                        let length = u32::from_be_bytes([0, a, b, c]);
                        self.position = FramePosition::Payload(length as usize);
                    }
                    rest
                }
                FramePosition::Payload(left) => {
                    let (now, rest) = bytes.split_at((*left).min(bytes.len()));
                    *left -= now.len();
                    if *left == 0 {
                        self.position = FramePosition::header();
                    }
                    rest
                }
            };
        }
        count
    }
}

impl FramePosition {
    fn header() -> Self {
        Self::Header { bytes: [0; HEADER_BYTES], filled: 0 }
    }
}

/// A connection. Of a client that sends too many SETTINGS frames nothing is read any more.
#[derive(Debug)]
pub(super) struct CountedIo<T> {
    io: T,
    frames: FrameCounter,
    activity: Arc<Activity>,
}

impl<T> CountedIo<T> {
    pub(super) fn new(io: T, activity: &Arc<Activity>) -> Self {
        Self { io, frames: FrameCounter::new(), activity: Arc::clone(activity) }
    }

    pub(super) fn get_ref(&self) -> &T {
        &self.io
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for CountedIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(task, buffer);
        let come = buffer.filled().get(before..).unwrap_or_default();
        if self.frames.follow(come) {
            return read;
        }
        buffer.set_filled(before);
        self.activity.cut(Overrun::Settings);
        Poll::Pending
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for CountedIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(task)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(task, buffers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let header = [0, 0, length, kind, flags, 0, 0, 0, 1];
        // A payload that looks like frames.
        header.into_iter().chain(std::iter::repeat_n(SETTINGS, length.into())).collect()
    }

    #[test]
    fn settings_are_counted_however_the_bytes_are_cut() {
        let frames = [(SETTINGS, 0, 0), (0, 1, 200), (SETTINGS, ACK, 0), (SETTINGS, 0, 6)];
        let frames = frames.into_iter().flat_map(|(kind, flags, n)| frame(kind, flags, n));
        let bytes: Vec<u8> = PREFACE.iter().copied().chain(frames).collect();
        for size in [1, 2, 7, 9, 10, bytes.len()] {
            let mut counter = FrameCounter::new();
            let count: u32 = bytes.chunks(size).map(|bytes| counter.count(bytes)).sum();
            assert_eq!(count, 2, "{size}");
        }
    }

    #[test]
    fn other_protocols_have_no_frames() {
        for start in ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.1", "P"] {
            let mut counter = FrameCounter::new();
            counter.count(start.as_bytes());
            assert_eq!(counter.count(&frame(SETTINGS, 0, 0).repeat(500)), 0, "{start}");
        }
    }
}
