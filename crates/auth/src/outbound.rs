//! [`checked_url`]: the URLs to which requests are sent.

/// Why no request is sent to a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be https:// (http:// only to 127.0.0.1, [::1] or localhost), without a user")]
pub struct InvalidUrl;

/// `https`, or `http` to loopback only: who can change what is in transit could forge the keys of an
/// issuer, or read what a sink is sent.
///
/// # Errors
///
/// [`InvalidUrl`].
pub fn checked_url(url: &str) -> Result<String, InvalidUrl> {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let is_fit = match scheme {
        "https" => !host.is_empty(),
        "http" => ["127.0.0.1", "::1", "localhost"].contains(&host),
        _ => false,
    };
    if is_fit && !authority.contains('@') { Ok(url.to_owned()) } else { Err(InvalidUrl) }
}
