//! Random histories, judged by the crate and by a reference that is written from the documentation: on
//! texts and seconds, with sets and loops, and without a thought for cost.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

use jreg_lifecycle::{
    ManifestState, ProtectionReason, RepositoryState, RetentionJudgement, RetentionRun,
    TagDecision, TagState,
};
use jreg_oci::{Algorithm, Digest};

use crate::fixture::parse;

/// Number of histories.
const HISTORIES: u64 = 10_000;
/// T0 of a history begins here; it ends within two months.
const START: i64 = 1_790_000_000;
const DAY: i64 = 86_400;
/// How long a pull may take until a run knows it.
const SLACK: i64 = 900;

/// SplitMix64: the same numbers everywhere for one seed.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: i64) -> i64 {
        i64::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn one_in(&mut self, number: i64) -> bool {
        self.below(number) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(i64::try_from(from.len()).unwrap())).unwrap()]
    }

    fn some<'a>(&mut self, from: &[&'a str], most: i64) -> Vec<&'a str> {
        (0..1 + self.below(most)).map(|_| *self.pick(from)).collect()
    }
}

const TAG_PATTERNS: [&str; 11] =
    ["*", "v*", "v?", "latest", "pr-*", "pr-?", "sha256-*", "*1", "?*", "v1", "*-*"];
const REPOSITORY_PATTERNS: [&str; 6] = ["**", "team/**", "team/*", "team/app", "*", "team/*/b"];
const REPOSITORIES: [&str; 4] = ["team/app", "team/a/b", "app", "other/x"];
const IMAGES: i64 = 9;

#[derive(Clone, Debug, Default)]
struct Keep {
    tags: Vec<&'static str>,
    except: Vec<&'static str>,
    pushed_within: Option<i64>,
    pulled_within: Option<i64>,
    most_recent: Option<usize>,
}

#[derive(Clone, Debug)]
struct Entry {
    repositories: Vec<&'static str>,
    keeps: Vec<Keep>,
}

#[derive(Clone, Debug)]
struct Immutable {
    repositories: Vec<&'static str>,
    tags: Vec<&'static str>,
    except: Vec<&'static str>,
    expires: bool,
}

#[derive(Clone, Debug, Default)]
struct Rules {
    entries: Vec<Entry>,
    immutable: Vec<Immutable>,
}

fn random_keep(rng: &mut Rng) -> Keep {
    let mut keep = Keep::default();
    while keep.tags.is_empty()
        && keep.except.is_empty()
        && keep.pushed_within.is_none()
        && keep.pulled_within.is_none()
        && keep.most_recent.is_none()
    {
        if rng.one_in(2) {
            keep.tags = rng.some(&TAG_PATTERNS, 3);
        }
        if rng.one_in(5) {
            keep.except = rng.some(&TAG_PATTERNS[1..], 2);
        }
        if rng.one_in(3) {
            keep.pushed_within = Some((1 + rng.below(20)) * DAY / 2);
        }
        if rng.one_in(3) {
            keep.pulled_within = Some((1 + rng.below(20)) * DAY / 2);
        }
        if rng.one_in(3) {
            keep.most_recent = Some(usize::try_from(1 + rng.below(5)).unwrap());
        }
    }
    keep
}

fn random_rules(rng: &mut Rng) -> Rules {
    let mut rules = Rules::default();
    for _ in 0..1 + rng.below(3) {
        let repositories = rng.some(&REPOSITORY_PATTERNS, 2);
        let keeps = (0..1 + rng.below(4)).map(|_| random_keep(rng)).collect();
        rules.entries.push(Entry { repositories, keeps });
    }
    for _ in 0..rng.below(3) {
        rules.immutable.push(Immutable {
            repositories: rng.some(&REPOSITORY_PATTERNS, 2),
            tags: rng.some(&TAG_PATTERNS[1..], 2),
            except: if rng.one_in(3) { rng.some(&TAG_PATTERNS[1..], 2) } else { Vec::new() },
            expires: rng.one_in(3),
        });
    }
    rules
}

impl Rules {
    /// The lifecycle file.
    fn file(&self) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            writeln!(text, "[[retention]]\nrepositories = {:?}", entry.repositories).unwrap();
            for keep in &entry.keeps {
                writeln!(text, "[[retention.keep]]").unwrap();
                for (key, patterns) in [("tags", &keep.tags), ("except", &keep.except)] {
                    if !patterns.is_empty() {
                        writeln!(text, "{key} = {patterns:?}").unwrap();
                    }
                }
                for (key, within) in
                    [("pushed_within", keep.pushed_within), ("pulled_within", keep.pulled_within)]
                {
                    if let Some(within) = within {
                        writeln!(text, "{key} = '{within}s'").unwrap();
                    }
                }
                if let Some(most) = keep.most_recent {
                    writeln!(text, "most_recent = {most}").unwrap();
                }
            }
        }
        for rule in &self.immutable {
            let Immutable { repositories, tags, except, expires } = rule;
            writeln!(text, "[[immutable]]\nrepositories = {repositories:?}\ntags = {tags:?}")
                .unwrap();
            if !except.is_empty() {
                writeln!(text, "except = {except:?}").unwrap();
            }
            writeln!(text, "expires = {expires}").unwrap();
        }
        text
    }
}

#[derive(Clone, Debug)]
enum Change {
    Push {
        tag: String,
        image: i64,
    },
    PullTag(String),
    PullDigest(i64),
    Delete(String),
    /// The tag's record is damaged, until the tag is pushed again.
    Damage(String),
}

/// What happened in a repository until T0.
#[derive(Debug)]
struct History {
    repository: &'static str,
    changes: Vec<(i64, Change)>,
    /// By image: children and subject.
    manifests: BTreeMap<i64, (Vec<i64>, Option<i64>)>,
    at: i64,
    delay: i64,
    pulls_since: Option<i64>,
    slack: i64,
    /// How long before T0 the pulls begin that the run does not know.
    lag: i64,
    force: bool,
}

fn image(number: i64) -> Digest {
    Digest::of(Algorithm::Sha256, &number.to_be_bytes())
}

fn random_tag(rng: &mut Rng) -> String {
    match rng.below(6) {
        0 => "latest".to_owned(),
        1 | 2 => format!("v{}", rng.below(12)),
        3 | 4 => format!("pr-{}", rng.below(15)),
        _ => {
            let suffix = rng.pick(&["", ".sig", ".att", "x"]);
            format!("sha256-{}{suffix}", image(rng.below(IMAGES)).hex())
        }
    }
}

fn random_history(rng: &mut Rng) -> History {
    let mut manifests = BTreeMap::new();
    for number in 0..IMAGES {
        let others = |rng: &mut Rng| if rng.one_in(4) { 1 + rng.below(2) } else { 0 };
        let children = (0..others(rng)).map(|_| rng.below(IMAGES)).collect();
        let subject = rng.one_in(5).then(|| rng.below(IMAGES));
        if rng.one_in(3) {
            manifests.insert(number, (children, subject));
        }
    }
    let mut now = START;
    let mut changes = Vec::new();
    let mut tags: Vec<String> = Vec::new();
    for _ in 0..5 + rng.below(60) {
        // Often at the same second, and often whole days apart, so that boundaries are met.
        now += *rng.pick(&[0, 0, 1, 600, DAY / 2, DAY / 2, DAY]);
        let known = if tags.is_empty() { random_tag(rng) } else { rng.pick(&tags).clone() };
        let change = match rng.below(10) {
            0..=5 => {
                let tag = if rng.one_in(4) { known } else { random_tag(rng) };
                tags.push(tag.clone());
                Change::Push { tag, image: rng.below(IMAGES) }
            }
            6 | 7 => Change::PullTag(known),
            8 => Change::PullDigest(rng.below(IMAGES)),
            _ if rng.one_in(2) => Change::Delete(known),
            _ => Change::Damage(known),
        };
        changes.push((now, change));
    }
    let at = now + *rng.pick(&[0, 1, DAY / 2, DAY, 5 * DAY]) - *rng.pick(&[0, 0, 0, 30]);
    History {
        repository: rng.pick::<&str>(&REPOSITORIES),
        changes,
        manifests,
        at,
        delay: *rng.pick(&[0, DAY / 2, DAY]),
        pulls_since: match rng.below(4) {
            0 => None,
            1 => Some(at - rng.below(24) * DAY / 2),
            _ => Some(START - 100 * DAY),
        },
        slack: *rng.pick(&[0, SLACK]),
        lag: 0,
        force: rng.one_in(2),
    }
}

fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap())
}

impl History {
    /// The state for the crate, built while changes happen.
    fn state(&self) -> RepositoryState {
        let mut tags: BTreeMap<String, TagState> = BTreeMap::new();
        for (at, change) in &self.changes {
            let now = time(*at);
            // As they are stored: to the minute.
            let minute = time(*at - if self.lag > 0 { *at % 60 } else { 0 });
            if self.lag > 0 && self.is_unknown_pull(*at, change) {
                continue;
            }
            match change {
                Change::Push { tag, image: pushed } => {
                    let created = tags.get(tag).map_or(now, |tag| tag.created);
                    let pulled = tags.get(tag).and_then(|tag| tag.pulled);
                    let digest = image(*pushed);
                    let name = tag.parse().unwrap();
                    let pushed = Some(now);
                    let state = TagState { tag: name, digest, created, pushed, pulled };
                    tags.insert(tag.clone(), state);
                }
                Change::PullTag(tag) => {
                    if let Some(tag) = tags.get_mut(tag) {
                        tag.pulled = Some(minute);
                    }
                }
                Change::PullDigest(pulled) => {
                    for tag in tags.values_mut().filter(|tag| tag.digest == image(*pulled)) {
                        tag.pulled = Some(minute);
                    }
                }
                Change::Delete(tag) => {
                    tags.remove(tag);
                }
                Change::Damage(tag) => {
                    if let Some(tag) = tags.get_mut(tag) {
                        tag.pushed = None;
                    }
                }
            }
        }
        let manifests = self.manifests.iter().map(|(number, (children, subject))| ManifestState {
            digest: image(*number),
            children: children.iter().map(|child| image(*child)).collect(),
            subject: subject.map(image),
        });
        let (name, manifests) = (self.repository.parse().unwrap(), manifests.collect());
        RepositoryState { name, tags: tags.into_values().collect(), manifests }
    }

    /// Whether a run misses a pull: it is too recent, or was before pulls were tracked.
    fn is_unknown_pull(&self, at: i64, change: &Change) -> bool {
        let is_pull = matches!(change, Change::PullTag(_) | Change::PullDigest(_));
        is_pull && (at > self.at - self.lag || self.pulls_since.is_none_or(|since| at < since))
    }

    fn run(&self) -> RetentionRun {
        RetentionRun {
            pulls_slack: Duration::from_secs(u64::try_from(self.slack).unwrap()),
            at: time(self.at),
            delay: Duration::from_secs(u64::try_from(self.delay).unwrap()),
            pulls_since: self.pulls_since.map(time),
            force: self.force,
        }
    }

    fn judge(&self, rules: &Rules) -> RetentionJudgement {
        parse(&rules.file()).unwrap().judge(&self.state(), &self.run())
    }
}

/// The reference. Each question is answered by looking at the whole history again.
struct Reference<'a> {
    history: &'a History,
    rules: &'a Rules,
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => (0..=text.len()).any(|skipped| glob(&pattern[1..], &text[skipped..])),
        Some('?') => !text.is_empty() && glob(&pattern[1..], &text[1..]),
        Some(first) => text.starts_with(first) && glob(&pattern[1..], &text[1..]),
    }
}

fn any(patterns: &[&str], tag: &str) -> bool {
    patterns.iter().any(|pattern| glob(pattern, tag))
}

/// The few repository patterns of this test, spelled out.
fn names(patterns: &[&str], name: &str) -> bool {
    let components: Vec<&str> = name.split('/').collect();
    patterns.iter().any(|pattern| match *pattern {
        "**" => true,
        "team/**" => components.len() > 1 && components[0] == "team",
        "team/*" => components.len() == 2 && components[0] == "team",
        "team/*/b" => components.len() == 3 && components[0] == "team" && components[2] == "b",
        "*" => components.len() == 1,
        exact => exact == name,
    })
}

/// Yes, no, or it cannot be said.
type Answer = Option<bool>;

impl Reference<'_> {
    /// Existing tags, with the image.
    fn tags(&self) -> BTreeMap<String, i64> {
        let mut tags = BTreeMap::new();
        for (_, change) in &self.history.changes {
            match change {
                Change::Push { tag, image } => drop(tags.insert(tag.clone(), *image)),
                Change::Delete(tag) => drop(tags.remove(tag)),
                _ => {}
            }
        }
        tags
    }

    /// The last push, if no damage followed.
    fn pushed(&self, tag: &str) -> Option<i64> {
        self.history.changes.iter().rev().find_map(|(at, change)| match change {
            Change::Push { tag: of, .. } if of == tag => Some(Some(*at)),
            Change::Damage(of) if of == tag => Some(None),
            _ => None,
        })?
    }

    /// The last use: of push, pull, and pull of the digest that the tag had then. What was before a
    /// delete does not count.
    fn used(&self, tag: &str) -> Option<i64> {
        let pushed = self.pushed(tag)?;
        let (mut image, mut last) = (None, pushed);
        for (at, change) in &self.history.changes {
            let is_use = match change {
                Change::Push { tag: of, image: pushed } if of == tag => {
                    image = Some(*pushed);
                    false
                }
                Change::Delete(of) if of == tag => {
                    image = None;
                    last = pushed;
                    false
                }
                Change::PullTag(of) => of == tag && image.is_some(),
                Change::PullDigest(of) => image == Some(*of),
                _ => false,
            };
            if is_use {
                last = last.max(*at);
            }
        }
        Some(last)
    }

    fn entry(&self) -> Option<(usize, &Entry)> {
        let matching = |entry: &Entry| names(&entry.repositories, self.history.repository);
        let index = self.rules.entries.iter().position(matching)?;
        Some((index + 1, &self.rules.entries[index]))
    }

    fn is_matched(keep: &Keep, tag: &str) -> bool {
        (keep.tags.is_empty() || any(&keep.tags, tag)) && !any(&keep.except, tag)
    }

    fn is_recent(&self, keep: &Keep, tag: &str, most: usize) -> Answer {
        let own = self.pushed(tag)?;
        let tags = self.tags();
        let before = tags.keys().filter(|other| {
            Self::is_matched(keep, other)
                && self
                    .pushed(other)
                    .is_some_and(|pushed| pushed > own || (pushed == own && other.as_str() < tag))
        });
        Some(before.count() < most)
    }

    fn is_kept_by(&self, keep: &Keep, tag: &str, at: i64) -> Answer {
        let mut answers = vec![Some(Self::is_matched(keep, tag))];
        if let Some(most) = keep.most_recent {
            answers.push(self.is_recent(keep, tag, most));
        }
        if let Some(within) = keep.pushed_within {
            answers.push(self.pushed(tag).map(|pushed| at - pushed <= within));
        }
        if let Some(within) = keep.pulled_within {
            let within = within + self.history.slack;
            let is_tracked = self.history.pulls_since.is_some_and(|since| at - since >= within);
            answers.push(match self.used(tag) {
                Some(used) if at - used <= within => Some(true),
                Some(_) if is_tracked => Some(false),
                _ => None,
            });
        }
        if answers.contains(&Some(false)) {
            return Some(false);
        }
        if answers.contains(&None) { None } else { Some(true) }
    }

    /// Why a tag stays by itself.
    fn own(&self, entry: &Entry, tag: &str, at: i64) -> Option<String> {
        for (index, rule) in self.rules.immutable.iter().enumerate() {
            if names(&rule.repositories, self.history.repository)
                && any(&rule.tags, tag)
                && !any(&rule.except, tag)
                && !rule.expires
            {
                return Some(format!("immutable {}", index + 1));
            }
        }
        let answers: Vec<Answer> =
            entry.keeps.iter().map(|keep| self.is_kept_by(keep, tag, at)).collect();
        if let Some(index) = answers.iter().position(|answer| *answer == Some(true)) {
            return Some(format!("keep {}", index + 1));
        }
        if let Some(index) = answers.iter().position(Option::is_none) {
            return Some(format!("unevaluated {}", index + 1));
        }
        match self.pushed(tag) {
            None => Some("unevaluated".to_owned()),
            Some(pushed) => (at - pushed < self.history.delay).then(|| "young".to_owned()),
        }
    }

    fn belongs_by_name(tag: &str, number: i64) -> bool {
        let name = format!("sha256-{}", image(number).hex());
        tag.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// What happens with each tag, and whether all of it is withheld.
    fn judge(&self) -> (BTreeMap<String, String>, bool) {
        let tags = self.tags();
        let Some((_, entry)) = self.entry() else {
            return (tags.into_keys().map(|tag| (tag, "no entry".to_owned())).collect(), false);
        };
        let own = |tag: &String| Some((tag.clone(), self.own(entry, tag, self.history.at)?));
        let mut decisions: BTreeMap<String, String> = tags.keys().filter_map(own).collect();
        loop {
            let mut stay: BTreeSet<i64> = decisions.keys().map(|tag| tags[tag]).collect();
            let mut related = BTreeSet::new();
            for _ in 0..=self.history.manifests.len() {
                for (number, (children, subject)) in &self.history.manifests {
                    if stay.contains(number) {
                        related.extend(children.iter().copied());
                    }
                    if subject.is_some_and(|subject| stay.contains(&subject)) {
                        related.insert(*number);
                    }
                }
                stay.extend(&related);
            }
            let before = decisions.len();
            for (tag, number) in &tags {
                let by_name = stay.iter().any(|number| Self::belongs_by_name(tag, *number));
                if !decisions.contains_key(tag) && (related.contains(number) || by_name) {
                    decisions.insert(tag.clone(), "related".to_owned());
                }
            }
            if decisions.len() == before {
                break;
            }
        }
        let (all, gone) = (tags.len(), tags.len() - decisions.len());
        for tag in tags.into_keys() {
            decisions.entry(tag).or_insert_with(|| "remove".to_owned());
        }
        (decisions, !self.history.force && gone > 10 && gone * 5 > all)
    }
}

fn word(decision: &TagDecision) -> String {
    match decision {
        TagDecision::NoEntry => "no entry".to_owned(),
        TagDecision::Keep { keep } => format!("keep {keep}"),
        TagDecision::Unevaluated { keep: Some(keep), .. } => format!("unevaluated {keep}"),
        TagDecision::Unevaluated { keep: None, .. } => "unevaluated".to_owned(),
        TagDecision::Protected(ProtectionReason::Immutable(rule)) => {
            format!("immutable {}", rule.number)
        }
        TagDecision::Protected(ProtectionReason::Young { .. }) => "young".to_owned(),
        TagDecision::Protected(ProtectionReason::Related { .. }) => "related".to_owned(),
        TagDecision::Remove => "remove".to_owned(),
    }
}

/// What is printed of a history for which a check fails.
struct Context<'a> {
    seed: u64,
    rules: &'a Rules,
    history: &'a History,
}

impl fmt::Display for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}\n{}\n{:?}", self.seed, self.rules.file(), self.history)
    }
}

fn each_history(histories: u64, check: impl Fn(&mut Rng, &History, &Rules, &Context<'_>)) {
    for seed in 0..histories {
        let mut rng = Rng(seed);
        let rules = random_rules(&mut rng);
        let history = random_history(&mut rng);
        let context = Context { seed, rules: &rules, history: &history };
        check(&mut rng, &history, &rules, &context);
    }
}

#[test]
fn ten_thousand_histories_are_judged_as_by_the_reference() {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let counts = std::cell::RefCell::new(&mut seen);
    each_history(HISTORIES, |_, history, rules, context| {
        let (wanted, is_withheld) = Reference { history, rules }.judge();
        let judgement = history.judge(rules);
        let decisions = judgement.verdicts.iter();
        let decisions = decisions.map(|verdict| (verdict.tag.to_string(), word(&verdict.decision)));
        let decisions: BTreeMap<_, _> = decisions.collect();
        assert_eq!(decisions, wanted, "{context}");
        assert_eq!(judgement.withheld.is_some(), is_withheld, "{context}");
        let gone = decisions.values().filter(|decision| *decision == "remove").count();
        assert_eq!(judgement.removals().count(), if is_withheld { 0 } else { gone }, "{context}");
        let mut counts = counts.borrow_mut();
        for decision in decisions.values() {
            let kind = decision.split(' ').next().unwrap();
            *counts.entry(kind.to_owned()).or_default() += 1;
        }
        *counts.entry("withheld".to_owned()).or_default() += usize::from(is_withheld);
    });
    // Every kind of decision is met often enough to mean something.
    for kind in ["no", "keep", "unevaluated", "immutable", "young", "related", "remove", "withheld"]
    {
        assert!(seen.get(kind).is_some_and(|count| *count >= 100), "{kind}: {seen:?}");
    }
}

#[test]
fn a_tag_goes_when_it_was_said_to_expire_and_not_before() {
    let checked = std::cell::Cell::new([0_usize; 2]);
    each_history(HISTORIES / 4, |_, history, rules, context| {
        let reference = Reference { history, rules };
        let Some((number, entry)) = reference.entry() else { return };
        for verdict in history.judge(rules).verdicts {
            let tag = verdict.tag.as_str();
            let own = |at| reference.own(entry, tag, at);
            let [mut dated, mut undated] = checked.get();
            if let Some(expiry) = verdict.expires {
                let at = expiry.at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
                let at = i64::try_from(at).unwrap();
                assert!(at >= history.at, "{tag} {context}");
                // At the very second the delay has passed, and a keep still holds.
                assert!(own(at - 1).is_some() || at == history.at, "{tag} {context}");
                assert_eq!(own(at + 1), None, "{tag} {context}");
                assert_eq!(expiry.entry, number, "{context}");
                dated += 1;
            } else if matches!(verdict.decision, TagDecision::Keep { .. })
                && !is_unknown_or_related(&reference, entry, tag)
            {
                assert!(own(history.at + 36_500 * DAY).is_some(), "{tag} {context}");
                undated += 1;
            }
            checked.set([dated, undated]);
        }
    });
    assert!(checked.get().iter().all(|count| *count >= 1000), "{checked:?}");
}

/// Whether a keep cannot be evaluated for a tag, or it stays with another, so that nothing is said of
/// when it expires.
fn is_unknown_or_related(reference: &Reference<'_>, entry: &Entry, tag: &str) -> bool {
    let at = reference.history.at;
    let is_unknown = entry.keeps.iter().any(|keep| reference.is_kept_by(keep, tag, at).is_none());
    let number = reference.tags()[tag];
    let manifests = &reference.history.manifests;
    let is_named = manifests.values().any(|(children, _)| children.contains(&number));
    let is_referrer = manifests.get(&number).is_some_and(|(_, subject)| subject.is_some());
    is_unknown || is_named || is_referrer || tag.starts_with("sha256-")
}

/// A run knows no pull of the last minutes, none from before pulls were tracked, and the others to the minute. What it
/// removes was out of use all the same, a slack ago.
#[test]
fn pulls_that_a_run_does_not_know_cost_no_tag_that_was_in_use() {
    let (removed, unknown) = (std::cell::Cell::new(0_usize), std::cell::Cell::new(0_usize));
    each_history(HISTORIES, |rng, history, rules, context| {
        let lag = 60 + rng.below(SLACK - 120);
        let mut changes = history.changes.clone();
        // Some pulls right before T0.
        for (_, change) in &history.changes {
            if let (true, Change::Push { tag, .. }) = (rng.one_in(3), change) {
                let at = history.at - rng.below(2 * SLACK);
                if at >= changes.last().unwrap().0 {
                    changes.push((at, Change::PullTag(tag.clone())));
                }
            }
        }
        let History { repository, at, delay, pulls_since, .. } = *history;
        let manifests = history.manifests.clone();
        let (slack, force) = (SLACK, true);
        let history =
            History { repository, changes, manifests, at, delay, pulls_since, slack, lag, force };
        let missed =
            history.changes.iter().filter(|(at, change)| history.is_unknown_pull(*at, change));
        unknown.set(unknown.get() + missed.count());
        let earlier = History {
            changes: history
                .changes
                .iter()
                .filter(|(at, change)| {
                    !matches!(change, Change::PullTag(_) | Change::PullDigest(_))
                        || *at <= history.at - SLACK
                })
                .cloned()
                .collect(),
            manifests: history.manifests.clone(),
            ..history
        };
        let truth = Reference { history: &earlier, rules };
        let Some((_, entry)) = truth.entry() else { return };
        for verdict in history.judge(rules).removals() {
            let tag = verdict.tag.as_str();
            removed.set(removed.get() + 1);
            for keep in entry.keeps.iter().filter(|keep| Reference::is_matched(keep, tag)) {
                let (None, None, Some(within)) =
                    (keep.pushed_within, keep.most_recent, keep.pulled_within)
                else {
                    continue;
                };
                let used = truth.used(tag).unwrap();
                assert!(history.at - SLACK - used > within, "{tag} {context}");
            }
        }
    });
    assert!(removed.get() >= 1000 && unknown.get() >= 1000, "{removed:?} {unknown:?}");
}

#[test]
fn one_more_keep_never_removes_more() {
    each_history(HISTORIES / 4, |rng, history, rules, context| {
        let removed = |rules: &Rules| -> BTreeSet<String> {
            let verdicts = history.judge(rules).verdicts.into_iter();
            let removed = verdicts.filter(|verdict| verdict.decision == TagDecision::Remove);
            removed.map(|verdict| verdict.tag.to_string()).collect()
        };
        let mut more = rules.clone();
        let added = random_keep(rng);
        for entry in &mut more.entries {
            let place = rng.below(i64::try_from(entry.keeps.len()).unwrap() + 1);
            entry.keeps.insert(usize::try_from(place).unwrap(), added.clone());
        }
        let (before, after) = (removed(rules), removed(&more));
        assert!(after.is_subset(&before), "{added:?} removes {after:?}\n{context}");
    });
}

#[test]
fn what_is_removed_is_neither_immutable_nor_young_nor_needed() {
    each_history(HISTORIES / 4, |_, history, rules, context| {
        let reference = Reference { history, rules };
        let (judgement, tags) = (history.judge(rules), reference.tags());
        let removed: BTreeSet<String> =
            judgement.removals().map(|verdict| verdict.tag.to_string()).collect();
        let stays: BTreeSet<i64> = tags
            .iter()
            .filter(|(tag, _)| !removed.contains(*tag))
            .map(|(_, image)| *image)
            .collect();
        for tag in &removed {
            let pushed = reference.pushed(tag).unwrap();
            assert!(history.at - pushed >= history.delay, "{tag} {context}");
            for (number, (children, subject)) in &history.manifests {
                let is_child = stays.contains(number) && children.contains(&tags[tag]);
                let is_referrer =
                    *number == tags[tag] && subject.is_some_and(|subject| stays.contains(&subject));
                assert!(!is_child && !is_referrer, "{tag} {context}");
            }
            let is_signature = stays.iter().any(|image| Reference::belongs_by_name(tag, *image));
            assert!(!is_signature, "{tag} {context}");
        }
    });
}
