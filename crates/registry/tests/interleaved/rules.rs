//! Each rule is broken, and something notices: the invariants see what the rule is for, and the
//! scenarios reach the moment that needs it.

use std::time::Duration;

use jreg_registry::Rule;

use crate::chooser::ScriptedOrder;
use crate::explore::{assert_caught, violation_of};
use crate::scenario::InterleavedScenario;
use crate::scenarios::*;

/// Runs a scenario without a rule.
#[track_caller]
pub(crate) fn caught(
    rule: Rule,
    scenario: impl Future<Output = InterleavedScenario>,
    deviations_max: usize,
) {
    let broken = async {
        let mut scenario = scenario.await;
        scenario.broken = Some(rule);
        scenario
    };
    assert_caught(&format!("without {rule:?}"), broken, deviations_max);
}

#[test]
fn rules_of_writing() {
    caught(Rule::Touch, manifest_onto_old_blob(false), 2);
    caught(Rule::TouchDestination, mount_onto_old_link(false), 2);
    caught(Rule::Window, slow_manifest(false), 2);
    caught(Rule::Rewrite, manifest_again(false), 2);
    caught(Rule::TouchChildren, index_onto_old_child(false), 2);
    caught(Rule::EveryReading, manifest_as_another_type(true, false), 1);
}

#[test]
fn the_window_opens_first() {
    caught(Rule::WindowFirst, slow_bytes(false), 2);
    caught(Rule::WindowFirst, slow_upload(false), 2);
    caught(Rule::WindowFirst, slow_replay(false), 2);
}

#[test]
fn rules_of_uploads() {
    caught(Rule::CloseFirst, close_and_cancel(false, 5), 2);
    caught(Rule::CancelFirst, close_and_cancel(false, 5), 2);
    caught(Rule::ReplayWindow, late_replay(false), 2);
    caught(Rule::ReplayOntoOlder, close_twice_onto_deleted(false, 5), 2);
    caught(Rule::ReplayNotOntoDeleted, replay_and_delete(false, MINUTE), 2);
    caught(Rule::ReplayOntoStrictlyOlder, replay_and_delete(false, Duration::ZERO), 2);
}

#[test]
fn rules_of_gc() {
    caught(Rule::Grace, new_image(false), 2);
    caught(Rule::AgeAtStart, slow_removal_of_signature(false), 1);
    caught(Rule::OnVersion, manifest_onto_old_blob(false), 2);
    caught(Rule::EveryLink, move_of_blob(Some(Rule::EveryLink), false), 2);
    caught(Rule::BytesWait, slow_pull(false), 2);
    caught(Rule::OneStep, index_again(false), 2);
    caught(Rule::SubjectKeeps, signed_image_again(false), 2);
    caught(Rule::SweepTwice, new_image(false), 2);
    caught(Rule::SweepSessions, close_and_sweep(Some(Rule::SweepSessions), false, 5), 2);
    caught(Rule::DeduplicateTouches, deduplicate_while_holders_delete(false), 1);
}

#[test]
fn rules_of_bytes() {
    caught(Rule::KeepOwnBytes, push_while_other_copy_is_deleted(false), 1);
    caught(Rule::CheckBytes, push_over_missing_bytes(false), 1);
    caught(Rule::DeduplicateHashes, deduplication_of_wrong_bytes(false), 1);
    caught(Rule::ReplayWindow, slow_completion(false), 2);
}

/// Twice at the very moment is beyond the bounds of a search.
#[test]
fn a_sweep_relists_links() {
    let order = || {
        ScriptedOrder::new(&[
            (0, "get links/", 1),
            (1, "never", 1),
            (0, "get links/", 2),
            (2, "never", 1),
        ])
    };
    let whole = violation_of(blob_handed_on(false), order());
    assert_eq!(whole, None);
    let broken = async {
        let mut scenario = blob_handed_on(false).await;
        scenario.broken = Some(Rule::SweepAgain);
        scenario
    };
    let violation = violation_of(broken, order()).unwrap();
    assert!(violation.contains("missing bytes"), "{violation}");
}
