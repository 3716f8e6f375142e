//! Redirects, and the addresses that are connected to.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jreg_client::{
    BlobRequest, ByteRange, HostResolver, UpstreamClient, UpstreamErrorKind, UpstreamOptions,
};
use jreg_testkit::upstream::{
    RequestKind, ScriptedUpstream, UpstreamAuth, UpstreamFault, UpstreamRule,
};
use jreg_testkit::{Image, TestCa};

use super::{client, client_with, digest, kind, name, password, read, reference};

/// Names with the addresses that they resolve to.
#[derive(Debug, Default)]
struct Names(HashMap<&'static str, Vec<&'static str>>);

#[async_trait]
impl HostResolver for Names {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let addresses = self.0.get(host).ok_or(io::ErrorKind::NotFound)?;
        Ok(addresses.iter().map(|address| address.parse().unwrap()).collect())
    }
}

fn with_names(options: &mut UpstreamOptions, names: &[(&'static str, &[&'static str])]) {
    let names = names.iter().map(|(name, addresses)| (*name, addresses.to_vec()));
    options.resolver = Some(Arc::new(Names(names.collect())));
}

/// A registry that redirects blobs to another server, which has the blob, too.
async fn redirecting() -> (ScriptedUpstream, ScriptedUpstream, BlobRequest) {
    let (upstream, other) = (ScriptedUpstream::start().await, ScriptedUpstream::start().await);
    let hex = upstream.add_blob(super::REPOSITORY, vec![1; 5000]);
    other.add_blob(super::REPOSITORY, vec![1; 5000]);
    redirect(&upstream, &other.url());
    (upstream, other, BlobRequest::new(digest(&hex)))
}

fn redirect(upstream: &ScriptedUpstream, location: &str) {
    upstream.clear_rules();
    upstream.add_rule(
        UpstreamRule::new(UpstreamFault::Redirect(location.to_owned())).on(RequestKind::BlobGet),
    );
}

#[tokio::test]
async fn another_host_gets_no_credentials() {
    let (upstream, other, request) = redirecting().await;
    upstream.set_auth(UpstreamAuth::Basic { user: "me".to_owned(), password: "secret".to_owned() });
    let client = super::client_as(&upstream, "me", "secret");
    assert_eq!(read(&client, &request).await.unwrap().len(), 5000);
    let part = request.with_range(ByteRange { start: 10, end: Some(20) });
    assert_eq!(read(&client, &part).await.unwrap().len(), 10);
    let sent = other.requests();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|request| request.authorization.is_none()), "{sent:?}");
    assert_eq!(sent[1].range.as_deref(), Some("bytes=10-19"));
    let blobs =
        upstream.requests().into_iter().filter(|request| request.kind == RequestKind::BlobGet);
    assert!(blobs.into_iter().all(|request| request.authorization.is_some()));
}

#[tokio::test]
async fn a_port_is_another_host_and_the_same_host_is_not() {
    let upstream = ScriptedUpstream::start().await;
    let hex = upstream.add_blob(super::REPOSITORY, "content");
    upstream.set_auth(UpstreamAuth::Basic { user: "me".to_owned(), password: "secret".to_owned() });
    let there = format!("{}/v2/other/blobs/{hex}", upstream.url());
    upstream.add_blob("other", "content");
    let rule = UpstreamRule::new(UpstreamFault::Redirect(there)).on(RequestKind::BlobGet);
    upstream.add_rule(rule.at(super::REPOSITORY));
    let client = super::client_as(&upstream, "me", "secret");
    assert_eq!(read(&client, &BlobRequest::new(digest(&hex))).await.unwrap(), b"content");
}

#[tokio::test]
async fn an_object_store_cannot_say_that_something_does_not_exist() {
    let (upstream, other, request) = redirecting().await;
    for status in [400, 401, 403, 404, 410] {
        redirect(&upstream, &format!("{}/bucket/object", other.url()));
        other.set_document("/bucket/object", status, "<Error/>");
        let client = client(&upstream).with_patience(Duration::ZERO);
        let error = kind(client.open_blob(&name(), &request).await.map(|_| ()));
        assert!(matches!(error, UpstreamErrorKind::Unavailable { .. }), "{status}: {error}");
    }
    // Some registries redirect to another registry, which can.
    redirect(&upstream, &format!("{}/v2/other/blobs/{}", other.url(), request.digest));
    let error = kind(client(&upstream).open_blob(&name(), &request).await.map(|_| ()));
    assert_eq!(error, UpstreamErrorKind::NotFound);
}

#[tokio::test]
async fn a_head_whose_redirect_is_for_get_only_is_followed_by_the_first_byte() {
    let (upstream, other, request) = redirecting().await;
    upstream.clear_rules();
    let location = format!("{}/bucket/object", other.url());
    upstream
        .add_rule(UpstreamRule::new(UpstreamFault::Redirect(location)).on(RequestKind::BlobHead));
    other.set_document("/bucket/object", 403, "<Error/>");
    assert_eq!(client(&upstream).head_blob(&name(), &request.digest).await, Ok(5000));
}

#[tokio::test]
async fn redirects_end() {
    let upstream = ScriptedUpstream::start().await;
    let url = upstream.url();
    redirect(&upstream, &url);
    let request = BlobRequest::new(digest(&jreg_testkit::sha256("a")));
    let error = kind(client(&upstream).open_blob(&name(), &request).await.map(|_| ()));
    assert!(matches!(error, UpstreamErrorKind::Protocol { .. }), "{error}");
    assert_eq!(upstream.requests().len(), 6);
    for location in ["", "http://", "http://user:password@127.0.0.1/", "ftp://127.0.0.1/a"] {
        upstream.clear_rules();
        let headers = vec![("location".to_owned(), location.to_owned())];
        upstream.add_rule(UpstreamRule::new(UpstreamFault::Status {
            status: 302,
            headers,
            body: String::new(),
        }));
        let error = kind(client(&upstream).open_blob(&name(), &request).await.map(|_| ()));
        assert!(matches!(error, UpstreamErrorKind::Protocol { .. }), "{location}: {error}");
    }
}

#[tokio::test]
async fn tls_is_not_given_up_by_a_redirect() {
    let authority = TestCa::new();
    let (upstream, plain) =
        (ScriptedUpstream::start_tls(&authority).await, ScriptedUpstream::start().await);
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let hex = plain.add_blob(super::REPOSITORY, "content");
    redirect(&upstream, &plain.url());
    let client = client_with(&upstream, |options| options.ca_file = Some(ca));
    let error = kind(read(&client, &BlobRequest::new(digest(&hex))).await);
    assert!(matches!(error, UpstreamErrorKind::Protocol { .. }), "{error}");
    assert_eq!(plain.requests().len(), 0);
}

#[tokio::test]
async fn a_name_that_resolves_to_a_private_address_is_not_connected_to() {
    let upstream = ScriptedUpstream::start().await;
    let url = upstream.url_as("registry.test");
    let of = |names: &[(&'static str, &[&'static str])], is_allowed: bool| {
        let mut options = super::options([&url], password("me", "secret"));
        options.timeouts.patience = Duration::ZERO;
        options.private_addresses = is_allowed;
        with_names(&mut options, names);
        UpstreamClient::new(options).unwrap()
    };
    for address in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1"] {
        let error = kind(of(&[("registry.test", &[address])], false).ping().await);
        assert_eq!(error, UpstreamErrorKind::AddressRefused { address: address.parse().unwrap() });
    }
    assert_eq!(upstream.connections(), 0);
    of(&[("registry.test", &["169.254.169.254", "127.0.0.1"])], true).ping().await.unwrap();
    let error = kind(of(&[("registry.test", &["169.254.169.254"])], true).ping().await);
    assert!(matches!(error, UpstreamErrorKind::AddressRefused { .. }), "{error}");
    let error = kind(of(&[], true).ping().await);
    assert!(matches!(error, UpstreamErrorKind::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn no_redirect_leads_to_the_metadata_of_the_instance() {
    let (upstream, _other, request) = redirecting().await;
    let client = client_with(&upstream, |options| {
        with_names(options, &[("metadata.test", &["169.254.169.254"])])
    });
    for location in
        ["http://169.254.169.254/a", "http://metadata.test/a", "http://[fd00:ec2::254]/a"]
    {
        redirect(&upstream, location);
        let error = kind(client.open_blob(&name(), &request).await.map(|_| ()));
        assert!(matches!(error, UpstreamErrorKind::AddressRefused { .. }), "{location}: {error}");
    }
}

#[tokio::test]
async fn a_manifest_of_another_registry_is_taken() {
    let (upstream, other) = (ScriptedUpstream::start().await, ScriptedUpstream::start().await);
    let image = Image::plain(1);
    other.add_image(super::REPOSITORY, Some("v1"), &image);
    upstream.add_rule(UpstreamRule::new(UpstreamFault::Redirect(other.url())));
    let client = client(&upstream);
    let manifest = client.get_manifest(&name(), &reference("v1")).await.unwrap();
    assert_eq!(manifest.bytes, image.manifest.bytes);
    assert_eq!(
        kind(client.get_manifest(&name(), &reference("v2")).await),
        UpstreamErrorKind::NotFound
    );
}
