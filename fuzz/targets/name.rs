//! A repository name is kept as it was written, and is safe in a path.
#![no_main]

use jreg_oci::{NAME_CHARS_MAX, RepositoryName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(name) = text.parse::<RepositoryName>() else { return };
    assert_eq!(name.as_str(), text);
    assert!(text.len() <= NAME_CHARS_MAX);
    for component in text.split('/') {
        let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        assert!(component.starts_with(is_alphanumeric) && component.ends_with(is_alphanumeric));
        assert!(!component.contains("..") && !component.contains("___"));
    }
});
