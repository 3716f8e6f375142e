//! Redirects of blob downloads to the bucket (307).
//!
//! Only for GET of a blob: a presigned URL is valid for one method, and manifest responses have
//! headers that the bucket does not send (docs/s3.md). Disabled by default.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use ipnet::IpNet;
use jreg_net::server::{Body, Response};
use jreg_oci::Digest;
use jreg_registry::BlobReader;

use crate::error::ApiError;
use crate::headers;

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Which requests are redirected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirects {
    /// Whether redirects are enabled.
    pub is_on: bool,
    /// Minimum size of a blob, in bytes.
    pub bytes_min: u64,
    /// CIDRs of clients; empty: all.
    pub networks: Vec<IpNet>,
    /// User-Agent prefixes of clients that are not redirected.
    pub agents_except: Vec<String>,
    /// Validity of the presigned URL.
    pub expiry: Duration,
}

impl Default for Redirects {
    fn default() -> Self {
        Self {
            is_on: false,
            bytes_min: 1024 * 1024,
            networks: Vec::new(),
            agents_except: Vec::new(),
            expiry: Duration::from_secs(20 * 60),
        }
    }
}

impl Redirects {
    /// The redirect, if the request qualifies and the store can presign URLs.
    pub(crate) async fn redirect_response(
        &self,
        reader: &BlobReader,
        peer: Option<SocketAddr>,
        request: &HeaderMap,
    ) -> Result<Option<Response>, ApiError> {
        if !self.is_for(reader.blob().size_bytes, peer, request) {
            return Ok(None);
        }
        let Some(url) = reader.presign(self.expiry, headers::OCTET_STREAM_TEXT).await? else {
            return Ok(None);
        };
        Ok(HeaderValue::from_str(&url).ok().map(|url| to(url, &reader.blob().digest)))
    }

    fn is_for(&self, size_bytes: u64, peer: Option<SocketAddr>, request: &HeaderMap) -> bool {
        let is_near = |peer: SocketAddr| {
            let address = peer.ip().to_canonical();
            self.networks.iter().any(|network| network.contains(&address))
        };
        self.is_on
            && size_bytes >= self.bytes_min
            && (self.networks.is_empty() || peer.is_some_and(is_near))
            && !self.is_excepted(request)
    }

    fn is_excepted(&self, request: &HeaderMap) -> bool {
        let agent = request.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let begins = |agent: &str| self.agents_except.iter().any(|start| agent.starts_with(start));
        agent.is_some_and(begins)
    }
}

fn to(url: HeaderValue, digest: &Digest) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let map = response.headers_mut();
    map.insert(header::LOCATION, url);
    map.insert(header::CACHE_CONTROL, NO_STORE);
    map.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    map.insert(headers::DIGEST, headers::digest(digest));
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn redirects(change: impl FnOnce(&mut Redirects)) -> Redirects {
        let mut redirects = Redirects { is_on: true, ..Redirects::default() };
        change(&mut redirects);
        redirects
    }

    fn agent(name: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::USER_AGENT, HeaderValue::from_static(name))])
    }

    const LARGE: u64 = 1 << 30;

    #[test]
    fn no_client_is_redirected_by_default() {
        let default = Redirects::default();
        assert!(!default.is_for(LARGE, None, &HeaderMap::new()));
        assert!(redirects(|_| {}).is_for(LARGE, None, &HeaderMap::new()));
    }

    #[test]
    fn only_large_blobs_are_redirected() {
        let some = redirects(|redirects| redirects.bytes_min = 100);
        assert!(some.is_for(100, None, &HeaderMap::new()));
        assert!(!some.is_for(99, None, &HeaderMap::new()));
    }

    #[test]
    fn only_clients_of_the_networks_are_redirected() {
        let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let some = redirects(|redirects| redirects.networks = networks.to_vec());
        for (peer, expected) in [
            (Some("10.1.2.3:4"), true),
            (Some("[::ffff:10.1.2.3]:4"), true),
            (Some("[fd00::1]:4"), true),
            (Some("11.1.2.3:4"), false),
            (Some("[2001:db8::1]:4"), false),
            (None, false),
        ] {
            let address = peer.map(|peer| peer.parse().unwrap());
            assert_eq!(some.is_for(LARGE, address, &HeaderMap::new()), expected, "{peer:?}");
        }
    }

    #[test]
    fn excepted_clients_are_not_redirected() {
        let some = redirects(|redirects| redirects.agents_except = vec!["crane/".into()]);
        assert!(!some.is_for(LARGE, None, &agent("crane/v0.22")));
        assert!(some.is_for(LARGE, None, &agent("docker/28 crane/")));
        assert!(some.is_for(LARGE, None, &HeaderMap::new()));
    }
}
