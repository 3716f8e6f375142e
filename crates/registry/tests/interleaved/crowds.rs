//! More than two at a time, in random orders. `JREG_INTERLEAVED_SEEDS=n` tries more of them.

use crate::content::{bytes, image, index};
use crate::explore::assert_mostly_whole;
use crate::player::{Player, eager, eager_for_untagged};
use crate::scene::{Actor, Scene, Start, client, collector};
use crate::scenes::{HOUR, MINUTE, OLD};

const SEEDS: u64 = 100;

#[track_caller]
fn whole<F: Future<Output = Scene>>(name: &str, scene: impl Fn(bool) -> F) {
    assert_mostly_whole(name, scene(false), SEEDS);
    assert_mostly_whole(&format!("{name}, where tombstones stay"), scene(true), SEEDS / 3);
}

fn collects_often() -> Actor {
    collector(async |player| {
        player.collect(&eager_for_untagged()).await;
        player.pass(HOUR);
        player.collect(&eager_for_untagged()).await;
    })
}

/// An old image without a tag, an index of it, another image with one, and a blob that is in
/// another repository, too.
async fn old_store(stays: bool) -> Start {
    let start = Start::new(stays, async |player| {
        for name in ["app", "lib"] {
            player.push_blob(name, &bytes(5)).await;
        }
        player.push_image("app", "", &bytes(6)).await;
        player.put_manifest("app", "", &index(&[&image(&bytes(6))])).await;
        player.push_image("app", "v1", &bytes(20)).await;
        player.pass(OLD);
    });
    start.await
}

async fn everybody(stays: bool) -> Scene {
    let pusher = client("pusher", async |player| {
        player.push_image("app", "v2", &bytes(6)).await;
        player.put_manifest("app", "v3", &index(&[&image(&bytes(6))])).await;
    });
    let mounter = client("mounter", async |player| {
        player.mount("app", "lib", &bytes(5)).await;
        player.put_manifest("app", "v4", &image(&bytes(5))).await;
    });
    let deleter = client("deleter", async |player| {
        player.delete_manifest("app", &image(&bytes(20))).await;
        player.delete_blob("lib", &bytes(5)).await;
        player.delete_tag("app", "v2").await;
    });
    let actors = vec![pusher, mounter, deleter, collects_often()];
    let mut scene = Scene::new(old_store(stays).await, actors);
    (scene.ticks, scene.kills) = (vec![20 * MINUTE, HOUR], 1);
    scene
}

#[test]
fn a_pusher_a_mounter_a_deleter_and_a_collector() {
    whole("everybody", everybody);
}

async fn two_collectors(stays: bool) -> Scene {
    let pusher = client("pusher", async |player| {
        player.push_image("app", "v2", &bytes(6)).await;
        player.put_manifest("app", "v3", &index(&[&image(&bytes(6))])).await;
    });
    let other = client("another pusher", async |player| {
        if player.has_manifest("app", &image(&bytes(6))).await {
            player.put_manifest("app", "v3", &index(&[&image(&bytes(6))])).await;
        }
        player.push_image("app", "v1", &bytes(5)).await;
    });
    let actors = vec![pusher, other, collects_often(), collects_often()];
    let mut scene = Scene::new(old_store(stays).await, actors);
    (scene.ticks, scene.stops_answers, scene.stops_notes) = (vec![HOUR, OLD], true, true);
    scene
}

#[test]
fn two_pushers_and_two_collectors() {
    whole("two collectors", two_collectors);
}

async fn uploads(stays: bool) -> Scene {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = Start::new(stays, async |player| {
        id.set(player.upload("app", &bytes(20)).await.unwrap()).unwrap();
        player.push_image("lib", "v1", &bytes(20)).await;
        player.push_blob("lib", &bytes(5)).await;
        player.pass(OLD);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let closer = |name: &'static str, tag: &'static str| {
        let id = id.clone();
        client(name, move |player: Player| {
            let id = id.clone();
            async move {
                player.close("app", &id, &bytes(20)).await;
                player.put_manifest("app", tag, &image(&bytes(20))).await;
            }
        })
    };
    let (closer, again) = (closer("closer", "v1"), closer("closer again", "v2"));
    let canceller = client("canceller", move |player: Player| {
        let id = id.clone();
        async move { player.cancel("app", &id).await }
    });
    let sweeper = collector(async |player| {
        player.collect(&eager()).await;
        player.pass(OLD);
        player.collect(&eager()).await;
    });
    let mut scene = Scene::new(start, vec![closer, again, canceller, sweeper]);
    (scene.ticks, scene.kills, scene.stops_answers) = (vec![MINUTE, OLD], 1, true);
    scene
}

#[test]
fn two_closers_a_canceller_and_a_sweeper() {
    whole("uploads", uploads);
}

async fn one_image(stays: bool) -> Scene {
    let pusher = |name: &'static str| {
        client(name, async |player: Player| {
            player.push_image("app", "v1", &bytes(5)).await;
        })
    };
    let deleter = client("deleter", async |player| {
        player.delete_manifest("app", &image(&bytes(5))).await;
        player.delete_blob("app", &bytes(5)).await;
        player.push_image("app", "v1", &bytes(6)).await;
    });
    let actors = vec![pusher("pusher"), pusher("another pusher"), deleter, collects_often()];
    let mut scene = Scene::new(old_store(stays).await, actors);
    (scene.ticks, scene.kills) = (vec![HOUR, MINUTE], 1);
    scene
}

#[test]
fn the_same_image_pushed_twice_and_deleted() {
    whole("one image", one_image);
}
