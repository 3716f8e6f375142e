//! Random bytes from the operating system.

use std::fmt::Write as _;

use ring::rand::{SecureRandom, SystemRandom};

/// `N` cryptographically random bytes; `None` if the operating system gives none.
pub fn random_bytes<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

/// The same as `2 * N` lowercase hex digits.
pub fn random_hex<const N: usize>() -> Option<String> {
    random_bytes::<N>().map(|bytes| hex(&bytes))
}

/// Bytes as lowercase hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The SHA-256 of bytes, as hex digits.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

/// Whether two texts are equal, in constant time.
pub(crate) fn same(a: &str, b: &str) -> bool {
    let differences = a.bytes().zip(b.bytes()).fold(0, |found, (a, b)| found | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differences) == 0
}

/// A keyed hash of credentials, for caches: the credentials themselves are not kept.
#[derive(Clone)]
pub struct Fingerprints(ring::hmac::Key);

impl std::fmt::Debug for Fingerprints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fingerprints")
    }
}

impl Fingerprints {
    /// With a key of this process; `None` if the operating system provides no random numbers.
    pub fn new() -> Option<Self> {
        ring::hmac::Key::generate(ring::hmac::HMAC_SHA256, &SystemRandom::new()).ok().map(Self)
    }

    /// The fingerprint of bytes.
    pub fn of(&self, bytes: &[u8]) -> [u8; 32] {
        let tag = ring::hmac::sign(&self.0, bytes);
        let mut fingerprint = [0; 32];
        fingerprint.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        fingerprint
    }
}
