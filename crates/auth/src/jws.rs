//! Signed tokens in the compact form (RFC 7515, RFC 7519), over ring.
//!
//! Small by design: the algorithm follows from the key, never from the token, whose header must
//! match. `none`, the HMAC algorithms and unknown ones are not representable.
//! (The common library for this uses a process-wide cryptography provider,
//! none of which is ring, and reads the system's clock.)

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

/// Maximum length of a token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Maximum length of a key id, in bytes.
pub const KID_BYTES_MAX: usize = 128;

/// A supported algorithm (RFC 7518 section 3.1, RFC 8037 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum JwsAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA on P-384 with SHA-384.
    #[serde(rename = "ES384")]
    Es384,
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// RSA PKCS#1 1.5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
}

/// Error of an invalid token. Messages contain nothing of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// Not three parts of base64url, the first two JSON objects.
    #[error("the token is malformed")]
    Malformed,
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// The key id is too long or has characters that are not allowed.
    #[error("the token's key id is not acceptable")]
    KeyId,
    /// A critical extension (RFC 7515 section 4.1.11).
    #[error("the token relies on an extension")]
    Critical,
    #[error("the token's signature is wrong")]
    Signature,
}

#[derive(Deserialize)]
struct JoseHeader {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

/// A token whose signature is not verified yet.
#[derive(Clone)]
pub struct UnverifiedToken<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    payload: Vec<u8>,
    algorithm: JwsAlgorithm,
    kid: Option<String>,
    kind: Option<String>,
}

impl std::fmt::Debug for UnverifiedToken<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unverified").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl<'a> UnverifiedToken<'a> {
    /// Parses a token.
    ///
    /// # Errors
    ///
    /// [`JwsError`], except for its signature.
    pub fn parse(token: &'a str) -> Result<Self, JwsError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(JwsError::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwsError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(JwsError::Malformed)?;
        // A payload with a dot is no base64url.
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| JwsError::Malformed);
        let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
        let header: JoseHeader =
            serde_json::from_slice(&header).map_err(|_| JwsError::Malformed)?;
        if header.crit.is_some() {
            return Err(JwsError::Critical);
        }
        let algorithm = match header.alg.as_str() {
            "ES256" => JwsAlgorithm::Es256,
            "ES384" => JwsAlgorithm::Es384,
            "EdDSA" => JwsAlgorithm::EdDsa,
            "RS256" => JwsAlgorithm::Rs256,
            _ => return Err(JwsError::Algorithm),
        };
        if header.kid.as_deref().is_some_and(|kid| !is_key_id(kid)) {
            return Err(JwsError::KeyId);
        }
        Ok(Self { signed, signature, payload, algorithm, kid: header.kid, kind: header.typ })
    }

    /// The claimed key id.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The claimed type.
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// The claimed issuer: only to choose the keys.
    pub fn issuer(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct IssuerClaim {
            iss: String,
        }
        serde_json::from_slice::<IssuerClaim>(&self.payload).ok().map(|claims| claims.iss)
    }

    /// The payload, after verifying the signature by `key`.
    ///
    /// # Errors
    ///
    /// [`JwsError::Algorithm`], [`JwsError::Signature`].
    pub fn verify(&self, key: &VerifyingKey) -> Result<&[u8], JwsError> {
        if key.algorithm() != self.algorithm {
            return Err(JwsError::Algorithm);
        }
        match key.is_signature(self.signed.as_bytes(), &self.signature) {
            true => Ok(&self.payload),
            false => Err(JwsError::Signature),
        }
    }
}

/// Letters, digits and common separators; no path and no character that needs
/// escaping.
pub(crate) fn is_key_id(kid: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:=+".contains(&b);
    !kid.is_empty()
        && kid.len() <= KID_BYTES_MAX
        && kid.bytes().all(is_allowed)
        && !kid.contains("..")
}

/// A public key and its only algorithm.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey(KeyMaterial);

#[derive(Clone, PartialEq, Eq)]
enum KeyMaterial {
    Ed25519(Vec<u8>),
    P256(Vec<u8>),
    P384(Vec<u8>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerifyingKey({:?})", self.algorithm())
    }
}

/// A key as JSON (RFC 7517).
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Jwk {
    kty: String,
    #[serde(default)]
    pub(crate) kid: Option<String>,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
}

impl VerifyingKey {
    /// An Ed25519 key.
    pub fn ed25519(public: &[u8]) -> Self {
        Self(KeyMaterial::Ed25519(public.to_vec()))
    }

    /// The key of a JWK; `None` if it is of another kind, for another use, or malformed. Symmetric
    /// keys are rejected: a published key cannot be a secret.
    pub(crate) fn of_jwk(jwk: &Jwk) -> Option<Self> {
        if jwk.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        let point = |length: usize| {
            let (x, y) = (bytes(&jwk.x)?, bytes(&jwk.y)?);
            (x.len() == length && y.len() == length).then(|| [&[4][..], &x, &y].concat())
        };
        let material = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("OKP", Some("Ed25519")) => {
                KeyMaterial::Ed25519(bytes(&jwk.x).filter(|x| x.len() == 32)?)
            }
            ("EC", Some("P-256")) => KeyMaterial::P256(point(32)?),
            ("EC", Some("P-384")) => KeyMaterial::P384(point(48)?),
            ("RSA", _) => {
                // ring accepts 2048 to 8192 bits; leading zeros are not part of the number.
                let n: Vec<u8> = bytes(&jwk.n)?.into_iter().skip_while(|b| *b == 0).collect();
                KeyMaterial::Rsa { n, e: bytes(&jwk.e)? }
            }
            _ => return None,
        };
        let key = Self(material);
        let named = jwk.alg.as_deref();
        named.is_none_or(|named| Some(named) == key.algorithm().as_str()).then_some(key)
    }

    pub(crate) fn algorithm(&self) -> JwsAlgorithm {
        match &self.0 {
            KeyMaterial::Ed25519(_) => JwsAlgorithm::EdDsa,
            KeyMaterial::P256(_) => JwsAlgorithm::Es256,
            KeyMaterial::P384(_) => JwsAlgorithm::Es384,
            KeyMaterial::Rsa { .. } => JwsAlgorithm::Rs256,
        }
    }

    fn is_signature(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            KeyMaterial::Ed25519(key) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature).is_ok()
            }
            KeyMaterial::P256(key) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, key)
                    .verify(message, signature)
                    .is_ok()
            }
            KeyMaterial::P384(key) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, key)
                    .verify(message, signature)
                    .is_ok()
            }
            KeyMaterial::Rsa { n, e } => signature::RsaPublicKeyComponents { n, e }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
        }
    }
}

impl JwsAlgorithm {
    fn as_str(self) -> Option<&'static str> {
        Some(match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
        })
    }
}

/// A token over `claims`, signed by an Ed25519 key; `kind` is its type in the header.
pub(crate) fn sign_ed25519(
    key: &signature::Ed25519KeyPair,
    kid: &str,
    kind: &str,
    claims: &impl Serialize,
) -> Option<String> {
    let header = serde_json::json!({ "alg": "EdDSA", "kid": kid, "typ": kind });
    let part = |bytes: Vec<u8>| URL_SAFE_NO_PAD.encode(bytes);
    let header = part(serde_json::to_vec(&header).ok()?);
    let payload = part(serde_json::to_vec(claims).ok()?);
    let signed = format!("{header}.{payload}");
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    Some(format!("{signed}.{signature}"))
}
