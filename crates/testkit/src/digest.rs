//! Digests as a client computes them, apart from jreg's own code.

use std::fmt::Write;

use sha2::{Digest, Sha256, Sha512};

/// `sha256:` and 64 hex digits.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    spell("sha256:", &Sha256::digest(bytes))
}

/// `sha512:` and 128 hex digits.
pub fn sha512(bytes: impl AsRef<[u8]>) -> String {
    spell("sha512:", &Sha512::digest(bytes))
}

fn spell(algorithm: &str, hash: &[u8]) -> String {
    hash.iter().fold(algorithm.to_owned(), |mut digest, byte| {
        write!(digest, "{byte:02x}").expect("writing to a string does not fail");
        digest
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_nothing_are_the_published_ones() {
        assert!(sha256("").starts_with("sha256:e3b0c44298fc1c149afbf4c8996fb924"));
        assert!(sha512("").starts_with("sha512:cf83e1357eefb8bdf1542850d66d8007"));
    }
}
