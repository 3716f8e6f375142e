//! Signed tokens in the compact form (RFC 7515, RFC 7519), over ring.
//!
//! Small on purpose: the one algorithm of a key follows from the key, never from the token; what
//! the token says must only agree. `none`, the HMAC algorithms and unknown ones have no name here.
//! (The common library for this takes its cryptography from a provider that is set for the whole
//! process, of which none is ring, and reads the system's clock.)

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

/// The longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// The longest key id, in bytes.
pub const KID_BYTES_MAX: usize = 128;

/// An algorithm that is understood (RFC 7518 section 3.1, RFC 8037 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA on P-384 with SHA-384.
    #[serde(rename = "ES384")]
    Es384,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// RSA PKCS#1 1.5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
}

/// Why a token is none. The token is never repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// It is too long.
    #[error("the token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// It is not three parts of base64url, the first two JSON objects.
    #[error("the token is malformed")]
    Malformed,
    /// Its algorithm is not one that is accepted.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// Its key id is too long or has characters that none of ours has.
    #[error("the token's key id is not acceptable")]
    KeyId,
    /// It relies on an extension (RFC 7515 section 4.1.11).
    #[error("the token relies on an extension")]
    Critical,
    /// Its signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

/// A token whose signature nobody has looked at yet.
#[derive(Clone)]
pub struct Unverified<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    payload: Vec<u8>,
    algorithm: Algorithm,
    kid: Option<String>,
    kind: Option<String>,
}

impl std::fmt::Debug for Unverified<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unverified").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl<'a> Unverified<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    ///
    /// [`JwsError`], but for its signature.
    pub fn parse(token: &'a str) -> Result<Self, JwsError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(JwsError::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwsError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(JwsError::Malformed)?;
        // A payload with a dot is no base64.
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| JwsError::Malformed);
        let (header, payload, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
        let header: Header = serde_json::from_slice(&header).map_err(|_| JwsError::Malformed)?;
        if header.crit.is_some() {
            return Err(JwsError::Critical);
        }
        let algorithm = match header.alg.as_str() {
            "ES256" => Algorithm::Es256,
            "ES384" => Algorithm::Es384,
            "EdDSA" => Algorithm::EdDsa,
            "RS256" => Algorithm::Rs256,
            _ => return Err(JwsError::Algorithm),
        };
        if header.kid.as_deref().is_some_and(|kid| !is_key_id(kid)) {
            return Err(JwsError::KeyId);
        }
        Ok(Self { signed, signature, payload, algorithm, kid: header.kid, kind: header.typ })
    }

    /// Which key is said to have signed it.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// What kind of token it is said to be.
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// Who is said to have issued it: only to choose the keys.
    pub fn issuer(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Issued {
            iss: String,
        }
        serde_json::from_slice::<Issued>(&self.payload).ok().map(|claims| claims.iss)
    }

    /// What it says, once its signature was found to be by `key`.
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

/// Letters, digits and what identifiers are joined with; no path and nothing that would need to be
/// escaped anywhere.
pub(crate) fn is_key_id(kid: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:=+".contains(&b);
    !kid.is_empty()
        && kid.len() <= KID_BYTES_MAX
        && kid.bytes().all(is_allowed)
        && !kid.contains("..")
}

/// A key that verifies, and the one algorithm that it is for.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey(Material);

#[derive(Clone, PartialEq, Eq)]
enum Material {
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
        Self(Material::Ed25519(public.to_vec()))
    }

    /// The key of a JWK; `None` if it is of another kind, for something else, or malformed. A
    /// symmetric key is of another kind: nothing that is published can be a secret.
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
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(&jwk.x).filter(|x| x.len() == 32)?),
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("RSA", _) => {
                // ring takes 2048 to 8192 bits; a leading zero is no part of the number.
                let n: Vec<u8> = bytes(&jwk.n)?.into_iter().skip_while(|b| *b == 0).collect();
                Material::Rsa { n, e: bytes(&jwk.e)? }
            }
            _ => return None,
        };
        let key = Self(material);
        let named = jwk.alg.as_deref();
        named.is_none_or(|named| Some(named) == key.algorithm().as_str()).then_some(key)
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match &self.0 {
            Material::Ed25519(_) => Algorithm::EdDsa,
            Material::P256(_) => Algorithm::Es256,
            Material::P384(_) => Algorithm::Es384,
            Material::Rsa { .. } => Algorithm::Rs256,
        }
    }

    fn is_signature(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            Material::Ed25519(key) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature).is_ok()
            }
            Material::P256(key) => UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, key)
                .verify(message, signature)
                .is_ok(),
            Material::P384(key) => UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, key)
                .verify(message, signature)
                .is_ok(),
            Material::Rsa { n, e } => signature::RsaPublicKeyComponents { n, e }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
        }
    }
}

impl Algorithm {
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
