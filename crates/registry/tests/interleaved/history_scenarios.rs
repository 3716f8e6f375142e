//! The scenarios with the history of tags, restores, purges and immutable tags.

use jreg_storage::testing::Call;

use crate::content::{bytes, image, index};
use crate::instance::{HISTORY_KEEP, TestInstance, keeping};
use crate::scenario::{Actor, InitialStore, InterleavedScenario, client, gc_actor};
use crate::scenarios::{HOUR, MINUTE, OLD};

const IMMUTABLE: &str = "[[immutable]]\nrepositories = [\"app\"]\ntags = [\"v*\"]\n";

/// An image of so many bytes.
fn image_of(length: usize) -> String {
    image(&bytes(length))
}

fn collects_and_keeps() -> Actor {
    gc_actor(async |instance| instance.collect(&keeping()).await)
}

fn moves(name: &'static str, length: usize) -> Actor {
    client(name, move |instance: TestInstance| async move {
        instance.put_manifest("app", "v1", &image_of(length)).await;
    })
}

fn deletes_tag() -> Actor {
    client("deleter", async |instance| instance.delete_tag("app", "v1").await)
}

fn reads() -> Actor {
    client("reader", async |instance| instance.read_history("app", "v1").await)
}

fn deletes(length: usize) -> Actor {
    client("deleter", move |instance: TestInstance| async move {
        instance.delete_manifest("app", &image_of(length)).await;
    })
}

fn restores() -> Actor {
    client("restorer", async |instance| {
        instance.restore("app", &image_of(5)).await;
    })
}

fn with_history(start: InitialStore, actors: Vec<Actor>) -> InterleavedScenario {
    let mut scenario = InterleavedScenario::new(start, actors);
    scenario.keeps_history = true;
    scenario
}

/// A tag on the first of three images.
async fn tagged(stays: bool) -> InitialStore {
    let start = InitialStore::new(stays, async |instance| {
        for length in [5, 6, 7] {
            instance.push_blob("app", &bytes(length)).await;
            instance.put_manifest("app", "", &image_of(length)).await;
        }
        instance.put_manifest("app", "v1", &image_of(5)).await;
    });
    start.await
}

/// The same of which two are older than the grace.
async fn old_tagged(stays: bool) -> InitialStore {
    let start = tagged(stays).await;
    let old = start.following(async |instance| {
        instance.pass(OLD);
        instance.put_manifest("app", "v2", &image_of(6)).await;
    });
    old.await
}

/// Two that move a tag, and a reader of its history.
pub(crate) async fn two_moves(stays: bool) -> InterleavedScenario {
    with_history(tagged(stays).await, vec![moves("mover", 6), moves("another", 7), reads()])
}

/// One that moves a tag, one that deletes it, and a reader.
pub(crate) async fn move_and_delete(stays: bool) -> InterleavedScenario {
    with_history(tagged(stays).await, vec![moves("mover", 6), deletes_tag(), reads()])
}

fn is_swap_of_tag(call: &Call) -> bool {
    call.operation == "put" && call.key.contains("/_tags/")
}

/// The response to the swap of the first is lost.
pub(crate) async fn lost_move(stays: bool) -> InterleavedScenario {
    let mut scenario =
        with_history(tagged(stays).await, vec![moves("mover", 6), moves("another", 7), reads()]);
    scenario.lost = Some((0, is_swap_of_tag));
    scenario
}

/// The same of a delete.
pub(crate) async fn lost_delete(stays: bool) -> InterleavedScenario {
    let mut scenario =
        with_history(tagged(stays).await, vec![deletes_tag(), moves("mover", 7), reads()]);
    scenario.lost = Some((0, is_swap_of_tag));
    scenario
}

/// A deleted tag that a GC run archives is pushed again.
pub(crate) async fn deleted_tag_and_gc(stays: bool) -> InterleavedScenario {
    let start = tagged(stays).await.following(async |instance| {
        instance.delete_tag("app", "v1").await;
        instance.pass(OLD);
    });
    with_history(start.await, vec![moves("pusher", 6), collects_and_keeps(), reads()])
}

/// A tag that pointed to an image for long was deleted almost a grace ago; a second GC run begins when it is
/// older.
pub(crate) async fn two_runs_after_a_delete(stays: bool) -> InterleavedScenario {
    let start = tagged(stays).await.following(async |instance| {
        instance.pass(HISTORY_KEEP);
        instance.delete_tag("app", "v1").await;
        instance.pass(OLD - 10 * MINUTE);
    });
    let later = gc_actor(async |instance| {
        instance.pass(20 * MINUTE);
        instance.collect(&keeping()).await;
    });
    with_history(start.await, vec![collects_and_keeps(), later])
}

/// A tag is moved away from an old image.
pub(crate) async fn move_and_gc(stays: bool) -> InterleavedScenario {
    with_history(old_tagged(stays).await, vec![moves("mover", 6), collects_and_keeps()])
}

/// An old image is deleted.
pub(crate) async fn delete_and_gc(stays: bool) -> InterleavedScenario {
    let deleter = client("deleter", async |instance| {
        instance.delete_manifest("app", &image_of(5)).await;
        instance.push_blob("other", &bytes(5)).await;
    });
    with_history(old_tagged(stays).await, vec![deleter, collects_and_keeps()])
}

/// A store with the copy of an old image.
async fn deleted(stays: bool) -> InitialStore {
    let start = old_tagged(stays).await.following(async |instance| {
        instance.delete_manifest("app", &image_of(5)).await;
    });
    start.await
}

/// An image is restored that a GC run finds deleted.
pub(crate) async fn restore_and_gc(stays: bool) -> InterleavedScenario {
    with_history(deleted(stays).await, vec![restores(), collects_and_keeps()])
}

/// The same whose copy is just expiring.
pub(crate) async fn restore_of_expired_and_gc(stays: bool) -> InterleavedScenario {
    let start = deleted(stays).await.following(async |instance| {
        instance.pass(HISTORY_KEEP);
        instance.pass(HOUR);
    });
    let gc = gc_actor(async |instance| {
        instance.collect(&keeping()).await;
        instance.collect(&keeping()).await;
    });
    InterleavedScenario::new(start.await, vec![restores(), gc])
}

fn purges() -> Actor {
    client("purger", async |instance| {
        instance.purge("app", &image_of(5), &[bytes(5)]).await;
    })
}

/// A deleted image is purged while it is restored.
pub(crate) async fn purge_and_restore(stays: bool) -> InterleavedScenario {
    InterleavedScenario::new(deleted(stays).await, vec![purges(), restores()])
}

/// The same, and it is pushed again after the purge.
pub(crate) async fn purge_restore_and_push(stays: bool) -> InterleavedScenario {
    let purger = client("purger", async |instance| {
        instance.purge("app", &image_of(5), &[bytes(5)]).await;
        instance.push_blob("app", &bytes(5)).await;
        instance.put_manifest("app", "v1", &image_of(5)).await;
    });
    InterleavedScenario::new(deleted(stays).await, vec![purger, restores()])
}

/// A restore that sleeps for so long that GC has forgotten the purge.
pub(crate) async fn slow_restore_and_purge(stays: bool) -> InterleavedScenario {
    let purger = client("purger", async |instance| {
        instance.purge("app", &image_of(5), &[]).await;
    });
    let gc = gc_actor(async |instance| {
        instance.pass(OLD);
        instance.collect(&keeping()).await;
    });
    let start = deleted(stays).await.following(async |instance| {
        // The layer stays.
        instance.put_manifest("app", "v3", &index(&[&image_of(6)])).await;
        instance
            .put_manifest("app", "v4", &crate::content::referrer(&image_of(6), &bytes(5)))
            .await;
    });
    let mut scenario = InterleavedScenario::new(start.await, vec![restores(), purger, gc]);
    scenario.stops_responses = true;
    scenario
}

/// An image is purged and deleted.
pub(crate) async fn purge_and_delete(stays: bool) -> InterleavedScenario {
    InterleavedScenario::new(old_tagged(stays).await, vec![purges(), deletes(5), moves("mover", 7)])
}

/// An image is purged while another is pushed that shares its blob.
pub(crate) async fn purge_and_push(stays: bool) -> InterleavedScenario {
    let other = client("pusher", async |instance| {
        let other = crate::content::referrer(&image_of(6), &bytes(5));
        instance.put_manifest("app", "v3", &other).await;
    });
    InterleavedScenario::new(old_tagged(stays).await, vec![purges(), other])
}

fn immutable(start: InitialStore, actors: Vec<Actor>) -> InterleavedScenario {
    let mut scenario = InterleavedScenario::new(start, actors);
    scenario.rules = Some(IMMUTABLE);
    scenario
}

/// Images without a tag.
async fn untagged(stays: bool) -> InitialStore {
    let start = InitialStore::new(stays, async |instance| {
        for length in [5, 6] {
            instance.push_blob("app", &bytes(length)).await;
            instance.put_manifest("app", "", &image_of(length)).await;
        }
        instance.put_manifest("app", "latest", &image_of(6)).await;
    });
    start.await
}

/// Moves a tag that is not immutable.
fn moves_latest() -> Actor {
    client("mover", async |instance| {
        instance.put_manifest("app", "latest", &image_of(5)).await;
    })
}

/// Two push different images to one immutable tag.
pub(crate) async fn two_immutable_pushes(stays: bool) -> InterleavedScenario {
    let start = untagged(stays).await;
    immutable(start, vec![moves("pusher", 5), moves("another", 6), moves_latest()])
}

/// The response to the swap of the first is lost.
pub(crate) async fn lost_immutable_push(stays: bool) -> InterleavedScenario {
    let mut scenario = immutable(
        untagged(stays).await,
        vec![moves("pusher", 5), moves("another", 6), moves_latest()],
    );
    scenario.lost = Some((0, is_swap_of_tag));
    scenario
}

/// An image is deleted by its digest while an immutable tag is pushed to it.
pub(crate) async fn immutable_push_and_delete(stays: bool) -> InterleavedScenario {
    immutable(untagged(stays).await, vec![moves("pusher", 5), deletes(5)])
}

/// The same, and it is pushed by digest.
pub(crate) async fn immutable_push_push_and_delete(stays: bool) -> InterleavedScenario {
    let again = client("another pusher", async |instance| {
        instance.put_manifest("app", "", &image_of(5)).await;
    });
    immutable(untagged(stays).await, vec![moves("pusher", 5), deletes(5), again])
}

/// An image is deleted by its digest while a tag is pushed to it.
pub(crate) async fn push_and_delete(stays: bool) -> InterleavedScenario {
    leading(InterleavedScenario::new(untagged(stays).await, vec![moves("pusher", 5), deletes(5)]))
}

/// The same of a tag that points elsewhere, and is moved back, too.
pub(crate) async fn moved_tag_push_and_delete(stays: bool) -> InterleavedScenario {
    let start = untagged(stays).await.following(async |instance| {
        for length in [5, 6] {
            instance.put_manifest("app", "v1", &image_of(length)).await;
        }
    });
    let actors = vec![moves("pusher", 5), deletes(5), moves("another", 6)];
    leading(InterleavedScenario::new(start.await, actors))
}

/// The same, and the image is pushed by digest as well: another push's version of the manifest serves.
pub(crate) async fn push_push_and_delete(stays: bool) -> InterleavedScenario {
    let again = client("another pusher", async |instance| {
        instance.put_manifest("app", "", &image_of(5)).await;
    });
    let actors = vec![moves("pusher", 5), again, deletes(5)];
    leading(InterleavedScenario::new(untagged(stays).await, actors))
}

/// Two push the same image to one tag, and it is deleted by its digest.
pub(crate) async fn two_pushes_and_delete(stays: bool) -> InterleavedScenario {
    let actors = vec![moves("pusher", 5), moves("another", 5), deletes(5)];
    leading(InterleavedScenario::new(untagged(stays).await, actors))
}

fn leading(mut scenario: InterleavedScenario) -> InterleavedScenario {
    scenario.tags_lead = true;
    scenario
}

/// A grandchild is deleted while an index of an index of it is pushed to an immutable tag.
pub(crate) async fn immutable_nested_index_and_delete(stays: bool) -> InterleavedScenario {
    let start = untagged(stays).await.following(async |instance| {
        instance.put_manifest("app", "", &index(&[&image_of(5)])).await;
    });
    let pusher = client("pusher", async |instance| {
        instance.put_manifest("app", "v1", &index(&[&index(&[&image_of(5)])])).await;
    });
    let mut scenario = immutable(start.await, vec![pusher, deletes(5)]);
    scenario.needs_below = true;
    scenario
}

/// A child is deleted while an index of it is pushed to an immutable tag.
pub(crate) async fn immutable_index_and_delete(stays: bool) -> InterleavedScenario {
    let pusher = client("pusher", async |instance| {
        instance.put_manifest("app", "v1", &index(&[&image_of(5)])).await;
    });
    immutable(untagged(stays).await, vec![pusher, deletes(5)])
}

fn expires() -> Actor {
    client("retention", async |instance| instance.expire("app", "v1").await)
}

/// A tag that no rule keeps.
async fn expiring(stays: bool) -> InitialStore {
    tagged(stays).await.following(async |instance| instance.pass(OLD)).await
}

/// The tag is pushed again, as it is, while retention removes it.
pub(crate) async fn retention_and_push(stays: bool) -> InterleavedScenario {
    with_history(expiring(stays).await, vec![moves("pusher", 5), expires(), reads()])
}

/// It is moved.
pub(crate) async fn retention_and_move(stays: bool) -> InterleavedScenario {
    with_history(expiring(stays).await, vec![moves("mover", 6), expires(), reads()])
}

/// A client deletes it.
pub(crate) async fn retention_and_delete(stays: bool) -> InterleavedScenario {
    with_history(expiring(stays).await, vec![deletes_tag(), expires(), moves("pusher", 7)])
}

/// Its manifest is deleted.
pub(crate) async fn retention_and_delete_of_manifest(stays: bool) -> InterleavedScenario {
    with_history(expiring(stays).await, vec![deletes(5), expires(), moves("pusher", 7)])
}

/// Its manifest was deleted, and is restored with it.
pub(crate) async fn retention_and_restore(stays: bool) -> InterleavedScenario {
    let start = expiring(stays).await.following(async |instance| {
        instance.delete_manifest("app", &image_of(5)).await;
        instance.put_manifest("app", "v1", &image_of(6)).await;
        instance.pass(OLD);
    });
    InterleavedScenario::new(start.await, vec![restores(), expires(), moves("mover", 7)])
}

/// Its manifest is purged.
pub(crate) async fn retention_and_purge(stays: bool) -> InterleavedScenario {
    InterleavedScenario::new(expiring(stays).await, vec![purges(), expires(), moves("mover", 7)])
}

/// GC runs meanwhile, and it is pushed again.
pub(crate) async fn retention_and_gc(stays: bool) -> InterleavedScenario {
    let actors = vec![collects_and_keeps(), expires(), moves("pusher", 5)];
    with_history(expiring(stays).await, actors)
}

/// Two runs, and a push.
pub(crate) async fn two_retentions(stays: bool) -> InterleavedScenario {
    with_history(expiring(stays).await, vec![expires(), expires(), moves("pusher", 5)])
}

/// A run that deletes whatever the tag points to by then.
pub(crate) async fn careless_retention_and_push() -> InterleavedScenario {
    let careless = client("retention", async |instance| {
        instance.expire_any_version("app", "v1").await;
    });
    with_history(expiring(false).await, vec![moves("pusher", 5), careless])
}
