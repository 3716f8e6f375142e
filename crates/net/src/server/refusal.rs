//! What is told on a connection that is not served: that there is one too many, or why not.

use std::time::Duration;

use jreg_oci::{ErrorBody, ErrorCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::tls::Tls;

/// The most connections that are being told so at the same time.
pub(super) const AT_ONCE_MAX: usize = 64;
/// The longest that telling it may take.
const TIME_MAX: Duration = Duration::from_secs(2);
/// The most that is read of the request, so that closing does not destroy the answer.
const READ_BYTES_MAX: u64 = 64 * 1024;

/// Answers 503 to whatever the client asks, and closes.
pub(super) async fn refuse(stream: TcpStream, retry_after: Duration, tls: Option<&Tls>) {
    let answer = answer(retry_after);
    let telling = async {
        match tls {
            None => tell(stream, &answer).await,
            Some(tls) => {
                let accepting = Box::pin(tls.refusing_acceptor().accept(stream));
                tell(accepting.await?, &answer).await
            }
        }
    };
    // The client is told or not; either way the connection is over.
    let _ = tokio::time::timeout(TIME_MAX, telling).await;
}

/// Answers what is given to whatever the client asks, and closes.
pub(super) async fn answer_with(stream: TcpStream, answer: &str) {
    let _ = tokio::time::timeout(TIME_MAX, tell(stream, answer)).await;
}

async fn tell(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &str,
) -> std::io::Result<()> {
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(READ_BYTES_MAX), &mut tokio::io::sink()).await?;
    Ok(())
}

fn answer(retry_after: Duration) -> String {
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
