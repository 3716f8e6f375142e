//! The history of tags, restores, purges, retention and immutable tags, in every order within a bound; and the rules
//! of them, broken.

use jreg_registry::Rule;

use crate::bounded_orders::whole;
use crate::chooser::ScriptedOrder;
use crate::explore::{assert_caught, assert_whole, violation_of};
use crate::history_scenarios::*;
use crate::rules::caught;

#[test]
fn changes_of_a_tag() {
    whole("two moves", two_moves, 1);
    whole("move and delete", move_and_delete, 1);
}

#[test]
fn changes_of_a_tag_whose_response_is_lost() {
    whole("lost move", lost_move, 1);
    whole("lost delete", lost_delete, 1);
}

#[test]
fn a_deleted_tag_and_gc() {
    whole("deleted tag and GC", deleted_tag_and_gc, 1);
}

#[test]
fn kept_manifests_and_gc() {
    whole("move and GC", move_and_gc, 1);
    whole("delete and GC", delete_and_gc, 1);
    whole("restore and GC", restore_and_gc, 1);
    whole("restore of what expires and GC", restore_of_expired_and_gc, 1);
}

#[test]
fn purges_beside_others() {
    whole("purge and restore", purge_and_restore, 1);
    whole("purge, restore and push", purge_restore_and_push, 1);
    whole("purge and delete", purge_and_delete, 1);
    whole("purge and push", purge_and_push, 1);
}

#[test]
fn a_slow_restore_beside_a_purge() {
    assert_whole("slow restore and purge", slow_restore_and_purge(false), 1);
}

#[test]
fn immutable_tags() {
    whole("two immutable pushes", two_immutable_pushes, 1);
    whole("lost immutable push", lost_immutable_push, 1);
    whole("immutable push and delete", immutable_push_and_delete, 1);
    whole("immutable push, push and delete", immutable_push_push_and_delete, 1);
    whole("immutable index and delete", immutable_index_and_delete, 1);
}

#[test]
fn a_push_of_a_tag_beside_the_delete_of_its_manifest() {
    whole("push and delete", push_and_delete, 2);
    whole("push of a moved tag and delete", moved_tag_push_and_delete, 1);
    whole("push, push and delete", push_push_and_delete, 2);
    whole("two pushes and delete", two_pushes_and_delete, 1);
}

#[test]
fn rules_of_deletes_beside_pushes() {
    caught(Rule::HintWithReads, push_and_delete(false), 3);
    caught(Rule::RenewAfterLostTag, push_and_delete(false), 3);
    caught(Rule::FenceTags, push_and_delete(false), 2);
    caught(Rule::ServeAfterHint, push_push_and_delete(false), 3);
}

#[test]
fn an_immutable_tag_of_a_nested_index() {
    whole("immutable nested index and delete", immutable_nested_index_and_delete, 1);
    caught(Rule::NestedHints, immutable_nested_index_and_delete(false), 2);
}

#[test]
fn rules_of_history() {
    caught(Rule::Archive, two_moves(false), 2);
    caught(Rule::LookForOwn, lost_move(false), 2);
    caught(Rule::LookForOwn, lost_delete(false), 2);
    caught(Rule::ArchiveDeleted, deleted_tag_and_gc(false), 2);
    caught(Rule::HistoryKeeps, move_and_gc(false), 2);
}

#[test]
fn retention_beside_clients() {
    whole("retention and push", retention_and_push, 1);
    whole("retention and move", retention_and_move, 1);
    assert_whole("retention and delete", retention_and_delete(false), 1);
    assert_whole(
        "retention and delete of the manifest",
        retention_and_delete_of_manifest(false),
        1,
    );
}

#[test]
fn retention_beside_restores_purges_and_gc() {
    assert_whole("retention and restore", retention_and_restore(false), 1);
    assert_whole("retention and purge", retention_and_purge(false), 1);
    assert_whole("retention and GC", retention_and_gc(false), 1);
    assert_whole("two runs of retention", two_retentions(false), 1);
}

#[test]
fn retention_deletes_the_version_that_it_judged() {
    assert_caught("careless retention", careless_retention_and_push(), 1);
}

/// The moment between two requests of a long run is beyond the bounds of a search.
#[test]
fn gc_reads_what_a_tag_is_before_it_judges_what_it_was_last() {
    let order = || {
        ScriptedOrder::new(&[
            (0, "list history/", 2),
            (0, "get repositories/app/_tags/v1", 1),
            (1, "never", 1),
        ])
    };
    assert_eq!(violation_of(two_runs_after_a_delete(false), order()), None);
    let broken = async {
        let mut scenario = two_runs_after_a_delete(false).await;
        scenario.broken = Some(Rule::NewestStays);
        scenario
    };
    let violation = violation_of(broken, order()).unwrap();
    assert!(violation.contains("lacks"), "{violation}");
}

#[test]
fn rules_of_restores() {
    caught(Rule::CopyFirst, delete_and_gc(false), 2);
    caught(Rule::CopyKeeps, delete_and_gc(false), 2);
    caught(Rule::CopyKeeps, restore_and_gc(false), 2);
    caught(Rule::Touch, restore_of_expired_and_gc(false), 2);
    caught(Rule::LookForPurge, purge_and_restore(false), 2);
    caught(Rule::UndoRestored, purge_restore_and_push(false), 2);
    caught(Rule::Window, slow_restore_and_purge(false), 2);
}

#[test]
fn rules_of_immutable_tags() {
    caught(Rule::ImmutableAtSwap, two_immutable_pushes(false), 2);
    caught(Rule::ImmutableHint, immutable_push_and_delete(false), 2);
    caught(Rule::ChildHints, immutable_index_and_delete(false), 2);
    caught(Rule::TouchYoungChild, immutable_index_and_delete(false), 2);
}
