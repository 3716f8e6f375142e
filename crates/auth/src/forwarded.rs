//! [`ForwardedClient`]: the client from the headers of proxies: `Forwarded` (RFC 7239) or
//! `X-Forwarded-For`, `-Proto` and `-Host`.
//!
//! Each proxy appends to the header, and the client may have sent anything. So headers are
//! parsed from the right, up to the first address that is not a trusted proxy's: everything
//! to the left of it, well-formed or not, is ignored.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Maximum trusted proxies of one request.
pub const HOPS_MAX: usize = 32;
/// Maximum length of one proxy's element, in bytes.
pub const HOP_BYTES_MAX: usize = 1024;
/// Maximum length of a host, in bytes (RFC 1035 section 2.3.4, and a port).
pub const HOST_BYTES_MAX: usize = 261;

/// The headers in which proxies send the client's address, scheme and host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The client. Malformed values count as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardedClient {
    /// The address of the client: the first from the right that is not a trusted proxy's, or the last
    /// valid one. Its port is 0 if it was absent.
    pub address: Option<SocketAddr>,
    /// Whether the client used https.
    pub secure: Option<bool>,
    /// The host of the client's request.
    pub host: Option<String>,
}

impl ForwardedClient {
    /// Parses the lines of `Forwarded`.
    pub fn by_forwarded<'a>(
        lines: impl DoubleEndedIterator<Item = &'a [u8]>,
        trusts: impl Fn(IpAddr) -> bool,
    ) -> Self {
        let mut client = Self::default();
        for element in elements(lines).take(HOPS_MAX) {
            let Some(hop) = hop(element) else { break };
            // The outermost trusted proxy saw the client's own scheme and host.
            client.secure = hop.secure.or(client.secure);
            client.host = hop.host.or(client.host);
            let Some(address) = hop.address else { break };
            client.address = Some(address);
            if !trusts(address.ip()) {
                break;
            }
        }
        client
    }

    /// Parses the lines of `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`.
    pub fn by_x_forwarded<'a, L: DoubleEndedIterator<Item = &'a [u8]>>(
        addresses: L,
        schemes: L,
        hosts: L,
        trusts: impl Fn(IpAddr) -> bool,
    ) -> Self {
        let mut client = Self::default();
        let mut passed = 0;
        for element in elements(addresses).take(HOPS_MAX) {
            let Some(address) = text(element).and_then(node) else { break };
            client.address = Some(address);
            if !trusts(address.ip()) {
                break;
            }
            passed += 1;
        }
        // Some proxies append to these, too, most set them.
        let from_outermost = |lines: L| elements(lines).take(passed + 1).last().and_then(text);
        client.secure = from_outermost(schemes).and_then(scheme);
        client.host = from_outermost(hosts).filter(|host| is_host(host)).map(str::to_owned);
        client
    }
}

/// Whether a text may be a host, with or without a port, as `Host` has it (RFC 9110 section 7.2).
pub fn is_host(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b".-:[]".contains(&b);
    (1..=HOST_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// The elements of lists, from the right: of the last line first.
fn elements<'a>(
    lines: impl DoubleEndedIterator<Item = &'a [u8]>,
) -> impl Iterator<Item = &'a [u8]> {
    let of_line = |line| {
        let mut rest = Some(line);
        std::iter::from_fn(move || {
            let (before, last) = split_last(rest?);
            rest = before;
            Some(last.trim_ascii())
        })
    };
    lines.rev().flat_map(of_line).filter(|element| !element.is_empty())
}

/// A list without its last element, and the last element. A comma in quotes does not separate (RFC 9110
/// section 5.6.4); quotes are parsed from the right, too.
fn split_last(list: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let mut quoted = false;
    for (place, byte) in list.iter().enumerate().rev() {
        match byte {
            b'"' if quoted => quoted = is_escaped(list, place),
            b'"' => quoted = true,
            b',' if !quoted => {
                return (list.get(..place), list.get(place + 1..).unwrap_or_default());
            }
            _ => {}
        }
    }
    (None, list)
}

fn is_escaped(list: &[u8], place: usize) -> bool {
    let before = list.get(..place).unwrap_or_default();
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

fn text(element: &[u8]) -> Option<&str> {
    let fits = element.len() <= HOP_BYTES_MAX;
    std::str::from_utf8(element).ok().filter(|text| fits && text.is_ascii())
}

/// Parses one proxy's element of `Forwarded` (RFC 7239 section 4).
fn hop(element: &[u8]) -> Option<ForwardedClient> {
    let mut rest = text(element)?;
    let mut seen: Vec<String> = Vec::new();
    let mut hop = ForwardedClient::default();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = value(after)?;
        let name = name.trim().to_ascii_lowercase();
        match name.as_str() {
            "for" => hop.address = node(&value),
            "proto" => hop.secure = scheme(&value),
            "host" => hop.host = Some(value).filter(|host| is_host(host)),
            _ => {}
        }
        // A repeated parameter is ambiguous.
        if name.is_empty() || seen.contains(&name) {
            return None;
        }
        seen.push(name);
        rest = match after.trim_start().split_at_checked(1) {
            None => "",
            Some((";", more)) => more.trim_start(),
            Some(_) => return None,
        };
    }
    Some(hop)
}

/// A value, in quotes or not, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', '"', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at_checked(end)?;
        return (!value.is_empty()).then(|| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut rest = quoted.chars();
    loop {
        match rest.next()? {
            '"' => return Some((value, rest.as_str())),
            '\\' => value.push(rest.next()?),
            other => value.push(other),
        }
    }
}

/// The address of a node (RFC 7239 section 6); `None` if it is obfuscated (`_name`), `unknown` or malformed.
/// IPv6 addresses need no brackets: `X-Forwarded-For` has them without.
fn node(text: &str) -> Option<SocketAddr> {
    let with = |ip: IpAddr, port: u16| SocketAddr::new(ip.to_canonical(), port);
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(with(ip, 0));
    }
    let (ip, after) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (ip, after) = bracketed.split_once(']')?;
            (ip.parse::<Ipv6Addr>().ok()?.into(), after)
        }
        None => {
            let (ip, _) = text.split_once(':')?;
            (IpAddr::V4(ip.parse().ok()?), text.get(ip.len()..)?)
        }
    };
    if after.is_empty() {
        return Some(with(ip, 0));
    }
    let port = after.strip_prefix(':')?;
    match port.strip_prefix('_') {
        // An obfuscated port (section 6.3).
        Some(name) if !name.is_empty() && name.bytes().all(is_hidden) => Some(with(ip, 0)),
        Some(_) => None,
        None => port.parse().ok().map(|port| with(ip, port)),
    }
}

fn is_hidden(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

fn scheme(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "https" => Some(true),
        "http" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
