//! Responses on connections that are not served, for example because there are too many.

use std::time::Duration;

use jreg_oci::{ErrorBody, ErrorCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::tls::Tls;

/// Maximum number of concurrent refusals.
pub(super) const AT_ONCE_MAX: usize = 64;
/// Timeout of a refusal.
const TIME_MAX: Duration = Duration::from_secs(2);
/// Maximum bytes of the request that are read, so that closing does not reset the connection before
/// the client has the response.
const READ_BYTES_MAX: u64 = 64 * 1024;

/// Responds 503 to any request, and closes.
pub(super) async fn refuse(stream: TcpStream, retry_after: Duration, tls: Option<&Tls>) {
    let response = unavailable(retry_after);
    let telling = async {
        match tls {
            None => send_response(stream, &response).await,
            Some(tls) => {
                let accepting = Box::pin(tls.refusing_acceptor().accept(stream));
                send_response(accepting.await?, &response).await
            }
        }
    };
    // The connection ends whether or not the response was received.
    let _ = tokio::time::timeout(TIME_MAX, telling).await;
}

/// Sends the given response to any request, and closes.
pub(super) async fn respond_with(stream: TcpStream, response: &str) {
    let _ = tokio::time::timeout(TIME_MAX, send_response(stream, response)).await;
}

async fn send_response(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    response: &str,
) -> std::io::Result<()> {
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(READ_BYTES_MAX), &mut tokio::io::sink()).await?;
    Ok(())
}

fn unavailable(retry_after: Duration) -> String {
    let code = ErrorCode::Unavailable;
    let body = ErrorBody::new(code, "too many connections, try again later", None);
    let body = serde_json::to_string(&body).expect("an error body is plain JSON");
    format!(
        "HTTP/1.1 503 Service Unavailable\r\n\
         content-type: application/json\r\n\
         content-length: {}\r\n\
         retry-after: {}\r\n\
         docker-distribution-api-version: registry/2.0\r\n\
         x-request-id: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len(),
        retry_after.as_secs().max(1),
        Uuid::now_v7(),
    )
}
