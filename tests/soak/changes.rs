//! Soak test of everything that changes tags: three instances in one bucket, whose clocks differ by up to two minutes,
//! with crashes, faults and late writes; clients that push, move, delete, restore and purge, moving and immutable
//! tags, retention, GC, quotas, and a sequencer of events with a receiver that goes away.
//!
//! Afterwards every acknowledged change is in the history of its tag once and in order, the events are the changes, no
//! immutable tag has moved, nothing that was acknowledged is missing, and fsck finds no damage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use jreg_oci::{Digest, Reference, Tag};
use jreg_registry::{
    ChangeId, Error, EventAction, FsckFinding, FsckObserver, FsckOptions, FsckPhase, NoObserver,
    PageRequest, Registry, RetentionOptions, Sequencer, SinkCursor, SinkName, TagTransition,
    TouchPolicy,
};

use crate::fixtures::Fixtures;
use crate::soak::changer::Changer;
use crate::soak::cluster::{Backend, Cluster, INSTANCES, Removal};
use crate::soak::fault_schedule::FaultSchedule;
use crate::soak::fixtures::repository_name;
use crate::soak::{gc, seeds, tick, variable};

const CLIENTS: u64 = 4;
pub(crate) const REPOSITORIES: usize = 2;
/// Tags that move, and of which retention removes one.
pub(crate) const MOVING: [&str; 3] = ["edge", "latest", "stable"];
/// How many immutable tags a repository may have.
pub(crate) const IMMUTABLE: usize = 12;
/// How many images there are, without a layer that is in parts.
pub(crate) const IMAGES: usize = 4;
const BLOB_BYTES: [usize; 8] = [5, 60, 10, 30, 20, 40, 1, 7];
/// Nothing expires.
const KEEP: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Longer than any write of a change is in flight.
const HOUR: Duration = Duration::from_secs(3600);

const RULES: &str = r#"
[[retention]]
repositories = ["one"]
untagged = "keep"
[[retention.keep]]
tags = ["latest", "stable", "v*"]
[[retention.keep]]
tags = ["edge"]
pushed_within = "6h"

[[immutable]]
repositories = ["**"]
tags = ["v*"]

[[quota]]
repositories = ["**"]
bytes = "1GiB"

[end]
"#;

/// What clients know.
#[derive(Debug, Default)]
pub(crate) struct ChangeLedger(Mutex<LedgerContent>);

#[derive(Debug, Default)]
struct LedgerContent {
    /// Acknowledged changes, by repository and tag.
    changes: BTreeMap<(usize, Tag), Vec<TagTransition>>,
    /// How many requests may have set a tag to a digest, or deleted it.
    requests: BTreeMap<(usize, Tag, Option<Digest>), usize>,
    /// The digests whose push to an immutable tag was acknowledged.
    immutable: BTreeMap<(usize, Tag), BTreeSet<Digest>>,
    refused: u64,
    /// Events that the receiver has taken, each id once.
    received: Vec<String>,
    outages: u64,
}

impl ChangeLedger {
    fn content(&self) -> std::sync::MutexGuard<'_, LedgerContent> {
        self.0.lock().unwrap()
    }

    pub(crate) fn requested(&self, repository: usize, tag: &Tag, to: Option<&Digest>) {
        let key = (repository, tag.clone(), to.cloned());
        *self.content().requests.entry(key).or_default() += 1;
    }

    pub(crate) fn changed(&self, repository: usize, transitions: &[TagTransition]) {
        let mut content = self.content();
        for made in transitions {
            let key = (repository, made.tag.clone());
            if let (true, Some(digest)) = (made.tag.as_str().starts_with('v'), &made.after) {
                content.immutable.entry(key.clone()).or_default().insert(digest.clone());
            }
            if made.is_change() {
                content.changes.entry(key).or_default().push(made.clone());
            }
        }
    }

    pub(crate) fn refused(&self) {
        self.content().refused += 1;
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ChangeSoak {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) fixtures: Arc<Fixtures>,
    pub(crate) ledger: Arc<ChangeLedger>,
}

#[test]
fn in_memory_every_change_is_in_its_history_once_and_an_event() {
    for seed in seeds(3) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(soak(Backend::Memory, Removal::OnVersion, seed, 120));
    }
}

#[test]
fn in_memory_without_conditional_deletes_every_change_is_in_its_history_once() {
    for seed in seeds(1) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(soak(Backend::Memory, Removal::Never, seed, 120));
    }
}

#[test]
fn in_a_bucket_every_change_is_in_its_history_once_and_an_event() {
    for seed in seeds(1) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(soak(Backend::Bucket, Removal::OnVersion, seed, 30));
    }
}

async fn new_soak(place: Backend, removal: Removal, seed: u64) -> ChangeSoak {
    let cluster = Cluster::new(place, removal, seed).await.with_lifecycle(RULES);
    let mut fixtures = Fixtures::with_layers(BLOB_BYTES);
    for image in 0..IMAGES {
        fixtures.add_image(2 * image, &[2 * image + 1], None);
    }
    let (cluster, fixtures) = (Arc::new(cluster), Arc::new(fixtures));
    ChangeSoak { cluster, fixtures, ledger: Arc::default() }
}

async fn soak(place: Backend, removal: Removal, seed: u64, operations: u64) {
    println!("seed {seed}, {place:?}, records are removed {removal:?}");
    let soak = new_soak(place, removal, seed).await;
    let operations = variable("JREG_SOAK_OPERATIONS").unwrap_or(operations);
    soak.work(operations).await;
    soak.cluster.schedule.stop_faults().await;
    soak.cluster.replace();
    soak.audit().await;
    let content = soak.ledger.content();
    let changes: usize = content.changes.values().map(Vec::len).sum();
    assert!(changes > 0 && content.refused > 0, "{changes} changes, {} refusals", content.refused);
    println!(
        "  {changes} changes, {} refused, {} events, {} outages of the receiver; {}, in {} days",
        content.refused,
        content.received.len(),
        content.outages,
        soak.cluster.schedule.counts,
        soak.cluster.schedule.clock_days()
    );
}

impl ChangeSoak {
    fn schedule(&self) -> Arc<FaultSchedule> {
        Arc::clone(&self.cluster.schedule)
    }

    /// Runs clients beside GC, retention, a sequencer and deliveries.
    async fn work(&self, operations: u64) {
        let stop = Arc::new(AtomicBool::new(false));
        let jobs: Vec<_> = (0..INSTANCES)
            .map(|instance| tokio::spawn(self.clone().run_jobs(instance, Arc::clone(&stop))))
            .collect();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| Changer::new(self.clone(), self.schedule().rng().bits()))
            .map(|client| tokio::spawn(client.run(operations)))
            .collect();
        let ticking = tokio::spawn(tick(self.schedule()));
        let working = try_join_all(clients);
        tokio::pin!(working);
        let mut running = try_join_all(jobs);
        tokio::select! {
            worked = working => { worked.unwrap(); }
            // They stop only on a failure.
            ran = &mut running => { ran.unwrap(); }
        };
        stop.store(true, Ordering::SeqCst);
        running.await.unwrap();
        ticking.abort();
    }

    async fn run_jobs(self, instance: usize, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::SeqCst) {
            let which = self.schedule().rng().below(4);
            match which {
                0 => self.collect(instance).await,
                1 => self.retain(instance).await,
                2 => _ = self.sequence(instance).await,
                _ => self.deliver(instance).await,
            }
            let pause = self.schedule().rng().below(20);
            tokio::time::sleep(Duration::from_millis(1 + pause)).await;
        }
    }

    async fn collect(&self, instance: usize) {
        let options = gc::options(KEEP);
        let options = jreg_registry::GcOptions { history_keep: KEEP, untagged: None, ..options };
        let run = self.cluster.at(instance, |registry| async move {
            registry.collect_garbage(&options, &NoObserver).await
        });
        match run.await {
            None | Some(Ok(_)) => {}
            Some(Err(jreg_registry::GcError::Registry(Error::Store(_) | Error::Busy { .. }))) => {}
            Some(Err(error)) => self.violation(&format!("a run fails: {error}")),
        }
    }

    async fn retain(&self, instance: usize) {
        let options = RetentionOptions { delay: HOUR, force: true, ..RetentionOptions::default() };
        let run = self.cluster.at(instance, |registry| async move {
            registry.run_retention(&options, &NoObserver).await.map(drop)
        });
        if let Some(Err(jreg_registry::RetentionError::Registry(error))) = run.await {
            let may_fail =
                matches!(error, Error::Store(_) | Error::Busy { .. } | Error::Interrupted { .. });
            assert!(may_fail, "{error}");
        }
    }

    /// One pass over the queue of events; whether anything is left in it.
    async fn sequence(&self, instance: usize) -> bool {
        let pass = self.cluster.at(instance, |registry| async move {
            let mut sequencer = Sequencer::default();
            registry.sequence_events(&mut sequencer, &registry).await
        });
        match pass.await {
            Some(Ok(report)) => report.waiting > 0 || report.more,
            Some(Err(Error::Store(_) | Error::Busy { .. } | Error::Interrupted { .. })) | None => {
                true
            }
            Some(Err(error)) => self.violation(&format!("a pass fails: {error}")),
        }
    }

    /// Sends what is in the log to a receiver that is away now and then.
    async fn deliver(&self, instance: usize) {
        let is_away = !self.schedule().is_quiet() && self.schedule().chance(3);
        if is_away {
            self.ledger.content().outages += 1;
            return;
        }
        let ledger = Arc::clone(&self.ledger);
        let sending = move |registry: Registry| async move { deliver(&registry, &ledger).await };
        match self.cluster.at(instance, sending).await {
            Some(Err(Error::Store(_) | Error::Busy { .. })) | None | Some(Ok(())) => {}
            Some(Err(error)) => self.violation(&format!("a delivery fails: {error}")),
        }
    }

    fn violation(&self, what: &str) -> ! {
        self.cluster.schedule.violation(what, &[])
    }

    /// All instances agree, and what they say follows from what was acknowledged.
    async fn audit(&self) {
        // What was queued for changes that did not happen is dead after the bound.
        self.cluster.schedule.advance(HOUR).await;
        let mut passes = 0;
        while self.sequence(passes % INSTANCES).await {
            passes += 1;
            assert!(passes < 100, "the queue does not empty");
        }
        // The log has segments of one pass each.
        for instance in 0..200 {
            self.deliver(instance % INSTANCES).await;
        }
        let histories = self.histories().await;
        self.check_histories(&histories);
        self.check_immutable(&histories);
        self.check_events(&histories).await;
        self.check_content(&histories).await;
        self.check_fsck().await;
    }

    async fn histories(&self) -> Histories {
        let mut found: Vec<Histories> = Vec::new();
        for instance in 0..INSTANCES {
            let mut histories = Histories::new();
            for (repository, tag) in all_tags() {
                let of = tag.clone();
                let read = self.cluster.at(instance, |registry| async move {
                    let repository = registry.repository(repository_name(repository));
                    read_history(&repository, &of).await
                });
                histories.insert((repository, tag), read.await.unwrap());
            }
            found.push(histories);
        }
        assert!(found.iter().all(|histories| *histories == found[0]), "instances differ");
        found.remove(0)
    }

    /// Every acknowledged change once and in order, and no more than were requested.
    fn check_histories(&self, histories: &Histories) {
        let content = self.ledger.content();
        for (of, changes) in &content.changes {
            let history = &histories[of];
            for made in changes {
                let at = history.iter().position(|(change, _)| *change == made.change);
                let is_it = at.is_some_and(|at| {
                    let before = history.get(at + 1).and_then(|(_, digest)| digest.clone());
                    history[at].1 == made.after && before == made.before
                });
                if !is_it {
                    self.violation(&format!("the history of {of:?} lacks {made:?}: {history:?}"));
                }
            }
        }
        for ((repository, tag), history) in histories {
            let is_ordered =
                history.windows(2).all(|two| two[0].0 > two[1].0 && two[0].1 != two[1].1);
            assert!(is_ordered, "{tag}: {history:?}");
            let expires = tag.as_str() == "edge" && *repository == 0;
            let mut made: BTreeMap<Option<Digest>, usize> = BTreeMap::new();
            for (_, digest) in history {
                *made.entry(digest.clone()).or_default() += 1;
            }
            for (digest, count) in made {
                let key = (*repository, tag.clone(), digest.clone());
                let requests = content.requests.get(&key).copied().unwrap_or_default();
                let is_explained = count <= requests || (expires && digest.is_none());
                assert!(is_explained, "{requests} requests made {count} changes of {key:?}");
            }
        }
    }

    fn check_immutable(&self, histories: &Histories) {
        let content = self.ledger.content();
        for (of, digests) in &content.immutable {
            let history = &histories[of];
            let digests: Vec<_> = digests.iter().collect();
            let is_kept = history.len() == 1 && digests == [history[0].1.as_ref().unwrap()];
            if !is_kept {
                self.violation(&format!("{of:?} was set to {digests:?}: {history:?}"));
            }
        }
        for ((_, tag), history) in histories.iter().filter(|((_, tag), _)| tag.as_str() >= "v") {
            assert!(history.len() <= 1, "{tag} has moved: {history:?}");
        }
    }

    /// The events of tags are the changes, those of manifests alternate, and the receiver got each of them in order.
    async fn check_events(&self, histories: &Histories) {
        let log = self.cluster.at(0, |registry| async move { read_log(&registry).await });
        let log = log.await.unwrap();
        let ids: Vec<_> = log.iter().map(jreg_registry::Event::id).collect();
        let unique: BTreeSet<_> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len(), "an event is in the log twice");
        assert_eq!(self.ledger.content().received, ids, "the receiver did not get the log");
        let mut of_tags: BTreeMap<(String, Tag), Vec<ChangeId>> = BTreeMap::new();
        let mut of_manifests: BTreeMap<(String, Digest), Vec<(EventAction, ChangeId)>> =
            BTreeMap::new();
        for event in log {
            let Some(name) = event.repository.map(|name| name.to_string()) else { continue };
            match (event.tag, event.digest) {
                (Some(tag), _) => of_tags.entry((name, tag)).or_default().push(event.change),
                (None, Some(digest)) => {
                    let made = (event.action, event.change);
                    of_manifests.entry((name, digest)).or_default().push(made);
                }
                (None, None) => {}
            }
        }
        for ((repository, tag), history) in histories {
            let name = repository_name(*repository).to_string();
            let events = of_tags.remove(&(name, tag.clone())).unwrap_or_default();
            let changes: Vec<_> = history.iter().rev().map(|(change, _)| *change).collect();
            if events != changes {
                self.violation(&format!("{tag}: {changes:?} were made, {events:?} were sent"));
            }
        }
        assert!(of_tags.is_empty(), "{of_tags:?}");
        for (of, actions) in of_manifests {
            // Each comes into being, and is deleted before it does again.
            let alternate = actions.chunks(2).all(|two| {
                two[0].0 == EventAction::ManifestPush
                    && two
                        .get(1)
                        .is_none_or(|next| *next == (EventAction::ManifestDelete, two[0].1))
            });
            assert!(alternate, "{of:?}: {actions:?}");
        }
    }

    /// What a tag points to can be pulled, and what was deleted can be restored.
    async fn check_content(&self, histories: &Histories) {
        for ((repository, tag), history) in histories {
            let Some((_, Some(digest))) = history.first() else { continue };
            let (name, tag, digest) = (repository_name(*repository), tag.clone(), digest.clone());
            let fixtures = Arc::clone(&self.fixtures);
            let pull = self.cluster.at(0, |registry| async move {
                let repository = registry.repository(name);
                let reference = Reference::Tag(tag.clone());
                let found = repository.manifest_get(&reference, TouchPolicy::Never).await.unwrap();
                assert_eq!(found.digest, digest, "{tag}");
                let of = fixtures.manifest_of(&found.bytes).unwrap();
                for blob in &fixtures.manifests[of].needs {
                    let digest = &fixtures.blobs[*blob].digest;
                    repository.blob_stat(digest, TouchPolicy::Never).await.unwrap();
                }
            });
            pull.await.unwrap();
        }
        for repository in 0..REPOSITORIES {
            let restore = self.cluster.at(1, |registry| async move {
                let repository = registry.repository(repository_name(repository));
                let all = PageRequest { limit: 100, last: None };
                for deleted in repository.deleted_manifests(&all).await.unwrap().items {
                    repository.manifest_restore(&deleted.digest, false).await.unwrap();
                }
            });
            restore.await.unwrap();
        }
    }

    async fn check_fsck(&self) {
        let found = Arc::new(FoundDamage::default());
        let watch = Arc::clone(&found);
        let check = self.cluster.at(2, |registry| async move {
            let options = FsckOptions { deep: true, ..FsckOptions::default() };
            registry.fsck(&options, &*watch).await.unwrap();
        });
        check.await.unwrap();
        let damage = found.0.lock().unwrap();
        assert!(damage.is_empty(), "{damage:#?}");
    }
}

/// Repository and tag; the changes, the latest first.
type Histories = BTreeMap<(usize, Tag), Vec<(ChangeId, Option<Digest>)>>;

/// The tag that moves, or is immutable.
pub(crate) fn tag(number: usize) -> Tag {
    match MOVING.get(number) {
        Some(name) => name.parse().unwrap(),
        None => format!("v{}", number - MOVING.len()).parse().unwrap(),
    }
}

fn all_tags() -> impl Iterator<Item = (usize, Tag)> {
    (0..REPOSITORIES)
        .flat_map(|repository| (0..MOVING.len() + IMMUTABLE).map(move |n| (repository, tag(n))))
}

async fn read_history(
    repository: &jreg_registry::Repository,
    tag: &Tag,
) -> Vec<(ChangeId, Option<Digest>)> {
    let (mut history, mut page) = (Vec::new(), PageRequest { limit: 50, last: None });
    loop {
        let read = match repository.tag_history(tag, &page).await {
            Ok(read) => read,
            Err(Error::ManifestUnknown { .. }) => return history,
            Err(error) => panic!("{tag}: {error}"),
        };
        history.extend(read.items.into_iter().map(|item| (item.change, item.digest)));
        match read.next {
            Some(next) => page.last = Some(next),
            None => return history,
        }
    }
}

async fn read_log(registry: &Registry) -> Vec<jreg_registry::Event> {
    let (mut events, mut number) = (Vec::new(), 0);
    while let Some(next) = registry.next_event_segment(number).await.unwrap() {
        let segment = registry.event_segment(next).await.unwrap().unwrap();
        events.extend(segment.events.iter().cloned());
        number = next;
    }
    events
}

/// Sends one segment, and moves the cursor behind it.
async fn deliver(registry: &Registry, ledger: &ChangeLedger) -> jreg_registry::Result<()> {
    let sink: SinkName = "soak".parse().unwrap();
    if registry.find_sink_cursor(&sink).await?.is_none() {
        // A new sink begins at the end of the log: this one at the beginning.
        registry.sink_cursor(&sink).await?;
        registry.replay_events(&sink, 1).await?;
    }
    let seen = registry.sink_cursor(&sink).await?;
    let position = seen.cursor.position;
    let Some(segment) = registry.event_segment(position.segment).await? else { return Ok(()) };
    for event in segment.events.iter().skip(position.index) {
        let id = event.id();
        let mut content = ledger.content();
        if !content.received.contains(&id) {
            content.received.push(id);
        }
    }
    let next = jreg_registry::LogPosition { segment: position.segment + 1, index: 0 };
    let cursor =
        SinkCursor { position: next, sequence: segment.next_sequence(), ..seen.cursor.clone() };
    registry.save_sink_cursor(&sink, &seen, cursor).await.map(drop)
}

/// Damage that fsck finds.
#[derive(Debug, Default)]
struct FoundDamage(Mutex<Vec<FsckFinding>>);

impl FsckObserver for FoundDamage {
    fn phase(&self, _: FsckPhase) {}

    fn progress(&self, _: u64, _: u64) {}

    fn finding(&self, finding: &FsckFinding) {
        if finding.severity() == jreg_registry::Severity::Damage {
            self.0.lock().unwrap().push(finding.clone());
        }
    }
}

/// Three instances without faults race: two push different images to each new immutable tag, the third one of
/// them; and all move one tag.
#[test]
fn in_a_bucket_a_new_immutable_tag_is_set_by_one_of_two_pushes() {
    const ROUNDS: usize = 25;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(async {
        let soak = new_soak(Backend::Bucket, Removal::OnVersion, 1).await;
        soak.cluster.schedule.stop_faults().await;
        let changer = Changer::new(soak.clone(), 1);
        changer.push_all_content(0).await;
        let mut moves = Vec::new();
        for round in 0..ROUNDS {
            let tag: Tag = format!("v{round}").parse().unwrap();
            let pushes = (0..INSTANCES).map(|n| changer.try_put(n, 0, n % 2, &tag));
            let outcomes = join_all(pushes.collect::<Vec<_>>()).await;
            let won: BTreeSet<_> = (0..INSTANCES).filter(|n| outcomes[*n].is_ok()).collect();
            let images: BTreeSet<_> = won.iter().map(|n| n % 2).collect();
            assert_eq!(images.len(), 1, "round {round}: {outcomes:?}");
            // Both pushes of the image that won are acknowledged.
            assert!(won.contains(&1) || won.len() == 2, "round {round}: {outcomes:?}");
            let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
            for error in refused {
                assert!(matches!(error, Error::Immutable(_)), "round {round}: {error}");
            }
            let latest: Tag = "latest".parse().unwrap();
            let pushes = (0..INSTANCES).map(|n| changer.try_put(n, 0, n, &latest));
            for outcome in join_all(pushes.collect::<Vec<_>>()).await {
                moves.extend(outcome.unwrap().transitions);
            }
        }
        let histories = soak.histories().await;
        let history = &histories[&(0, "latest".parse().unwrap())];
        let moves: BTreeSet<_> =
            moves.iter().filter(|made| made.is_change()).map(|made| made.change).collect();
        let changes: BTreeSet<_> = history.iter().map(|(change, _)| *change).collect();
        assert_eq!(changes, moves, "the history of a tag that all move");
    });
}
