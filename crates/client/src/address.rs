//! [`AddressRule`]: the addresses that are connected to.
//!
//! Names are checked where they are resolved, so what is checked is what is connected to: a name that resolves
//! to another address the next time (DNS rebinding) is checked again. Addresses in URLs are checked before a
//! request is sent to them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::HostResolver;

/// The addresses that are connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressRule {
    /// Addresses of the internet.
    Public,
    /// Private and loopback addresses, too; but none at which clouds serve credentials of the instance.
    Private,
}

impl AddressRule {
    pub(crate) fn allows(self, address: IpAddr) -> bool {
        match (self, embedded(address)) {
            (Self::Public, IpAddr::V4(v4)) => is_public_v4(v4),
            (Self::Public, IpAddr::V6(v6)) => is_public_v6(v6),
            (Self::Private, IpAddr::V4(v4)) => is_unicast_v4(v4) && !is_metadata_v4(v4),
            (Self::Private, IpAddr::V6(v6)) => is_unicast_v6(v6) && v6 != METADATA_V6,
        }
    }
}

/// Where AWS serves the metadata of an instance by IPv6.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// Where Alibaba Cloud serves it.
const METADATA_ALIBABA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);

/// The IPv4 address that an IPv6 address leads to: mapped (RFC 4291), by NAT64 (RFC 6052) or 6to4 (RFC 3056).
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

fn is_metadata_v4(v4: Ipv4Addr) -> bool {
    v4.is_link_local() || v4 == METADATA_ALIBABA
}

fn is_unicast_v4(v4: Ipv4Addr) -> bool {
    let [first, ..] = v4.octets();
    (1..224).contains(&first)
}

/// Without the special-purpose addresses of RFC 6890.
fn is_public_v4(v4: Ipv4Addr) -> bool {
    let is_special = match v4.octets() {
        // Shared by carriers (RFC 6598).
        [100, 64..128, ..] => true,
        // Protocol assignments and the former 6to4 relays.
        [192, 0, 0, _] | [192, 88, 99, _] => true,
        // Benchmarks (RFC 2544).
        [198, 18 | 19, ..] => true,
        _ => v4.is_documentation(),
    };
    is_unicast_v4(v4) && !is_special && !v4.is_loopback() && !v4.is_private() && !v4.is_link_local()
}

fn is_unicast_v6(v6: Ipv6Addr) -> bool {
    !v6.is_unspecified() && !v6.is_multicast() && !v6.is_unicast_link_local()
}

/// Global unicast (2000::/3), without documentation, benchmarks and Teredo.
fn is_public_v6(v6: Ipv6Addr) -> bool {
    let [first, second, ..] = v6.segments();
    let is_special = matches!((first, second), (0x2001, 0 | 2 | 0xdb8) | (0x3fff, 0..0x1000));
    (first & 0xe000) == 0x2000 && !is_special
}

/// The error of a name all of whose addresses are refused; this is the first.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{0} is not a public address")]
pub(crate) struct RefusedAddress(pub(crate) IpAddr);

/// Resolves names to the addresses that a rule allows.
#[derive(Debug)]
pub(crate) struct CheckedResolver {
    pub(crate) rule: AddressRule,
    pub(crate) resolver: Arc<dyn HostResolver>,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (rule, resolver) = (self.rule, Arc::clone(&self.resolver));
        Box::pin(async move {
            let found = resolver.resolve(name.as_str()).await?;
            let allowed: Vec<_> = found.iter().filter(|address| rule.allows(**address)).collect();
            match (allowed.is_empty(), found.first()) {
                (true, Some(refused)) => Err(RefusedAddress(*refused).into()),
                (true, None) => Err("the name has no address".into()),
                // The port of the URL takes the place of 0.
                (false, _) => {
                    let addresses: Vec<_> =
                        allowed.into_iter().map(|address| SocketAddr::new(*address, 0)).collect();
                    Ok(Box::new(addresses.into_iter()) as Addrs)
                }
            }
        })
    }
}

/// The resolver of the operating system.
#[derive(Debug)]
pub(crate) struct SystemResolver;

#[async_trait]
impl HostResolver for SystemResolver {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn special_addresses_are_not_public() {
        let special = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "3fff::1",
            "::127.0.0.1",
        ];
        for text in special {
            assert!(!AddressRule::Public.allows(text.parse().unwrap()), "{text}");
        }
        for text in [
            "1.1.1.1",
            "100.63.0.1",
            "100.128.0.1",
            "172.32.0.1",
            "2606:4700::1",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
        ] {
            assert!(AddressRule::Public.allows(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn metadata_of_clouds_is_never_connected_to() {
        for text in ["127.0.0.1", "10.1.2.3", "::1", "fd00::1", "1.1.1.1", "::ffff:192.168.0.1"] {
            assert!(AddressRule::Private.allows(text.parse().unwrap()), "{text}");
        }
        for text in [
            "169.254.169.254",
            "169.254.170.2",
            "fd00:ec2::254",
            "100.100.100.200",
            "fe80::1",
            "::ffff:169.254.169.254",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
        ] {
            assert!(!AddressRule::Private.allows(text.parse().unwrap()), "{text}");
        }
    }
}
