//! A scope that is understood is written and read back the same, and grants nothing else.
#![no_main]

use jreg_auth::{AccessAction, SCOPES_MAX, TokenScope};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let scope = TokenScope::parse(text.split('\n'));
    let entries = scope.entries();
    assert!(entries.len() <= SCOPES_MAX);
    assert_eq!(TokenScope::of_entries(&entries), scope);
    let mut granted = TokenScope::default();
    for (action, repository) in scope.wanted() {
        granted.grant(action, repository);
    }
    assert_eq!(granted, scope);
    for entry in &entries {
        let name = entry.name.parse().ok();
        for action in AccessAction::ALL {
            // What may be pulled may be mounted from, and fetched.
            let word = match action {
                AccessAction::Mount | AccessAction::Fetch => AccessAction::Pull,
                other => other,
            };
            let is_named = entry.actions.iter().any(|named| named == word.as_str());
            let is_about = entry.kind == "repository";
            assert!(!is_about || is_named == scope.allows(action, name.as_ref()) || name.is_none() || !action.has_repository());
        }
    }
});
