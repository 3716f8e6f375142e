//! Every scenario holds with all rules, and is violated without those that it is about.

use jreg_model::{
    CheckOutcome, ModelScenario, ProtocolRule, ProtocolRules, large_scenarios, scenarios,
};

const ONTO_DELETED: &str = "2 closing PUTs onto a deleted link, DELETE, GC";

/// The rules that are broken together, and the scenario that shows the violation.
const NEEDED: [(&[ProtocolRule], &str); 95] = [
    (&[ProtocolRule::Touch], "push, 2 GC runs"),
    (&[ProtocolRule::TouchOnVersion], "2 HEADs, 2 GC runs"),
    (&[ProtocolRule::Window], "push, 2 GC runs"),
    (&[ProtocolRule::HeadTouches], "2 HEADs, 2 GC runs"),
    (&[ProtocolRule::HeadFromYoungMemory], "2 HEADs, 2 GC runs"),
    (&[ProtocolRule::TouchDestination], "mount 1→2 onto an old link, 2 GC runs"),
    (&[ProtocolRule::OwnBytesOnly], "upload that loses a response, mount 1→2, DELETE, upload"),
    (&[ProtocolRule::RecordInWindow], "PATCH, closing PUT, reaper, sweeps"),
    (&[ProtocolRule::WindowFirst], "2 closing PUTs, cancel, GC"),
    (&[ProtocolRule::CloseFirst], "2 closing PUTs, cancel, GC"),
    (&[ProtocolRule::CancelFirst], "2 closing PUTs, cancel, GC"),
    (&[ProtocolRule::ReapClosedLate], "PATCH, closing PUT, reaper, sweeps"),
    (&[ProtocolRule::ReplayWindow, ProtocolRule::CompleteInTime], "2 closing PUTs, cancel, GC"),
    (&[ProtocolRule::ReplayNotOntoDeleted], "2 closing PUTs, DELETE, GC"),
    (&[ProtocolRule::ReplayOntoOlder], ONTO_DELETED),
    (&[ProtocolRule::ReplayOntoStrictlyOlder], ONTO_DELETED),
    (&[ProtocolRule::ReplayOnVersion], ONTO_DELETED),
    (&[ProtocolRule::CompleteInTime], "2 closing PUTs, cancel, GC"),
    (&[ProtocolRule::KeepOwnBytes], "upload that deduplicates, DELETE in 2, GC"),
    (&[ProtocolRule::CheckBytes], "uploads onto lost bytes, DELETE, GC"),
    (&[ProtocolRule::AgeAtStart], "push, 2 GC runs"),
    (&[ProtocolRule::Grace], "push, 2 GC runs"),
    (&[ProtocolRule::RecheckAge], "push, 2 GC runs"),
    (&[ProtocolRule::OnVersion], "push, 2 GC runs"),
    (&[ProtocolRule::EveryLink, ProtocolRule::RelistLinks], "mount 1→2, push to 2, GC"),
    (&[ProtocolRule::BytesWait], "2 readers, 2 GC runs"),
    (&[ProtocolRule::DeletedKeepsLocation], "mover, GC"),
    (&[ProtocolRule::DeduplicateTouches], "deduplication of 2, mount 2→1, GC"),
    (
        &[ProtocolRule::DeduplicateOnlyOld, ProtocolRule::RelistLinks],
        "deduplication of 2, mount 2→1, GC",
    ),
    (&[ProtocolRule::DeduplicateOnVersion], "deduplication, DELETE, push to 2, GC"),
    (
        &[ProtocolRule::DeduplicateHashes],
        "deduplication onto wrong bytes, deduplication onto right ones, push to 1, GC",
    ),
    (&[ProtocolRule::SweepTwice], "upload, 2 sweeps at once"),
    (&[ProtocolRule::SweepApart], "deduplication, reader, sweeps"),
    (&[ProtocolRule::SweepSessions], "PATCH, closing PUT, reaper, sweeps"),
    (&[ProtocolRule::SweepOrder], "PATCH, closing PUT, reaper, sweeps"),
    (&[ProtocolRule::OneStep], "index push, 2 GC runs"),
    (&[ProtocolRule::TouchChildren], "index push, 2 GC runs"),
    (&[ProtocolRule::Rewrite], "index push, 2 GC runs"),
    (&[ProtocolRule::KeepType, ProtocolRule::EveryReading], "child push as another type, GC"),
    (&[ProtocolRule::SubjectKeeps], "referrer push, DELETE of the index, GC"),
    (&[ProtocolRule::Tombstone], "2 tag PUTs, 2 DELETEs, cleaner"),
    (&[ProtocolRule::TombstoneAge], "2 tag PUTs, 2 DELETEs, cleaner"),
    (&[ProtocolRule::Archive], "2 moves of a tag, page"),
    (&[ProtocolRule::ChangeInWindow], "move of a tag, GC of history, page"),
    (&[ProtocolRule::ArchiveAgain], "2 moves of a tag, page"),
    (&[ProtocolRule::ChangeGreater], "2 moves of a tag, page"),
    (&[ProtocolRule::FindOwnChange], "2 moves of a tag, page"),
    (&[ProtocolRule::CurrentFirst], "2 moves of a tag, page"),
    (&[ProtocolRule::DropFromCurrent], "2 moves of a tag, page"),
    (&[ProtocolRule::ArchiveDeleted], "deleted tag, PUT, GC, page"),
    (&[ProtocolRule::DeletedRecordAge], "new tag, DELETE, GC, page"),
    (&[ProtocolRule::GcCurrentFirst], "DELETE of a tag, 2 GC runs, page"),
    (&[ProtocolRule::OldestFirst], "move of a tag, GC of history, page"),
    (&[ProtocolRule::HistoryKeeps], "move of the tag, 2 GC runs"),
    (&[ProtocolRule::CopyKeeps], "restore of the manifest, 2 GC runs"),
    (&[ProtocolRule::TagsBeforeHistory], "move of the tag, 2 GC runs"),
    (&[ProtocolRule::ManifestsBeforeCopies], "DELETE of the manifest, GC"),
    (&[ProtocolRule::ManifestsReadBeforeCopies], "DELETE of the manifest, GC"),
    (&[ProtocolRule::ExpiringCount], "move of the tag, 2 GC runs"),
    (&[ProtocolRule::CopyFirst], "DELETE of the manifest, GC"),
    (&[ProtocolRule::DeleteInWindow], "DELETE of the manifest, GC"),
    (&[ProtocolRule::RestoreTouches], "restore of the manifest, 2 GC runs"),
    (&[ProtocolRule::ManifestBeforeCopy], "purge, restore of the manifest, GC"),
    (&[ProtocolRule::PurgedRecord], "purge, restore of the manifest, GC"),
    (
        &[ProtocolRule::PurgedRecord, ProtocolRule::LookForPurge],
        "purge, restore of the manifest, GC",
    ),
    (&[ProtocolRule::Window], "purge, restore of the manifest, GC"),
    (&[ProtocolRule::PurgedHasNoCopies], "purge, DELETE of the manifest, GC"),
    (&[ProtocolRule::PurgeListsAgain], "purge, push of another manifest"),
    (&[ProtocolRule::ImmutableAtSwap], "2 pushes to an immutable tag"),
    (&[ProtocolRule::HintBeforeReads], "push to an immutable tag, push and DELETE by digest"),
    (&[ProtocolRule::ChildHints], "push to an immutable tag, DELETE of the child"),
    (&[ProtocolRule::TouchYoungChild], "push to an immutable tag, DELETE of the child"),
    (&[ProtocolRule::YoungHintCounts], "push to an immutable tag, push and DELETE by digest"),
    (&[ProtocolRule::HintAgeWithWindow], "push to an immutable tag with a hint, DELETE by digest"),
    (&[ProtocolRule::NestedHints], "push to an immutable tag, DELETE of the grandchild"),
    (&[ProtocolRule::HintWithReads], "push to a tag, DELETE by digest"),
    (&[ProtocolRule::ServeAfterHint], "push to a tag, push by digest, DELETE by digest"),
    (&[ProtocolRule::RenewAfterLostTag], "push to a tag, DELETE by digest"),
    (&[ProtocolRule::HintsAfterManifest], "push to a tag, DELETE by digest"),
    (&[ProtocolRule::FenceTags], "push to a tag, DELETE by digest"),
    (&[ProtocolRule::FenceForWindow], "push to a tag, DELETE by digest"),
    (&[ProtocolRule::UntagFirst], "push again to its tag, 2 DELETEs by digest"),
    (
        &[ProtocolRule::DeletedRecordAge],
        "push of a new manifest to a tag, DELETE by digest, GC of hints",
    ),
    (&[ProtocolRule::MarkFirst], "marking purge, restore, push, GC of marks"),
    (&[ProtocolRule::PurgeInWindow], "marking purge, DELETE, restore, GC of marks"),
    (&[ProtocolRule::Window], "marking purge, restore, GC of marks"),
    (&[ProtocolRule::RestoredIsMarked], "marking purge, restore, push, GC of marks"),
    (&[ProtocolRule::LookForMark], "marking purge, restore, push, GC of marks"),
    (&[ProtocolRule::UndoOnlyRestored], "marking purge, restore, push, GC of marks"),
    (&[ProtocolRule::RestoredServesNoPush], "marking purge, restore, push, GC of marks"),
    (&[ProtocolRule::GcUndoesRestored], "marking purge, restore, GC of marks"),
    (&[ProtocolRule::UndoTouchesMark], "marking purge, DELETE, restore, GC of marks"),
    (&[ProtocolRule::MarkedHasNoCopies], "marking purge, DELETE, restore, GC of marks"),
    (&[ProtocolRule::MarkAge], "marking purge, restore, GC of marks"),
    (&[ProtocolRule::MarkOnVersion], "marking purge, restore, GC run that is behind"),
];

/// Rules of defence in depth: no violation here without them as long as the others are in force.
/// Their documentation says why they exist.
const IN_DEPTH: [ProtocolRule; 4] = [
    ProtocolRule::TagsBeforeManifests,
    ProtocolRule::ReferencesBeforeLinks,
    ProtocolRule::ManifestsBeforeHistory,
    ProtocolRule::HistoryBeforeCopies,
];

fn is_large() -> bool {
    std::env::var_os("JREG_MODEL_LARGE").is_some_and(|value| value == "1")
}

/// Whether a scenario is to be checked: `JREG_MODEL_ONLY` has parts of the names of those that are,
/// between bars.
fn is_chosen(name: &str) -> bool {
    let only = std::env::var("JREG_MODEL_ONLY");
    only.map_or(true, |parts| parts.split('|').any(|part| name.contains(part)))
}

fn locations(name: &str) -> Box<dyn ModelScenario> {
    let found = scenarios().into_iter().find(|scenario| scenario.name() == name);
    found.unwrap_or_else(|| panic!("there is no scenario {name:?}"))
}

/// What a check found, in words.
fn report(what: &str, outcome: &CheckOutcome) -> String {
    let CheckOutcome { states, depth, took, .. } = outcome;
    let mut lines = vec![format!("{states:>9} states, {depth:>2} deep, {took:>6.1?}  {what}")];
    if let Some(violation) = &outcome.violation {
        lines.push(format!(
            "    after {} steps violated: {}",
            violation.steps.len(),
            violation.invariant
        ));
        lines.extend(violation.steps.iter().map(|step| format!("      {step}")));
    }
    lines.join("\n")
}

#[test]
fn every_scenario_holds() {
    let more = if is_large() { large_scenarios() } else { Vec::new() };
    let mut wrong = Vec::new();
    for scenario in scenarios().into_iter().chain(more).filter(|it| is_chosen(it.name())) {
        let outcome = scenario.check(ProtocolRules::KEPT, 2);
        let report = report(scenario.name(), &outcome);
        println!("{report}");
        if outcome.violation.is_some() || !outcome.impossible.is_empty() {
            wrong.push(format!("{report}\n    unreachable: {:?}", outcome.impossible));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_is_needed() {
    let mut unneeded = Vec::new();
    for (broken, scenario) in NEEDED.into_iter().filter(|(_, name)| is_chosen(name)) {
        let rules = broken.iter().fold(ProtocolRules::KEPT, |rules, rule| rules.without(*rule));
        // With one thread the way found is a shortest one.
        let outcome = locations(scenario).check(rules, 1);
        let report = report(&format!("{scenario}, without {broken:?}"), &outcome);
        println!("{report}");
        if outcome.violation.is_none() {
            unneeded.push(report);
        }
    }
    assert!(unneeded.is_empty(), "no violation:\n{}", unneeded.join("\n"));
}

#[test]
fn every_rule_is_broken_once_or_defence_in_depth() {
    let broken = |rule: &ProtocolRule| NEEDED.iter().any(|(rules, _)| rules.contains(rule));
    for rule in ProtocolRule::ALL {
        assert_ne!(broken(&rule), IN_DEPTH.contains(&rule), "{rule:?}");
    }
}
