//! Every scenario holds with all rules, and breaks without those that it is about.

use jreg_model::{Outcome, Rule, Rules, Scenario, large_scenarios, scenarios};

/// What is broken together, and the scenario that shows the harm.
const NEEDED: [(&[Rule], &str); 39] = [
    (&[Rule::Touch], "push, 2 collectors"),
    (&[Rule::TouchOnVersion], "2 HEADs, 2 collectors"),
    (&[Rule::Window], "push, 2 collectors"),
    (&[Rule::HeadTouches], "2 HEADs, 2 collectors"),
    (&[Rule::HeadFromYoungMemory], "2 HEADs, 2 collectors"),
    (&[Rule::HoldDestination], "mount 1→2 onto an old link, 2 collectors"),
    (&[Rule::OwnBytesOnly], "upload that loses an answer, mount 1→2, DELETE, upload"),
    (&[Rule::RecordInWindow], "PATCH, closing PUT, reaper, sweeps"),
    (&[Rule::WindowFirst], "2 closing PUTs, cancel, collector"),
    (&[Rule::Seal], "2 closing PUTs, cancel, collector"),
    (&[Rule::CancelFirst], "2 closing PUTs, cancel, collector"),
    (&[Rule::ReapClosedLate], "PATCH, closing PUT, reaper, sweeps"),
    (&[Rule::ReplayWindow, Rule::CompleteInTime], "2 closing PUTs, cancel, collector"),
    (&[Rule::ReplayNotOntoDeleted], "2 closing PUTs, DELETE, collector"),
    (&[Rule::CompleteInTime], "2 closing PUTs, cancel, collector"),
    (&[Rule::KeepOwnBytes], "upload that deduplicates, DELETE in 2, collector"),
    (&[Rule::CheckBytes], "uploads onto lost bytes, DELETE, collector"),
    (&[Rule::CutFirst], "push, 2 collectors"),
    (&[Rule::Grace], "push, 2 collectors"),
    (&[Rule::AgeAgain], "push, 2 collectors"),
    (&[Rule::DeleteOnVersion], "push, 2 collectors"),
    (&[Rule::EveryLink, Rule::ListAgain], "mount 1→2, push to 2, collector"),
    (&[Rule::Wait], "2 readers, 2 collectors"),
    (&[Rule::DeletedKeepsPlace], "mover, collector"),
    (&[Rule::FoldHoldsTheOther], "fold of 2, mount 2→1, collector"),
    (&[Rule::FoldOnlyOld, Rule::ListAgain], "fold of 2, mount 2→1, collector"),
    (&[Rule::FoldOnVersion], "fold, DELETE, push to 2, collector"),
    (&[Rule::FoldHashes], "fold onto wrong bytes, fold onto right ones, push to 1, collector"),
    (&[Rule::SweepTwice], "upload, 2 sweeps at once"),
    (&[Rule::SweepApart], "fold, reader, sweeps"),
    (&[Rule::SweepSessions], "PATCH, closing PUT, reaper, sweeps"),
    (&[Rule::SweepOrder], "PATCH, closing PUT, reaper, sweeps"),
    (&[Rule::OneStepReferences], "index push, 2 collectors"),
    (&[Rule::TouchChildren], "index push, 2 collectors"),
    (&[Rule::RewriteOnRepush], "index push, 2 collectors"),
    (&[Rule::KeepType, Rule::EveryReading], "child push as another type, collector"),
    (&[Rule::SubjectKeeps], "referrer push, DELETE of the index, collector"),
    (&[Rule::Tombstone], "2 tag PUTs, 2 DELETEs, cleaner"),
    (&[Rule::TombstoneAge], "2 tag PUTs, 2 DELETEs, cleaner"),
];

/// Rules that make the protocol easier to think about, and without which nothing goes wrong here
/// as long as the others are kept; their documentation says why they are there.
const IN_DEPTH: [Rule; 2] = [Rule::TagsBeforeManifests, Rule::ReferencesBeforeLinks];

fn is_large() -> bool {
    std::env::var_os("JREG_MODEL_LARGE").is_some_and(|value| value == "1")
}

fn named(name: &str) -> Box<dyn Scenario> {
    let found = scenarios().into_iter().find(|scenario| scenario.name() == name);
    found.unwrap_or_else(|| panic!("there is no scenario {name:?}"))
}

/// What a check found, in words.
fn report(what: &str, outcome: &Outcome) -> String {
    let Outcome { states, depth, took, .. } = outcome;
    let mut lines = vec![format!("{states:>9} states, {depth:>2} deep, {took:>6.1?}  {what}")];
    if let Some(violation) = &outcome.violation {
        lines.push(format!(
            "    after {} steps not so: {}",
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
    for scenario in scenarios().into_iter().chain(more) {
        let outcome = scenario.check(Rules::KEPT, 2);
        let report = report(scenario.name(), &outcome);
        println!("{report}");
        assert!(outcome.violation.is_none(), "{report}");
        assert!(outcome.impossible.is_empty(), "never so: {:?}\n{report}", outcome.impossible);
    }
}

#[test]
fn every_rule_is_needed() {
    for (broken, scenario) in NEEDED {
        let rules = broken.iter().fold(Rules::KEPT, |rules, rule| rules.without(*rule));
        // With one thread the way found is a shortest one.
        let outcome = named(scenario).check(rules, 1);
        let report = report(&format!("{scenario}, without {broken:?}"), &outcome);
        println!("{report}");
        assert!(outcome.violation.is_some(), "{report}");
    }
}

#[test]
fn every_rule_has_its_say() {
    let broken = |rule: &Rule| NEEDED.iter().any(|(rules, _)| rules.contains(rule));
    for rule in Rule::ALL {
        assert_ne!(broken(&rule), IN_DEPTH.contains(&rule), "{rule:?}");
    }
}
