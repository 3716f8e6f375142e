//! Which failure is which error.

use std::time::Duration;

use jreg_client::{CredentialSource, UpstreamClient, UpstreamErrorKind, UpstreamSetupError};
use jreg_testkit::upstream::{RequestKind, ScriptedUpstream, UpstreamFault, UpstreamRule};
use jreg_testkit::{Image, TestCa};

use super::{client, client_with, digest, kind, name, options, reference};

#[tokio::test]
async fn each_failure_is_told_apart_from_absence() {
    let upstream = ScriptedUpstream::start().await;
    let image = Image::plain(1);
    upstream.add_image(super::REPOSITORY, Some("v1"), &image);
    let (layer, absent) =
        (digest(&image.blobs[1].digest()), digest(&jreg_testkit::sha256("absent")));
    let quiet = |upstream: &ScriptedUpstream| {
        client_with(upstream, |options| options.timeouts.patience = Duration::ZERO)
    };
    // Only for the one that is to run into it: a busy machine may take as long.
    let hurried = |upstream: &ScriptedUpstream| {
        client_with(upstream, |options| {
            options.timeouts.patience = Duration::ZERO;
            options.timeouts.response = Duration::from_millis(300);
        })
    };
    let not_found = UpstreamErrorKind::NotFound;
    assert_eq!(kind(quiet(&upstream).get_manifest(&name(), &reference("v2")).await), not_found);
    assert_eq!(kind(quiet(&upstream).head_manifest(&name(), &reference("v2")).await), not_found);
    assert_eq!(kind(quiet(&upstream).head_blob(&name(), &absent).await), not_found);
    type IsExpected = fn(&UpstreamErrorKind) -> bool;
    let expectations: [(UpstreamFault, IsExpected); 8] = [
        (UpstreamFault::status(500), |kind| matches!(kind, UpstreamErrorKind::Unavailable { .. })),
        (UpstreamFault::status(503), |kind| matches!(kind, UpstreamErrorKind::Unavailable { .. })),
        (UpstreamFault::status(418), |kind| matches!(kind, UpstreamErrorKind::Protocol { .. })),
        (UpstreamFault::NoResponse, |kind| matches!(kind, UpstreamErrorKind::Unavailable { .. })),
        (UpstreamFault::Delay(Duration::from_secs(2)), |kind| {
            matches!(kind, UpstreamErrorKind::Timeout { .. })
        }),
        (UpstreamFault::status(403), |kind| {
            *kind == UpstreamErrorKind::RepositoryRefused { status: 403 }
        }),
        (UpstreamFault::Unauthorized, |kind| {
            *kind == UpstreamErrorKind::RepositoryRefused { status: 401 }
        }),
        (
            UpstreamFault::too_many_requests(Some(9)),
            |kind| matches!(kind, UpstreamErrorKind::TooManyRequests { retry_after: Some(wait) } if wait.as_secs() >= 8),
        ),
    ];
    for (fault, is_expected) in expectations {
        upstream.clear_rules();
        upstream.add_rule(UpstreamRule::new(fault.clone()));
        let client = || match &fault {
            UpstreamFault::Delay(_) => hurried(&upstream),
            _ => quiet(&upstream),
        };
        let manifest = kind(client().get_manifest(&name(), &reference("v1")).await);
        let head = kind(client().head_manifest(&name(), &reference("v1")).await);
        let blob = kind(client().head_blob(&name(), &layer).await);
        for found in [manifest, head, blob] {
            assert!(is_expected(&found), "{fault:?}: {found}");
        }
    }
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_unavailable() {
    let upstream = ScriptedUpstream::start().await;
    let options = options([&upstream.url()], CredentialSource::Anonymous);
    drop(upstream);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let client = UpstreamClient::new(options).unwrap().with_patience(Duration::ZERO);
    let error = kind(client.ping().await);
    assert!(matches!(error, UpstreamErrorKind::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn a_failure_of_one_url_is_not_the_absence_of_the_other() {
    let (first, second) = (ScriptedUpstream::start().await, ScriptedUpstream::start().await);
    let image = Image::plain(1);
    second.add_image(super::REPOSITORY, Some("v1"), &image);
    let both = || {
        let options = options([&first.url(), &second.url()], CredentialSource::Anonymous);
        UpstreamClient::new(options).unwrap().with_patience(Duration::ZERO)
    };
    // The first that has it.
    assert!(both().get_manifest(&name(), &reference("v1")).await.is_ok());
    assert_eq!(
        kind(both().get_manifest(&name(), &reference("v2")).await),
        UpstreamErrorKind::NotFound
    );
    for fault in [
        UpstreamFault::status(503),
        UpstreamFault::too_many_requests(Some(5)),
        UpstreamFault::NoResponse,
    ] {
        first.clear_rules();
        first.add_rule(UpstreamRule::new(fault));
        assert!(both().get_manifest(&name(), &reference("v1")).await.is_ok());
        let error = kind(both().get_manifest(&name(), &reference("v2")).await);
        assert!(error.is_temporary(), "{error}");
    }
    first.clear_rules();
    second.add_rule(UpstreamRule::new(UpstreamFault::status(503)));
    assert!(kind(both().get_manifest(&name(), &reference("v2")).await).is_temporary());
}

#[tokio::test]
async fn a_failure_that_passes_is_retried_within_the_patience() {
    let upstream = ScriptedUpstream::start().await;
    upstream.add_image(super::REPOSITORY, Some("v1"), &Image::plain(1));
    upstream.add_rule(
        UpstreamRule::new(UpstreamFault::status(502))
            .pick(jreg_testkit::upstream::RulePick::First(3)),
    );
    assert!(client(&upstream).get_manifest(&name(), &reference("v1")).await.is_ok());
    assert_eq!(upstream.count(RequestKind::ManifestGet), 4);
    // What does not pass is not.
    upstream.clear_rules();
    upstream.clear_requests();
    client(&upstream).get_manifest(&name(), &reference("v2")).await.unwrap_err();
    assert_eq!(upstream.count(RequestKind::ManifestGet), 1);
    // And it ends.
    upstream.add_rule(UpstreamRule::new(UpstreamFault::status(502)));
    let patient = client_with(&upstream, |options| {
        options.timeouts.patience = Duration::from_secs(3600);
    });
    let (impatient, repository, tag) =
        (patient.with_patience(Duration::from_secs(1)), name(), reference("v1"));
    let given_up = impatient.get_manifest(&repository, &tag);
    let given_up = tokio::time::timeout(Duration::from_secs(60), given_up).await;
    assert!(kind(given_up.expect("it is given up")).is_temporary());
}

#[tokio::test]
async fn tls_is_checked_and_http2_is_spoken() {
    let authority = TestCa::new();
    let upstream = ScriptedUpstream::start_tls(&authority).await;
    let image = Image::plain(1);
    upstream.add_image(super::REPOSITORY, Some("v1"), &image);
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let trusting = client_with(&upstream, |options| options.ca_file = Some(ca));
    let blob = digest(&image.blobs[1].digest());
    trusting.ping().await.unwrap();
    let repository = name();
    let heads = (0..8).map(|_| trusting.head_blob(&repository, &blob));
    futures::future::try_join_all(heads).await.unwrap();
    assert!(upstream.requests().iter().all(|request| request.is_http2));
    assert_eq!(upstream.connections(), 1);
    let bytes = super::read(&trusting, &jreg_client::BlobRequest::new(blob)).await.unwrap();
    assert_eq!(bytes, image.blobs[1].bytes);
    let other = folder.path().join("other.pem");
    std::fs::write(&other, TestCa::new().pem()).unwrap();
    let distrusting = client_with(&upstream, |options| options.ca_file = Some(other));
    let error = kind(distrusting.with_patience(Duration::ZERO).ping().await);
    assert!(matches!(error, UpstreamErrorKind::Unavailable { .. }), "{error}");
}

#[test]
fn what_cannot_be_set_up_is_told() {
    let none = options([], CredentialSource::Anonymous);
    assert!(matches!(UpstreamClient::new(none), Err(UpstreamSetupError::NoUrl)));
    let url = "https://registry.example.com".to_owned();
    let mut no_file = options([&url], CredentialSource::Anonymous);
    no_file.ca_file = Some("/does/not/exist.pem".into());
    assert!(matches!(UpstreamClient::new(no_file), Err(UpstreamSetupError::File { .. })));
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let mut no_ca = options([&url], CredentialSource::Anonymous);
    no_ca.ca_file = Some(empty);
    assert!(matches!(UpstreamClient::new(no_ca), Err(UpstreamSetupError::Content { .. })));
}

#[test]
fn urls_of_upstreams_are_read_or_refused() {
    use jreg_client::UpstreamUrl;
    for (text, host) in [
        ("https://registry-1.docker.io", "registry-1.docker.io"),
        ("https://registry.example.com:5000/path/", "registry.example.com:5000"),
        ("http://[::1]:5000", "[::1]:5000"),
        ("https://registry.example.com:443", "registry.example.com"),
    ] {
        assert_eq!(text.parse::<UpstreamUrl>().unwrap().host(), host);
    }
    for text in [
        "",
        "registry",
        "ftp://a",
        "https://",
        "https://u@a",
        "https://u:p@a",
        "https://a?b",
        "https://a#b",
        "file:///a",
    ] {
        assert!(text.parse::<UpstreamUrl>().is_err(), "{text}");
    }
    let of = |host| UpstreamUrl::of_registry(host).unwrap().to_string();
    assert_eq!(of("docker.io"), "https://registry-1.docker.io");
    assert_eq!(of("localhost:5000"), "http://localhost:5000");
    assert_eq!(of("127.0.0.1:5000"), "http://127.0.0.1:5000");
    assert_eq!(of("ghcr.io"), "https://ghcr.io");
}

#[tokio::test]
async fn in_a_hurry_nothing_is_waited_for_longer() {
    use jreg_testkit::upstream::{TokenService, UpstreamAuth};
    let upstream = ScriptedUpstream::start().await;
    upstream.add_image(super::REPOSITORY, Some("v1"), &Image::plain(1));
    upstream.set_auth(UpstreamAuth::Bearer(TokenService::anonymous()));
    let delay = || UpstreamFault::Delay(Duration::from_millis(2500));
    for rule in [UpstreamRule::new(delay()), UpstreamRule::new(delay()).on(RequestKind::Token)] {
        upstream.clear_rules();
        upstream.add_rule(rule);
        let client = client(&upstream);
        // The client itself waits longer than the delay.
        let hurried = client.in_a_hurry(Duration::from_millis(300));
        let error = kind(hurried.head_manifest(&name(), &reference("v1")).await);
        assert!(matches!(error, UpstreamErrorKind::Timeout { .. }), "{error}");
        client.head_manifest(&name(), &reference("v1")).await.unwrap();
    }
}
