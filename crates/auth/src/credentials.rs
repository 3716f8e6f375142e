//! [`Credentials`]: the value of an `Authorization` header (RFC 9110 section 11.6.2).

use base64::Engine;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};

use crate::Secret;

/// Maximum length of an `Authorization` header, in bytes. Tokens of jreg have less than 8 KiB, GitHub's
/// about 2.
pub const CREDENTIALS_BYTES_MAX: usize = 24 * 1024;
/// Maximum length of a user name, in bytes.
pub(crate) const USER_BYTES_MAX: usize = 255;

/// RFC 4648 section 4, with or without the padding: clients differ.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The credentials of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A user name and a password (RFC 7617).
    Basic {
        /// Up to 255 bytes, no control characters, no colon, possibly empty.
        user: String,
        /// No control characters.
        password: Secret,
    },
    /// A token (RFC 6750).
    Bearer(Secret),
}

/// Error of a header without valid credentials. No message contains any of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    #[error("the Authorization header is longer than {CREDENTIALS_BYTES_MAX} bytes")]
    TooLong,
    #[error("the Authorization header must begin with Basic or Bearer")]
    Scheme,
    #[error(
        "Basic credentials must be base64 of UTF-8 text without control characters: a name of at \
         most 255 bytes, a colon, a password"
    )]
    Basic,
    #[error("a Bearer token must be printable ASCII without spaces")]
    Bearer,
}

impl Credentials {
    /// Parses the value of a header.
    ///
    /// # Errors
    ///
    /// [`CredentialsError`].
    pub fn parse(header: &[u8]) -> Result<Self, CredentialsError> {
        if header.len() > CREDENTIALS_BYTES_MAX {
            return Err(CredentialsError::TooLong);
        }
        let header = std::str::from_utf8(header).map_err(|_| CredentialsError::Scheme)?;
        let (scheme, rest) = header.split_once(' ').ok_or(CredentialsError::Scheme)?;
        let rest = rest.trim_matches(' ');
        match scheme {
            _ if scheme.eq_ignore_ascii_case("basic") => basic(rest).ok_or(CredentialsError::Basic),
            _ if scheme.eq_ignore_ascii_case("bearer") => Self::bearer(rest),
            _ => Err(CredentialsError::Scheme),
        }
    }

    /// Credentials of a user name and a password from elsewhere, by the same rules.
    ///
    /// # Errors
    ///
    /// [`CredentialsError::Basic`].
    pub fn basic(user: &str, password: &str) -> Result<Self, CredentialsError> {
        let is_fit = user.len() <= USER_BYTES_MAX
            && password.len() <= CREDENTIALS_BYTES_MAX
            && !user.contains(':')
            && [user, password].iter().all(|text| is_printable(text));
        let basic = || Self::Basic { user: user.to_owned(), password: Secret::new(password) };
        is_fit.then(basic).ok_or(CredentialsError::Basic)
    }

    /// Credentials of a token from elsewhere, by the same rules.
    ///
    /// # Errors
    ///
    /// [`CredentialsError::TooLong`], [`CredentialsError::Bearer`].
    pub fn bearer(token: &str) -> Result<Self, CredentialsError> {
        if token.len() > CREDENTIALS_BYTES_MAX {
            return Err(CredentialsError::TooLong);
        }
        // Without an early exit, so that it is vectorized.
        let is_graphic = token.bytes().fold(true, |is, byte| is & byte.is_ascii_graphic());
        let is_fit = !token.is_empty() && is_graphic;
        is_fit.then(|| Self::Bearer(Secret::new(token))).ok_or(CredentialsError::Bearer)
    }
}

/// Whether a text has no control characters.
fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~')) || !text.contains(char::is_control)
}

fn basic(encoded: &str) -> Option<Credentials> {
    let decoded = String::from_utf8(BASE64.decode(encoded).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Credentials::basic(user, password).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn encoded(bytes: &[u8]) -> Vec<u8> {
        format!("Basic {}", BASE64.encode(bytes)).into_bytes()
    }

    fn user_and_password(header: &[u8]) -> (String, String) {
        match Credentials::parse(header).unwrap() {
            Credentials::Basic { user, password } => (user, password.reveal().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn basic_is_a_name_a_colon_and_a_password() {
        let of = |user: &str, password: &str| (user.to_owned(), password.to_owned());
        assert_eq!(user_and_password(b"Basic YTpi"), of("a", "b"));
        assert_eq!(user_and_password(b"bASIC   YTpi  "), of("a", "b"));
        assert_eq!(user_and_password(&encoded(b"a:b:c")), of("a", "b:c"));
        assert_eq!(user_and_password(&encoded(b":token")), of("", "token"));
        assert_eq!(user_and_password(&encoded("ä:ß".as_bytes())), of("ä", "ß"));
        assert_eq!(user_and_password(b"Basic YTpiYw"), of("a", "bc"), "without padding");
    }

    #[test]
    fn malformed_basic_credentials_are_rejected() {
        let long = vec![b'u'; USER_BYTES_MAX + 1];
        let mut long = long;
        long.extend_from_slice(b":p");
        for bytes in [&b"nocolon"[..], b"a:b\0c", b"a\0:b", b"a:\xff", b"a\n:b", b"", &long] {
            let parsed = Credentials::parse(&encoded(bytes));
            assert_eq!(parsed, Err(CredentialsError::Basic), "{bytes:?}");
        }
        for text in ["Basic", "Basic !!!!", "Basic YTpi YTpi", "Digest a=b", "", "YTpi"] {
            assert!(Credentials::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert_eq!(Credentials::parse(&[0xff, b' ', b'a']), Err(CredentialsError::Scheme));
    }

    #[test]
    fn a_megabyte_is_rejected_before_it_is_decoded() {
        let huge = encoded(&vec![b'a'; 1024 * 1024]);
        assert_eq!(Credentials::parse(&huge), Err(CredentialsError::TooLong));
    }

    #[test]
    fn bearer_is_a_token() {
        let parsed = Credentials::parse(b"Bearer a.b.c").unwrap();
        assert_eq!(parsed, Credentials::Bearer(Secret::new("a.b.c")));
        for text in ["Bearer ", "Bearer a b", "Bearer a\tb", "Bearer ä"] {
            let parsed = Credentials::parse(text.as_bytes());
            assert_eq!(parsed, Err(CredentialsError::Bearer), "{text:?}");
        }
    }

    #[test]
    fn nothing_prints_a_secret() {
        for header in [&b"Bearer hush.hush.hush"[..], b"Basic dXNlcjpodXNo"] {
            let text = format!("{:?}", Credentials::parse(header).unwrap());
            assert!(!text.contains("hush"), "{text}");
        }
    }
}
