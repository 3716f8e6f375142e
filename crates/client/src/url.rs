//! [`UpstreamUrl`]: the base URL of a registry.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use reqwest::Url;

/// The longest URL of an upstream, in bytes.
const URL_BYTES_MAX: usize = 1024;

/// The host by which Docker Hub serves its registry API.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// The base URL of a registry: `/v2/` is appended to it.
///
/// - `https://`, or `http://`, which [`UpstreamUrl::is_plain`] tells: whether plain HTTP is accepted is the
///   caller's setting, but it always is to loopback;
/// - a host, optionally a port and a path; no user, query or fragment.
///
/// ```
/// # use jreg_client::UpstreamUrl;
/// let url: UpstreamUrl = "https://registry.example.com:5000/team".parse().unwrap();
/// assert_eq!(url.host(), "registry.example.com:5000");
/// assert!("registry.example.com".parse::<UpstreamUrl>().is_err());
/// assert!("https://me:secret@registry.example.com".parse::<UpstreamUrl>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UpstreamUrl {
    url: Url,
    host: Arc<str>,
}

/// Why a text is not the URL of an upstream. It does not repeat the URL, which may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be https://HOST[:PORT][/PATH] (or http://), of at most {URL_BYTES_MAX} bytes, without a user, a query \
     or a fragment"
)]
pub struct InvalidUpstreamUrl;

impl UpstreamUrl {
    /// The URL of the registry that image names call `host`: `docker.io` is Docker Hub. Plain HTTP to loopback,
    /// as docker does, `https` to every other.
    ///
    /// # Errors
    ///
    /// [`InvalidUpstreamUrl`].
    pub fn of_registry(host: &str) -> Result<Self, InvalidUpstreamUrl> {
        let host = match host {
            "docker.io" | "index.docker.io" => DOCKER_HUB,
            other => other,
        };
        let https: Self = format!("https://{host}").parse()?;
        match https.is_loopback() {
            true => format!("http://{host}").parse(),
            false => Ok(https),
        }
    }

    /// Host and port; without the port if it is the default one of the scheme.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it is plain HTTP.
    pub fn is_plain(&self) -> bool {
        self.url.scheme() == "http"
    }

    /// Whether the host is a loopback address or `localhost`.
    pub fn is_loopback(&self) -> bool {
        self.address().is_some_and(|address| address.is_loopback())
            || self.url.host_str() == Some("localhost")
    }

    /// The address that the URL contains instead of a name.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        address_of(&self.url)
    }

    pub(crate) fn shared_host(&self) -> Arc<str> {
        Arc::clone(&self.host)
    }

    /// The URL of a path below it, which begins with `/v2/`.
    pub(crate) fn join(&self, path: &str, query: Option<&str>) -> Url {
        let mut url = self.url.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}{path}"));
        url.set_query(query);
        url
    }
}

/// Host and port of a URL; without the port if it is the default one of the scheme.
pub(crate) fn host_of(url: &Url) -> Arc<str> {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}").into(),
        None => host.into(),
    }
}

/// The address that a URL contains instead of a name.
pub(crate) fn address_of(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

impl FromStr for UpstreamUrl {
    type Err = InvalidUpstreamUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUpstreamUrl> {
        if text.len() > URL_BYTES_MAX {
            return Err(InvalidUpstreamUrl);
        }
        let url: Url = text.parse().map_err(|_| InvalidUpstreamUrl)?;
        let is_fit = matches!(url.scheme(), "http" | "https")
            && url.host_str().is_some_and(|host| !host.is_empty())
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if is_fit { Ok(Self { host: host_of(&url), url }) } else { Err(InvalidUpstreamUrl) }
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
