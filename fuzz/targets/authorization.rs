//! What an Authorization header holds keeps its rules, and no message repeats it.
#![no_main]

use jreg_auth::{CREDENTIALS_BYTES_MAX, Credentials, AccessTokenText, UnverifiedToken};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|header: &[u8]| {
    match Credentials::parse(header) {
        Ok(Credentials::Basic { user, password }) => {
            assert!(user.len() <= 255 && !user.contains([':', '\0', '\n']));
            assert!(!password.reveal().contains(['\0', '\n']));
            let again = Credentials::basic(&user, password.reveal());
            assert_eq!(again, Ok(Credentials::Basic { user, password }));
        }
        Ok(Credentials::Bearer(token)) => {
            assert!(header.len() <= CREDENTIALS_BYTES_MAX);
            assert!(!token.reveal().is_empty() && !token.reveal().contains(' '));
            if let Ok(access_token) = AccessTokenText::parse(token.reveal()) {
                assert_eq!(access_token.reveal(), token.reveal());
            }
            if let Ok(parsed) = UnverifiedToken::parse(token.reveal()) {
                assert!(parsed.kid().is_none_or(|kid| !kid.contains(['/', '\\', '\0'])));
                parsed.issuer();
            }
        }
        Err(error) => assert!(error.to_string().len() < 200),
    }
});
