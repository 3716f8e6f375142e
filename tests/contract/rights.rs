//! Authorization: responses to refusals, which reveal nothing about unreadable content.

use async_trait::async_trait;
use jreg_access::{
    AuthContext, AuthError, Authorizer, CredentialState, Principal, RefusedAccess, RequestInfo,
    Right,
};
use jreg_auth::DecisionReason;
use jreg_oci::Tag;
use jreg_testkit::{
    ServerSpec, delete, get, head, index_of, media, post, push_blob_to, put, sha256,
};
use serde_json::json;

use crate::contract::blobs::blob;

/// `secret` is visible only with the word in the header, and `kept` cannot be deleted from.
#[derive(Debug)]
struct Rules;

#[async_trait]
impl Authorizer for Rules {
    async fn identify(
        &self,
        request_info: RequestInfo,
        _: &Right,
    ) -> Result<AuthContext, AuthError> {
        Ok(AuthContext::new(Principal::anonymous(), request_info))
    }

    fn grant(&self, auth: &AuthContext, right: &Right) -> Result<DecisionReason, AuthError> {
        let word = auth.request_info.headers.get("Authorization");
        let knows = word.is_some_and(|word| word == "word");
        let reason = "the rules of the test".to_owned();
        let access = RefusedAccess::new(CredentialState::No, right);
        match right {
            Right::Pull(name) | Right::Push(name) | Right::See(name) | Right::Mount(name)
                if name.as_str() == "secret" && !knows =>
            {
                let challenge = "Basic realm=\"jreg\"".to_owned();
                Err(AuthError::Unauthenticated { challenge: Some(challenge), access, reason })
            }
            Right::Delete(name) if name.as_str() == "kept" => {
                Err(AuthError::Forbidden { access, reason })
            }
            _ => Ok(DecisionReason::Open),
        }
    }

    fn grant_tag(
        &self,
        auth: &AuthContext,
        right: &Right,
        _: &Tag,
    ) -> Result<DecisionReason, AuthError> {
        self.grant(auth, right)
    }

    fn depends_on_tag(&self, _: &AuthContext, _: &Right) -> bool {
        false
    }
}

fn ruled() -> ServerSpec {
    ServerSpec::default().authorizer(Rules)
}

fn push_secret() -> Vec<jreg_testkit::Step> {
    steps![
        push_blob_to("secret", "hello").header("Authorization", "word"),
        put("/v2/secret/manifests/v1")
            .header("Authorization", "word")
            .header("Content-Type", media::INDEX)
            .body(index_of(&[]).bytes)
            .is(201),
    ]
}

contract! {
    c11_missing_credentials_are_401_with_a_challenge [ruled()]: steps![
        push_secret(),
        get("/v2/secret/manifests/v1").is(401).code("UNAUTHORIZED").has_part("WWW-Authenticate", "Basic realm="),
        head("/v2/secret/manifests/v1").is(401),
        get("/v2/secret/manifests/v1").header("Authorization", "word").is(200),
        post("/v2/secret/blobs/uploads/").is(401).code("UNAUTHORIZED"),
        put("/v2/secret/manifests/v2").body(index_of(&[]).bytes).is(401),
        get("/v2/secret/manifests/v2").header("Authorization", "word").is(404),
    ];

    c11_missing_right_is_403 [ruled()]: steps![
        push_blob_to("kept", "hello"),
        delete(&format!("/v2/kept/blobs/{}", sha256("hello"))).is(403).code("DENIED"),
        get(&format!("/v2/kept/blobs/{}", sha256("hello"))).is(200).gives("hello"),
    ];

    c06_mount_from_what_may_not_be_read_is_a_miss [ruled()]: steps![
        push_secret(),
        post(&format!("/v2/{{repo}}/blobs/uploads/?mount={}&from=secret", sha256("hello"))).is(202),
        post(&format!("/v2/{{repo}}/blobs/uploads/?mount={}", sha256("hello"))).is(202),
        head(&blob("hello")).is(404),
        post(&format!("/v2/{{repo}}/blobs/uploads/?mount={}&from=secret", sha256("hello")))
            .header("Authorization", "word")
            .is(201),
    ];

    c21_catalog_hides_what_may_not_be_read [ruled()]: steps![
        push_secret(),
        put("/v2/open/manifests/v1").header("Content-Type", media::INDEX).body(index_of(&[]).bytes).is(201),
        get("/v2/_catalog").is(200).json("/repositories", json!(["open"])),
        get("/v2/_catalog").header("Authorization", "word").is(200).json("/repositories", json!(["open", "secret"])),
        get("/v2/_catalog?n=1").is(200).json("/repositories", json!(["open"])),
    ];
}
