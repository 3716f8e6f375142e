//! A policy file is read or refused, and what was read always decides.
#![no_main]

use std::time::SystemTime;

use jreg_auth::{Action, Grants, Identity, Policy, Query, Source, Tagged};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(policy) = Policy::parse(text) else { return };
    let repository = "team/app".parse().ok();
    for identity in [Identity::Anonymous, Identity::named("alice", Source::Htpasswd)] {
        for action in Action::ALL {
            let query = Query {
                identity: &identity,
                certificate: None,
                action,
                repository: repository.as_ref().filter(|_| action.has_repository()),
                tag: Tagged::Is("v1"),
                address: None,
                now: SystemTime::UNIX_EPOCH,
            };
            policy.decide(&query, Grants::None).reason.to_string();
        }
    }
});
