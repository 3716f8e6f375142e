//! The scenarios of two, each around one rule.

use std::time::Duration;

use jreg_registry::{Rule, UploadId};

use crate::content::{bare_image, bytes, image, index, referrer};
use crate::instance::{TestInstance, eager, eager_for_untagged};
use crate::scenario::{Actor, InitialStore, InterleavedScenario, client, gc_actor};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// Older than the grace.
pub(crate) const OLD: Duration = Duration::from_secs(2 * 3600 + 120);

fn collects() -> Actor {
    gc_actor(async |instance| instance.collect(&eager()).await)
}

fn collects_untagged() -> Actor {
    gc_actor(async |instance| instance.collect(&eager_for_untagged()).await)
}

/// A client that closes an upload and pushes an image of it.
pub(crate) fn closes_upload(
    name: &'static str,
    id: UploadId,
    length: usize,
    tag: &'static str,
) -> Actor {
    client(name, move |instance: TestInstance| {
        let id = id.clone();
        async move {
            instance.close("app", &id, &bytes(length)).await;
            instance.put_manifest("app", tag, &image(&bytes(length))).await;
        }
    })
}

pub(crate) fn cancels_upload(id: UploadId) -> Actor {
    client("canceller", move |instance: TestInstance| {
        let id = id.clone();
        async move { instance.cancel("app", &id).await }
    })
}

/// A blob that is older than the grace.
async fn old_blob(stays: bool, repository: &str, length: usize) -> InitialStore {
    let start = InitialStore::new(stays, async |instance| {
        instance.push_blob(repository, &bytes(length)).await;
        instance.pass(OLD);
    });
    start.await
}

/// A manifest is pushed that names a blob which a GC run may remove.
pub(crate) async fn manifest_onto_old_blob(stays: bool) -> InterleavedScenario {
    let start = old_blob(stays, "app", 5).await;
    let pusher = client("pusher", async |instance| {
        instance.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    InterleavedScenario::new(start, vec![pusher, collects()])
}

/// The same, but the client asks first.
pub(crate) async fn image_onto_old_blob(stays: bool) -> InterleavedScenario {
    let pusher = client("pusher", async |instance| {
        instance.push_image("app", "v1", &bytes(5)).await;
    });
    let InterleavedScenario { start, actors, .. } = manifest_onto_old_blob(stays).await;
    InterleavedScenario::new(start, vec![pusher, actors[1].clone()])
}

/// An image of which nothing is there.
pub(crate) async fn new_image(stays: bool) -> InterleavedScenario {
    let start = old_blob(stays, "app", 6).await;
    let pusher = client("pusher", async |instance| {
        instance.push_blob("app", &bytes(5)).await;
        instance.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    InterleavedScenario::new(start, vec![pusher, collects()])
}

/// The same with an upload in two requests, of several parts.
pub(crate) async fn uploaded_image(stays: bool) -> InterleavedScenario {
    let pusher = client("pusher", async |instance| {
        instance.push_image("app", "v1", &bytes(20)).await;
    });
    let InterleavedScenario { start, actors, .. } = new_image(stays).await;
    InterleavedScenario::new(start, vec![pusher, actors[1].clone()])
}

/// A mount of a blob that is old where it is.
pub(crate) async fn mount_of_old_blob(stays: bool) -> InterleavedScenario {
    let start = old_blob(stays, "lib", 5).await;
    let mounter = client("mounter", async |instance| {
        instance.mount("app", "lib", &bytes(5)).await;
        instance.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    InterleavedScenario::new(start, vec![mounter, collects_twice()])
}

fn collects_twice() -> Actor {
    gc_actor(async |instance| {
        instance.collect(&eager()).await;
        instance.pass(HOUR);
        instance.collect(&eager()).await;
    })
}

/// A mount onto a link that is old, of a blob that is young elsewhere.
pub(crate) async fn mount_onto_old_link(stays: bool) -> InterleavedScenario {
    let start = InitialStore::new(stays, async |instance| {
        instance.push_blob("app", &bytes(5)).await;
        instance.pass(OLD);
        instance.push_blob("lib", &bytes(5)).await;
    });
    let mounter = client("mounter", async |instance| {
        instance.mount("app", "lib", &bytes(5)).await;
        instance.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    InterleavedScenario::new(start.await, vec![mounter, collects()])
}

/// A push onto a link that is old, in one request.
pub(crate) async fn push_onto_old_link(stays: bool) -> InterleavedScenario {
    let pusher = client("pusher", async |instance| {
        instance.push_blob("app", &bytes(5)).await;
        instance.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    let InterleavedScenario { start, actors, .. } = manifest_onto_old_blob(stays).await;
    InterleavedScenario::new(start, vec![pusher, actors[1].clone()])
}

/// A push that sleeps in the middle, while what it relies on grows old.
pub(crate) async fn slow_manifest(stays: bool) -> InterleavedScenario {
    let start = InitialStore::new(stays, async |instance| {
        instance.push_blob("app", &bytes(5)).await;
        instance.pass(HOUR - MINUTE);
    });
    let pusher = client("pusher", async |instance| {
        instance.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    let mut scenario = InterleavedScenario::new(start.await, vec![pusher, collects()]);
    (scenario.ticks, scenario.stops_responses) = (vec![OLD], true);
    scenario
}

async fn untagged(instance: TestInstance, manifest: &str) {
    instance.put_manifest("app", "", manifest).await;
}

/// A manifest is pushed again that a GC run is about to remove.
pub(crate) async fn manifest_again(stays: bool) -> InterleavedScenario {
    let start = InitialStore::new(stays, async |instance| {
        instance.push_blob("app", &bytes(5)).await;
        untagged(instance.clone(), &image(&bytes(5))).await;
        instance.pass(OLD);
    });
    let pusher = client("pusher", async |instance| {
        instance.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    InterleavedScenario::new(start.await, vec![pusher, collects_untagged()])
}

/// Two push the same manifest by tags of their own, that a GC run is about to remove.
pub(crate) async fn manifest_twice_again(stays: bool) -> InterleavedScenario {
    let InterleavedScenario { start, mut actors, .. } = manifest_again(stays).await;
    let other = client("another pusher", async |instance| {
        instance.put_manifest("app", "v2", &image(&bytes(5))).await;
    });
    actors.insert(1, other);
    InterleavedScenario::new(start, actors)
}

/// A manifest is pushed as another media type, by which it refers to nothing, while a GC run
/// searches for unreferenced content. Where it could be changed before, it was.
pub(crate) async fn manifest_as_another_type(changed: bool, stays: bool) -> InterleavedScenario {
    const OTHER: Option<&str> = Some("application/vnd.example+json");
    let broken = changed.then_some(Rule::KeepType);
    let start = InitialStore::breaking(broken, stays, async |instance| {
        instance.push_blob("app", &bytes(5)).await;
        instance.push_blob("app", &bytes(6)).await;
        instance.put_manifest("app", "v1", &bare_image(&bytes(5))).await;
        if changed {
            instance.put_manifest_as(OTHER, "app", "", &bare_image(&bytes(5))).await;
        }
        instance.pass(OLD);
    });
    let pusher = client("pusher", async |instance| {
        instance.put_manifest_as(OTHER, "app", "", &bare_image(&bytes(5))).await;
        instance.put_manifest("app", "v2", &image(&bytes(5))).await;
    });
    InterleavedScenario::new(start.await, vec![pusher, collects()])
}

/// An index is pushed whose child is old, and the client does not push what it is told is there.
pub(crate) async fn index_onto_old_child(stays: bool) -> InterleavedScenario {
    let start = InitialStore::new(stays, async |instance| {
        instance.push_blob("app", &bytes(5)).await;
        untagged(instance.clone(), &image(&bytes(5))).await;
        instance.pass(OLD);
    });
    let pusher = client("pusher", async |instance| {
        instance.put_manifest("app", "v1", &index(&[&image(&bytes(5))])).await;
    });
    InterleavedScenario::new(start.await, vec![pusher, collects_untagged()])
}

/// The same with an index that is there, too.
pub(crate) async fn index_again(stays: bool) -> InterleavedScenario {
    let start = InitialStore::new(stays, async |instance| {
        instance.push_blob("app", &bytes(5)).await;
        untagged(instance.clone(), &image(&bytes(5))).await;
        untagged(instance.clone(), &index(&[&image(&bytes(5))])).await;
        instance.pass(OLD);
    });
    let pusher = client("pusher", async |instance| {
        if instance.has_manifest("app", &image(&bytes(5))).await {
            instance.put_manifest("app", "v1", &index(&[&image(&bytes(5))])).await;
        }
    });
    InterleavedScenario::new(start.await, vec![pusher, collects_untagged()])
}

/// An upload is closed, and abandoned.
pub(crate) async fn close_and_cancel(stays: bool, length: usize) -> InterleavedScenario {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = InitialStore::new(stays, async |instance| {
        id.set(instance.upload("app", &bytes(length)).await.unwrap()).unwrap();
        instance.push_blob("app", &bytes(6)).await;
        instance.pass(OLD);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let closer = closes_upload("closer", id.clone(), length, "v1");
    InterleavedScenario::new(start, vec![closer, cancels_upload(id)])
}

/// An upload is closed while a GC run sweeps that swept before.
pub(crate) async fn close_and_sweep(
    broken: Option<Rule>,
    stays: bool,
    length: usize,
) -> InterleavedScenario {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = InitialStore::breaking(broken, stays, async |instance| {
        instance.push_blob("app", &bytes(6)).await;
        id.set(instance.upload("app", &bytes(length)).await.unwrap()).unwrap();
        instance.collect(&eager()).await;
        instance.pass(OLD);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let closer = closes_upload("closer", id, length, "v1");
    InterleavedScenario::new(start, vec![closer, collects()])
}

/// A closing request is retried, long after the link went and as its bytes go: the reaper has
/// failed to remove the session.
pub(crate) async fn late_replay(stays: bool) -> InterleavedScenario {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = InitialStore::new(stays, async |instance| {
        let sent = instance.upload("app", &bytes(5)).await.unwrap();
        instance.close("app", &sent, &bytes(5)).await;
        let session = format!("uploads/{sent}").parse().unwrap();
        id.set(sent).unwrap();
        instance.pass(OLD);
        instance.collect_but_keep(&session).await;
        instance.pass(HOUR + MINUTE);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let replayer = client("replayer", move |instance: TestInstance| {
        let id = id.clone();
        async move {
            if !instance.close("app", &id, &bytes(5)).await {
                instance.push_image("app", "v1", &bytes(5)).await;
            }
        }
    });
    InterleavedScenario::new(start, vec![replayer, collects()])
}

/// Two requests close an upload of a blob that was deleted long before, while a GC run may remove the
/// deleted link: neither is refused.
pub(crate) async fn close_twice_onto_deleted(stays: bool, length: usize) -> InterleavedScenario {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = InitialStore::new(stays, async |instance| {
        instance.push_blob("app", &bytes(length)).await;
        instance.delete_blob("app", &bytes(length)).await;
        instance.push_blob("app", &bytes(6)).await;
        instance.pass(OLD);
        id.set(instance.upload("app", &bytes(length)).await.unwrap()).unwrap();
        instance.pass(MINUTE);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let closer = |name| {
        let id = id.clone();
        client(name, move |instance: TestInstance| {
            let id = id.clone();
            async move {
                if !instance.close("app", &id, &bytes(length)).await {
                    instance.ledger.blame("a closing PUT was refused".to_owned());
                }
            }
        })
    };
    InterleavedScenario::new(start, vec![closer("closer"), closer("another closer"), collects()])
}

/// A closing PUT is retried, while the blob is deleted so long after its upload was closed.
pub(crate) async fn replay_and_delete(stays: bool, later: Duration) -> InterleavedScenario {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = InitialStore::new(stays, async |instance| {
        let sent = instance.upload("app", &bytes(5)).await.unwrap();
        instance.close("app", &sent, &bytes(5)).await;
        id.set(sent).unwrap();
        instance.pass(later);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let replayer = client("replayer", move |instance: TestInstance| {
        let id = id.clone();
        async move {
            instance.close("app", &id, &bytes(5)).await;
        }
    });
    let deleter = client("deleter", async |instance| {
        instance.delete_blob("app", &bytes(5)).await;
    });
    let mut scenario = InterleavedScenario::new(start, vec![replayer, deleter]);
    scenario.deleted = Some(("app".to_owned(), crate::content::digest(&bytes(5))));
    scenario
}

/// A blob is moved from one repository to another, while a GC run looks at the bytes of a link to
/// it that no longer exists.
pub(crate) async fn move_of_blob(broken: Option<Rule>, stays: bool) -> InterleavedScenario {
    let start = InitialStore::breaking(broken, stays, async |instance| {
        instance.push_blob("old", &bytes(5)).await;
        instance.push_blob("old", &bytes(6)).await;
        instance.mount("lib", "old", &bytes(5)).await;
        instance.put_manifest("lib", "v1", &image(&bytes(5))).await;
        instance.pass(OLD);
        instance.collect(&eager()).await;
        instance.pass(HOUR);
    });
    let mover = client("mover", async |instance| {
        instance.mount("app", "lib", &bytes(5)).await;
        instance.delete_blob("lib", &bytes(5)).await;
    });
    InterleavedScenario::new(start.await, vec![mover, collects()])
}

/// A signature is pushed again that is as old as what it signs, and that nothing else references.
pub(crate) async fn stray_signature_again(stays: bool) -> InterleavedScenario {
    let start = InitialStore::new(stays, async |instance| {
        instance.push_blob("app", &bytes(6)).await;
        instance.push_blob("app", &bytes(7)).await;
        untagged(instance.clone(), &referrer(&image(&bytes(5)), &bytes(6))).await;
        instance.pass(OLD);
    });
    let pusher = client("pusher", async |instance| {
        instance.put_manifest("app", "sig", &referrer(&image(&bytes(5)), &bytes(6))).await;
    });
    InterleavedScenario::new(start.await, vec![pusher, collects_untagged()])
}

/// A signature that only its subject references, which is pushed again.
pub(crate) async fn signed_image_again(stays: bool) -> InterleavedScenario {
    let (subject, signature) = (image(&bytes(5)), referrer(&image(&bytes(5)), &bytes(6)));
    let start = InitialStore::new(stays, async |instance| {
        instance.push_blob("app", &bytes(5)).await;
        instance.push_blob("app", &bytes(6)).await;
        instance.push_blob("app", &bytes(7)).await;
        instance.put_manifest("app", "v1", &subject).await;
        untagged(instance.clone(), &signature).await;
        instance.pass(OLD);
    });
    let pusher = client("pusher", async |instance| {
        instance.push_image("app", "v1", &bytes(5)).await;
    });
    let mut scenario = InterleavedScenario::new(start.await, vec![pusher, collects_untagged()]);
    scenario.referrer = Some(("app".to_owned(), subject, signature));
    scenario
}

/// A blob is read slowly that a GC run removes.
pub(crate) async fn slow_pull(stays: bool) -> InterleavedScenario {
    let start = old_blob(stays, "app", 5).await;
    let puller = client("puller", async |instance| {
        instance.pull("app", &bytes(5), Duration::ZERO).await;
    });
    InterleavedScenario::new(start, vec![puller, collects()])
}

/// An image is deleted and pushed again.
pub(crate) async fn delete_and_push(stays: bool) -> InterleavedScenario {
    let start = InitialStore::new(stays, async |instance| {
        instance.push_image("app", "v1", &bytes(5)).await;
        instance.push_blob("app", &bytes(6)).await;
        instance.pass(OLD);
    });
    let pusher = client("pusher", async |instance| {
        instance.push_image("app", "v1", &bytes(5)).await;
        instance.put_manifest("app", "v2", &image(&bytes(5))).await;
    });
    let deleter = client("deleter", async |instance| {
        instance.delete_manifest("app", &image(&bytes(5))).await;
    });
    InterleavedScenario::new(start.await, vec![pusher, deleter])
}

/// A blob is deleted and mounted.
pub(crate) async fn delete_and_mount(stays: bool) -> InterleavedScenario {
    let start = InitialStore::new(stays, async |instance| {
        instance.push_blob("lib", &bytes(5)).await;
        instance.push_blob("app", &bytes(5)).await;
        instance.pass(OLD);
    });
    let mounter = client("mounter", async |instance| {
        instance.mount("app", "lib", &bytes(5)).await;
        instance.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    let deleter = client("deleter", async |instance| {
        instance.delete_blob("lib", &bytes(5)).await;
        instance.delete_blob("app", &bytes(5)).await;
    });
    InterleavedScenario::new(start.await, vec![mounter, deleter])
}

/// An upload is closed when it is as old as one may be, and the reaper comes.
pub(crate) async fn close_and_reap(stays: bool, length: usize) -> InterleavedScenario {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = InitialStore::new(stays, async |instance| {
        id.set(instance.upload("app", &bytes(length)).await.unwrap()).unwrap();
        instance.pass(6 * 24 * HOUR - MINUTE);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let closer = closes_upload("closer", id, length, "v1");
    let reaper = gc_actor(async |instance| instance.reap().await);
    let mut scenario = InterleavedScenario::new(start, vec![closer, reaper]);
    (scenario.ticks, scenario.stops_responses) = (vec![22 * MINUTE], true);
    scenario
}

/// A push that sleeps between its bytes and what names them, while a GC run sweeps twice.
pub(crate) async fn slow_bytes(stays: bool) -> InterleavedScenario {
    let start = old_blob(stays, "app", 6).await;
    let pusher = client("pusher", async |instance| {
        instance.push_blob("app", &bytes(5)).await;
    });
    let mut scenario = InterleavedScenario::new(start, vec![pusher, sweeps_twice()]);
    scenario.stops_responses = true;
    scenario
}

/// The same with an upload in two requests.
pub(crate) async fn slow_upload(stays: bool) -> InterleavedScenario {
    let uploader = client("uploader", async |instance| {
        if let Some(id) = instance.upload("app", &bytes(5)).await {
            instance.close("app", &id, &bytes(5)).await;
        }
    });
    let InterleavedScenario { start, actors, .. } = slow_bytes(stays).await;
    let mut scenario = InterleavedScenario::new(start, vec![uploader, actors[1].clone()]);
    scenario.stops_responses = true;
    scenario
}

pub(crate) fn sweeps_twice() -> Actor {
    gc_actor(async |instance| {
        instance.collect(&eager()).await;
        instance.pass(OLD);
        instance.collect(&eager()).await;
    })
}

/// A closing request is retried just in time, and sleeps while link and bytes go.
pub(crate) async fn slow_replay(stays: bool) -> InterleavedScenario {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = InitialStore::new(stays, async |instance| {
        let sent = instance.upload("app", &bytes(5)).await.unwrap();
        instance.close("app", &sent, &bytes(5)).await;
        id.set(sent).unwrap();
        instance.pass(HOUR - MINUTE);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let replayer = client("replayer", move |instance: TestInstance| {
        let id = id.clone();
        async move {
            instance.close("app", &id, &bytes(5)).await;
        }
    });
    let gc_actor = gc_actor(async |instance| {
        instance.pass(OLD - HOUR + MINUTE);
        instance.collect(&eager()).await;
        instance.pass(HOUR);
        instance.collect(&eager()).await;
    });
    let mut scenario = InterleavedScenario::new(start, vec![replayer, gc_actor]);
    scenario.stops_responses = true;
    scenario
}

/// A GC run that sleeps between the removal of a signature and that of its entry among the
/// referrers of what it signs, while the signature is pushed again.
pub(crate) async fn slow_removal_of_signature(stays: bool) -> InterleavedScenario {
    let pusher = client("pusher", async |instance| {
        instance.put_manifest("app", "sig", &referrer(&image(&bytes(5)), &bytes(6))).await;
        instance.pass(HOUR + MINUTE);
    });
    let InterleavedScenario { start, actors, .. } = stray_signature_again(stays).await;
    InterleavedScenario::new(start, vec![pusher, actors[1].clone()])
}

/// Links to the same bytes at two places are made one while the holders of one place go.
pub(crate) async fn deduplicate_while_holders_delete(stays: bool) -> InterleavedScenario {
    let start = InitialStore::new(stays, async |instance| {
        for (source, others) in [("a", ["b", "c"].as_slice()), ("d", &["e"])] {
            instance.push_blob(source, &bytes(5)).await;
            for name in others {
                instance.mount(name, source, &bytes(5)).await;
            }
        }
        for name in ["a", "b", "c", "d", "e"] {
            instance.put_manifest(name, "v1", &image(&bytes(5))).await;
        }
        instance.pass(OLD);
    });
    let deleter = client("deleter", async |instance| {
        for name in ["a", "b", "c"] {
            instance.delete_blob(name, &bytes(5)).await;
        }
        instance.push_blob("a", &bytes(6)).await;
    });
    InterleavedScenario::new(start.await, vec![collects(), deleter, sweeps_twice()])
}

/// A blob is handed on from one repository to the next, each time as a sweep looks.
pub(crate) async fn blob_handed_on(stays: bool) -> InterleavedScenario {
    let start = InitialStore::new(stays, async |instance| {
        instance.push_blob("c", &bytes(5)).await;
    });
    let first = client("first", async |instance| {
        instance.mount("b", "c", &bytes(5)).await;
        instance.delete_blob("c", &bytes(5)).await;
    });
    let second = client("second", async |instance| {
        instance.mount("a", "b", &bytes(5)).await;
        instance.delete_blob("b", &bytes(5)).await;
    });
    InterleavedScenario::new(start.await, vec![sweeps_twice(), first, second])
}

/// A blob of several parts is pushed that another repository holds, and deletes.
pub(crate) async fn push_while_other_copy_is_deleted(stays: bool) -> InterleavedScenario {
    let start = InitialStore::new(stays, async |instance| {
        instance.push_blob("lib", &bytes(20)).await;
    });
    let pusher = client("pusher", async |instance| {
        instance.push_image("app", "v1", &bytes(20)).await;
    });
    let deleter = client("deleter", async |instance| {
        instance.delete_blob("lib", &bytes(20)).await;
    });
    let mut scenario = InterleavedScenario::new(start.await, vec![pusher, deleter]);
    scenario.is_calm = true;
    scenario
}

/// A blob is pushed again whose bytes are lost, while a GC run may remove its link.
pub(crate) async fn push_over_missing_bytes(stays: bool) -> InterleavedScenario {
    let start = InitialStore::new(stays, async |instance| {
        instance.push_blob("app", &bytes(5)).await;
        instance.pass(OLD);
    });
    let pusher = client("pusher", async |instance| {
        instance.push_blob("app", &bytes(5)).await;
        instance.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    let start = start.await.damaged(|_| None).await;
    InterleavedScenario::new(start, vec![pusher, collects()])
}

/// Of two copies the one that more repositories hold is wrong; the other is deduplicated and
/// mounted.
pub(crate) async fn deduplication_of_wrong_bytes(stays: bool) -> InterleavedScenario {
    let start = InitialStore::new(stays, async |instance| {
        instance.push_blob("one", &bytes(5)).await;
        instance.mount("two", "one", &bytes(5)).await;
        for name in ["one", "two"] {
            instance.put_manifest(name, "v1", &image(&bytes(5))).await;
        }
    });
    let wrong = start.await.damaged(|_| Some("wrong".into())).await;
    let start = wrong.following(async |instance| {
        instance.push_blob("three", &bytes(5)).await;
        instance.put_manifest("three", "v1", &image(&bytes(5))).await;
        instance.pass(OLD);
    });
    let mounter = client("mounter", async |instance| {
        instance.mount("four", "three", &bytes(5)).await;
        instance.put_manifest("four", "v1", &image(&bytes(5))).await;
    });
    InterleavedScenario::new(start.await, vec![mounter, collects()])
}

/// An upload of several parts is closed when it is as old as one may be, and its completion takes
/// hours, while the reaper and two sweeps come.
pub(crate) async fn slow_completion(stays: bool) -> InterleavedScenario {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = InitialStore::new(stays, async |instance| {
        id.set(instance.upload("app", &bytes(20)).await.unwrap()).unwrap();
        instance.pass(6 * 24 * HOUR - MINUTE);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let closer = client("closer", move |instance: TestInstance| {
        let id = id.clone();
        async move {
            instance.close("app", &id, &bytes(20)).await;
        }
    });
    let gc_actor = gc_actor(async |instance| {
        instance.reap().await;
        instance.collect(&eager()).await;
        instance.pass(OLD);
        instance.collect(&eager()).await;
    });
    let mut scenario = InterleavedScenario::new(start, vec![closer, gc_actor]);
    (scenario.ticks, scenario.stops_responses) = (vec![OLD], true);
    scenario
}
