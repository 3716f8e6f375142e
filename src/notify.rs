//! [`ServiceManager`]: tells systemd how far the start is (sd_notify(3)), if it waits for that.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Interval of the messages while the start goes on: replaying a write-ahead log, waiting for a lock.
const EXTEND_INTERVAL: Duration = Duration::from_secs(5);
/// How much longer the start may then take, in microseconds.
const EXTEND_USEC: &str = "EXTEND_TIMEOUT_USEC=30000000";

/// The socket of the service manager, if there is one.
#[derive(Debug)]
pub(crate) struct ServiceManager(Option<(UnixDatagram, SocketAddr)>);

impl ServiceManager {
    /// That of the environment.
    pub(crate) fn find() -> Self {
        Self::at(std::env::var_os("NOTIFY_SOCKET"))
    }

    fn at(path: Option<OsString>) -> Self {
        let address = path.and_then(|path| match path.as_bytes().strip_prefix(b"@") {
            Some(name) => abstract_address(name),
            None => SocketAddr::from_pathname(path).ok(),
        });
        let socket = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        Self(socket)
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.0 {
            // The server runs without it, too.
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }

    /// Asks for more time while `start` goes on.
    pub(crate) async fn while_starting<T>(&self, start: impl Future<Output = T>) -> T {
        tokio::pin!(start);
        loop {
            match tokio::time::timeout(EXTEND_INTERVAL, &mut start).await {
                Ok(started) => return started,
                Err(_) => self.send(EXTEND_USEC),
            }
        }
    }

    /// It serves.
    pub(crate) fn ready(&self) {
        self.send("READY=1");
    }

    /// It stops.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> Option<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name).ok()
}

/// Other systems have neither systemd nor such addresses.
#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> Option<SocketAddr> {
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut message = [0; 64];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8(message.get(..length).unwrap().to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_start_gets_more_time_and_its_end_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager::at(Some(path.into()));
        manager.while_starting(tokio::time::sleep(EXTEND_INTERVAL * 3 / 2)).await;
        manager.ready();
        manager.stopping();
        assert_eq!(received(&socket), EXTEND_USEC);
        assert_eq!(received(&socket), "READY=1");
        assert_eq!(received(&socket), "STOPPING=1");
        ServiceManager::at(None).ready();
    }
}
