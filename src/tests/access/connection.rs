//! What a connection remembers of the credentials of its requests.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use http::Request;
use jreg_access::{AccessTokenStore, TRUST_MAX};
use jreg_auth::ClientCertificate;
use jreg_net::server::{Body, Peer, RequestHandler, Secured};

use super::guarded::{Registry, basic, bearer, token_target};

const MANIFEST: &str = "/v2/open/app/manifests/latest";
const CLOSED: &str = "/v2/closed/app/manifests/latest";
const FREE: usize = 5;

fn alice() -> String {
    basic("alice", "secret")
}

async fn without_policy() -> Registry {
    Registry::with(None, |_| {}).await
}

/// One connection to the first instance.
struct TestConnection {
    handler: Arc<dyn RequestHandler>,
    peer: [u8; 4],
    certificate: Option<&'static str>,
}

impl TestConnection {
    fn open(registry: &Registry) -> Self {
        let handler = registry.apps[0].api().for_connection().unwrap();
        Self { handler, peer: [10, 0, 0, 1], certificate: None }
    }

    async fn get(&self, target: &str, headers: &[&str]) -> u16 {
        let peer = Peer((IpAddr::from(self.peer), 1234).into());
        let mut request = Request::builder().uri(target).header("Host", "test").extension(peer);
        for header in headers {
            request = request.header("Authorization", *header);
        }
        if let Some(name) = self.certificate {
            let common_name = Some(name.to_owned());
            let certificate = ClientCertificate { common_name, ..ClientCertificate::default() };
            request = request.extension(Secured { certificate: Some(Arc::new(certificate)) });
        }
        let request = request.body(Body::empty()).unwrap();
        self.handler.handle(request).await.status().as_u16()
    }

    async fn pull(&self, header: &str) -> u16 {
        self.get(MANIFEST, &[header]).await
    }
}

/// Counted: no parsing of the header, no hash and no look-up after the first request.
#[tokio::test]
async fn credentials_of_a_connection_are_looked_up_once() {
    let registry = without_policy().await;
    let guard = registry.apps[0].guard().unwrap();
    let token = registry.token(Some(&alice()), "repository:open/app:pull").await.unwrap();
    let headers = [alice(), bearer(&token), bearer(&registry.access_token)];
    for (header, kind) in headers.iter().zip(["password", "token", "access_token"]) {
        let connection = TestConnection::open(&registry);
        assert_eq!(connection.pull(header).await, 200);
        let (compared, looked_up) = (guard.compared(), guard.looked_up());
        for _ in 0..5 {
            assert_eq!(connection.pull(header).await, 200);
        }
        assert_eq!((guard.compared(), guard.looked_up()), (compared, looked_up), "{kind}");
        let metrics = registry.send("GET", "/metrics", None).await.text();
        let count = |outcome: &str| {
            let line = format!(r#"jreg_auth_attempts_total{{kind="{kind}",outcome="{outcome}"}} "#);
            let found = metrics.lines().find_map(|found| found.strip_prefix(line.as_str()));
            found.map_or(0, |count| count.parse::<u64>().unwrap())
        };
        assert_eq!(count("ok") + count("cached"), if kind == "password" { 7 } else { 6 });
    }
    let other = TestConnection::open(&registry);
    let looked_up = guard.looked_up();
    assert_eq!(other.pull(&alice()).await, 200);
    assert_eq!(guard.looked_up(), looked_up + 1, "each connection has its own");
}

/// Rights are decided for each request.
#[tokio::test]
async fn a_remembered_identity_has_no_more_rights() {
    let registry = without_policy().await;
    let token = registry.token(Some(&alice()), "repository:open/app:pull").await.unwrap();
    let connection = TestConnection::open(&registry);
    for _ in 0..2 {
        assert_eq!(connection.pull(&bearer(&token)).await, 200);
        assert_eq!(connection.get(CLOSED, &[&bearer(&token)]).await, 401);
        assert_eq!(connection.get(CLOSED, &[&alice()]).await, 200);
        assert_eq!(connection.pull(&alice()).await, 200);
        assert_eq!(connection.get(MANIFEST, &[]).await, 401);
    }
}

#[tokio::test]
async fn another_header_is_not_the_remembered_one() {
    let registry = without_policy().await;
    let connection = TestConnection::open(&registry);
    let mut prefix = alice();
    prefix.pop();
    for _ in 0..3 {
        assert_eq!(connection.pull(&alice()).await, 200);
        for wrong in [basic("alice", "secreT"), format!("{prefix}!"), bearer("secret")] {
            assert_eq!(connection.pull(&wrong).await, 401, "{wrong}");
        }
        assert_eq!(connection.get(MANIFEST, &[&alice(), &alice()]).await, 401, "two headers");
    }
}

/// As streams of HTTP/2 are.
#[tokio::test]
async fn concurrent_requests_of_a_connection_have_their_own_credentials() {
    let registry = without_policy().await;
    let token = bearer(&registry.token(Some(&alice()), "repository:open/app:pull").await.unwrap());
    let (connection, alice) = (TestConnection::open(&registry), alice());
    for _ in 0..10 {
        let requests = (0..40).map(|number| match number % 4 {
            0 => (CLOSED, &alice, 200),
            1 => (CLOSED, &token, 401),
            2 => (MANIFEST, &token, 200),
            _ => (MANIFEST, &alice, 200),
        });
        let responses = requests.map(async |(target, header, expected)| {
            tokio::task::yield_now().await;
            assert_eq!(connection.get(target, &[header]).await, expected, "{target}");
        });
        join_all(responses).await;
    }
}

#[tokio::test]
async fn a_changed_file_ends_what_is_remembered_at_once() {
    let rules = |who: &str| {
        format!("[[rule]]\nsubjects = ['user:{who}']\nrepositories = ['**']\nactions = ['pull']\n")
    };
    let registry = Registry::with_policy(&rules("alice")).await;
    let connection = TestConnection::open(&registry);
    assert_eq!(connection.pull(&alice()).await, 200);
    registry.write("policy.toml", &rules("bob"));
    assert_eq!(connection.pull(&alice()).await, 404);
    registry.write("policy.toml", &rules("alice"));
    assert_eq!(connection.pull(&alice()).await, 200);
    registry.write("users", &format!("alice:{}\n", bcrypt::hash("other", 4).unwrap()));
    assert_eq!(connection.pull(&alice()).await, 401);
    assert_eq!(connection.pull(&basic("alice", "other")).await, 200);
    registry.write("users", "# no users\n");
    assert_eq!(connection.pull(&basic("alice", "other")).await, 401);
}

#[tokio::test]
async fn a_revoked_access_token_is_remembered_no_longer_than_it_is_trusted() {
    let registry = without_policy().await;
    let access_tokens = AccessTokenStore::new(registry.store.clone(), registry.clock.clone());
    let header = bearer(&registry.access_token);
    let connection = TestConnection::open(&registry);
    assert_eq!(connection.pull(&header).await, 200);
    let all = access_tokens.list().await.unwrap();
    let (id, _) = all.into_iter().find(|(_, token)| token.name == "ci").unwrap();
    access_tokens.revoke(&id).await.unwrap();
    // Requests do not extend the time.
    for _ in 0..3 {
        registry.clock.advance(TRUST_MAX / 4);
        connection.pull(&header).await;
    }
    registry.clock.advance(TRUST_MAX / 4);
    assert_eq!(connection.pull(&header).await, 401);
}

#[tokio::test]
async fn an_expired_token_is_not_remembered() {
    let lifetime = Duration::from_secs(60);
    let registry = Registry::with(None, |settings| settings.token_lifetime = lifetime).await;
    let guard = registry.apps[0].guard().unwrap();
    let token = registry.token(Some(&alice()), "repository:open/app:pull").await.unwrap();
    let connection = TestConnection::open(&registry);
    registry.clock.advance(lifetime / 2);
    assert_eq!(connection.pull(&bearer(&token)).await, 200);
    let looked_up = guard.looked_up();
    registry.clock.advance(lifetime / 2 - Duration::from_secs(1));
    assert_eq!(connection.pull(&bearer(&token)).await, 200);
    assert_eq!(guard.looked_up(), looked_up, "remembered");
    registry.clock.advance(Duration::from_secs(1));
    assert_eq!(connection.pull(&bearer(&token)).await, 401);
}

#[tokio::test]
async fn throttling_applies_to_remembered_credentials() {
    let registry = without_policy().await;
    let mut connection = TestConnection::open(&registry);
    let access_token = bearer(&registry.access_token);
    let tokens = TestConnection::open(&registry);
    assert_eq!(tokens.pull(&access_token).await, 200);
    assert_eq!(connection.pull(&alice()).await, 200);
    for number in 0..FREE {
        let other = TestConnection::open(&registry);
        assert_eq!(other.pull(&basic("alice", &format!("guess {number}"))).await, 401);
    }
    assert_eq!(connection.pull(&alice()).await, 429, "as with any connection");
    // The client of a proxy at another address, over the same connection.
    connection.peer = [10, 0, 0, 2];
    assert_eq!(connection.pull(&alice()).await, 200);
    connection.peer = [10, 0, 0, 1];
    assert_eq!(connection.pull(&alice()).await, 429, "remembered for another address");
    let looked_up = registry.apps[0].guard().unwrap().looked_up();
    assert_eq!(tokens.pull(&access_token).await, 200);
    assert_eq!(
        registry.apps[0].guard().unwrap().looked_up(),
        looked_up,
        "tokens are not throttled"
    );
    registry.clock.advance(Duration::from_secs(1));
    assert_eq!(connection.pull(&alice()).await, 200);
}

/// Over one connection of a proxy that terminates TLS, requests differ in their certificate.
#[tokio::test]
async fn the_certificate_is_that_of_each_request() {
    let rules = "[[rule]]\nsubjects = ['everyone']\nrepositories = ['open/**']\nactions = ['pull']\n\
                 [[rule]]\nsubjects = ['certificate:cn=builder']\nrepositories = ['closed/**']\n\
                 actions = ['pull']\n";
    let registry = Registry::with_policy(rules).await;
    let target = token_target("repository:open/app:pull");
    let response = registry.send_as("builder", "GET", &target, None).await;
    let token = bearer(response.json()["token"].as_str().unwrap());
    let mut connection = TestConnection::open(&registry);
    for (certificate, with_token, without) in
        [(Some("builder"), 200, 200), (Some("other"), 401, 404), (None, 401, 401)].repeat(2)
    {
        connection.certificate = certificate;
        assert_eq!(connection.pull(&token).await, with_token, "{certificate:?}");
        assert_eq!(connection.get(CLOSED, &[]).await, without, "{certificate:?}");
        assert_eq!(connection.get(CLOSED, &[&alice()]).await, 404, "{certificate:?}");
    }
}
