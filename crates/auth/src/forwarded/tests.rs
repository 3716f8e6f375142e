//! Tests of what proxies say.
#![allow(clippy::unwrap_used)]

use super::*;

/// Proxies are in 10.0.0.0/8 and fd00::/8.
fn is_proxy(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 10,
        IpAddr::V6(ip) => ip.octets()[0] == 0xfd,
    }
}

fn bytes<'a>(lines: &'a [&'a str]) -> impl DoubleEndedIterator<Item = &'a [u8]> {
    lines.iter().map(|line| line.as_bytes())
}

fn forwarded(lines: &[&str]) -> ForwardedClient {
    ForwardedClient::by_forwarded(bytes(lines), is_proxy)
}

fn x_forwarded(addresses: &[&str], schemes: &[&str], hosts: &[&str]) -> ForwardedClient {
    ForwardedClient::by_x_forwarded(bytes(addresses), bytes(schemes), bytes(hosts), is_proxy)
}

fn address(said: &ForwardedClient) -> Option<String> {
    said.address.map(|address| match address.port() {
        0 => address.ip().to_string(),
        _ => address.to_string(),
    })
}

#[test]
fn the_client_is_the_first_from_the_right_that_is_no_proxy() {
    for (lines, expected) in [
        (&[][..], None),
        (&[""], None),
        (&["203.0.113.7"], Some("203.0.113.7")),
        (&["203.0.113.7:4711"], Some("203.0.113.7:4711")),
        (&["198.51.100.9, 203.0.113.7"], Some("203.0.113.7")),
        (&["198.51.100.9, 203.0.113.7, 10.0.0.2,10.0.0.1"], Some("203.0.113.7")),
        (&["198.51.100.9", "203.0.113.7", "10.0.0.1"], Some("203.0.113.7")),
        (&["10.0.0.3, 10.0.0.2"], Some("10.0.0.3")),
        (&["2001:db8::7"], Some("2001:db8::7")),
        (&["[2001:db8::7]:4711, fd00::1"], Some("[2001:db8::7]:4711")),
        (&["203.0.113.7, ::ffff:10.0.0.1"], Some("203.0.113.7")),
        (&["203.0.113.7, ,, 10.0.0.1, "], Some("203.0.113.7")),
        // Nothing beyond an entry that cannot be parsed is trusted.
        (&["203.0.113.7, garbage, 10.0.0.1"], Some("10.0.0.1")),
        (&["203.0.113.7, unknown"], None),
        (&["203.0.113.7, 10.0.0.1:99999"], None),
        (&["203.0.113.7, 010.0.0.1"], None),
        (&["203.0.113.7, fe80::1%eth0"], None),
    ] {
        assert_eq!(address(&x_forwarded(lines, &[], &[])).as_deref(), expected, "{lines:?}");
    }
}

#[test]
fn forwarded_is_parsed_by_rfc_7239() {
    for (line, expected) in [
        ("for=192.0.2.60;proto=http;by=203.0.113.43", Some("192.0.2.60")),
        ("For=\"[2001:db8:cafe::17]:4711\"", Some("[2001:db8:cafe::17]:4711")),
        ("for=\"[2001:db8:cafe::17]\"", Some("2001:db8:cafe::17")),
        ("for=192.0.2.43, for=\"10.1.2.3\"", Some("192.0.2.43")),
        ("for=192.0.2.43:_hidden_port", Some("192.0.2.43")),
        ("for=\"192.0.2.43:8080\"", Some("192.0.2.43:8080")),
        ("for=\"192\\.0.2.43\"", Some("192.0.2.43")),
        ("for=192.0.2.43 ; proto=https", Some("192.0.2.43")),
        ("proto=https;for=192.0.2.43;", Some("192.0.2.43")),
        ("for=192.0.2.43;secret=\"a, b; \\\" for=10.0.0.9\"", Some("192.0.2.43")),
        ("for=198.51.100.9, for=_hidden", None),
        ("for=198.51.100.9, for=unknown", None),
        ("for=198.51.100.9, for=unknown, for=10.0.0.1", Some("10.0.0.1")),
        ("for=198.51.100.9, for=192.0.2.43;for=192.0.2.44", None),
        ("for=198.51.100.9, for", None),
        ("for=198.51.100.9, for=", None),
        ("for=198.51.100.9, =192.0.2.1", None),
        ("for=198.51.100.9, for=\"192.0.2.43", None),
        ("for=198.51.100.9, for=\"192.0.2.43\"x", None),
        ("for=198.51.100.9, for=192.0.2.43:_", None),
        ("for=198.51.100.9, for=[2001:db8::1", None),
        ("garbage", None),
    ] {
        assert_eq!(address(&forwarded(&[line])).as_deref(), expected, "{line}");
    }
}

#[test]
fn scheme_and_host_come_from_the_outermost_trusted_proxy() {
    let said = forwarded(&[
        "for=198.51.100.9;proto=http;host=evil.test",
        "for=203.0.113.7;proto=https;host=\"registry.test:8443\", for=10.0.0.2;proto=http;host=inner",
    ]);
    assert_eq!((said.secure, said.host.as_deref()), (Some(true), Some("registry.test:8443")));
    let said = x_forwarded(&["203.0.113.7, 10.0.0.2"], &["https"], &["registry.test"]);
    assert_eq!((said.secure, said.host.as_deref()), (Some(true), Some("registry.test")));
    let said = x_forwarded(&["203.0.113.7"], &["http, HTTPS"], &["evil.test, registry.test"]);
    assert_eq!((said.secure, said.host.as_deref()), (Some(true), Some("registry.test")));
    let said = x_forwarded(&["203.0.113.7, 10.0.0.2"], &["http, https, http"], &[]);
    assert_eq!((said.secure, said.host), (Some(true), None));
    let said = x_forwarded(&[], &["https"], &["registry.test"]);
    assert_eq!((said.address, said.secure), (None, Some(true)));
}

#[test]
fn malformed_schemes_and_hosts_are_ignored() {
    let long = "h".repeat(HOST_BYTES_MAX + 1);
    for host in ["a/b", "a b", "a\"b", "a@b", "h\u{f6}st", &long] {
        assert_eq!(x_forwarded(&[], &[], &[host]).host, None, "{host}");
    }
    for scheme in ["ftp", "https://", "on", ""] {
        assert_eq!(x_forwarded(&[], &[scheme], &[]).secure, None, "{scheme}");
    }
    assert_eq!(forwarded(&["proto=ftp;host=\"a b\""]), ForwardedClient::default());
}

#[test]
fn headers_are_bounded() {
    let many = vec!["10.0.0.1"; HOPS_MAX];
    let addresses = format!("203.0.113.7, {}", many.join(", "));
    assert_eq!(address(&x_forwarded(&[&addresses], &[], &[])).as_deref(), Some("10.0.0.1"));
    let long = format!("for=203.0.113.7;a={}", "a".repeat(HOP_BYTES_MAX));
    assert_eq!(forwarded(&[&long]).address, None);
}

/// What a client may send, to make what a proxy adds mean something else.
#[test]
fn elements_to_the_left_are_ignored() {
    let long = "x, ".repeat(30_000);
    for before in [
        "for=10.0.0.9",
        "10.0.0.9",
        "for=\"",
        "\"",
        "for=\"10.0.0.9",
        "for=\"10.0.0.9\\",
        "\\",
        "for=10.0.0.9;",
        "for=10.0.0.9;proto=\"",
        "\"\\\"",
        "\u{f6}\u{0}",
        "=;=,;,\"\",",
        &long,
    ] {
        let line = format!("{before}, for=203.0.113.7;proto=https, for=10.0.0.1");
        let said = forwarded(&[&line]);
        assert_eq!(address(&said).as_deref(), Some("203.0.113.7"), "{before}");
        assert_eq!(said.secure, Some(true), "{before}");
        assert_eq!(forwarded(&[before, "for=203.0.113.7"]).address, said.address, "{before}");
        let line = format!("{before}, 203.0.113.7, 10.0.0.1");
        assert_eq!(x_forwarded(&[&line], &[], &[]).address, said.address, "{before}");
    }
}
