//! Encrypted cursors of the catalog: a repository name, encrypted with a key that is derived
//! from one of a [`Keyring`], and padded to hide its length.

use jreg_oci::RepositoryName;

use crate::Keyring;
use crate::sealed::{ADDED_BYTES, seal, unseal};

/// No repository name begins with it.
const MARK: char = '_';
const PURPOSE: &str = "catalog cursor 1";
/// The length that a name is padded to: the longest has 255 bytes.
const PADDED_BYTES: usize = 256;
/// The length of the base64 of the nonce, the encrypted name and the tag.
const SEALED_CHARS: usize = ((ADDED_BYTES + PADDED_BYTES) * 4).div_ceil(3);

/// The id of the key of a cursor; `None` if the text is no cursor.
pub fn cursor_key_id(cursor: &str) -> Option<&str> {
    parts(cursor).map(|(kid, _)| kid)
}

/// The key id and the ciphertext.
fn parts(cursor: &str) -> Option<(&str, &str)> {
    let (kid, sealed) = cursor.strip_prefix(MARK)?.split_once('.')?;
    (sealed.len() == SEALED_CHARS).then_some((kid, sealed))
}

/// The cursor of a repository; `None` if there are no random numbers.
pub fn encrypt_cursor(keyring: &Keyring, name: &RepositoryName) -> Option<String> {
    let mut bytes = name.as_str().as_bytes().to_vec();
    bytes.resize(PADDED_BYTES.max(bytes.len()), 0);
    let (kid, sealed) = seal(keyring, PURPOSE, &bytes)?;
    Some(format!("{MARK}{kid}.{sealed}"))
}

/// The repository of a cursor; `None` if it is none of this keyring's.
pub fn decrypt_cursor(keyring: &Keyring, cursor: &str) -> Option<RepositoryName> {
    let (kid, sealed) = parts(cursor)?;
    let opened = unseal(keyring, PURPOSE, kid, sealed)?;
    std::str::from_utf8(&opened).ok()?.trim_end_matches('\0').parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_cursor_reveals_nothing_and_decrypts_to_its_name() {
        let keyring = Keyring::new(SystemTime::now()).unwrap();
        let names = ["a", "team/secret-project", &"n".repeat(255)];
        let mut lengths = Vec::new();
        for name in names {
            let name: RepositoryName = name.parse().unwrap();
            let cursor = encrypt_cursor(&keyring, &name).unwrap();
            assert_ne!(encrypt_cursor(&keyring, &name).unwrap(), cursor, "it is encrypted anew");
            assert!(cursor.parse::<RepositoryName>().is_err());
            assert!(keyring.has(cursor_key_id(&cursor).unwrap()));
            assert_eq!(decrypt_cursor(&keyring, &cursor), Some(name));
            lengths.push(cursor.len());
        }
        assert!(lengths.iter().all(|length| *length == lengths[0]), "{lengths:?}");
    }

    #[test]
    fn cursors_of_other_keys_and_tampered_ones_are_rejected() {
        let keyring = Keyring::new(SystemTime::now()).unwrap();
        let other = Keyring::new(SystemTime::now()).unwrap();
        let cursor = encrypt_cursor(&keyring, &"a/b".parse().unwrap()).unwrap();
        assert_eq!(decrypt_cursor(&other, &cursor), None);
        let (kid, sealed) = parts(&cursor).unwrap();
        let other_kid = other.derived(None, PURPOSE).unwrap().0;
        assert_eq!(decrypt_cursor(&other, &format!("_{other_kid}.{sealed}")), None);
        let changed: String = sealed.chars().rev().collect();
        let changed = format!("_{kid}.{changed}");
        assert_eq!(decrypt_cursor(&keyring, &changed), None);
        for rubbish in [
            "",
            "_",
            "_.",
            "_a.b",
            "team/app",
            cursor.trim_start_matches(MARK),
            &cursor.replacen(sealed, "AAAA", 1),
        ] {
            assert_eq!(cursor_key_id(rubbish), None, "{rubbish}");
            assert_eq!(decrypt_cursor(&keyring, rubbish), None, "{rubbish}");
        }
    }
}
