//! [`UnsentLimit`]: how much of a response may wait in the kernel, not yet sent (`TCP_NOTSENT_LOWAT`).
//!
//! With much of it, a slow client would look like one that takes nothing; with little, the kernel
//! stops and wakes the connection for each 128 KiB, which costs a fast client half as much processor
//! time again. So a file's bytes may be as many as a fast client takes in a second, on a bounded number
//! of connections: they hold pages in memory until they are sent.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// What may wait on any connection.
pub(super) const UNSENT_BYTES_MAX: u32 = 256 * 1024;
/// What may wait on one whose client took as much within [`FAST_TIME_MAX`].
const FAST_UNSENT_BYTES_MAX: u32 = 4 * 1024 * 1024;
const FAST_TIME_MAX: Duration = Duration::from_secs(1);
/// How many connections may have the larger limit: 128 MiB of unsent bytes.
pub(super) const FAST_CONNECTIONS_MAX: usize = 32;

/// The limit of a connection.
#[derive(Debug)]
pub(super) struct UnsentLimit {
    fast_connections: Arc<Semaphore>,
    /// While the larger limit is set.
    fast: Option<OwnedSemaphorePermit>,
    /// How many bytes of files were accepted since when.
    accepted: u64,
    since: Option<Instant>,
}

impl UnsentLimit {
    pub(super) fn new(fast_connections: &Arc<Semaphore>) -> Self {
        let fast_connections = Arc::clone(fast_connections);
        Self { fast_connections, fast: None, accepted: 0, since: None }
    }

    /// Counts bytes of a file that the kernel accepted, and sets the limit by how long that took.
    /// `is_end`: the file has no more.
    pub(super) fn accepted(&mut self, stream: &TcpStream, bytes: usize, is_end: bool) {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.accepted += bytes as u64;
        if is_end {
            (self.accepted, self.since) = (0, None);
            self.set_slow(stream);
        } else if self.accepted >= FAST_UNSENT_BYTES_MAX.into() {
            (self.accepted, self.since) = (0, Some(Instant::now()));
            match since.elapsed() < FAST_TIME_MAX {
                true => self.set_fast(stream),
                false => self.set_slow(stream),
            }
        }
    }

    fn set_fast(&mut self, stream: &TcpStream) {
        if self.fast.is_some() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.fast_connections).try_acquire_owned() else { return };
        if set_unsent_max(stream, FAST_UNSENT_BYTES_MAX).is_ok() {
            self.fast = Some(permit);
        }
    }

    fn set_slow(&mut self, stream: &TcpStream) {
        // A socket that does not take it is broken.
        if self.fast.take().is_some() {
            let _ = set_unsent_max(stream, UNSENT_BYTES_MAX);
        }
    }
}

#[cfg(target_os = "linux")]
pub(super) fn set_unsent_max(stream: &TcpStream, bytes: u32) -> io::Result<()> {
    SockRef::from(stream).set_tcp_notsent_lowat(bytes)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn set_unsent_max(_: &TcpStream, _: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::TcpListener;

    use super::*;

    const HALF: usize = FAST_UNSENT_BYTES_MAX as usize / 2;

    async fn stream() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()
    }

    fn unsent_max(stream: &TcpStream) -> u32 {
        SockRef::from(stream).tcp_notsent_lowat().unwrap()
    }

    #[tokio::test]
    async fn only_a_client_that_takes_much_in_a_second_has_the_larger_limit() {
        let stream = stream().await;
        set_unsent_max(&stream, UNSENT_BYTES_MAX).unwrap();
        tokio::time::pause();
        let connections = Arc::new(Semaphore::new(1));
        let mut limit = UnsentLimit::new(&connections);
        for (wait, expected) in [(1000, UNSENT_BYTES_MAX), (999, FAST_UNSENT_BYTES_MAX)].repeat(2) {
            limit.accepted(&stream, HALF, false);
            tokio::time::advance(Duration::from_millis(wait)).await;
            limit.accepted(&stream, HALF, false);
            assert_eq!(unsent_max(&stream), expected, "{wait} ms");
        }
        limit.accepted(&stream, 1, true);
        assert_eq!(unsent_max(&stream), UNSENT_BYTES_MAX, "the end of the file");
        assert_eq!(connections.available_permits(), 1);
    }

    #[tokio::test]
    async fn no_more_connections_than_allowed_have_the_larger_limit() {
        let (one, two) = (stream().await, stream().await);
        let connections = Arc::new(Semaphore::new(1));
        let mut limits = [UnsentLimit::new(&connections), UnsentLimit::new(&connections)];
        limits[0].accepted(&one, 2 * HALF, false);
        limits[1].accepted(&two, 2 * HALF, false);
        assert_eq!(unsent_max(&one), FAST_UNSENT_BYTES_MAX);
        assert_ne!(unsent_max(&two), FAST_UNSENT_BYTES_MAX);
        let [first, mut second] = limits;
        drop(first);
        second.accepted(&two, 2 * HALF, false);
        assert_eq!(unsent_max(&two), FAST_UNSENT_BYTES_MAX, "the connection is gone");
    }
}
