//! A file of users is read or refused; adding and removing a user leaves the others alone.
#![no_main]

use jreg_auth::{Htpasswd, removed_user, with_user};
use libfuzzer_sys::fuzz_target;

const HASH: &str = "$2y$05$HhmvnqZDbOcyPZyoeG6qXeUtX8Qkzz9JsfwIVKqnnyDoMSyABmRFu";

fuzz_target!(|text: &str| {
    let Ok(users) = Htpasswd::parse(text) else { return };
    let before: Vec<_> = users.names().filter(|name| *name != "new").map(str::to_owned).collect();
    let Ok(with) = with_user(text, "new", HASH) else { return };
    let added = Htpasswd::parse(&with).expect("what was right stays right");
    assert!(added.get("new").is_some());
    let without = removed_user(&with, "new").expect("it is there");
    let after = Htpasswd::parse(&without).expect("what was right stays right");
    assert!(after.names().eq(before.iter().map(String::as_str)));
});
