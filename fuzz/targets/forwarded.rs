//! What proxies say: whatever a client sent before it changes nothing.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use jreg_auth::ForwardedClient;
use libfuzzer_sys::fuzz_target;

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

fn said(line: &[u8]) -> ForwardedClient {
    ForwardedClient::by_forwarded([line].into_iter(), |ip| ip == PROXY)
}

fuzz_target!(|sent: &[u8]| {
    let alone = said(sent);
    assert!(alone.host.is_none_or(|host| host.len() <= 261 && !host.contains(['"', '/', ' '])));
    let by_proxies = b"for=203.0.113.7;proto=https, for=10.0.0.1";
    let both = said(&[sent, b", ", by_proxies].concat());
    assert_eq!(both, said(by_proxies));
    let x = |line: &[u8]| {
        let none = [].iter().copied();
        let lines = [line];
        ForwardedClient::by_x_forwarded(lines.iter().copied(), none.clone(), none, |ip| ip == PROXY)
    };
    assert_eq!(x(&[sent, b", 203.0.113.7, 10.0.0.1"].concat()), x(b"203.0.113.7"));
});
