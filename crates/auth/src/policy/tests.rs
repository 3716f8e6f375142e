//! What policies say.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::NamedIdentity;

const FILE: &str = r#"
[groups]
developers = ["alice", "bob"]

[[issuer]]
name = "github"
issuer = "https://token.actions.githubusercontent.com"
audience = "https://registry.example.com"
jwks-url = "https://token.actions.githubusercontent.com/.well-known/jwks"
identity = "{repository}"

[[rule]]
name = "developers"
subjects = ["group:developers"]
repositories = ["team/**"]
actions = ["pull", "push"]

[[rule]]
name = "no secrets"
effect = "deny"
subjects = ["everyone"]
repositories = ["team/secret/**"]
actions = ["pull", "push", "delete", "mount"]

[[rule]]
name = "releases"
subjects = ["issuer:github"]
claims = { repository = "acme/app" }
repositories = ["acme/app"]
actions = ["push"]
condition = "tag == '' || tag.startsWith('v')"

[[rule]]
name = "public"
subjects = ["everyone"]
repositories = ["public/*"]
actions = ["pull"]

[[rule]]
name = "bases may be built on"
subjects = ["authenticated"]
repositories = ["base/*"]
actions = ["mount"]

[[rule]]
name = "lists"
subjects = ["authenticated"]
actions = ["list"]
"#;

fn user(name: &str) -> Identity {
    Identity::named(name, IdentitySource::Htpasswd)
}

fn workload(repository: &str) -> Identity {
    Identity::Named(Box::new(NamedIdentity {
        name: format!("github:{repository}"),
        groups: BTreeSet::new(),
        claims: [("repository".to_owned(), repository.into())].into(),
        source: IdentitySource::Issuer("github".to_owned()),
    }))
}

fn decide(
    policy: &Policy,
    identity: &Identity,
    action: AccessAction,
    name: &str,
    tag: QueryTag<'_>,
) -> PolicyDecision {
    let repository: Option<RepositoryName> = name.parse().ok();
    let query = PolicyQuery {
        identity,
        certificate: None,
        action,
        repository: repository.as_ref(),
        tag,
        address: None,
        now: SystemTime::UNIX_EPOCH,
    };
    policy.decide(&query, CredentialGrants::None)
}

fn says(identity: &Identity, action: AccessAction, name: &str) -> (bool, String) {
    let policy = Policy::parse(FILE).unwrap();
    let decision = decide(&policy, identity, action, name, QueryTag::No);
    (decision.allowed, decision.reason.to_string())
}

#[test]
fn the_deciding_rule_is_named() {
    let yes = |rule: &str| (true, rule.to_owned());
    let no = |rule: &str| (false, rule.to_owned());
    let alice = &user("alice");
    assert_eq!(says(alice, AccessAction::Push, "team/app"), yes("rule 1 (developers)"));
    assert_eq!(says(alice, AccessAction::Push, "team/secret/x"), no("rule 2 (no secrets)"));
    assert_eq!(says(alice, AccessAction::Delete, "team/app"), no("no rule allows it"));
    assert_eq!(says(&user("carol"), AccessAction::Push, "team/app"), no("no rule allows it"));
    assert_eq!(says(&Identity::Anonymous, AccessAction::Pull, "public/x"), yes("rule 4 (public)"));
    assert_eq!(says(&Identity::Anonymous, AccessAction::List, ""), no("no rule allows it"));
    assert_eq!(says(alice, AccessAction::List, ""), yes("rule 6 (lists)"));
}

#[test]
fn a_pull_is_also_for_mounting_and_not_the_other_way_round() {
    let alice = &user("alice");
    assert!(says(alice, AccessAction::Mount, "team/app").0);
    assert!(!says(alice, AccessAction::Mount, "team/secret/x").0);
    assert!(says(alice, AccessAction::Mount, "base/x").0);
    assert!(!says(alice, AccessAction::Pull, "base/x").0);
}

#[test]
fn a_pull_is_also_for_fetching_except_for_anonymous_clients() {
    let policy = |rules: &str| Policy::parse(rules).unwrap();
    let everyone = "[[rule]]\nsubjects = ['everyone']\nrepositories = ['hub/**']\nactions = ";
    let may = |policy: &Policy, identity: &Identity| {
        decide(policy, identity, AccessAction::Fetch, "hub/x", QueryTag::No).allowed
    };
    let pull = policy(&format!("{everyone}['pull']"));
    assert!(may(&pull, &user("alice")) && !may(&pull, &Identity::Anonymous));
    let fetch = policy(&format!("{everyone}['pull', 'fetch']"));
    assert!(may(&fetch, &user("alice")) && may(&fetch, &Identity::Anonymous));
    for denied in ["pull", "fetch"] {
        let deny = policy(&format!(
            "{everyone}['pull', 'fetch']\n{everyone}['{denied}']\neffect = 'deny'"
        ));
        assert!(!may(&deny, &user("alice")) && !may(&deny, &Identity::Anonymous), "{denied}");
    }
    let hub = &"hub".parse().unwrap();
    assert!(pull.may_anonymous_pull_below(hub));
    for (pattern, reaches) in [
        ("**", true),
        ("h*/**", true),
        ("hub/library/**", true),
        ("hub/x", true),
        ("hub", false),
        ("hubs/**", false),
        ("team/**", false),
    ] {
        let rules = format!(
            "[[rule]]\nsubjects = ['anonymous']\nrepositories = ['{pattern}']\nactions = ['pull']"
        );
        assert_eq!(policy(&rules).may_anonymous_pull_below(hub), reaches, "{pattern}");
    }
}

#[test]
fn what_depends_on_the_tag_is_known_before_any_tag_is() {
    let policy = Policy::parse(FILE).unwrap();
    let depends = |identity: &Identity, action, name: &str| {
        let repository = name.parse().ok();
        policy.depends_on_tag(&PolicyQuery {
            identity,
            certificate: None,
            action,
            repository: repository.as_ref(),
            tag: QueryTag::No,
            address: None,
            now: SystemTime::UNIX_EPOCH,
        })
    };
    assert!(depends(&workload("acme/app"), AccessAction::Push, "acme/app"));
    assert!(!depends(&workload("acme/app"), AccessAction::Pull, "acme/app"));
    assert!(!depends(&workload("acme/app"), AccessAction::Push, "acme/other"));
    assert!(!depends(&user("alice"), AccessAction::Push, "acme/app"));
}

#[test]
fn identities_cannot_be_impersonated_across_sources() {
    let access_token =
        Identity::named("access-token:alice", IdentitySource::AccessToken("1".to_owned()));
    assert!(!says(&access_token, AccessAction::Push, "team/app").0);
    let certificate = Identity::named("certificate:alice", IdentitySource::Certificate);
    assert!(!says(&certificate, AccessAction::Push, "team/app").0);
}

#[test]
fn claims_and_conditions_narrow() {
    let policy = Policy::parse(FILE).unwrap();
    let push = |identity: &Identity, tag| {
        decide(&policy, identity, AccessAction::Push, "acme/app", tag).allowed
    };
    assert!(push(&workload("acme/app"), QueryTag::Is("v1")));
    assert!(push(&workload("acme/app"), QueryTag::No));
    assert!(!push(&workload("acme/app"), QueryTag::Is("latest")));
    assert!(push(&workload("acme/app"), QueryTag::Unknown), "decided again with the request");
    assert!(!push(&workload("evil/app"), QueryTag::Is("v1")));
    assert!(!push(&user("acme/app"), QueryTag::Is("v1")));
}

#[test]
fn a_failing_condition_grants_nothing() {
    let rule = |effect: &str| {
        format!(
            "[[rule]]\nsubjects = [\"everyone\"]\nrepositories = [\"**\"]\nactions = [\"pull\"]\n\
             [[rule]]\nname = \"x\"\neffect = \"{effect}\"\nsubjects = [\"everyone\"]\n\
             repositories = [\"**\"]\nactions = [\"push\", \"pull\"]\n\
             condition = \"identity.claims.env == 'prod'\""
        )
    };
    let alice = user("alice");
    let allow = Policy::parse(&rule("allow")).unwrap();
    assert!(!decide(&allow, &alice, AccessAction::Push, "a", QueryTag::No).allowed);
    let deny = Policy::parse(&rule("deny")).unwrap();
    let denied = decide(&deny, &alice, AccessAction::Pull, "a", QueryTag::No);
    assert!(!denied.allowed);
    assert!(matches!(denied.reason, DecisionReason::Condition { .. }), "{denied:?}");
}

#[test]
fn without_a_file_users_may_use_all_repositories_and_others_nothing() {
    let policy = Policy::of_users();
    for action in AccessAction::ALL {
        let allowed = decide(&policy, &user("alice"), action, "a/b", QueryTag::No).allowed;
        assert_eq!(allowed, action != AccessAction::Admin, "{action}");
        for other in [Identity::Anonymous, workload("a/b")] {
            assert!(!decide(&policy, &other, action, "a/b", QueryTag::No).allowed, "{action}");
        }
    }
    assert!(!policy.has_anonymous());
    let open = Policy::of_users().with_anonymous_pull();
    assert!(open.has_anonymous());
    assert!(decide(&open, &Identity::Anonymous, AccessAction::Pull, "a/b", QueryTag::No).allowed);
    assert!(!decide(&open, &Identity::Anonymous, AccessAction::Push, "a/b", QueryTag::No).allowed);
}

#[test]
fn an_empty_file_allows_nothing() {
    let policy = Policy::parse("").unwrap();
    for action in AccessAction::ALL {
        assert!(!decide(&policy, &user("alice"), action, "a", QueryTag::No).allowed);
    }
}

#[test]
fn errors_of_a_file_name_the_problem() {
    let rule = |lines: &str| format!("[[rule]]\nname = \"r\"\n{lines}");
    let whole = "subjects = ['everyone']\nrepositories = ['**']\nactions = ['pull']\n";
    for (text, part) in [
        ("x = 1".to_owned(), "unknown field `x`"),
        ("[[rule]]".to_owned(), "missing field"),
        (rule("subjects = []\nactions = ['pull']\nrepositories = ['a']"), "has no subjects"),
        (rule("subjects = ['everyone']\nactions = ['pull']"), "has no repositories"),
        (rule("subjects = ['everyone']\nactions = []\nrepositories = ['a']"), "has no actions"),
        (
            rule("subjects = ['alice']\nactions = ['pull']\nrepositories = ['a']"),
            "is none of everyone",
        ),
        (
            rule("subjects = ['group:x']\nactions = ['pull']\nrepositories = ['a']"),
            "there is no group",
        ),
        (
            rule("subjects = ['issuer:x']\nactions = ['pull']\nrepositories = ['a']"),
            "there is no [[issuer]]",
        ),
        (
            rule("subjects = ['everyone']\nactions = ['read']\nrepositories = ['a']"),
            "action \"read\" is none of pull",
        ),
        (
            rule("subjects = ['everyone']\nactions = ['pull']\nrepositories = ['../a']"),
            "no repository name can match it",
        ),
        (rule(&format!("{whole}condition = 'tag =='")), "condition cannot be used"),
        (rule(&format!("{whole}effect = 'maybe'")), "unknown variant `maybe`"),
        (rule(&format!("{whole}efect = 'deny'")), "unknown field `efect`"),
        ("[groups]\n'a:b' = ['x']".to_owned(), "must not be empty nor have a colon"),
        ("not toml".to_owned(), "TOML"),
    ] {
        let error = Policy::parse(&text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}\n{error}");
    }
    assert!(matches!(Policy::parse(&"#".repeat(POLICY_BYTES_MAX + 1)), Err(PolicyError::TooLarge)));
}

fn tested(rule: &str) -> Policy {
    let issuer =
        "[[issuer]]\nname = 'idp'\nissuer = 'https://idp'\naudience = 'us'\njwks-file = '/k'\n";
    Policy::parse(&format!("{issuer}{rule}")).unwrap()
}

fn of_idp() -> crate::NamedIdentity {
    crate::NamedIdentity {
        name: "idp:alice".to_owned(),
        groups: ["idp:a", "idp:b", "idp:c"].map(str::to_owned).into(),
        claims: ["x", "y", "z"].map(|name| (name.to_owned(), name.into())).into(),
        source: IdentitySource::Issuer("idp".to_owned()),
    }
}

#[test]
fn a_session_keeps_the_claims_and_groups_that_rules_test() {
    let allow = "[[rule]]\nsubjects = ['group:idp:a', 'user:idp:alice']\nclaims = { x = '1' }\n\
                 repositories = ['**']\nactions = ['pull']\n";
    let condition = |text: &str| format!("{allow}condition = \"{text}\"\n");
    for (rules, groups, claims) in [
        (String::new(), &[][..], &[][..]),
        (allow.to_owned(), &["idp:a"], &["x"]),
        (condition("identity.name == 'a'"), &["idp:a"], &["x"]),
        (condition("identity.claims.y == 'a'"), &["idp:a"], &["x", "y"]),
        (condition("has(identity.claims.y)"), &["idp:a"], &["x", "y"]),
        (condition("identity.claims.y.of.z == 'a'"), &["idp:a"], &["x", "y"]),
        (condition("identity.claims['y'] == 'a'"), &["idp:a"], &["x", "y"]),
        (condition("'y' in identity.claims"), &["idp:a"], &["x", "y"]),
        (condition("'idp:b' in identity.groups"), &["idp:a", "idp:b"], &["x"]),
        (condition("!('idp:b' in identity.groups)"), &["idp:a", "idp:b"], &["x"]),
        (condition("identity.groups.size() < 2"), &["idp:a", "idp:b", "idp:c"], &["x"]),
        (condition("identity.groups.exists(g, g == tag)"), &["idp:a", "idp:b", "idp:c"], &["x"]),
        (condition("tag in identity.claims"), &["idp:a"], &["x", "y", "z"]),
        (condition("identity.claims[tag] == 'a'"), &["idp:a"], &["x", "y", "z"]),
        (condition("identity.claims.size() == 1"), &["idp:a"], &["x", "y", "z"]),
        (condition("identity == identity"), &["idp:a", "idp:b", "idp:c"], &["x", "y", "z"]),
    ] {
        let policy = tested(&rules);
        let narrow = policy.tested_claims().narrowed(of_idp());
        assert_eq!(Vec::from_iter(&narrow.groups), groups, "{rules}");
        assert_eq!(Vec::from_iter(narrow.claims.keys()), claims, "{rules}");
        assert_eq!(narrow.name, "idp:alice");
    }
}

/// What an allow rule tests is not missed: it does not apply without it. A deny rule does not, either.
#[test]
fn a_policy_that_could_miss_a_claim_differs_from_one_that_could_not() {
    let rule = |effect: &str, more: &str| {
        format!(
            "[[rule]]\nsubjects = ['group:idp:{more}']\nrepositories = ['**']\nactions = ['pull']\n\
             effect = '{effect}'\nclaims = {{ {more} = '1' }}\n"
        )
    };
    let decisive = |rules: &str| tested(rules).decisive_claims();
    let none = decisive("");
    assert_eq!(decisive(&rule("allow", "a")), none);
    let denying = decisive(&rule("deny", "a"));
    assert_ne!(denying, none);
    assert_ne!(denying, decisive(&rule("deny", "b")));
    assert_eq!(denying, decisive(&format!("{}{}", rule("deny", "a"), rule("allow", "b"))));
    let conditional = rule("allow", "a") + "condition = \"!has(identity.claims.q)\"\n";
    assert_ne!(decisive(&conditional), none, "a condition may hold without a claim");
}

#[test]
fn nobody_administers_without_a_policy_unless_the_settings_name_them() {
    let admin = |policy: &Policy, identity: &Identity| {
        let query = PolicyQuery {
            identity,
            certificate: None,
            action: AccessAction::Admin,
            repository: None,
            tag: QueryTag::No,
            address: None,
            now: SystemTime::UNIX_EPOCH,
        };
        policy.decide(&query, CredentialGrants::None)
    };
    let alice = Identity::named("alice", IdentitySource::Htpasswd);
    let bob = Identity::named("bob", IdentitySource::Htpasswd);
    let policy = Policy::of_users();
    for identity in [&Identity::Anonymous, &alice, &bob] {
        assert!(!admin(&policy, identity).allowed);
    }
    let policy = Policy::of_users().with_anonymous_pull().with_admins(&["alice".to_owned()]);
    assert!(!admin(&policy, &Identity::Anonymous).allowed && !admin(&policy, &bob).allowed);
    let decision = admin(&policy, &alice);
    assert!(decision.allowed);
    assert_eq!(decision.reason.to_string(), "admins");
    let denied = tested("[[rule]]\nsubjects = ['users']\nactions = ['admin']\neffect = 'deny'\n");
    assert!(!admin(&denied.with_admins(&["alice".to_owned()]), &alice).allowed);
}
