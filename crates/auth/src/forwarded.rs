//! [`Said`]: what proxies say of the client whose request they pass on, by `Forwarded` (RFC 7239) or
//! by `X-Forwarded-For`, `-Proto` and `-Host`.
//!
//! Each proxy adds to the right of what it was sent, and the client may have sent anything. So all is
//! read from the right, and no further than the first address that is not a trusted proxy's: whatever
//! stands to the left of it, well formed or not, changes nothing.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The most proxies that are believed of one request.
pub const HOPS_MAX: usize = 32;
/// The longest that one proxy may say, in bytes.
pub const HOP_BYTES_MAX: usize = 1024;
/// The longest host, in bytes (RFC 1035 section 2.3.4, and a port).
pub const HOST_BYTES_MAX: usize = 261;

/// The headers by which proxies say whose request they pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// What was said. What cannot be understood counts as not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The address of the client: the first from the right that is not a trusted proxy's, or the last
    /// that could be understood. Its port is 0 if it was not said.
    pub address: Option<SocketAddr>,
    /// Whether the client came by https.
    pub secure: Option<bool>,
    /// The host that the client asked for.
    pub host: Option<String>,
}

impl Said {
    /// What the lines of `Forwarded` say.
    pub fn by_forwarded<'a>(
        lines: impl DoubleEndedIterator<Item = &'a [u8]>,
        trusts: impl Fn(IpAddr) -> bool,
    ) -> Self {
        let mut said = Self::default();
        for element in elements(lines).take(HOPS_MAX) {
            let Some(hop) = hop(element) else { break };
            // What the outermost of the trusted proxies saw is what the client did.
            said.secure = hop.secure.or(said.secure);
            said.host = hop.host.or(said.host);
            let Some(address) = hop.address else { break };
            said.address = Some(address);
            if !trusts(address.ip()) {
                break;
            }
        }
        said
    }

    /// What the lines of `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host` say.
    pub fn by_x_forwarded<'a, L: DoubleEndedIterator<Item = &'a [u8]>>(
        addresses: L,
        schemes: L,
        hosts: L,
        trusts: impl Fn(IpAddr) -> bool,
    ) -> Self {
        let mut said = Self::default();
        let mut passed = 0;
        for element in elements(addresses).take(HOPS_MAX) {
            let Some(address) = text(element).and_then(node) else { break };
            said.address = Some(address);
            if !trusts(address.ip()) {
                break;
            }
            passed += 1;
        }
        // Some proxies add to these, too, most say them once.
        let said_by_outermost = |lines: L| elements(lines).take(passed + 1).last().and_then(text);
        said.secure = said_by_outermost(schemes).and_then(scheme);
        said.host = said_by_outermost(hosts).filter(|host| is_host(host)).map(str::to_owned);
        said
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

/// A list without its last element, and that. A comma in quotes does not separate (RFC 9110 section
/// 5.6.4); whether it is in quotes is found out from the right, too.
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

/// What one proxy says by an element of `Forwarded` (RFC 7239 section 4).
fn hop(element: &[u8]) -> Option<Said> {
    let mut rest = text(element)?;
    let mut seen: Vec<String> = Vec::new();
    let mut hop = Said::default();
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
        // A second one would say that the first is not all of it.
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

/// The address of a node (RFC 7239 section 6); `None` if it is hidden (`_name`), `unknown` or none.
/// Addresses of IPv6 need no brackets: `X-Forwarded-For` has them without.
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
        // A name for it that says nothing (section 6.3).
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
