//! The body of a write: received whole, and held against its checksums.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use s3s::dto::StreamingBlob;
use s3s::{S3Error, S3ErrorCode, S3Result, StdError, TrailingHeaders};

use super::checksum;

/// Receives a body, and gives it with the headers and the trailers that came with it.
pub(crate) async fn receive(
    body: Option<StreamingBlob>,
    mut headers: HeaderMap,
    trailers: Option<TrailingHeaders>,
) -> S3Result<(Bytes, HeaderMap)> {
    let mut pieces = Vec::new();
    if let Some(mut body) = body {
        while let Some(piece) = body.next().await {
            // The body was read before: only its hash or its framing can be wrong here.
            pieces.push(piece.map_err(mismatch)?);
        }
    }
    let bytes = match <[Bytes; 1]>::try_from(pieces) {
        Ok([bytes]) => bytes,
        Err(pieces) => {
            let mut all = BytesMut::new();
            pieces.iter().for_each(|piece| all.extend_from_slice(piece));
            all.freeze()
        }
    };
    headers.extend(trailers.and_then(|trailers| trailers.take()).unwrap_or_default());
    checksum::verify(&bytes, &headers)?;
    Ok((bytes, headers))
}

fn mismatch(error: StdError) -> S3Error {
    let code = S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into());
    let mut refused = S3Error::with_source(code, error);
    refused.set_status_code(StatusCode::BAD_REQUEST);
    refused
}
