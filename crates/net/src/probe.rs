//! [`probe`]: a request to a server on this machine, for health checks and support bundles.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No connection, no response, or none in time.
    #[error("{address} does not respond")]
    Http { address: SocketAddr, source: reqwest::Error },
    /// The response is too large.
    #[error("the response of {address} has more than {bytes_max} bytes")]
    TooLarge { address: SocketAddr, bytes_max: usize },
}

/// What is probed.
#[derive(Clone, Copy, Debug)]
pub struct ProbeTarget<'a> {
    /// Where the server listens; if on all addresses, its loopback address is asked.
    pub address: SocketAddr,
    /// Whether it speaks TLS. Its certificate is not verified: it is not for a loopback address.
    pub has_tls: bool,
    pub path: &'a str,
    pub timeout: Duration,
}

/// Maximum bytes of a response.
const BYTES_MAX: usize = 64 << 20;

/// Status code and body of the response.
///
/// # Errors
///
/// [`ProbeError`].
pub async fn probe(target: ProbeTarget<'_>) -> Result<(u16, Vec<u8>), ProbeError> {
    let address = reachable(target.address);
    let failed = |source| ProbeError::Http { address, source };
    // Fails if a provider is already installed; then that one is used.
    rustls::crypto::ring::default_provider().install_default().ok();
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(target.timeout)
        .no_proxy();
    let builder = match target.has_tls {
        true => builder.tls_danger_accept_invalid_certs(true),
        false => builder,
    };
    let scheme = if target.has_tls { "https" } else { "http" };
    let url = format!("{scheme}://{address}{}", target.path);
    let mut response = builder.build().map_err(failed)?.get(url).send().await.map_err(failed)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > BYTES_MAX {
            return Err(ProbeError::TooLarge { address, bytes_max: BYTES_MAX });
        }
        body.extend_from_slice(&chunk);
    }
    Ok((response.status().as_u16(), body))
}

/// The address at which this machine reaches a listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
