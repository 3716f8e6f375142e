//! The signature of a request: HMAC-SHA256 over the time and the body.

use jreg_auth::Secret;
use ring::hmac;

/// The header of the signature.
pub const SIGNATURE_HEADER: &str = "jreg-signature";

/// The value of the header: `t=` the time in seconds of the Unix epoch, then for each secret `v1=` the
/// HMAC-SHA256, in hexadecimal digits, of that time in decimal digits, a full stop and the body.
pub fn signature(secrets: &[Secret], time_s: u64, body: &[u8]) -> String {
    let mut value = format!("t={time_s}");
    for secret in secrets {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes());
        let mut context = hmac::Context::with_key(&key);
        context.update(format!("{time_s}.").as_bytes());
        context.update(body);
        value.push_str(",v1=");
        for byte in context.sign().as_ref() {
            value.push_str(&format!("{byte:02x}"));
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_openssl_computes() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 'a secret of some length'
        let secret = Secret::new("a secret of some length");
        assert_eq!(signature(&[secret], 1_700_000_000, br#"{"a":1}"#), EXPECTED);
        let two = [Secret::new("one"), Secret::new("two")];
        assert_eq!(signature(&two, 0, b"").matches(",v1=").count(), 2);
    }

    const EXPECTED: &str =
        "t=1700000000,v1=e09db3ce6e6e8f9b633a62851e5074a9e9148ac19b1c0e1a8f7c352380be630b";
}
