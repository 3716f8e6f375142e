//! A small client of S3 that signs (SigV4, in headers or in the query) and does nothing else: no
//! retries, no pool, one connection each time, so that a test sees the response.

use std::io;
use std::net::SocketAddr;
use std::time::SystemTime;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{Timestamp, TimestampFormat};
use sha2::{Digest, Sha256};

use crate::s3::S3Server;
use crate::s3::object::hex;
use crate::{Body, Request, Response, Wire};

const REGION: &str = "us-east-1";
/// What SigV4 leaves as it is in a query.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same in a path.
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// A client of one bucket.
#[derive(Clone, Debug)]
pub struct S3Client {
    /// Where the server is.
    pub address: SocketAddr,
    pub bucket: String,
    /// The access key it signs with.
    pub access_key: String,
    /// The secret it signs with.
    pub secret_key: String,
}

impl S3Client {
    /// A client of a server, with its keys.
    pub fn new(server: &S3Server) -> Self {
        Self {
            address: server.address(),
            bucket: server.bucket().to_owned(),
            access_key: server.access_key().to_owned(),
            secret_key: server.secret_key().to_owned(),
        }
    }

    /// A request about a key, or about the bucket if it is empty, still to be signed. The values
    /// of the query are given as they are, and encoded here.
    pub fn request(&self, method: &str, key: &str, query: &[(&str, &str)]) -> Request {
        let encode = |text| utf8_percent_encode(text, QUERY);
        let pairs: Vec<_> =
            query.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let path = format!("/{}/{}", self.bucket, utf8_percent_encode(key, PATH));
        let path = path.trim_end_matches('/');
        match &*pairs.join("&") {
            "" => Request::new(method, path),
            query => Request::new(method, format!("{path}?{query}")),
        }
    }

    /// Signs a request in its headers, and sends it.
    ///
    /// # Errors
    ///
    /// If there is no complete response.
    pub async fn send(&self, request: Request) -> io::Result<Response> {
        self.send_unsigned(self.signed(request)).await
    }

    /// Sends a request as it is.
    ///
    /// # Errors
    ///
    /// If there is no complete response.
    pub async fn send_unsigned(&self, request: Request) -> io::Result<Response> {
        let mut wire = self.begin(&request).await?;
        wire.response(&request.method).await
    }

    /// Signs a request, sends it, and leaves the response on the wire.
    ///
    /// # Errors
    ///
    /// If the request cannot be sent.
    pub async fn begin_signed(&self, request: Request) -> io::Result<Wire> {
        self.begin(&self.signed(request)).await
    }

    async fn begin(&self, request: &Request) -> io::Result<Wire> {
        let mut wire = Wire::connect(self.address).await?;
        wire.write(&request.head(&self.address.to_string())).await?;
        for frame in request.encoded_body() {
            wire.write(&frame).await?;
        }
        Ok(wire)
    }

    /// A request with its signature in the headers: over all headers it has, and over the body.
    pub fn signed(&self, request: Request) -> Request {
        let payload = match &request.body {
            Body::Sized(bytes) => hex(&Sha256::digest(bytes)),
            Body::None => hex(&Sha256::digest([])),
            Body::Chunked(_) => "UNSIGNED-PAYLOAD".to_owned(),
        };
        let time = amz_time(SystemTime::now());
        let request =
            request.header("x-amz-date", &*time).header("x-amz-content-sha256", &*payload);
        let (names, headers) = self.canonical_headers(&request);
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let query = canonical_query(query);
        let canonical =
            format!("{}\n{path}\n{query}\n{headers}\n{names}\n{payload}", request.method);
        let scope = scope(&time);
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={}",
            self.access_key,
            self.signature(&time, &canonical),
        );
        request.header("Authorization", value)
    }

    /// A request with its signature in the query: any client may send it for so many seconds.
    pub fn presigned(&self, request: Request, expires_s: u32) -> Request {
        let time = amz_time(SystemTime::now());
        let credential = format!("{}/{}", self.access_key, scope(&time));
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let query = canonical_query(&format!(
            "{query}&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}&X-Amz-Date={time}\
             &X-Amz-Expires={expires_s}&X-Amz-SignedHeaders=host",
            utf8_percent_encode(&credential, QUERY),
        ));
        let canonical = format!(
            "{}\n{path}\n{query}\nhost:{}\n\nhost\nUNSIGNED-PAYLOAD",
            request.method, self.address
        );
        let signature = self.signature(&time, &canonical);
        let target = format!("{path}?{query}&X-Amz-Signature={signature}");
        Request { target, ..request }
    }

    fn canonical_headers(&self, request: &Request) -> (String, String) {
        let mut headers: Vec<_> = request
            .headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        headers.push(("host".to_owned(), self.address.to_string()));
        headers.sort();
        let names: Vec<_> = headers.iter().map(|(name, _)| &**name).collect();
        let lines = headers.iter().map(|(name, value)| format!("{name}:{value}\n"));
        (names.join(";"), lines.collect())
    }

    fn signature(&self, time: &str, canonical: &str) -> String {
        let date = time.split('T').next().unwrap_or_default();
        let secret = format!("AWS4{}", self.secret_key);
        let key = [date, REGION, "s3", "aws4_request"]
            .iter()
            .fold(secret.into_bytes(), |key, step| hmac(&key, step.as_bytes()).to_vec());
        let hash = hex(&Sha256::digest(canonical));
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{}\n{hash}", scope(time));
        hex(&hmac(&key, text.as_bytes()))
    }
}

fn scope(time: &str) -> String {
    format!("{}/{REGION}/s3/aws4_request", time.split('T').next().unwrap_or_default())
}

fn canonical_query(query: &str) -> String {
    let mut pairs: Vec<_> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") })
        .collect();
    pairs.sort();
    pairs.join("&")
}

/// As in `x-amz-date`: `20261124T001530Z`.
fn amz_time(at: SystemTime) -> String {
    let mut text = Vec::new();
    Timestamp::from(at)
        .format(TimestampFormat::DateTime, &mut text)
        .expect("a moment after 1970 has a date");
    let text = String::from_utf8(text).expect("a date is ASCII");
    let seconds = text.split('.').next().unwrap_or_default();
    format!("{}Z", seconds.replace(['-', ':'], ""))
}

/// HMAC-SHA256 (RFC 2104).
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    const BLOCK_BYTES: usize = 64;
    let mut block = [0; BLOCK_BYTES];
    if key.len() > BLOCK_BYTES {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message);
    let outer = Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c));
    outer.chain_update(inner.finalize()).finalize().into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn hmac_is_as_published() {
        // RFC 4231, test cases 2 and 6.
        let short = hmac(b"Jefe", b"what do ya want for nothing?");
        assert!(hex(&short).starts_with("5bdcc146bf60754e6a042426089575c7"));
        let long = hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert!(hex(&long).starts_with("60e431591ee0b67f0d8a26aacbf5b77f"));
    }

    #[test]
    fn times_are_as_s3_wants_them() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_999);
        assert_eq!(amz_time(at), "19941106T084937Z");
    }
}
