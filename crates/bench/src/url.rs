//! Where requests go: a host that is spoken to, and what is asked of it.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use thiserror::Error;

/// A host, its port, and whether TLS is spoken with it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UrlAuthority {
    /// Whether it is `https`.
    pub tls: bool,
    /// A name or an address; IPv6 without its brackets.
    pub host: String,
    /// The port, also where the URL had none.
    pub port: u16,
}

/// An absolute URL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Url {
    /// The host.
    pub authority: UrlAuthority,
    /// Path and query, with the first slash.
    pub target: String,
}

/// A text that is no URL of a registry.
#[derive(Clone, Debug, Error, Eq, PartialEq)]
#[error("{text:?} is no URL such as http://127.0.0.1:5000 or https://registry.example.org")]
pub struct InvalidUrl {
    text: String,
}

impl UrlAuthority {
    /// What the header `Host` says: without a port that the scheme implies.
    pub fn host_header(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        let implied = if self.tls { 443 } else { 80 };
        if self.port == implied { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for UrlAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.host_header())
    }
}

impl FromStr for Url {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        read(text).ok_or_else(|| InvalidUrl { text: text.to_owned() })
    }
}

fn read(text: &str) -> Option<Url> {
    let uri: Uri = text.parse().ok()?;
    let tls = match uri.scheme_str()? {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let authority = uri.authority()?;
    // Names and passwords are given by flags, where they are not in every log.
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    Some(Url { authority: UrlAuthority { tls, host, port }, target })
}

impl Url {
    /// Where a `Location` leads that came in a response of this host.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`] for what is neither absolute nor begins with a slash.
    pub fn resolve(authority: &UrlAuthority, location: &str) -> Result<Self, InvalidUrl> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Ok(Self { authority: authority.clone(), target: location.to_owned() });
        }
        location.parse()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hosts_and_ports_are_read() {
        for (text, shown, host, port) in [
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000", "127.0.0.1", 5000),
            ("http://registry/", "http://registry", "registry", 80),
            (
                "https://registry.example.org",
                "https://registry.example.org",
                "registry.example.org",
                443,
            ),
            ("https://[::1]:8443", "https://[::1]:8443", "::1", 8443),
        ] {
            let Url { authority, target } = text.parse().unwrap();
            assert_eq!((authority.host.as_str(), authority.port), (host, port));
            assert_eq!((authority.to_string().as_str(), target.as_str()), (shown, "/"));
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in ["", "127.0.0.1:5000", "ftp://host", "http://", "http://me:secret@host", "/v2/"]
        {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_location_is_relative_to_the_host_or_absolute() {
        let Url { authority, .. } = "http://a:1".parse().unwrap();
        let here = Url::resolve(&authority, "/v2/x?y=z").unwrap();
        assert_eq!((&here.authority, here.target.as_str()), (&authority, "/v2/x?y=z"));
        assert_eq!(Url::resolve(&authority, "http://b/q").unwrap().authority.host, "b");
        assert!(Url::resolve(&authority, "x").is_err());
        assert!(Url::resolve(&authority, "//b/q").is_err());
    }
}
