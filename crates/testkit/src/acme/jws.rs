//! Signed requests (RFC 7515, RFC 8555 section 6.2), read and checked.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::Value;

/// A public key: the two coordinates of a point of P-256, as they were written.
#[derive(Clone, Debug)]
pub(super) struct AcmeJwk {
    x: String,
    y: String,
}

impl AcmeJwk {
    fn of(value: &Value) -> Option<Self> {
        let part = |name: &str| value[name].as_str().map(str::to_owned);
        let is_p256 = value["kty"] == "EC" && value["crv"] == "P-256";
        is_p256.then_some(())?;
        Some(Self { x: part("x")?, y: part("y")? })
    }

    /// RFC 7638.
    pub(super) fn thumbprint(&self) -> String {
        let Self { x, y } = self;
        let text = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        BASE64.encode(digest(&SHA256, text.as_bytes()))
    }
}

/// A request: who says they signed it, and what it says.
#[derive(Debug)]
pub(super) struct SignedRequest {
    pub(super) kid: Option<String>,
    pub(super) jwk: Option<AcmeJwk>,
    pub(super) nonce: String,
    pub(super) url: String,
    pub(super) payload: Value,
    input: String,
    signature: Vec<u8>,
}

impl SignedRequest {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let part = |name: &str| body[name].as_str();
        let (protected, payload) = (part("protected")?, part("payload")?);
        let header: Value = serde_json::from_slice(&BASE64.decode(protected).ok()?).ok()?;
        let text = |name: &str| header[name].as_str().map(str::to_owned);
        if text("alg")? != "ES256" {
            return None;
        }
        // One that only asks has an empty one.
        let content = BASE64.decode(payload).ok()?;
        let content =
            if content.is_empty() { Value::Null } else { serde_json::from_slice(&content).ok()? };
        Some(Self {
            kid: text("kid"),
            jwk: AcmeJwk::of(&header["jwk"]),
            nonce: text("nonce")?,
            url: text("url")?,
            payload: content,
            input: format!("{protected}.{payload}"),
            signature: BASE64.decode(part("signature")?).ok()?,
        })
    }

    pub(super) fn is_by(&self, jwk: &AcmeJwk) -> bool {
        let coordinate = |text: &str| BASE64.decode(text).unwrap_or_default();
        let point = [vec![4], coordinate(&jwk.x), coordinate(&jwk.y)].concat();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        key.verify(self.input.as_bytes(), &self.signature).is_ok()
    }
}
