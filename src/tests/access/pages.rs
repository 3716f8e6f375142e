//! Every page for every kind of person: a page of the table without a row here fails.

use jreg_http::{UI_ROUTES, UiRouteInfo};
use jreg_oci::Digest;

use super::browser::{Browser, ORIGIN};
use super::guarded::{INDEX, Registry, basic, hash_of};
use super::provider::{client, issuer};

/// The kinds of people, in the order of the statuses of a row.
const PEOPLE: [&str; 4] = ["anonymous", "reader", "writer", "bob"];

const RULES: &str = "
[[rule]]
name = 'readers'
subjects = ['user:reader', 'user:writer']
repositories = ['open/**']
actions = ['pull', 'list']

[[rule]]
name = 'writers'
subjects = ['user:writer']
repositories = ['open/**']
actions = ['push', 'delete']

[[rule]]
name = 'administrators'
subjects = ['user:bob']
repositories = ['**']
actions = ['admin', 'list']
";

/// What a page responds to each kind of person: of a repository that the first may not see, the second may pull from,
/// the third may change, and the fourth, an administrator, may not see either.
fn statuses(id: &str, method: &str) -> [u16; 4] {
    const EVERYONE: [u16; 4] = [200; 4];
    // Without credentials each repository is refused alike; with them it is as if it were not there.
    const OF_REPOSITORY: [u16; 4] = [403, 200, 200, 404];
    match (id, method) {
        ("ui-asset", "GET" | "HEAD") => [404; 4],
        ("ui-repositories" | "ui-search" | "ui-activity", "GET" | "HEAD") => [403, 200, 200, 200],
        ("ui-usage", "GET" | "HEAD") => [403, 200, 200, 200],
        ("ui-login", "GET" | "HEAD") => EVERYONE,
        // The form names no user.
        ("ui-login", "POST") => [403; 4],
        ("ui-login-begin", "GET") => [303; 4],
        // No login is in progress.
        ("ui-login-callback", "GET") => [403; 4],
        ("ui-logout", "POST") => [303; 4],
        ("ui-account", "GET" | "HEAD") => [303, 200, 200, 200],
        ("ui-account", "POST") => [403, 200, 200, 200],
        ("ui-access-tokens" | "ui-policy-test" | "ui-mirrors", "GET" | "HEAD") => {
            [403, 403, 403, 200]
        }
        ("ui-access-tokens", "POST") => [403, 403, 403, 200],
        // There is no such token.
        ("ui-access-token-revoke", "POST") => [403, 403, 403, 404],
        ("ui-repository" | "ui-image" | "ui-manifests" | "ui-lifecycle", "GET" | "HEAD") => {
            OF_REPOSITORY
        }
        ("ui-repository-usage" | "ui-history" | "ui-referrers" | "ui-kept", "GET" | "HEAD") => {
            OF_REPOSITORY
        }
        ("ui-blob", "GET" | "HEAD") => OF_REPOSITORY,
        // Who may not change a repository is told so of each name, whether it exists or not.
        ("ui-deleted" | "ui-delete", "GET" | "HEAD") => [403, 403, 200, 403],
        // There is nothing of this digest.
        ("ui-delete" | "ui-restore-tag" | "ui-restore-manifest", "POST") => [403, 403, 404, 403],
        _ => panic!("no row for {method} {id}"),
    }
}

async fn registry() -> Registry {
    let policy = format!("{}{RULES}", issuer("idp"));
    let registry = Registry::with(Some(&policy), |settings| {
        settings.public_url = Some(jreg_config::Value::parse(ORIGIN).unwrap());
        settings.login_clients = vec![client("idp")];
    });
    let registry = Box::pin(registry).await;
    let users = ["reader", "writer", "bob"]
        .map(|name| format!("{name}:{}\n", bcrypt::hash("secret", 4).unwrap()));
    registry.write("users", &users.concat());
    registry
}

#[tokio::test]
async fn every_page_is_for_those_who_have_its_right() {
    let registry = registry().await;
    let (manifest, blob): (Digest, Digest) = (hash_of(INDEX.as_bytes()), hash_of(b"x"));
    let fields = [
        ("tag", "none"),
        ("digest", &*blob.to_string()),
        ("name", "ci"),
        ("allow", "pull:open/**"),
        ("id", "0123456789abcdef"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let ask = async |row: &UiRouteInfo, name: &str, method: &str, person: &str| {
        let digest = if row.id == "ui-blob" { &blob } else { &manifest };
        let target = row.template.replace("{name}", name).replace("{tag}", "latest");
        let target = target.replace("{digest}", &digest.to_string());
        let target = target.replace("{issuer}", "idp").replace("{asset}", "none");
        let mut browser = Browser::new(&registry);
        match person {
            "anonymous" => drop(browser.get("/ui/-/login").await),
            name => {
                assert_eq!(browser.log_in(name, "secret").await.status, 303, "{name}");
                browser.get("/ui/-/account").await;
            }
        }
        let response = match method {
            "POST" => {
                let fields = fields.iter().map(|(name, value)| (&**name, &**value));
                let path = target.split('?').next().unwrap();
                browser.post(path, &fields.collect::<Vec<_>>()).await
            }
            "HEAD" => browser.head(&target).await,
            _ => browser.get(&target).await,
        };
        response.status.as_u16()
    };
    let mut wrong = Vec::new();
    for row in UI_ROUTES {
        for method in row.methods {
            let expected = statuses(row.id, method);
            for (person, expected) in PEOPLE.into_iter().zip(expected) {
                let status = ask(row, "open/app", method, person).await;
                if ["anonymous", "bob"].contains(&person) {
                    let absent = ask(row, "open/none", method, person).await;
                    assert_eq!(absent, status, "{method} {} tells {person}", row.template);
                }
                if status != expected {
                    wrong.push(format!(
                        "{method} {} by {person}: {status}, not {expected}",
                        row.template
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Without credentials the page says the status that the response has.
    let refused = Browser::new(&registry).get("/ui/open/app").await;
    let html = String::from_utf8(refused.body.to_vec()).unwrap();
    assert!(html.contains("<p class=\"code\">403</p>"), "{html}");
    assert!(html.contains("Log in to continue"), "{html}");
    let header = basic("reader", "secret");
    let manifest = registry.send("GET", "/v2/open/app/manifests/latest", Some(&header)).await;
    assert_eq!(manifest.status, 200, "nothing was changed");
}
