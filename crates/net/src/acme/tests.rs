//! Tests of the back-off.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn failures_are_waited_for_ever_longer_up_to_a_limit() {
    let waits: Vec<_> = (0..10).map(|failures| backoff(failures).as_secs() / 60).collect();
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 360, 360]);
    assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    let in_an_hour = (0..).scan(0, |at, failures| {
        *at += backoff(failures).as_secs();
        Some(*at)
    });
    let later = in_an_hour.take_while(|at| *at < 3600).count();
    assert!(later < 5, "with the first, what Let's Encrypt takes");
}

#[test]
fn records_come_back_and_do_not_show_keys() {
    let order = OrderRecord {
        domains: vec!["a.test".to_owned()],
        challenges: [("a.test".to_owned(), [7; 32])].into(),
        failures: 3,
        ..OrderRecord::default()
    };
    assert_eq!(OrderRecord::of_bytes(&order.to_bytes()).unwrap(), order);
    assert_ne!(order.to_bytes(), order.to_bytes(), "each write is a version");
    let (directory, chain) = ("https://ca".to_owned(), "chain".to_owned());
    let certificate = CertificateRecord { directory, chain, key: "MARKED".to_owned() };
    assert_eq!(CertificateRecord::of_bytes(&certificate.to_bytes()).unwrap().key, "MARKED");
    assert!(!format!("{certificate:?}").contains("MARKED"));
    for damaged in [&b""[..], b"{}", b"{\"nonce\":\"\",\"v\":1,\"key\":\"MARKED\"}"] {
        assert_eq!(CertificateRecord::of_bytes(damaged).unwrap_err(), "it is damaged");
        assert!(OrderRecord::of_bytes(damaged).is_none());
    }
    let whole = String::from_utf8(certificate.to_bytes().to_vec()).unwrap();
    let rotted = whole.replace("chain\":\"chain", "chain\":\"other");
    let error = CertificateRecord::of_bytes(rotted.as_bytes()).unwrap_err();
    assert_eq!(error, "its checksum is of other bytes");
    let earlier = format!("{}}}", whole.rsplit_once(",\"check\":").unwrap().0);
    assert_eq!(CertificateRecord::of_bytes(earlier.as_bytes()).unwrap().key, "MARKED");
    let newer = earlier.replace("\"v\":1", "\"v\":2");
    let error = CertificateRecord::of_bytes(newer.as_bytes()).unwrap_err();
    assert_eq!(error, "version 2 is not known");
}
