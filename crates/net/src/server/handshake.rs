//! From a socket to a TLS connection, or to the reason why there is none.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::refusal;
use crate::tls::{ChallengeSource, Tls, challenged_name};

/// What is told who speaks plain HTTP to a port of TLS.
const PLAIN: &str = "HTTP/1.1 400 Bad Request\r\n\
     content-type: text/plain; charset=utf-8\r\n\
     content-length: 35\r\n\
     connection: close\r\n\r\n\
     this port speaks TLS: use https://\n";

/// Why there is no connection.
#[derive(Debug)]
enum HandshakeFailure {
    /// The client went away before it said anything, as some probes do.
    Gone,
    /// It speaks plain HTTP.
    Plain(TcpStream),
    /// An authority has seen what it asked for (RFC 8737).
    Shown,
    /// It, or we, did not agree to what the other said.
    Failed(io::Error),
}

/// Makes a TLS connection within `time_max`; `None` if there is none: then the client was told, as
/// far as it can be, and it was counted.
pub(super) async fn take(
    tls: &Tls,
    stream: TcpStream,
    address: SocketAddr,
    time_max: Duration,
) -> Option<Box<TlsStream<TcpStream>>> {
    match tokio::time::timeout(time_max, shake(tls, stream)).await {
        Ok(Ok(stream)) => {
            tls.count("ok");
            return Some(stream);
        }
        Ok(Err(HandshakeFailure::Gone)) => {}
        Ok(Err(HandshakeFailure::Plain(stream))) => {
            tls.count("plain");
            tracing::debug!(client = %address, "plain HTTP on a TLS port");
            refusal::answer_with(stream, PLAIN).await;
        }
        Ok(Err(HandshakeFailure::Shown)) => {
            tls.count("challenge");
            tracing::info!(client = %address, "answered an ACME challenge (TLS-ALPN-01)");
        }
        Ok(Err(HandshakeFailure::Failed(error))) if tls.lacks_certificate() => {
            tls.count("no_certificate");
            tls.notice_lack(SystemTime::now());
            tracing::debug!(client = %address, %error, "TLS handshake failed: there is no certificate yet");
        }
        Ok(Err(HandshakeFailure::Failed(error))) => {
            tls.count("failed");
            tracing::debug!(client = %address, %error, "TLS handshake failed");
        }
        Err(_) => {
            tls.count("timeout");
            tracing::debug!(client = %address, "TLS handshake timed out");
        }
    }
    None
}

async fn shake(
    tls: &Tls,
    stream: TcpStream,
) -> Result<Box<TlsStream<TcpStream>>, HandshakeFailure> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) | Err(_) => return Err(HandshakeFailure::Gone),
        // A record of TLS begins with its type, which is never a letter (RFC 8446 section 5.1); a
        // request of HTTP begins with its method.
        Ok(_) if first.iter().all(u8::is_ascii_uppercase) => {
            return Err(HandshakeFailure::Plain(stream));
        }
        Ok(_) => {}
    }
    // Much larger than what else a connection begins with.
    let accepting = match tls.challenges() {
        None => Box::pin(tls.acceptor().accept(stream)).await,
        Some(challenges) => Box::pin(answer(tls, challenges, stream)).await?,
    };
    accepting.map(Box::new).map_err(HandshakeFailure::Failed)
}

/// Makes a connection, unless the client is an authority that looks whether a name is ours: it is
/// shown that in the handshake, and nothing is said after that (RFC 8737 section 3).
async fn answer(
    tls: &Tls,
    challenges: &dyn ChallengeSource,
    stream: TcpStream,
) -> Result<io::Result<TlsStream<TcpStream>>, HandshakeFailure> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await;
    let hello = hello.map_err(HandshakeFailure::Failed)?;
    let name = challenged_name(&hello.client_hello());
    let config = match &name {
        Some(name) => challenges.config(name).await,
        None => None,
    };
    let Some(config) = config else {
        // Who asks for a challenge that is none is told that we do not speak so.
        return Ok(hello.into_stream(Arc::clone(tls.acceptor().config())).await);
    };
    let mut shown = hello.into_stream(config).await.map_err(HandshakeFailure::Failed)?;
    // It has seen what it wanted, whether it waits for our farewell or not.
    let _ = shown.shutdown().await;
    Err(HandshakeFailure::Shown)
}
