//! Two at a time, in every order within a bound.

use std::time::Duration;

use crate::explore::assert_whole;
use crate::scenario::InterleavedScenario;
use crate::scenarios::*;

/// Both kinds of bucket: where tombstones go, and where they stay.
#[track_caller]
pub(crate) fn whole<F: Future<Output = InterleavedScenario>>(
    name: &str,
    scenario: impl Fn(bool) -> F,
    deviations_max: usize,
) {
    assert_whole(name, scenario(false), deviations_max);
    assert_whole(&format!("{name}, where tombstones stay"), scenario(true), 1);
    let killed = async {
        let mut scenario = scenario(false).await;
        scenario.kills = 1;
        scenario
    };
    assert_whole(&format!("{name}, where one stops for ever"), killed, 1);
}

#[test]
fn a_manifest_that_relies_on_an_old_blob_and_gc() {
    whole("manifest onto old blob", manifest_onto_old_blob, 2);
    whole("image onto old blob", image_onto_old_blob, 2);
}

#[test]
fn a_new_image_and_gc() {
    whole("new image", new_image, 2);
    whole("uploaded image", uploaded_image, 1);
}

#[test]
fn a_push_onto_an_old_link_and_gc() {
    whole("push onto old link", push_onto_old_link, 2);
}

#[test]
fn mounts_and_gc() {
    whole("mount of old blob", mount_of_old_blob, 1);
    whole("mount onto old link", mount_onto_old_link, 2);
}

#[test]
fn a_slow_push_and_gc() {
    whole("slow manifest", slow_manifest, 2);
}

#[test]
fn a_repeated_manifest_push_and_gc() {
    whole("manifest again", manifest_again, 2);
    assert_whole("manifest twice again", manifest_twice_again(false), 1);
}

#[test]
fn a_manifest_push_as_another_type_and_gc() {
    whole("manifest as another type", |stays| manifest_as_another_type(false, stays), 1);
    whole("manifest whose type was changed", |stays| manifest_as_another_type(true, stays), 1);
}

#[test]
fn an_index_of_old_manifests_and_gc() {
    whole("index onto old child", index_onto_old_child, 2);
    whole("index again", index_again, 1);
}

#[test]
fn an_upload_that_is_closed_and_cancelled() {
    whole("close and cancel", |stays| close_and_cancel(stays, 5), 3);
    whole("close and cancel, in parts", |stays| close_and_cancel(stays, 20), 3);
}

#[test]
fn an_upload_that_is_closed_and_a_sweep() {
    whole("close and sweep", |stays| close_and_sweep(None, stays, 5), 2);
    whole("close and sweep, in parts", |stays| close_and_sweep(None, stays, 20), 1);
}

#[test]
fn an_upload_that_is_closed_and_the_reaper() {
    whole("close and reap", |stays| close_and_reap(stays, 5), 2);
    whole("close and reap, in parts", |stays| close_and_reap(stays, 20), 1);
}

#[test]
fn a_repeated_closing_put_and_gc() {
    whole("late replay", late_replay, 2);
}

#[test]
fn closing_puts_beside_a_deleted_link() {
    whole("close twice onto deleted", |stays| close_twice_onto_deleted(stays, 5), 2);
    whole("close twice onto deleted, in parts", |stays| close_twice_onto_deleted(stays, 20), 1);
}

#[test]
fn a_repeated_closing_put_and_a_delete() {
    whole("replay and delete", |stays| replay_and_delete(stays, MINUTE), 3);
    whole("replay and delete at once", |stays| replay_and_delete(stays, Duration::ZERO), 3);
}

#[test]
fn a_moved_blob_and_gc() {
    whole("move of blob", |stays| move_of_blob(None, stays), 2);
}

#[test]
fn a_repeated_signature_push_and_gc() {
    whole("stray signature again", stray_signature_again, 2);
    whole("signed image again", signed_image_again, 1);
}

#[test]
fn slow_gc_and_a_repeated_signature_push() {
    whole("slow removal of signature", slow_removal_of_signature, 1);
}

#[test]
fn bytes_that_are_slow_to_be_named_and_two_sweeps() {
    whole("slow bytes", slow_bytes, 2);
    whole("slow upload", slow_upload, 1);
}

#[test]
fn a_slow_repeated_closing_put_and_gc() {
    whole("slow replay", slow_replay, 2);
}

#[test]
fn a_deduplication_and_deletes() {
    assert_whole("deduplicate while holders delete", deduplicate_while_holders_delete(false), 1);
}

#[test]
fn a_slow_pull_and_gc() {
    whole("slow pull", slow_pull, 2);
}

#[test]
fn deletes_and_pushes() {
    whole("delete and push", delete_and_push, 2);
    whole("delete and mount", delete_and_mount, 2);
}

#[test]
fn a_push_and_the_delete_of_another_copy() {
    whole("push while other copy goes", push_while_other_copy_is_deleted, 2);
}

#[test]
fn a_push_over_missing_bytes_and_gc() {
    assert_whole("push over missing bytes", push_over_missing_bytes(false), 2);
}

#[test]
fn a_deduplication_of_wrong_bytes_and_a_mount() {
    assert_whole("deduplication of wrong bytes", deduplication_of_wrong_bytes(false), 1);
}

#[test]
fn a_slow_completion_and_the_reaper() {
    whole("slow completion", slow_completion, 2);
}
