//! Challenges, credentials, tokens, and who refuses what.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use futures::future::join_all;
use jreg_auth::Secret;
use jreg_client::{
    CredentialSource, EnvironmentVariables, PageQuery, SecretSource, UpstreamClient,
    UpstreamErrorKind,
};
use jreg_testkit::upstream::{
    RequestKind, RulePick, ScriptedUpstream, TokenService, UpstreamAuth, UpstreamFault,
    UpstreamRule,
};
use jreg_testkit::{Image, TestCa, media, sha256};

use super::{client, client_as, client_with, kind, name, options, password, reference};

async fn upstream(auth: UpstreamAuth) -> ScriptedUpstream {
    let upstream = ScriptedUpstream::start().await;
    upstream.add_image(super::REPOSITORY, Some("v1"), &Image::plain(1));
    upstream.set_auth(auth);
    upstream
}

async fn with_tokens(service: TokenService) -> ScriptedUpstream {
    upstream(UpstreamAuth::Bearer(service)).await
}

async fn with_basic() -> ScriptedUpstream {
    upstream(UpstreamAuth::Basic { user: "me".to_owned(), password: "secret".to_owned() }).await
}

/// A request that needs rights.
async fn head(client: &UpstreamClient) -> Result<(), jreg_client::UpstreamError> {
    client.head_manifest(&name(), &reference("v1")).await.map(|_| ())
}

#[tokio::test]
async fn a_challenge_to_basic_is_answered_with_user_and_password() {
    let upstream = with_basic().await;
    let client = client_as(&upstream, "me", "secret");
    head(&client).await.unwrap();
    head(&client).await.unwrap();
    let counts = (upstream.count(RequestKind::Ping), upstream.count(RequestKind::ManifestHead));
    assert_eq!(counts, (1, 2), "asked for the challenge once");
    assert_eq!(upstream.requests()[0].authorization, None);
    assert_eq!(
        kind(head(&client_as(&upstream, "me", "wrong")).await),
        UpstreamErrorKind::CredentialsRefused { status: 401 }
    );
    assert_eq!(
        kind(head(&super::client(&upstream)).await),
        UpstreamErrorKind::RepositoryRefused { status: 401 }
    );
}

#[tokio::test]
async fn credentials_are_sent_only_after_a_challenge_and_to_the_first_url_only() {
    let open = upstream(UpstreamAuth::Open).await;
    head(&client_as(&open, "me", "secret")).await.unwrap();
    assert!(open.requests().iter().all(|request| request.authorization.is_none()));
    let (first, second) = (with_basic().await, with_basic().await);
    first.remove_tag(super::REPOSITORY, "v1");
    let both = options([&first.url(), &second.url()], password("me", "secret"));
    let error = kind(head(&UpstreamClient::new(both).unwrap()).await);
    assert_eq!(error, UpstreamErrorKind::RepositoryRefused { status: 401 });
    assert!(second.requests().iter().all(|request| request.authorization.is_none()));
    assert_eq!(second.requests().len(), 1);
}

#[tokio::test]
async fn a_token_is_requested_once_for_all_requests_that_need_it() {
    for service in [
        TokenService::anonymous(),
        TokenService { is_access_token: true, ..TokenService::anonymous() },
    ] {
        let upstream = with_tokens(service).await;
        let client = client(&upstream);
        let heads = join_all((0..32).map(|_| head(&client))).await;
        assert!(heads.iter().all(Result::is_ok), "{heads:?}");
        assert_eq!(upstream.count(RequestKind::Token), 1);
        let tokens: Vec<_> =
            upstream.requests().into_iter().filter(|it| it.kind == RequestKind::Token).collect();
        assert_eq!(
            tokens[0].query,
            "service=registry.test&scope=repository%3Alibrary%2Fapp%3Apull"
        );
        assert_eq!(tokens[0].authorization, None);
        upstream.clear_requests();
        join_all((0..32).map(|_| head(&client))).await;
        assert_eq!(upstream.requests().len(), 32, "a cached token costs nothing");
        assert!(upstream.requests().iter().all(|request| request.status == 200));
    }
}

#[tokio::test]
async fn each_repository_has_a_token_of_its_own() {
    let upstream = with_tokens(TokenService::anonymous()).await;
    upstream.add_image("other", Some("v1"), &Image::plain(2));
    let client = client(&upstream);
    for repository in [super::REPOSITORY, "other", super::REPOSITORY, "other"] {
        client.head_manifest(&repository.parse().unwrap(), &reference("v1")).await.unwrap();
    }
    assert_eq!(upstream.count(RequestKind::Token), 2);
    // The second repository's token is requested before its first request.
    assert_eq!(upstream.count(RequestKind::ManifestHead), 5);
    client.catalog(&PageQuery::default()).await.unwrap();
    let scopes: HashSet<_> = upstream.requests().into_iter().map(|request| request.query).collect();
    assert!(scopes.contains("service=registry.test&scope=registry%3Acatalog%3A*"), "{scopes:?}");
}

#[tokio::test]
async fn an_unusual_scope_is_taken_from_the_challenge_and_remembered() {
    let service = TokenService {
        scope: Some("repository:shared/app:pull".to_owned()),
        ..TokenService::anonymous()
    };
    let upstream = with_tokens(service).await;
    let client = client(&upstream);
    head(&client).await.unwrap();
    upstream.revoke_tokens();
    head(&client).await.unwrap();
    head(&client).await.unwrap();
    assert_eq!(
        (upstream.count(RequestKind::Token), upstream.count(RequestKind::ManifestHead)),
        (2, 5)
    );
}

#[tokio::test]
async fn a_token_is_replaced_before_it_expires_and_when_it_is_refused() {
    let upstream =
        with_tokens(TokenService { expires_in: Some(3), ..TokenService::anonymous() }).await;
    let client = client(&upstream);
    head(&client).await.unwrap();
    head(&client).await.unwrap();
    assert_eq!(upstream.count(RequestKind::Token), 1);
    tokio::time::sleep(Duration::from_millis(2950)).await;
    head(&client).await.unwrap();
    assert_eq!(
        (upstream.count(RequestKind::Token), upstream.count(RequestKind::ManifestHead)),
        (2, 4)
    );
    let upstream = with_tokens(TokenService::anonymous()).await;
    let client = super::client(&upstream);
    head(&client).await.unwrap();
    upstream.revoke_tokens();
    upstream.clear_requests();
    assert!(join_all((0..16).map(|_| head(&client))).await.iter().all(Result::is_ok));
    assert_eq!(upstream.count(RequestKind::Token), 1);
}

#[tokio::test]
async fn a_registry_that_refuses_every_token_is_asked_twice() {
    let upstream = with_tokens(TokenService::anonymous()).await;
    let client = client(&upstream);
    head(&client).await.unwrap();
    upstream.clear_requests();
    upstream.add_rule(UpstreamRule::new(UpstreamFault::Unauthorized));
    assert_eq!(kind(head(&client).await), UpstreamErrorKind::RepositoryRefused { status: 401 });
    assert_eq!(
        (upstream.count(RequestKind::ManifestHead), upstream.count(RequestKind::Token)),
        (2, 1)
    );
    // A new token is not replaced by another one.
    upstream.clear_requests();
    let other = super::client(&upstream);
    assert_eq!(kind(head(&other).await), UpstreamErrorKind::RepositoryRefused { status: 401 });
    assert_eq!(
        (upstream.count(RequestKind::ManifestHead), upstream.count(RequestKind::Token)),
        (2, 1)
    );
}

#[tokio::test]
async fn user_and_password_or_a_refresh_token_get_a_token() {
    let service = TokenService {
        refresh_token: Some("refresh".to_owned()),
        ..TokenService::of_user("me", "secret")
    };
    let upstream = with_tokens(service).await;
    head(&client_as(&upstream, "me", "secret")).await.unwrap();
    upstream.clear_requests();
    let refresh = CredentialSource::RefreshToken(SecretSource::Value(Secret::new("refresh")));
    let client = client_with(&upstream, |options| options.endpoints[0].credentials = refresh);
    head(&client).await.unwrap();
    let token =
        upstream.requests().into_iter().find(|request| request.kind == RequestKind::Token).unwrap();
    assert_eq!((token.method.as_str(), token.query.as_str()), ("POST", ""));
    for part in [
        "grant_type=refresh_token",
        "refresh_token=refresh",
        "client_id=jreg",
        "service=registry.test",
        "scope=repository%3A",
    ] {
        assert!(token.form.contains(part), "{}", token.form);
    }
    assert_eq!(token.authorization, None);
}

#[tokio::test]
async fn refused_credentials_and_refused_repositories_are_told_apart() {
    let credentials = |status| UpstreamErrorKind::CredentialsRefused { status };
    let repository = |status| UpstreamErrorKind::RepositoryRefused { status };
    let listed = || vec![super::REPOSITORY.to_owned()];
    let user = || TokenService::of_user("me", "secret");
    let rows = [
        // The token service refuses the password.
        (user(), "wrong", credentials(401)),
        // It refuses the scope, with credentials that it accepts.
        (TokenService { refused: listed(), ..user() }, "secret", repository(403)),
        // It gives a token that the registry refuses, as Docker Hub does for what does not exist.
        (TokenService { without_access: listed(), ..user() }, "secret", repository(401)),
        (TokenService { forbidden: listed(), ..user() }, "secret", repository(403)),
    ];
    for (service, password, expected) in rows {
        let upstream = with_tokens(service.clone()).await;
        let client = client_as(&upstream, "me", password);
        assert_eq!(kind(head(&client).await), expected, "{service:?}");
        upstream.clear_requests();
        assert_eq!(kind(head(&client).await), expected, "{service:?}");
        assert!(upstream.requests().len() <= 5, "{:?}", upstream.counts());
    }
    // Without credentials, it is always the repository.
    for service in [
        TokenService::default(),
        TokenService { refused: listed(), ..TokenService::anonymous() },
        TokenService { without_access: listed(), ..TokenService::anonymous() },
    ] {
        let upstream = with_tokens(service.clone()).await;
        let error = kind(head(&client(&upstream)).await);
        assert!(
            matches!(error, UpstreamErrorKind::RepositoryRefused { .. }),
            "{service:?}: {error}"
        );
    }
    // With Basic, `/v2/` decides.
    let upstream = with_basic().await;
    upstream.add_rule(UpstreamRule::new(UpstreamFault::status(403)).on(RequestKind::ManifestHead));
    assert_eq!(kind(head(&client_as(&upstream, "me", "secret")).await), repository(403));
    assert_eq!(kind(head(&client_as(&upstream, "me", "wrong")).await), credentials(403));
}

/// Regression: the token of the time before a right was granted was used until it expired, up to a day.
#[tokio::test]
async fn fixed_token_that_is_refused_with_403_is_replaced() {
    let listed = || vec![super::REPOSITORY.to_owned()];
    let service = || TokenService { expires_in: Some(86_400), ..TokenService::anonymous() };
    let refused = UpstreamErrorKind::RepositoryRefused { status: 403 };
    for (age_min, tokens) in [(Duration::ZERO, 2), (Duration::MAX, 1)] {
        let forbidden = || TokenService { forbidden: listed(), ..service() };
        let upstream = with_tokens(forbidden()).await;
        let client =
            client_with(&upstream, |options| options.limits.refused_token_age_min = age_min);
        assert_eq!(kind(head(&client).await), refused, "a new token is not replaced");
        assert_eq!(upstream.count(RequestKind::Token), 1);
        assert_eq!(kind(head(&client).await), refused);
        assert_eq!(upstream.count(RequestKind::Token), tokens);
        upstream.clear_requests();
        let once = UpstreamRule::new(UpstreamFault::status(403)).on(RequestKind::ManifestHead);
        upstream.add_rule(once.pick(RulePick::First(1)));
        upstream.set_auth(UpstreamAuth::Bearer(service()));
        assert_eq!(head(&client).await.is_ok(), tokens == 2);
        let counts =
            (upstream.count(RequestKind::ManifestHead), upstream.count(RequestKind::Token));
        assert_eq!(counts, (tokens, tokens - 1));
    }
}

#[tokio::test]
async fn a_token_service_that_fails_is_a_failure_and_not_a_refusal() {
    for fault in [
        UpstreamFault::status(500),
        UpstreamFault::too_many_requests(Some(5)),
        UpstreamFault::NoResponse,
        UpstreamFault::Delay(Duration::from_secs(5)),
    ] {
        let upstream = with_tokens(TokenService::of_user("me", "secret")).await;
        upstream.add_rule(UpstreamRule::new(fault.clone()).on(RequestKind::Token));
        let client = client_with(&upstream, |options| {
            options.endpoints[0].credentials = password("me", "secret");
            // Only for the one that is to run into it: a busy machine may take as long.
            if matches!(fault, UpstreamFault::Delay(_)) {
                options.timeouts.response = Duration::from_millis(300);
            }
            options.timeouts.patience = Duration::ZERO;
        });
        let results = join_all((0..8).map(|_| head(&client))).await;
        assert!(results.into_iter().all(|result| kind(result).is_temporary()), "{fault:?}");
        assert!(upstream.count(RequestKind::Token) <= 2, "{fault:?}: {:?}", upstream.counts());
    }
    let not_json =
        UpstreamFault::Status { status: 200, headers: Vec::new(), body: "<html>".to_owned() };
    let upstream = with_tokens(TokenService::anonymous()).await;
    upstream.add_rule(UpstreamRule::new(not_json).on(RequestKind::Token));
    assert!(matches!(kind(head(&client(&upstream)).await), UpstreamErrorKind::Protocol { .. }));
}

#[tokio::test]
async fn a_waiter_that_goes_away_does_not_cancel_the_token_for_others() {
    let upstream = with_tokens(TokenService::anonymous()).await;
    let delay = UpstreamFault::Delay(Duration::from_millis(400));
    upstream.add_rule(UpstreamRule::new(delay).on(RequestKind::Token).pick(RulePick::First(1)));
    let client = client(&upstream);
    let cancelled = tokio::time::timeout(Duration::from_millis(200), head(&client)).await;
    assert!(cancelled.is_err());
    head(&client).await.unwrap();
    assert_eq!(upstream.count(RequestKind::Token), 1);
}

#[tokio::test]
async fn a_token_service_elsewhere_gets_nothing_unless_it_is_listed() {
    let elsewhere = with_tokens(TokenService::of_user("me", "secret")).await;
    let realm = format!("{}/token", elsewhere.url());
    let upstream =
        with_tokens(TokenService { realm: Some(realm), ..TokenService::of_user("me", "secret") })
            .await;
    let error = kind(head(&client_as(&upstream, "me", "secret")).await);
    let UpstreamErrorKind::Protocol { why } = &error else { panic!("{error}") };
    assert!(why.contains(&elsewhere.address().to_string()) && why.contains("token-hosts"), "{why}");
    assert_eq!(elsewhere.requests().len(), 0);
    let client = client_with(&upstream, |options| {
        options.endpoints[0].credentials = password("me", "secret");
        options.token_hosts = vec![elsewhere.address().to_string()];
    });
    // The tokens of another server are not accepted by this one; but they were requested.
    head(&client).await.unwrap_err();
    assert_eq!(elsewhere.requests()[0].authorization.as_deref(), Some("Basic bWU6c2VjcmV0"));
}

#[tokio::test]
async fn a_realm_that_is_not_https_is_refused_by_an_https_upstream() {
    let authority = TestCa::new();
    let (upstream, plain) = (
        ScriptedUpstream::start_tls(&authority).await,
        with_tokens(TokenService::anonymous()).await,
    );
    upstream.add_image(super::REPOSITORY, Some("v1"), &Image::plain(1));
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, authority.pem()).unwrap();
    let client = client_with(&upstream, |options| {
        options.ca_file = Some(ca);
        options.token_hosts = vec![plain.address().to_string()];
    });
    for realm in [
        format!("{}/token", plain.url()),
        "no url".to_owned(),
        "https://me:secret@localhost/token".to_owned(),
    ] {
        let realm = Some(realm);
        upstream
            .set_auth(UpstreamAuth::Bearer(TokenService { realm, ..TokenService::anonymous() }));
        let error = kind(head(&client).await);
        assert!(matches!(error, UpstreamErrorKind::Protocol { .. }), "{error}");
    }
    assert_eq!(plain.requests().len(), 0);
    upstream.set_auth(UpstreamAuth::Bearer(TokenService::anonymous()));
    head(&client).await.unwrap();
}

#[tokio::test]
async fn a_password_that_was_rotated_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    for with_tokens_first in [false, true] {
        let upstream = match with_tokens_first {
            true => with_tokens(TokenService::of_user("me", "secret")).await,
            false => with_basic().await,
        };
        fs::write(&file, "former\n").unwrap();
        let source = CredentialSource::Password {
            user: "me".to_owned(),
            password: SecretSource::File(file.clone()),
        };
        let client = client_with(&upstream, |options| options.endpoints[0].credentials = source);
        assert_eq!(
            kind(head(&client).await),
            UpstreamErrorKind::CredentialsRefused { status: 401 }
        );
        fs::write(&file, "secret\n").unwrap();
        head(&client).await.unwrap();
    }
    fs::remove_file(&file).unwrap();
    let source =
        CredentialSource::Password { user: "me".to_owned(), password: SecretSource::File(file) };
    let upstream = with_basic().await;
    let client = client_with(&upstream, |options| options.endpoints[0].credentials = source);
    assert!(matches!(kind(head(&client).await), UpstreamErrorKind::CredentialsUnavailable { .. }));
}

#[tokio::test]
async fn dockers_configuration_and_helpers_have_credentials() {
    let upstream = with_tokens(TokenService::of_user("me", "secret")).await;
    let folder = tempfile::tempdir().unwrap();
    let (config, helper) =
        (folder.path().join("config.json"), folder.path().join("docker-credential-test"));
    let host = upstream.address().to_string();
    let with = |source: CredentialSource| {
        let path = ("PATH".to_owned(), format!("{}:/bin:/usr/bin", folder.path().display()));
        client_with(&upstream, |options| {
            options.endpoints[0].credentials = source;
            options.environment = EnvironmentVariables::new([path]);
        })
    };
    fs::write(&config, format!(r#"{{"auths": {{"{host}": {{"auth": "bWU6c2VjcmV0"}}}}}}"#))
        .unwrap();
    head(&with(CredentialSource::DockerConfig(config.clone()))).await.unwrap();
    let script = format!(
        "#!/bin/sh\nread server; test \"$server\" = '{host}' && echo '{{\"Username\":\"me\",\"Secret\":\"secret\"}}'\n"
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(&config, format!(r#"{{"credHelpers": {{"{host}": "test"}}}}"#)).unwrap();
    head(&with(CredentialSource::DockerConfig(config.clone()))).await.unwrap();
    head(&with(CredentialSource::Helper("test".parse().unwrap()))).await.unwrap();
    fs::write(&config, r#"{"credsStore": "absent"}"#).unwrap();
    let error = kind(head(&with(CredentialSource::DockerConfig(config.clone()))).await);
    assert!(matches!(error, UpstreamErrorKind::CredentialsUnavailable { .. }), "{error}");
    fs::write(&config, "{}").unwrap();
    let error = kind(head(&with(CredentialSource::DockerConfig(config))).await);
    assert_eq!(error, UpstreamErrorKind::RepositoryRefused { status: 401 });
}

/// Credentials that are refused again when they were renewed do not cost a program, or an exchange, for each request.
#[tokio::test]
async fn a_helper_whose_credentials_are_refused_is_not_started_for_each_request() {
    for upstream in [with_tokens(TokenService::of_user("me", "secret")).await, with_basic().await] {
        let folder = tempfile::tempdir().unwrap();
        let (helper, runs) =
            (folder.path().join("docker-credential-test"), folder.path().join("runs"));
        let script = format!(
            "#!/bin/sh\necho run >>{}\necho '{{\"Username\":\"me\",\"Secret\":\"wrong\"}}'\n",
            runs.display()
        );
        fs::write(&helper, script).unwrap();
        fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let path = ("PATH".to_owned(), format!("{}:/bin:/usr/bin", folder.path().display()));
        let client = client_with(&upstream, |options| {
            options.endpoints[0].credentials = CredentialSource::Helper("test".parse().unwrap());
            options.environment = EnvironmentVariables::new([path]);
        });
        for _ in 0..5 {
            let refused = kind(head(&client).await);
            assert_eq!(refused, UpstreamErrorKind::CredentialsRefused { status: 401 });
        }
        let runs = fs::read_to_string(&runs).unwrap().lines().count();
        assert_eq!(runs, 2, "once, and once more because they were refused");
    }
}

#[tokio::test]
async fn no_error_and_no_debug_output_has_a_secret() {
    let upstream = with_tokens(TokenService::of_user("me", "marked-secret")).await;
    let client = client_as(&upstream, "me", "marked-secret");
    head(&client).await.unwrap();
    let wrong = client_as(&upstream, "me", "marked-wrong");
    let error = head(&wrong).await.unwrap_err();
    let encoded = ["bWU6bWFya2Vk", "marked", "token-"];
    for text in
        [format!("{client:?}"), format!("{wrong:?}"), format!("{error:?}"), error.to_string()]
    {
        assert!(encoded.iter().all(|secret| !text.contains(secret)), "{text}");
    }
}

/// A registry with an image in each of these repositories, of which `bad` challenges to a token service of its own,
/// `/gone`, with this response.
async fn with_bad_challenge(
    auth: UpstreamAuth,
    pick: RulePick,
    (status, body): (u16, &str),
) -> ScriptedUpstream {
    let upstream = upstream(auth).await;
    for repository in ["bad", "other", "third"] {
        upstream.add_image(repository, Some("v1"), &Image::plain(1));
    }
    upstream.set_document("/gone", status, body);
    let challenge = format!(
        "Bearer realm=\"{}/gone\",service=\"x\",scope=\"repository:bad:pull\"",
        upstream.url()
    );
    let headers = vec![("www-authenticate".to_owned(), challenge)];
    let fault = UpstreamFault::Status { status: 401, headers, body: String::new() };
    upstream.add_rule(UpstreamRule::new(fault).at("/v2/bad/").pick(pick));
    upstream
}

async fn head_of(
    client: &UpstreamClient,
    repository: &str,
) -> Result<(), jreg_client::UpstreamError> {
    let client = client.with_patience(Duration::ZERO);
    client.head_manifest(&repository.parse().unwrap(), &reference("v1")).await.map(|_| ())
}

const NO_TOKENS: [(u16, &str); 6] =
    [(404, ""), (500, ""), (403, ""), (401, ""), (200, "<html>"), (200, "{}")];

/// Regression: a single challenge to a token service that does not exist made all repositories unavailable for good.
#[tokio::test]
async fn fixed_challenge_of_one_repository_does_not_concern_the_others() {
    for no_token in NO_TOKENS {
        for credentials in [CredentialSource::Anonymous, password("me", "secret")] {
            let open = UpstreamAuth::Open;
            let upstream = with_bad_challenge(open, RulePick::First(1), no_token).await;
            let client =
                client_with(&upstream, |options| options.endpoints[0].credentials = credentials);
            head_of(&client, super::REPOSITORY).await.unwrap();
            head_of(&client, "bad").await.unwrap_err();
            upstream.clear_requests();
            for repository in ["other", "third", "bad"] {
                let found = head_of(&client, repository).await;
                assert_eq!(found, Ok(()), "{no_token:?}: {repository}");
            }
            assert_eq!(upstream.requests().len(), 3, "{no_token:?}: {:?}", upstream.counts());
        }
    }
}

/// The failures of one token service, too, concern those only that are sent to it.
#[tokio::test]
async fn fixed_token_service_of_one_repository_does_not_stop_that_of_the_others() {
    for no_token in NO_TOKENS {
        let tokens = UpstreamAuth::Bearer(TokenService::anonymous());
        let upstream = with_bad_challenge(tokens, RulePick::All, no_token).await;
        let client = client(&upstream);
        for _ in 0..8 {
            head_of(&client, "bad").await.unwrap_err();
        }
        upstream.clear_requests();
        head_of(&client, "other").await.unwrap();
        head_of(&client, "bad").await.unwrap_err();
        head_of(&client, "third").await.unwrap();
        head_of(&client, "other").await.unwrap();
        // One for `bad`, too: it is not known before that it goes elsewhere.
        assert_eq!(upstream.count(RequestKind::Token), 3, "{no_token:?}");
        assert!(upstream.count_of(RequestKind::ManifestHead, "/v2/bad/") <= 2, "{no_token:?}");
    }
}

/// Regression: a challenge was remembered though its token service had no token any more.
#[tokio::test]
async fn fixed_challenge_that_leads_to_no_token_is_forgotten() {
    let service = || TokenService { expires_in: Some(1), ..TokenService::of_user("me", "secret") };
    let anonymous = || TokenService { expires_in: Some(1), ..TokenService::anonymous() };
    for status in [404, 403, 500] {
        for (service, credentials, failures_max) in [
            (anonymous(), CredentialSource::Anonymous, usize::from(status == 500)),
            (service(), password("me", "secret"), 1),
        ] {
            let upstream = with_tokens(service).await;
            let client =
                client_with(&upstream, |options| options.endpoints[0].credentials = credentials);
            head(&client).await.unwrap();
            // The token has expired by then.
            tokio::time::sleep(Duration::from_millis(1000)).await;
            upstream.set_auth(UpstreamAuth::Open);
            let gone = UpstreamFault::status(status);
            upstream.add_rule(UpstreamRule::new(gone).on(RequestKind::Token));
            let mut failures = 0;
            while head_of(&client, super::REPOSITORY).await.is_err() {
                failures += 1;
                assert!(failures <= failures_max, "{status}");
            }
            upstream.clear_requests();
            head_of(&client, super::REPOSITORY).await.unwrap();
            assert_eq!(upstream.requests().len(), 1, "{:?}", upstream.counts());
        }
    }
}

/// What a token service says of a repository that has not been challenged is no refusal by the registry.
#[tokio::test]
async fn a_repository_is_refused_only_after_a_challenge_of_its_own() {
    let listed = vec!["other".to_owned(), "third".to_owned()];
    let upstream = with_tokens(TokenService { refused: listed, ..TokenService::anonymous() }).await;
    let headers =
        [("content-type", media::MANIFEST.to_owned()), ("docker-content-digest", sha256("a"))];
    let headers = headers.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let open = UpstreamFault::Status { status: 200, headers, body: String::new() };
    upstream.add_rule(UpstreamRule::new(open).at("/v2/third/"));
    let client = client(&upstream);
    head(&client).await.unwrap();
    for _ in 0..2 {
        upstream.clear_requests();
        let refused = UpstreamErrorKind::RepositoryRefused { status: 403 };
        assert_eq!(kind(head_of(&client, "other").await), refused);
        let counts =
            (upstream.count(RequestKind::ManifestHead), upstream.count(RequestKind::Token));
        assert_eq!(counts, (1, 1));
        head_of(&client, "third").await.unwrap();
    }
}
