//! [`Digest`]: the address of content, in an algorithm this registry can verify.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Hasher;
use crate::excerpt::excerpt;

/// A digest algorithm that this registry computes and verifies (image-spec "Registered
/// algorithms").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Algorithm {
    /// SHA-256, the common one.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// The longest raw digest, in bytes.
const RAW_BYTES_MAX: usize = 64;

impl Algorithm {
    /// Every supported algorithm.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The registered name, as it stands before the colon of a digest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal characters a digest has.
    pub const fn hex_len(self) -> usize {
        self.raw_len() * 2
    }

    const fn raw_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => RAW_BYTES_MAX,
        }
    }
}

impl FromStr for Algorithm {
    type Err = InvalidDigest;

    fn from_str(name: &str) -> Result<Self, InvalidDigest> {
        if !is_algorithm(name) {
            let reason = "an algorithm is lowercase letters and digits, joined by one of + . _ -";
            return Err(InvalidDigest::Malformed { digest: excerpt(name), reason });
        }
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name);
        found.ok_or_else(|| InvalidDigest::UnsupportedAlgorithm { algorithm: excerpt(name) })
    }
}

impl TryFrom<String> for Algorithm {
    type Error = InvalidDigest;

    fn try_from(name: String) -> Result<Self, InvalidDigest> {
        name.parse()
    }
}

impl From<Algorithm> for &'static str {
    fn from(algorithm: Algorithm) -> Self {
        algorithm.as_str()
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The digest of some content: `algorithm:hex` (image-spec "Digests").
///
/// - the algorithm is one of [`Algorithm::ALL`];
/// - the encoded part is lowercase hexadecimal of exactly that algorithm's length;
/// - the order of digests is the byte order of their strings.
///
/// A clone copies 65 bytes and allocates nothing.
///
/// ```
/// # use jreg_oci::Digest;
/// let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// assert!(empty.parse::<Digest>().is_ok());
/// assert!("sha256:e3b0".parse::<Digest>().is_err());
/// assert!(empty.to_uppercase().parse::<Digest>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: Algorithm,
    /// The raw digest; zero beyond the algorithm's length.
    raw: [u8; RAW_BYTES_MAX],
}

/// Error of a string that is no digest, or none that this registry can verify.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// Not the grammar `algorithm ":" encoded`, or not the encoding of its algorithm.
    #[error("invalid digest {digest:?}: {reason}")]
    Malformed {
        /// The given value, truncated.
        digest: String,
        /// What is allowed.
        reason: &'static str,
    },
    /// Well formed, in an algorithm that this registry does not compute.
    #[error("unsupported digest algorithm {algorithm:?}: must be sha256 or sha512")]
    UnsupportedAlgorithm {
        /// The given algorithm, truncated.
        algorithm: String,
    },
}

impl Digest {
    /// The digest of `content`.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }

    /// A digest from what the algorithm computed; `raw` has exactly the algorithm's length.
    pub(crate) fn from_raw(algorithm: Algorithm, raw: &[u8]) -> Self {
        let mut inline = [0; RAW_BYTES_MAX];
        inline[..algorithm.raw_len()].copy_from_slice(raw);
        Self { algorithm, raw: inline }
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The encoded part, in lowercase hexadecimal.
    pub fn hex(&self) -> String {
        encode_hex(self.raw())
    }

    fn raw(&self) -> &[u8] {
        &self.raw[..self.algorithm.raw_len()]
    }
}

/// Lowercase hexadecimal.
pub(crate) fn encode_hex(raw: &[u8]) -> String {
    let mut hex = vec![0; 2 * raw.len()];
    write_hex(raw, &mut hex);
    String::from_utf8(hex).expect("hexadecimal is ASCII")
}

/// Writes two digits for each byte. Names of objects are made of digests, so each request has several.
fn write_hex(raw: &[u8], hex: &mut [u8]) {
    let digit = |n: u8| b"0123456789abcdef"[usize::from(n & 0xf)];
    for ([high, low], byte) in hex.as_chunks_mut::<2>().0.iter_mut().zip(raw) {
        (*high, *low) = (digit(byte >> 4), digit(*byte));
    }
}

/// The bytes that lowercase hexadecimal stands for.
pub(crate) fn decode_hex(hex: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let mut raw = Vec::with_capacity(pairs.len());
    for [high, low] in pairs {
        raw.push(unhex(*high)? << 4 | unhex(*low)?);
    }
    Some(raw)
}

fn unhex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// `component (separator component)*` of the image specification.
fn is_algorithm(name: &str) -> bool {
    let is_component = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    name.split(['+', '.', '_', '-']).all(is_component)
}

fn is_encoded(encoded: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'_' | b'-');
    !encoded.is_empty() && encoded.bytes().all(allowed)
}

fn parse(digest: &str) -> Result<Digest, InvalidDigest> {
    let malformed = |reason| InvalidDigest::Malformed { digest: excerpt(digest), reason };
    let Some((algorithm, encoded)) = digest.split_once(':') else {
        return Err(malformed("must be an algorithm, a colon and lowercase hexadecimal"));
    };
    if !is_algorithm(algorithm) {
        return Err(malformed(
            "the algorithm must be lowercase letters and digits, joined by one of + . _ -",
        ));
    }
    if !is_encoded(encoded) {
        return Err(malformed("after the colon only letters, digits and = _ - are allowed"));
    }
    let algorithm: Algorithm = algorithm.parse()?;
    match decode_hex(encoded) {
        Some(raw) if raw.len() == algorithm.raw_len() => Ok(Digest::from_raw(algorithm, &raw)),
        _ => Err(malformed(match algorithm {
            Algorithm::Sha256 => "sha256 takes exactly 64 lowercase hexadecimal characters",
            Algorithm::Sha512 => "sha512 takes exactly 128 lowercase hexadecimal characters",
        })),
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(digest: &str) -> Result<Self, InvalidDigest> {
        parse(digest)
    }
}

impl TryFrom<&str> for Digest {
    type Error = InvalidDigest;

    fn try_from(digest: &str) -> Result<Self, InvalidDigest> {
        parse(digest)
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(digest: String) -> Result<Self, InvalidDigest> {
        parse(&digest)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hex = [0; 2 * RAW_BYTES_MAX];
        write_hex(self.raw(), &mut hex);
        let hex = &hex[..self.algorithm.hex_len()];
        f.write_str(self.algorithm.as_str())?;
        f.write_str(":")?;
        f.write_str(std::str::from_utf8(hex).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
