//! More than two at a time, in random orders. `JREG_INTERLEAVED_SEEDS=n` tries more of them.

use crate::content::{bytes, image, index};
use crate::explore::assert_mostly_whole;
use crate::instance::{TestInstance, eager_for_untagged};
use crate::scenario::{Actor, InitialStore, InterleavedScenario, client, gc_actor};
use crate::scenarios::{HOUR, MINUTE, OLD, cancels_upload, closes_upload, sweeps_twice};

const SEEDS: u64 = 100;

#[track_caller]
fn whole<F: Future<Output = InterleavedScenario>>(name: &str, scenario: impl Fn(bool) -> F) {
    assert_mostly_whole(name, scenario(false), SEEDS);
    assert_mostly_whole(&format!("{name}, where tombstones stay"), scenario(true), SEEDS / 3);
}

fn collects_often() -> Actor {
    gc_actor(async |instance| {
        instance.collect(&eager_for_untagged()).await;
        instance.pass(HOUR);
        instance.collect(&eager_for_untagged()).await;
    })
}

fn pushes_image_and_index() -> Actor {
    client("pusher", async |instance| {
        instance.push_image("app", "v2", &bytes(6)).await;
        instance.put_manifest("app", "v3", &index(&[&image(&bytes(6))])).await;
    })
}

/// An old image without a tag, an index of it, another image with one, and a blob that is in
/// another repository, too.
async fn old_store(stays: bool) -> InitialStore {
    let start = InitialStore::new(stays, async |instance| {
        for name in ["app", "lib"] {
            instance.push_blob(name, &bytes(5)).await;
        }
        instance.push_image("app", "", &bytes(6)).await;
        instance.put_manifest("app", "", &index(&[&image(&bytes(6))])).await;
        instance.push_image("app", "v1", &bytes(20)).await;
        instance.pass(OLD);
    });
    start.await
}

async fn all_operations(stays: bool) -> InterleavedScenario {
    let mounter = client("mounter", async |instance| {
        instance.mount("app", "lib", &bytes(5)).await;
        instance.put_manifest("app", "v4", &image(&bytes(5))).await;
    });
    let deleter = client("deleter", async |instance| {
        instance.delete_manifest("app", &image(&bytes(20))).await;
        instance.delete_blob("lib", &bytes(5)).await;
        instance.delete_tag("app", "v2").await;
    });
    let actors = vec![pushes_image_and_index(), mounter, deleter, collects_often()];
    let mut scenario = InterleavedScenario::new(old_store(stays).await, actors);
    (scenario.ticks, scenario.kills) = (vec![20 * MINUTE, HOUR], 1);
    scenario
}

#[test]
fn push_mount_delete_and_gc() {
    whole("all operations", all_operations);
}

async fn two_gc_runs(stays: bool) -> InterleavedScenario {
    let other = client("another pusher", async |instance| {
        if instance.has_manifest("app", &image(&bytes(6))).await {
            instance.put_manifest("app", "v3", &index(&[&image(&bytes(6))])).await;
        }
        instance.push_image("app", "v1", &bytes(5)).await;
    });
    let actors = vec![pushes_image_and_index(), other, collects_often(), collects_often()];
    let mut scenario = InterleavedScenario::new(old_store(stays).await, actors);
    (scenario.ticks, scenario.stops_responses, scenario.stops_notes) =
        (vec![HOUR, OLD], true, true);
    scenario
}

#[test]
fn two_pushes_and_two_gc_runs() {
    whole("two GC runs", two_gc_runs);
}

async fn uploads(stays: bool) -> InterleavedScenario {
    let id = std::sync::Arc::new(std::sync::OnceLock::new());
    let start = InitialStore::new(stays, async |instance| {
        id.set(instance.upload("app", &bytes(20)).await.unwrap()).unwrap();
        instance.push_image("lib", "v1", &bytes(20)).await;
        instance.push_blob("lib", &bytes(5)).await;
        instance.pass(OLD);
    });
    let start = start.await;
    let id = id.get().unwrap().clone();
    let closer = closes_upload("closer", id.clone(), 20, "v1");
    let again = closes_upload("closer again", id.clone(), 20, "v2");
    let actors = vec![closer, again, cancels_upload(id), sweeps_twice()];
    let mut scenario = InterleavedScenario::new(start, actors);
    (scenario.ticks, scenario.kills, scenario.stops_responses) = (vec![MINUTE, OLD], 1, true);
    scenario
}

#[test]
fn two_closers_a_canceller_and_a_sweeper() {
    whole("uploads", uploads);
}

async fn one_image(stays: bool) -> InterleavedScenario {
    let pusher = |name: &'static str| {
        client(name, async |instance: TestInstance| {
            instance.push_image("app", "v1", &bytes(5)).await;
        })
    };
    let deleter = client("deleter", async |instance| {
        instance.delete_manifest("app", &image(&bytes(5))).await;
        instance.delete_blob("app", &bytes(5)).await;
        instance.push_image("app", "v1", &bytes(6)).await;
    });
    let actors = vec![pusher("pusher"), pusher("another pusher"), deleter, collects_often()];
    let mut scenario = InterleavedScenario::new(old_store(stays).await, actors);
    (scenario.ticks, scenario.kills) = (vec![HOUR, MINUTE], 1);
    scenario
}

#[test]
fn the_same_image_pushed_twice_and_deleted() {
    whole("one image", one_image);
}
