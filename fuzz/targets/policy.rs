//! A policy file is read or refused, and what was read always decides.
#![no_main]

use std::time::SystemTime;

use jreg_auth::{AccessAction, CredentialGrants, Identity, Policy, PolicyQuery, IdentitySource, QueryTag};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(policy) = Policy::parse(text) else { return };
    let repository = "team/app".parse().ok();
    for identity in [Identity::Anonymous, Identity::named("alice", IdentitySource::Htpasswd)] {
        for action in AccessAction::ALL {
            let query = PolicyQuery {
                identity: &identity,
                certificate: None,
                action,
                repository: repository.as_ref().filter(|_| action.has_repository()),
                tag: QueryTag::Is("v1"),
                address: None,
                now: SystemTime::UNIX_EPOCH,
            };
            policy.decide(&query, CredentialGrants::None).reason.to_string();
        }
    }
});
