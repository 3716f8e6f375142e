//! Each method of a handle requires its right.
#![allow(clippy::unwrap_used)]

use jreg_oci::{Algorithm, Digest, MountSource};
use jreg_registry::{
    ManifestPush, PageRequest, ReferencePrecondition, RegistryOptions, UploadChunk,
};
use jreg_storage::{MemoryStore, SystemClock};

use super::*;

fn name(name: &str) -> RepositoryName {
    name.parse().unwrap()
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// A handle for each right.
async fn handles() -> Vec<(Right, Authorized)> {
    let store = Arc::new(MemoryStore::new());
    let clock = Arc::new(SystemClock::new());
    let registry = Registry::open(store, clock, RegistryOptions::default()).await.unwrap();
    let gate = RegistryGate::new(registry, Arc::new(AllowAll));
    let rights = [
        Right::Enter,
        Right::List,
        Right::See(name("a")),
        Right::Mount(name("a")),
        Right::Pull(name("a")),
        Right::Push(name("a")),
        Right::Delete(name("a")),
        Right::Admin,
    ];
    let handle = |right: Right| {
        let auth = AuthContext::new(Principal::anonymous(), RequestInfo::default());
        (right.clone(), Authorized::new(gate.clone(), auth, right, DecisionReason::Open))
    };
    rights.map(handle).into()
}

fn is_denied<T>(result: Result<T, AccessError>) -> bool {
    matches!(result, Err(AccessError::Denied(_)))
}

#[tokio::test]
async fn a_handle_does_only_what_its_right_is_for() {
    let digest = &digest(b"x");
    let reference = &"latest".parse().unwrap();
    let page = &PageRequest { limit: 1, last: None };
    let push = ManifestPush {
        reference: "latest".parse().unwrap(),
        tags: Vec::new(),
        media_type: None,
        bytes: "{}".into(),
        condition: Some(ReferencePrecondition::Exists),
    };
    let handles = handles().await;
    let id = &handles.iter().find_map(|(_, handle)| handle.upload_start(None).ok()).unwrap();
    for (right, handle) in handles {
        let from = &MountSource::Any;
        let lists = !is_denied(handle.catalog(page).await);
        let pulls = [
            !is_denied(handle.tags(page).await),
            !is_denied(handle.referrers(digest, None, page).await),
            !is_denied(handle.blob_stat(digest).await),
            !is_denied(handle.blob_open(digest).await),
            !is_denied(handle.manifest_get(reference).await),
            !is_denied(handle.manifest_stat(reference).await),
        ];
        let pushes = [
            !is_denied(handle.blob_push(digest, UploadChunk::of("x")).await),
            !is_denied(handle.blob_mount(digest, from).await),
            !is_denied(handle.upload_start(None)),
            !is_denied(handle.upload_status(id).await),
            !is_denied(handle.upload_append(id, UploadChunk::empty()).await),
            !is_denied(handle.upload_finish(id, digest, UploadChunk::of("x")).await),
            !is_denied(handle.upload_cancel(id).await),
            !is_denied(handle.manifest_put(push.clone()).await),
        ];
        let deletes = [
            !is_denied(handle.blob_delete(digest).await),
            !is_denied(handle.manifest_delete(reference, None, &mut Vec::new()).await),
        ];
        assert_eq!(lists, right == Right::List, "{right:?}");
        assert_eq!(pulls, [matches!(right, Right::Pull(_)); 6], "{right:?}");
        assert_eq!(pushes, [matches!(right, Right::Push(_)); 8], "{right:?}");
        assert_eq!(deletes, [matches!(right, Right::Delete(_)); 2], "{right:?}");
    }
}
