//! TLS handshakes.

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

/// Response to plain HTTP on a TLS port.
const PLAIN: &str = "HTTP/1.1 400 Bad Request\r\n\
     content-type: text/plain; charset=utf-8\r\n\
     content-length: 35\r\n\
     connection: close\r\n\r\n\
     this port speaks TLS: use https://\n";

/// Why a handshake failed.
#[derive(Debug)]
enum HandshakeFailure {
    /// The client closed the connection before sending anything, as probes do.
    Disconnected,
    /// The client uses plain HTTP.
    Plain(TcpStream),
    /// A CA has validated a name (RFC 8737).
    Shown,
    /// The TLS negotiation failed.
    Failed(io::Error),
}

/// Performs a TLS handshake within `time_max`; `None` if it fails: the client has then got an error
/// where possible, and the failure is counted.
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
        Ok(Err(HandshakeFailure::Disconnected)) => {}
        Ok(Err(HandshakeFailure::Plain(stream))) => {
            tls.count("plain");
            tracing::debug!(client = %address, "plain HTTP on a TLS port");
            refusal::respond_with(stream, PLAIN).await;
        }
        Ok(Err(HandshakeFailure::Shown)) => {
            tls.count("challenge");
            tracing::info!(client = %address, "served an ACME challenge (TLS-ALPN-01)");
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
        Ok(0) | Err(_) => return Err(HandshakeFailure::Disconnected),
        // A TLS record begins with its type, which is never a letter (RFC 8446 section 5.1); an
        // HTTP request begins with its method.
        Ok(_) if first.iter().all(u8::is_ascii_uppercase) => {
            return Err(HandshakeFailure::Plain(stream));
        }
        Ok(_) => {}
    }
    // Boxed: much larger than the other futures at the beginning of a connection.
    let accepting = match tls.challenges() {
        None => Box::pin(tls.acceptor().accept(stream)).await,
        Some(challenges) => Box::pin(accept_tls(tls, challenges, stream)).await?,
    };
    accepting.map(Box::new).map_err(HandshakeFailure::Failed)
}

/// Performs the handshake. For a CA that validates a name, the handshake carries the challenge
/// response, and the connection ends after it (RFC 8737 section 3).
async fn accept_tls(
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
        // A client that offers the challenge protocol without an order gets
        // `no_application_protocol`.
        return Ok(hello.into_stream(Arc::clone(tls.acceptor().config())).await);
    };
    let mut shown = hello.into_stream(config).await.map_err(HandshakeFailure::Failed)?;
    // The validation is complete, whether or not the CA waits for close_notify.
    let _ = shown.shutdown().await;
    Err(HandshakeFailure::Shown)
}
