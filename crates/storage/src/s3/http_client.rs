//! The HTTP client of a bucket.
//!
//! It follows no redirect. A redirect is no response of the bucket: what it leads to would get the bytes of a PUT and the
//! headers of the settings, and its response would be taken for the bucket's; after a 301 or 302, a PUT or a DELETE would
//! become a GET, whose success says nothing. The signature is for the address of the bucket alone, anyway.

use std::net::SocketAddr;
use std::time::Duration;

use rand::seq::SliceRandom;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use rustls::pki_types::CertificateDer;

use super::S3Options;

/// How long an unused connection is kept: less than servers keep theirs, so that few requests
/// meet one that is being closed.
pub(super) const POOL_IDLE: Duration = Duration::from_secs(15);
pub(super) const USER_AGENT: &str = concat!("jreg/", env!("CARGO_PKG_VERSION"));

/// Has requests spread over all addresses of a name.
struct ShuffledAddresses;

impl Resolve for ShuffledAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let mut addresses: Vec<SocketAddr> = found.collect();
            addresses.shuffle(&mut rand::rng());
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// A client that trusts these CAs besides the system's.
///
/// # Errors
///
/// There are no CAs of the system.
pub(super) fn http_client(
    options: &S3Options,
    cas: &[CertificateDer<'static>],
) -> reqwest::Result<reqwest::Client> {
    let cas = cas.iter().map(|certificate| reqwest::Certificate::from_der(certificate));
    reqwest::Client::builder()
        .redirect(Policy::none())
        .https_only(options.url.is_secure())
        .connect_timeout(options.connect_timeout)
        // Each request has its own timeout: see `RetryBudget`.
        .pool_idle_timeout(POOL_IDLE)
        .user_agent(USER_AGENT)
        .tls_certs_merge(cas.collect::<Result<Vec<_>, _>>()?)
        .dns_resolver(ShuffledAddresses)
        .build()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use reqwest::Method;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Regression: what a redirect led to got the bytes of a PUT, and its response was taken for the bucket's.
    #[tokio::test]
    async fn fixed_redirects_are_not_followed() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let [bucket, other] = [TcpListener::bind("127.0.0.1:0"), TcpListener::bind("127.0.0.1:0")];
        let (bucket, other) = (bucket.await.unwrap(), other.await.unwrap());
        let (address, elsewhere) = (bucket.local_addr().unwrap(), other.local_addr().unwrap());
        let url = format!("s3://bucket?endpoint=http://{address}").parse().unwrap();
        let client = http_client(&S3Options::new(url), &[]).unwrap();
        for (status, method) in
            [(301, Method::GET), (302, Method::DELETE), (303, Method::PUT), (307, Method::PUT)]
        {
            let request = client.request(method.clone(), format!("http://{address}/key")).send();
            let redirecting = async {
                let (mut connection, _) = bucket.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(connection.read_u8().await.unwrap());
                }
                let response = format!(
                    "HTTP/1.1 {status} x\r\nlocation: http://{elsewhere}/key\r\n\
                     content-length: 0\r\nconnection: close\r\n\r\n"
                );
                connection.write_all(response.as_bytes()).await.unwrap();
            };
            tokio::select! {
                (response, ()) = async { tokio::join!(request, redirecting) } => {
                    assert_eq!(response.unwrap().status(), status);
                }
                _ = other.accept() => panic!("{method} followed a {status}"),
            }
        }
    }

    #[tokio::test]
    async fn names_are_resolved() {
        let found = ShuffledAddresses.resolve("localhost".parse().unwrap()).await.unwrap();
        assert!(found.count() > 0);
        assert!(ShuffledAddresses.resolve("no.such.invalid".parse().unwrap()).await.is_err());
    }
}
