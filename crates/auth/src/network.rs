//! [`Network`]: the unit by which clients are counted by their addresses.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Length of the prefix of an IPv6 address that identifies a client: a site gets at least a /64, and can use
/// any address in it (RFC 4291 section 2.5.4).
const IPV6_PREFIX_BITS: u32 = 64;

/// What an address is counted as: an IPv4 address by itself, an IPv6 address with all of its /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network(IpAddr);

impl Network {
    /// The network of an address. An IPv4 address counts as such in either form.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(IpAddr::V4(address)),
            IpAddr::V6(address) => {
                let mask = u128::MAX << (128 - IPV6_PREFIX_BITS);
                Self(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask)))
            }
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(address) => write!(f, "{address}/{IPV6_PREFIX_BITS}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_ipv6_address_counts_with_its_64() {
        let of = |address: &str| Network::of(address.parse().unwrap()).to_string();
        assert_eq!(of("10.0.0.1"), "10.0.0.1");
        assert_eq!(of("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!(of("2001:db8:0:1:ffff:ffff:ffff:ffff"), "2001:db8:0:1::/64");
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:2:3:4:5"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    }
}
