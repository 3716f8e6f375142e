//! [`CloudHttp`]: requests to the services of clouds that exchange one credential for another.
//!
//! They go to addresses that are built in or come from the environment, not from a registry: so to `https` (or
//! plain HTTP on the machine), and to the metadata of the instance, which is plain HTTP everywhere.

use std::time::Duration;

use bytes::Bytes;
use jreg_auth::checked_url;
use reqwest::{RequestBuilder, Url};

use super::LoadError;
use crate::error::chain;

/// Maximum bytes of a response.
const RESPONSE_BYTES_MAX: usize = 256 * 1024;

/// A client without redirects and proxies, whose requests have a timeout.
#[derive(Debug)]
pub(super) struct CloudHttp {
    pub(super) http: reqwest::Client,
}

impl CloudHttp {
    pub(super) fn new(timeout: Duration) -> Result<Self, LoadError> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(timeout)
            .no_proxy()
            .build()
            .map_err(|error| {
                format!("cannot set up https: install a CA bundle ({})", chain(&error))
            })?;
        Ok(Self { http })
    }

    /// The body of a response with status 200.
    pub(super) async fn send(
        &self,
        service: &str,
        request: RequestBuilder,
    ) -> Result<Bytes, LoadError> {
        let failed = |error: reqwest::Error| format!("{service}: {}", chain(&error.without_url()));
        let mut response = request.send().await.map_err(failed)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("{service} responds with status {}", response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > RESPONSE_BYTES_MAX {
                return Err(format!(
                    "the response of {service} is larger than {RESPONSE_BYTES_MAX} bytes"
                ));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }
}

/// The URL of a service that credentials are sent to.
pub(super) fn service_url(service: &str, text: &str) -> Result<Url, LoadError> {
    let url = checked_url(text).map_err(|error| format!("the URL of {service} {error}"))?;
    url.parse().map_err(|_| format!("the URL of {service} is not a URL"))
}

/// The URL of a service of the instance itself.
pub(super) fn metadata_url(text: &str) -> Result<Url, LoadError> {
    let url: Url = text.parse().map_err(|_| "the URL of the metadata is not a URL".to_owned())?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        _ => Err("the URL of the metadata must be http:// or https://".to_owned()),
    }
}
