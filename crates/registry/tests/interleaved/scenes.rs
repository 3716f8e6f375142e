//! The scenes of two, each around one rule.

use std::time::Duration;

use jreg_registry::Rule;

use crate::content::{bare_image, bytes, image, index, referrer};
use crate::player::{Player, eager, eager_for_untagged};
use crate::scene::{Actor, Scene, Start, client, collector};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// Older than the grace.
pub(crate) const OLD: Duration = Duration::from_secs(2 * 3600 + 120);

fn collects() -> Actor {
    collector(async |player| player.collect(&eager()).await)
}

fn collects_untagged() -> Actor {
    collector(async |player| player.collect(&eager_for_untagged()).await)
}

/// A manifest is pushed that names a blob which a collector may remove.
pub(crate) async fn manifest_onto_old_blob(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("app", &bytes(5)).await;
        player.pass(OLD);
    });
    let pusher = client("pusher", async |player| {
        player.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    Scene::new(start.await, vec![pusher, collects()])
}

/// The same, but the client asks first.
pub(crate) async fn image_onto_old_blob(stays: bool) -> Scene {
    let pusher = client("pusher", async |player| {
        player.push_image("app", "v1", &bytes(5)).await;
    });
    let Scene { start, actors, .. } = manifest_onto_old_blob(stays).await;
    Scene::new(start, vec![pusher, actors[1].clone()])
}

/// An image of which nothing is there.
pub(crate) async fn new_image(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("app", &bytes(6)).await;
        player.pass(OLD);
    });
    let pusher = client("pusher", async |player| {
        player.push_blob("app", &bytes(5)).await;
        player.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    Scene::new(start.await, vec![pusher, collects()])
}

/// The same with an upload in two requests, of several parts.
pub(crate) async fn uploaded_image(stays: bool) -> Scene {
    let pusher = client("pusher", async |player| {
        player.push_image("app", "v1", &bytes(20)).await;
    });
    let Scene { start, actors, .. } = new_image(stays).await;
    Scene::new(start, vec![pusher, actors[1].clone()])
}

/// A mount of a blob that is old where it is.
pub(crate) async fn mount_of_old_blob(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("lib", &bytes(5)).await;
        player.pass(OLD);
    });
    let mounter = client("mounter", async |player| {
        player.mount("app", "lib", &bytes(5)).await;
        player.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    Scene::new(start.await, vec![mounter, collects_twice()])
}

fn collects_twice() -> Actor {
    collector(async |player| {
        player.collect(&eager()).await;
        player.pass(HOUR);
        player.collect(&eager()).await;
    })
}

/// A mount onto a link that is old, of a blob that is young elsewhere.
pub(crate) async fn mount_onto_old_link(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("app", &bytes(5)).await;
        player.pass(OLD);
        player.push_blob("lib", &bytes(5)).await;
    });
    let mounter = client("mounter", async |player| {
        player.mount("app", "lib", &bytes(5)).await;
        player.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    Scene::new(start.await, vec![mounter, collects()])
}

/// A push onto a link that is old, in one request.
pub(crate) async fn push_onto_old_link(stays: bool) -> Scene {
    let pusher = client("pusher", async |player| {
        player.push_blob("app", &bytes(5)).await;
        player.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    let Scene { start, actors, .. } = manifest_onto_old_blob(stays).await;
    Scene::new(start, vec![pusher, actors[1].clone()])
}

/// A push that sleeps in the middle, while what it relies on grows old.
pub(crate) async fn slow_manifest(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("app", &bytes(5)).await;
        player.pass(HOUR - MINUTE);
    });
    let pusher = client("pusher", async |player| {
        player.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    let mut scene = Scene::new(start.await, vec![pusher, collects()]);
    (scene.ticks, scene.stops_answers) = (vec![OLD], true);
    scene
}

async fn untagged(player: Player, manifest: &str) {
    player.put_manifest("app", "", manifest).await;
}

/// A manifest is pushed again that a collector is about to remove.
pub(crate) async fn manifest_again(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("app", &bytes(5)).await;
        untagged(player.clone(), &image(&bytes(5))).await;
        player.pass(OLD);
    });
    let pusher = client("pusher", async |player| {
        player.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    Scene::new(start.await, vec![pusher, collects_untagged()])
}

/// Two push the same manifest by tags of their own, that a collector is about to remove.
pub(crate) async fn manifest_twice_again(stays: bool) -> Scene {
    let Scene { start, mut actors, .. } = manifest_again(stays).await;
    let other = client("another pusher", async |player| {
        player.put_manifest("app", "v2", &image(&bytes(5))).await;
    });
    actors.insert(1, other);
    Scene::new(start, actors)
}

/// A manifest is pushed as another media type, by which it refers to nothing, while a collector looks
/// for what nothing refers to. Where it could be changed before, it was.
pub(crate) async fn manifest_as_another_type(changed: bool, stays: bool) -> Scene {
    const OTHER: Option<&str> = Some("application/vnd.example+json");
    let broken = changed.then_some(Rule::KeepType);
    let start = Start::breaking(broken, stays, async |player| {
        player.push_blob("app", &bytes(5)).await;
        player.push_blob("app", &bytes(6)).await;
        player.put_manifest("app", "v1", &bare_image(&bytes(5))).await;
        if changed {
            player.put_manifest_as(OTHER, "app", "", &bare_image(&bytes(5))).await;
        }
        player.pass(OLD);
    });
    let pusher = client("pusher", async |player| {
        player.put_manifest_as(OTHER, "app", "", &bare_image(&bytes(5))).await;
        player.put_manifest("app", "v2", &image(&bytes(5))).await;
    });
    Scene::new(start.await, vec![pusher, collects()])
}

/// An index is pushed whose child is old, and the client does not push what it is told is there.
pub(crate) async fn index_onto_old_child(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("app", &bytes(5)).await;
        untagged(player.clone(), &image(&bytes(5))).await;
        player.pass(OLD);
    });
    let pusher = client("pusher", async |player| {
        player.put_manifest("app", "v1", &index(&[&image(&bytes(5))])).await;
    });
    Scene::new(start.await, vec![pusher, collects_untagged()])
}

/// The same with an index that is there, too.
pub(crate) async fn index_again(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("app", &bytes(5)).await;
        untagged(player.clone(), &image(&bytes(5))).await;
        untagged(player.clone(), &index(&[&image(&bytes(5))])).await;
        player.pass(OLD);
    });
    let pusher = client("pusher", async |player| {
        if player.has_manifest("app", &image(&bytes(5))).await {
            player.put_manifest("app", "v1", &index(&[&image(&bytes(5))])).await;
        }
    });
    Scene::new(start.await, vec![pusher, collects_untagged()])
}

/// An upload is closed, and given up.
pub(crate) async fn close_and_cancel(stays: bool, length: usize) -> Scene {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = Start::new(stays, async |player| {
        id.set(player.upload("app", &bytes(length)).await.unwrap()).unwrap();
        player.push_blob("app", &bytes(6)).await;
        player.pass(OLD);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let of_closer = id.clone();
    let closer = client("closer", move |player: Player| {
        let id = of_closer.clone();
        async move {
            player.close("app", &id, &bytes(length)).await;
            player.put_manifest("app", "v1", &image(&bytes(length))).await;
        }
    });
    let canceller = client("canceller", move |player: Player| {
        let id = id.clone();
        async move { player.cancel("app", &id).await }
    });
    Scene::new(start, vec![closer, canceller])
}

/// An upload is closed while a collector sweeps that swept before.
pub(crate) async fn close_and_sweep(broken: Option<Rule>, stays: bool, length: usize) -> Scene {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = Start::breaking(broken, stays, async |player| {
        player.push_blob("app", &bytes(6)).await;
        id.set(player.upload("app", &bytes(length)).await.unwrap()).unwrap();
        player.collect(&eager()).await;
        player.pass(OLD);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let closer = client("closer", move |player: Player| {
        let id = id.clone();
        async move {
            player.close("app", &id, &bytes(length)).await;
            player.put_manifest("app", "v1", &image(&bytes(length))).await;
        }
    });
    Scene::new(start, vec![closer, collects()])
}

/// A closing request is sent again, long after the link went and as its bytes go: the reaper has failed
/// to remove the session.
pub(crate) async fn late_replay(stays: bool) -> Scene {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = Start::new(stays, async |player| {
        let sent = player.upload("app", &bytes(5)).await.unwrap();
        player.close("app", &sent, &bytes(5)).await;
        let session = format!("uploads/{sent}").parse().unwrap();
        id.set(sent).unwrap();
        player.pass(OLD);
        player.collect_but_keep(&session).await;
        player.pass(HOUR + MINUTE);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let replayer = client("replayer", move |player: Player| {
        let id = id.clone();
        async move {
            if !player.close("app", &id, &bytes(5)).await {
                player.push_image("app", "v1", &bytes(5)).await;
            }
        }
    });
    Scene::new(start, vec![replayer, collects()])
}

/// A blob is moved from one repository to another, while a collector looks at the bytes of a link
/// to it that is gone.
pub(crate) async fn move_of_blob(broken: Option<Rule>, stays: bool) -> Scene {
    let start = Start::breaking(broken, stays, async |player| {
        player.push_blob("old", &bytes(5)).await;
        player.push_blob("old", &bytes(6)).await;
        player.mount("lib", "old", &bytes(5)).await;
        player.put_manifest("lib", "v1", &image(&bytes(5))).await;
        player.pass(OLD);
        player.collect(&eager()).await;
        player.pass(HOUR);
    });
    let mover = client("mover", async |player| {
        player.mount("app", "lib", &bytes(5)).await;
        player.delete_blob("lib", &bytes(5)).await;
    });
    Scene::new(start.await, vec![mover, collects()])
}

/// A signature is pushed again that is as old as what it signs, and nobody else keeps.
pub(crate) async fn stray_signature_again(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("app", &bytes(6)).await;
        player.push_blob("app", &bytes(7)).await;
        untagged(player.clone(), &referrer(&image(&bytes(5)), &bytes(6))).await;
        player.pass(OLD);
    });
    let pusher = client("pusher", async |player| {
        player.put_manifest("app", "sig", &referrer(&image(&bytes(5)), &bytes(6))).await;
    });
    Scene::new(start.await, vec![pusher, collects_untagged()])
}

/// A signature that nothing keeps but what it signs, which is pushed again.
pub(crate) async fn signed_image_again(stays: bool) -> Scene {
    let (subject, signature) = (image(&bytes(5)), referrer(&image(&bytes(5)), &bytes(6)));
    let start = Start::new(stays, async |player| {
        player.push_blob("app", &bytes(5)).await;
        player.push_blob("app", &bytes(6)).await;
        player.push_blob("app", &bytes(7)).await;
        player.put_manifest("app", "v1", &subject).await;
        untagged(player.clone(), &signature).await;
        player.pass(OLD);
    });
    let pusher = client("pusher", async |player| {
        player.push_image("app", "v1", &bytes(5)).await;
    });
    let mut scene = Scene::new(start.await, vec![pusher, collects_untagged()]);
    scene.referrer = Some(("app".to_owned(), subject, signature));
    scene
}

/// A blob is read slowly that a collector removes.
pub(crate) async fn slow_pull(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("app", &bytes(5)).await;
        player.pass(OLD);
    });
    let puller = client("puller", async |player| {
        player.pull("app", &bytes(5), Duration::ZERO).await;
    });
    Scene::new(start.await, vec![puller, collects()])
}

/// An image is deleted and pushed again.
pub(crate) async fn delete_and_push(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_image("app", "v1", &bytes(5)).await;
        player.push_blob("app", &bytes(6)).await;
        player.pass(OLD);
    });
    let pusher = client("pusher", async |player| {
        player.push_image("app", "v1", &bytes(5)).await;
        player.put_manifest("app", "v2", &image(&bytes(5))).await;
    });
    let deleter = client("deleter", async |player| {
        player.delete_manifest("app", &image(&bytes(5))).await;
    });
    Scene::new(start.await, vec![pusher, deleter])
}

/// A blob is deleted and mounted.
pub(crate) async fn delete_and_mount(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("lib", &bytes(5)).await;
        player.push_blob("app", &bytes(5)).await;
        player.pass(OLD);
    });
    let mounter = client("mounter", async |player| {
        player.mount("app", "lib", &bytes(5)).await;
        player.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    let deleter = client("deleter", async |player| {
        player.delete_blob("lib", &bytes(5)).await;
        player.delete_blob("app", &bytes(5)).await;
    });
    Scene::new(start.await, vec![mounter, deleter])
}

/// An upload is closed when it is as old as one may be, and the reaper comes.
pub(crate) async fn close_and_reap(stays: bool, length: usize) -> Scene {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = Start::new(stays, async |player| {
        id.set(player.upload("app", &bytes(length)).await.unwrap()).unwrap();
        player.pass(6 * 24 * HOUR - MINUTE);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let closer = client("closer", move |player: Player| {
        let id = id.clone();
        async move {
            player.close("app", &id, &bytes(length)).await;
            player.put_manifest("app", "v1", &image(&bytes(length))).await;
        }
    });
    let reaper = collector(async |player| player.reap().await);
    let mut scene = Scene::new(start, vec![closer, reaper]);
    (scene.ticks, scene.stops_answers) = (vec![22 * MINUTE], true);
    scene
}

/// A push that sleeps between its bytes and what names them, while a collector sweeps twice.
pub(crate) async fn slow_bytes(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("app", &bytes(6)).await;
        player.pass(OLD);
    });
    let pusher = client("pusher", async |player| {
        player.push_blob("app", &bytes(5)).await;
    });
    let mut scene = Scene::new(start.await, vec![pusher, sweeps_twice()]);
    scene.stops_answers = true;
    scene
}

/// The same with an upload in two requests.
pub(crate) async fn slow_upload(stays: bool) -> Scene {
    let uploader = client("uploader", async |player| {
        if let Some(id) = player.upload("app", &bytes(5)).await {
            player.close("app", &id, &bytes(5)).await;
        }
    });
    let Scene { start, actors, .. } = slow_bytes(stays).await;
    let mut scene = Scene::new(start, vec![uploader, actors[1].clone()]);
    scene.stops_answers = true;
    scene
}

fn sweeps_twice() -> Actor {
    collector(async |player| {
        player.collect(&eager()).await;
        player.pass(OLD);
        player.collect(&eager()).await;
    })
}

/// A closing request is sent again just in time, and sleeps while link and bytes go.
pub(crate) async fn slow_replay(stays: bool) -> Scene {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = Start::new(stays, async |player| {
        let sent = player.upload("app", &bytes(5)).await.unwrap();
        player.close("app", &sent, &bytes(5)).await;
        id.set(sent).unwrap();
        player.pass(HOUR - MINUTE);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let replayer = client("replayer", move |player: Player| {
        let id = id.clone();
        async move {
            player.close("app", &id, &bytes(5)).await;
        }
    });
    let collector = collector(async |player| {
        player.pass(OLD - HOUR + MINUTE);
        player.collect(&eager()).await;
        player.pass(HOUR);
        player.collect(&eager()).await;
    });
    let mut scene = Scene::new(start, vec![replayer, collector]);
    scene.stops_answers = true;
    scene
}

/// A collector that sleeps between the removal of a signature and that of its entry among the
/// referrers of what it signs, while the signature is pushed again.
pub(crate) async fn slow_removal_of_signature(stays: bool) -> Scene {
    let pusher = client("pusher", async |player| {
        player.put_manifest("app", "sig", &referrer(&image(&bytes(5)), &bytes(6))).await;
        player.pass(HOUR + MINUTE);
    });
    let Scene { start, actors, .. } = stray_signature_again(stays).await;
    Scene::new(start, vec![pusher, actors[1].clone()])
}

/// Links to the same bytes at two places are made one while the holders of one place go.
pub(crate) async fn fold_while_holders_go(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        for (source, others) in [("a", ["b", "c"].as_slice()), ("d", &["e"])] {
            player.push_blob(source, &bytes(5)).await;
            for name in others {
                player.mount(name, source, &bytes(5)).await;
            }
        }
        for name in ["a", "b", "c", "d", "e"] {
            player.put_manifest(name, "v1", &image(&bytes(5))).await;
        }
        player.pass(OLD);
    });
    let deleter = client("deleter", async |player| {
        for name in ["a", "b", "c"] {
            player.delete_blob(name, &bytes(5)).await;
        }
        player.push_blob("a", &bytes(6)).await;
    });
    Scene::new(start.await, vec![collects(), deleter, sweeps_twice()])
}

/// A blob is handed on from one repository to the next, each time as a sweep looks.
pub(crate) async fn blob_handed_on(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("c", &bytes(5)).await;
    });
    let first = client("first", async |player| {
        player.mount("b", "c", &bytes(5)).await;
        player.delete_blob("c", &bytes(5)).await;
    });
    let second = client("second", async |player| {
        player.mount("a", "b", &bytes(5)).await;
        player.delete_blob("b", &bytes(5)).await;
    });
    Scene::new(start.await, vec![sweeps_twice(), first, second])
}

/// A blob of several parts is pushed that another repository holds, and deletes.
pub(crate) async fn push_while_other_copy_goes(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("lib", &bytes(20)).await;
    });
    let pusher = client("pusher", async |player| {
        player.push_image("app", "v1", &bytes(20)).await;
    });
    let deleter = client("deleter", async |player| {
        player.delete_blob("lib", &bytes(20)).await;
    });
    let mut scene = Scene::new(start.await, vec![pusher, deleter]);
    scene.is_calm = true;
    scene
}

/// A blob is pushed again whose bytes are lost, while a collector may remove its link.
pub(crate) async fn push_over_missing_bytes(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("app", &bytes(5)).await;
        player.pass(OLD);
    });
    let pusher = client("pusher", async |player| {
        player.push_blob("app", &bytes(5)).await;
        player.put_manifest("app", "v1", &image(&bytes(5))).await;
    });
    let start = start.await.damaged(|_| None).await;
    Scene::new(start, vec![pusher, collects()])
}

/// Of two copies the one that more repositories hold is wrong; the other is deduplicated and
/// mounted.
pub(crate) async fn deduplication_of_wrong_bytes(stays: bool) -> Scene {
    let start = Start::new(stays, async |player| {
        player.push_blob("one", &bytes(5)).await;
        player.mount("two", "one", &bytes(5)).await;
        for name in ["one", "two"] {
            player.put_manifest(name, "v1", &image(&bytes(5))).await;
        }
    });
    let wrong = start.await.damaged(|_| Some("wrong".into())).await;
    let start = wrong.following(async |player| {
        player.push_blob("three", &bytes(5)).await;
        player.put_manifest("three", "v1", &image(&bytes(5))).await;
        player.pass(OLD);
    });
    let mounter = client("mounter", async |player| {
        player.mount("four", "three", &bytes(5)).await;
        player.put_manifest("four", "v1", &image(&bytes(5))).await;
    });
    Scene::new(start.await, vec![mounter, collects()])
}

/// An upload of several parts is closed when it is as old as one may be, and its completion takes
/// hours, while the reaper and two sweeps come.
pub(crate) async fn slow_completion(stays: bool) -> Scene {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = Start::new(stays, async |player| {
        id.set(player.upload("app", &bytes(20)).await.unwrap()).unwrap();
        player.pass(6 * 24 * HOUR - MINUTE);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let closer = client("closer", move |player: Player| {
        let id = id.clone();
        async move {
            player.close("app", &id, &bytes(20)).await;
        }
    });
    let collector = collector(async |player| {
        player.reap().await;
        player.collect(&eager()).await;
        player.pass(OLD);
        player.collect(&eager()).await;
    });
    let mut scene = Scene::new(start, vec![closer, collector]);
    (scene.ticks, scene.stops_answers) = (vec![OLD], true);
    scene
}
