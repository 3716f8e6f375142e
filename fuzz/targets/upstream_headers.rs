//! The headers of other registries: what is read of them keeps its rules.
#![no_main]

#[path = "../../crates/client/src/challenge.rs"]
mod challenge;
#[path = "../../crates/client/src/link.rs"]
mod link;
#[path = "../../crates/client/src/response_range.rs"]
mod response_range;

use challenge::{BearerChallenge, CHALLENGE_BYTES_MAX, Challenge, parse_challenges};
use libfuzzer_sys::fuzz_target;
use response_range::ResponseRange;

fuzz_target!(|header: &str| {
    for found in parse_challenges(header) {
        let Challenge::Bearer(bearer) = found else { continue };
        assert!(!bearer.realm.is_empty() && !bearer.realm.contains(['\n', '\r', '\0']));
        let BearerChallenge { realm, service, scope } = bearer.clone();
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let mut written = format!("Bearer realm=\"{}\"", quoted(&realm));
        for (name, value) in [("service", service), ("scope", scope)] {
            if let Some(value) = value {
                written += &format!(",{name}=\"{}\"", quoted(&value));
            }
        }
        if written.len() <= CHALLENGE_BYTES_MAX {
            assert_eq!(parse_challenges(&written), [Challenge::Bearer(bearer)], "{written}");
        }
    }
    if let Some(target) = link::next_link(header) {
        assert!(header.contains(target) && !target.contains('>'));
        assert_eq!(link::next_link(&format!("<{target}>; rel=\"next\"")), Some(target));
    }
    if let Some(range) = ResponseRange::parse(header) {
        assert!(range.start < range.end && range.total.is_none_or(|total| range.end <= total));
        let ResponseRange { start, end, total } = range;
        let total = total.map_or("*".to_owned(), |total| total.to_string());
        assert_eq!(
            ResponseRange::parse(&format!("bytes {start}-{}/{total}", end - 1)),
            Some(range)
        );
    }
});
