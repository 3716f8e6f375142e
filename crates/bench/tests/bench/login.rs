//! Names, passwords and tokens: what is asked of the server of tokens, and how often.

use jreg_bench::{BenchError, BenchRun, measure};

use crate::common::{block_on, one_by_one, plan};
use crate::fake::{FakeRegistry, FakeRequest, FakeResponse, response, response_with};

fn header<'a>(asked: &'a FakeRequest, name: &str) -> Option<&'a str> {
    asked.headers.get(name).map(|value| value.to_str().unwrap())
}

fn authorization(asked: &FakeRequest) -> Option<&str> {
    header(asked, "authorization")
}

/// What a request needs the right to.
fn scope(asked: &FakeRequest) -> String {
    let Some((_, rest)) = asked.target.split_once("/v2/bench/") else {
        return "registry:catalog:*".to_owned();
    };
    let name = ["/blobs/", "/manifests/", "/tags/"]
        .iter()
        .find_map(|part| rest.split_once(part))
        .unwrap()
        .0;
    let actions =
        if ["GET", "HEAD"].contains(&asked.method.as_str()) { "pull" } else { "pull,push" };
    format!("repository:bench/{name}:{actions}")
}

/// Grants a token for what was asked to who knows the password.
fn token(asked: &FakeRequest) -> FakeResponse {
    if authorization(asked) != Some("Basic bWU6c2VjcmV0") {
        return response(401, "{}");
    }
    let query = asked.target.split_once('?').unwrap().1;
    response(200, format!(r#"{{"token":"for {query}"}}"#))
}

/// A registry that asks for a token of the server at `realm`.
async fn guarded(realm: String) -> FakeRegistry {
    FakeRegistry::misbehaving(move |asked| {
        let scope = scope(asked);
        let good = |shown: &str| {
            let decoded = shown.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
            // Push implies pull.
            decoded.starts_with("Bearer for service=fake&scope=")
                && decoded.contains(scope.trim_end_matches(",push"))
                && (!scope.ends_with("push") || decoded.ends_with("pull,push"))
        };
        match authorization(asked) {
            Some(shown) if good(shown) => None,
            _ => {
                let asks =
                    format!(r#"Bearer realm="{realm}/token",service="fake",scope="{scope}""#);
                Some(response_with(401, "www-authenticate", &asks))
            }
        }
    })
    .await
}

async fn run_as(url: &str, user: Option<&str>) -> Result<BenchRun, BenchError> {
    let mut plan = plan(url);
    plan.credentials = user.map(|user| user.parse().unwrap());
    plan.workloads = ["push-docker-4k", "blob-get-4k"].map(|name| name.parse().unwrap()).to_vec();
    measure(plan, &mut |_| {}).await
}

#[test]
fn a_token_is_fetched_for_each_scope_and_used_again() {
    block_on(async {
        let tokens = FakeRegistry::misbehaving(|asked| Some(token(asked))).await;
        let registry = guarded(tokens.url()).await;
        let run = run_as(&registry.url(), Some("me:secret")).await.unwrap();
        for measured in &run.results {
            assert_eq!((measured.operations, measured.errors.len()), (4, 0), "{measured:?}");
        }
        let asked = tokens.asked();
        let scopes: Vec<_> =
            asked.iter().map(|asked| asked.target.split_once("scope=").unwrap().1).collect();
        let kinds = ["registry%3Acatalog%3A*", "%3Apull%2Cpush", "%3Apull"];
        let count = |end: &str| scopes.iter().filter(|scope| scope.ends_with(end)).count();
        // Three workers may find at the same time that there is none yet.
        for kind in kinds {
            assert!((1..=3).contains(&count(kind)), "{kind}: {scopes:?}");
        }
        assert_eq!(scopes.len(), kinds.map(count).iter().sum::<usize>());
        let refused =
            registry.asked().iter().filter(|asked| authorization(asked).is_none()).count();
        assert_eq!(refused, scopes.len(), "no request goes without a token where there is one");
    });
}

#[test]
fn a_wrong_password_is_an_error() {
    block_on(async {
        let tokens = FakeRegistry::misbehaving(|asked| Some(token(asked))).await;
        let registry = guarded(tokens.url()).await;
        for user in [Some("me:wrong"), None] {
            let error = run_as(&registry.url(), user).await.unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert_eq!(source, "no token: its server refused");
        }
    });
}

#[test]
fn a_name_and_a_password_are_shown_where_they_are_asked_for() {
    block_on(async {
        let registry = FakeRegistry::misbehaving(|asked| match authorization(asked) {
            Some("Basic bWU6c2VjcmV0") => None,
            _ => Some(response_with(401, "www-authenticate", r#"Basic realm="fake""#)),
        })
        .await;
        let run = one_by_one(&registry.url(), "push-known-4k", |plan| {
            plan.credentials = Some("me:secret".parse().unwrap());
        })
        .await;
        assert_eq!((run.results[0].operations, run.results[0].errors.len()), (4, 0));
        assert!(run_as(&registry.url(), None).await.is_err());
    });
}
