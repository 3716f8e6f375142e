//! Digests, algorithms and references.

use jreg_oci::{Algorithm, Digest, InvalidDigest, InvalidReference, Reference};
use proptest::prelude::*;

pub(crate) const SHA256: &str =
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
pub(crate) const SHA512: &str = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36\
                                 ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";

#[test]
fn a_digest_is_computed_and_shown() {
    for (algorithm, empty) in [(Algorithm::Sha256, SHA256), (Algorithm::Sha512, SHA512)] {
        let digest = Digest::of(algorithm, b"");
        assert_eq!(digest.to_string(), empty);
        assert_eq!(format!("{digest:?}"), empty);
        assert_eq!(digest.algorithm(), algorithm);
        assert_eq!(digest.hex().len(), algorithm.hex_len());
        assert_eq!(format!("{algorithm}:{}", digest.hex()), empty);
        assert_eq!(empty.parse(), Ok(digest.clone()));
        assert_eq!(Digest::try_from(empty), Ok(digest));
    }
}

#[test]
fn malformed_digests_are_refused() {
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let refused = [
        (String::new(), "no colon"),
        (hex.to_owned(), "no algorithm"),
        (format!(":{hex}"), "empty algorithm"),
        ("sha256:".to_owned(), "empty encoding"),
        ("sha256:baddigeststring".to_owned(), "not hexadecimal"),
        (format!("sha256:{}", &hex[1..]), "one character short"),
        (format!("sha256:{hex}0"), "one character long"),
        (format!("sha512:{hex}"), "sha256 content under sha512"),
        (format!("sha256:{}", hex.to_uppercase()), "upper case hexadecimal"),
        (format!("SHA256:{hex}"), "upper case algorithm"),
        (format!("sha256:{hex} "), "space behind"),
        (format!(" sha256:{hex}"), "space before"),
        (format!("sha256:sha256:{hex}"), "two colons"),
        (format!("sha256:{}/", &hex[1..]), "slash"),
        (format!("sha256:{}\0", &hex[1..]), "NUL"),
        (format!("sha256:{}é", &hex[2..]), "not ASCII"),
        (format!("sha256+:{hex}"), "separator at the end"),
        (format!("+sha256:{hex}"), "separator at the start"),
        (format!("a++b:{hex}"), "two separators"),
        ("md5:a b".to_owned(), "unsupported and malformed"),
        (format!("sha256@{hex}"), "wrong separator"),
    ];
    for (text, why) in refused {
        let error = text.parse::<Digest>().unwrap_err();
        assert!(matches!(error, InvalidDigest::Malformed { .. }), "{why}: {error}");
        assert!(error.to_string().starts_with(&format!("invalid digest {text:?}: ")), "{error}");
    }
}

#[test]
fn well_formed_digests_of_other_algorithms_are_distinguished() {
    let refused = [
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha384:ab",
        "multihash+base58:QmRZxt2b1FVZPNqd8h",
        "blake3:00",
        "sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564",
        "a.b_c-d:x=",
        "sha3:E3B0",
    ];
    for text in refused {
        let algorithm = text.split(':').next().unwrap().to_owned();
        let error = text.parse::<Digest>().unwrap_err();
        assert_eq!(error, InvalidDigest::UnsupportedAlgorithm { algorithm });
    }
}

#[test]
fn an_error_does_not_repeat_megabytes() {
    let huge = format!("sha256:{}", "a".repeat(1 << 20));
    assert!(huge.parse::<Digest>().unwrap_err().to_string().len() < 500);
    let huge = format!("{}:00", "a".repeat(1 << 20));
    assert!(huge.parse::<Digest>().unwrap_err().to_string().len() < 500);
}

#[test]
fn algorithms_have_their_registered_names() {
    for algorithm in Algorithm::ALL {
        assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
        let json = serde_json::to_string(&algorithm).unwrap();
        assert_eq!(json, format!("\"{algorithm}\""));
        assert_eq!(serde_json::from_str::<Algorithm>(&json).unwrap(), algorithm);
    }
    let unsupported = |name: &str| InvalidDigest::UnsupportedAlgorithm { algorithm: name.into() };
    assert_eq!("md5".parse::<Algorithm>(), Err(unsupported("md5")));
    for malformed in ["", "SHA256", "sha256:", "sha 256", "-"] {
        let error = malformed.parse::<Algorithm>().unwrap_err();
        assert!(matches!(error, InvalidDigest::Malformed { .. }), "{error}");
    }
}

#[test]
fn a_reference_with_a_colon_is_a_digest() {
    let digest: Reference = SHA256.parse().unwrap();
    assert_eq!(digest, Reference::Digest(SHA256.parse().unwrap()));
    assert_eq!((digest.tag(), digest.digest().unwrap().to_string()), (None, SHA256.to_owned()));
    let tag: Reference = "latest".parse().unwrap();
    assert_eq!(tag, Reference::Tag("latest".parse().unwrap()));
    assert_eq!((tag.tag().unwrap().as_str(), tag.digest()), ("latest", None));

    // A digest without its algorithm is a well-formed tag.
    assert!(matches!(SHA256[7..].parse(), Ok(Reference::Tag(_))));
    assert!(matches!("a:b".parse::<Reference>(), Err(InvalidReference::Digest(_))));
    assert!(matches!("".parse::<Reference>(), Err(InvalidReference::Tag(_))));
    assert!(matches!("a/b".parse::<Reference>(), Err(InvalidReference::Tag(_))));
}

pub(crate) fn any_digest() -> impl Strategy<Value = Digest> {
    let algorithm = prop::sample::select(&Algorithm::ALL[..]);
    (algorithm, any::<[u8; 8]>()).prop_map(|(algorithm, content)| Digest::of(algorithm, &content))
}

proptest! {
    #[test]
    fn a_digest_survives_text_and_json(digest in any_digest()) {
        prop_assert_eq!(digest.to_string().parse(), Ok(digest.clone()));
        let json = serde_json::to_string(&digest).unwrap();
        prop_assert_eq!(&json, &format!("\"{digest}\""));
        prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest.clone());
        let reference: Reference = digest.to_string().parse().unwrap();
        prop_assert_eq!(reference.to_string(), digest.to_string());
    }

    #[test]
    fn digests_sort_as_their_strings(a in any_digest(), b in any_digest()) {
        prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
    }

    #[test]
    fn what_parses_is_shown_as_it_was(text in "(sha256|sha512|md5):[0-9a-fA-F]{0,140}|\\PC*") {
        if let Ok(digest) = text.parse::<Digest>() {
            prop_assert_eq!(digest.to_string(), text.clone());
        }
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(reference.to_string(), text);
        }
    }
}
