//! Tests of certificate files. Those used here were created with openssl and are valid for a
//! hundred years.
#![allow(clippy::unwrap_used)]

use super::*;

const SEC1: [&str; 2] = [include_str!("tests/sec1.pem"), include_str!("tests/sec1.key.pem")];
const PKCS1: [&str; 2] = [include_str!("tests/pkcs1.pem"), include_str!("tests/pkcs1.key.pem")];
const PKCS8_KEY: &str = include_str!("tests/pkcs8.key.pem");
const ENCRYPTED_KEY: &str = include_str!("tests/encrypted.key.pem");
const DAY: Duration = Duration::from_secs(24 * 3600);

fn load(texts: &[&str]) -> Result<LoadedTls, FileFault> {
    load_at(texts, SystemTime::now())
}

fn load_at(texts: &[&str], now: SystemTime) -> Result<LoadedTls, FileFault> {
    let rules = TlsRules {
        provider: Arc::new(rustls::crypto::ring::default_provider()),
        allows_tls12: true,
        clients_must: false,
        slot: None,
    };
    let texts: Vec<_> = texts.iter().map(|&text| text.to_owned()).collect();
    rules.load(&texts, now)
}

fn holder_of(pem: &str) -> Option<ClientCertificate> {
    holder(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
}

#[test]
fn keys_of_each_kind_are_read() {
    let [sec1, sec1_key] = SEC1;
    for files in [SEC1, PKCS1, [sec1, PKCS8_KEY]] {
        let loaded = load(&files).unwrap_or_else(|fault| panic!("{fault:?}"));
        assert!(loaded.expires.unwrap() > SystemTime::now() + 365 * DAY);
        assert_eq!(loaded.config.alpn_protocols, PROTOCOLS);
        assert_eq!(loaded.refusing.alpn_protocols, [b"http/1.1"]);
    }
    assert!(load(&[&format!("{sec1_key}{sec1}"), sec1_key]).is_ok(), "both in one file");
    assert!(load(&[sec1, sec1_key, sec1]).is_ok(), "with an authority for clients");
}

#[test]
fn what_is_wrong_is_said_of_the_file_where_it_is() {
    let ([cert, key], [_, other_key]) = (SEC1, PKCS1);
    for (files, place, why) in [
        (&["", key][..], CERT, "it has no certificate"),
        (&[key, key], CERT, "it has no certificate"),
        (&["-----BEGIN CERTIFICATE-----\nx", key], CERT, "it is not PEM"),
        (&[cert, ""], KEY, "it has no private key that is not encrypted"),
        (&[cert, cert], KEY, "it has no private key that is not encrypted"),
        (&[cert, ENCRYPTED_KEY], KEY, "it has no private key that is not encrypted"),
        (&[cert, other_key], KEY, "it is not the key of the certificate in tls-cert"),
        (&[cert, key, ""], CLIENT_CA, "it has no certificate"),
        (&[cert, key, key], CLIENT_CA, "it has no certificate"),
    ] {
        let fault = load(files).err().unwrap_or_else(|| panic!("{why}"));
        assert_eq!(fault.file, place, "{why}: {}", fault.why);
        assert!(fault.why.starts_with(why), "{}", fault.why);
        assert!(!fault.why.contains(key.lines().nth(1).unwrap()), "the key is not said");
    }
    let expires = load(&SEC1).unwrap().expires.unwrap();
    let fault = load_at(&SEC1, expires).err().unwrap();
    let why = format!("the certificate expired at {}", written(expires));
    assert_eq!((fault.file, fault.why), (CERT, why));
    assert!(load_at(&SEC1, expires - Duration::from_secs(1)).is_ok());
}

#[test]
fn who_shows_a_certificate_has_its_one_common_name_and_its_uris() {
    let named = holder_of(include_str!("tests/named.pem")).unwrap();
    assert_eq!(named.common_name.as_deref(), Some("builder"));
    assert_eq!(named.uris, ["spiffe://example/ci", "https://example/2"]);
    assert_eq!(holder_of(SEC1[0]).unwrap().common_name.as_deref(), Some("test"));
    assert_eq!(holder_of(include_str!("tests/two-names.pem")), None);
    assert_eq!(holder_of(include_str!("tests/nobody.pem")), None);
    assert_eq!(holder_of(include_str!("tests/long.pem")), None);
    assert_eq!(holder(&CertificateDer::from(b"garbage".to_vec())), None);
}

#[test]
fn a_certificate_that_is_about_to_expire_is_worth_a_notice() {
    let now = SystemTime::now();
    assert_eq!(notice(now + 15 * DAY, now, EXPIRY_NOTICE), None);
    assert_eq!(notice(now + 3 * DAY, now, Duration::ZERO), None, "who renews it has time");
    let soon = notice(now + 3 * DAY, now, EXPIRY_NOTICE).unwrap();
    assert!(soon.contains("expires in 3 days"), "{soon}");
    for margin in [EXPIRY_NOTICE, Duration::ZERO] {
        let over = notice(now, now + DAY, margin).unwrap();
        assert!(over.contains("has expired"), "{over}");
    }
}
