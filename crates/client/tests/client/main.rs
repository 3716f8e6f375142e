//! The client against a scripted upstream.

#![allow(clippy::unwrap_used)]

mod auth;
mod blobs;
mod clouds;
mod failures;
mod limits;
mod lists;
mod manifests;
mod redirects;

use std::time::Duration;

use jreg_client::{
    BlobRequest, CredentialSource, SecretSource, UpstreamClient, UpstreamError, UpstreamErrorKind,
    UpstreamOptions,
};
use jreg_oci::{Digest, Reference, RepositoryName};
use jreg_testkit::upstream::ScriptedUpstream;

const REPOSITORY: &str = "library/app";

fn name() -> RepositoryName {
    REPOSITORY.parse().unwrap()
}

fn digest(text: &str) -> Digest {
    text.parse().unwrap()
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Options whose timeouts are short enough for tests.
fn options<'a>(
    urls: impl IntoIterator<Item = &'a String>,
    credentials: CredentialSource,
) -> UpstreamOptions {
    let mut options =
        UpstreamOptions::new(urls.into_iter().map(|url| url.parse().unwrap()), credentials);
    options.timeouts.response = Duration::from_secs(3);
    options.timeouts.idle = Duration::from_millis(600);
    options.timeouts.patience = Duration::from_secs(6);
    options
}

fn client(upstream: &ScriptedUpstream) -> UpstreamClient {
    client_with(upstream, |_| ())
}

fn client_with(
    upstream: &ScriptedUpstream,
    change: impl FnOnce(&mut UpstreamOptions),
) -> UpstreamClient {
    let mut options = options([&upstream.url()], CredentialSource::Anonymous);
    change(&mut options);
    UpstreamClient::new(options).unwrap()
}

fn client_as(upstream: &ScriptedUpstream, user: &str, password: &str) -> UpstreamClient {
    client_with(upstream, |options| {
        options.endpoints[0].credentials = self::password(user, password);
    })
}

fn password(user: &str, password: &str) -> CredentialSource {
    let password = SecretSource::Value(jreg_auth::Secret::new(password));
    CredentialSource::Password { user: user.to_owned(), password }
}

/// The bytes of a blob, or what ended them.
async fn read(client: &UpstreamClient, request: &BlobRequest) -> Result<Vec<u8>, UpstreamError> {
    let mut blob = client.open_blob(&name(), request).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = blob.next_chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(blob.next_chunk().await, Ok(None), "the end stays the end");
    Ok(bytes)
}

/// The kind of an error.
fn kind<T: std::fmt::Debug>(result: Result<T, UpstreamError>) -> UpstreamErrorKind {
    result.unwrap_err().kind
}
