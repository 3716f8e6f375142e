//! A media type is kept as it was written, whether it came alone or with parameters.
#![no_main]

use jreg_oci::{MEDIA_TYPE_BYTES_MAX, MediaType};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(media_type) = text.parse::<MediaType>() {
        assert_eq!(media_type.as_str(), text);
        assert!(text.len() <= MEDIA_TYPE_BYTES_MAX && media_type.is(text));
        assert_eq!(MediaType::from_content_type(text), Ok(media_type));
    }
    if let Ok(media_type) = MediaType::from_content_type(text) {
        assert!(text.trim_start().starts_with(media_type.as_str()));
        assert_eq!(media_type.as_str().parse(), Ok(media_type.clone()));
        assert!(!media_type.as_str().contains([';', ' ', '\r', '\n', '\0']));
    }
});
