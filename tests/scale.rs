//! What a collection costs where there is much: store requests by a formula that is asserted, and
//! memory.
//!
//! With L links, M manifests (each with a tag and the hint for it), R repositories and B bytes; C
//! links that nothing keeps, of which S shards have some; pages(n) = n / 1,000 rounded up, and 1
//! for nothing; seg(n) the segments of notes about n records: a link takes 28 bytes of a MiB, a
//! manifest 20 and 8 for each thing that it names:
//!
//! | | lists | gets | puts | deletes |
//! | --- | --- | --- | --- | --- |
//! | at all | 9, of sessions, queues and notes | 2, where the last run stopped | | |
//! | manifests | 2 pages(3 M) | M, or seg(M) | seg(M) | 1 of many: old notes |
//! | catalog | pages(R) | | | |
//! | links | pages(L) | L, or seg(L) | seg(L) | 1 of many: old notes |
//! | bytes | 2 pages(B) | | | |
//! | a shard with candidates | pages of its links | | 1, its queue | |
//! | every 16th of them | | 1 | 1 | |
//! | a candidate | | 1 | | 1 |
//! | a sweep | | 1 | 1 | |
//! | a queue that has waited | | 1 | | 1 of many, 1 |
//! | a place in it | 1 | | | |
//! | bytes that go | 1, of the quarantine | | | |
//!
//! A first run reads every manifest and link, a second one what earlier ones noted of them, and
//! of those that changed the records themselves. In a bucket, the tombstones are looked for in
//! another pages(3 M) lists.
//!
//! `JREG_SCALE_LINKS` and `JREG_SCALE_MANIFESTS` set the size. At a million links the peak of
//! memory is asserted, too.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use jreg_lifecycle::{CurrentRules, LifecycleRules};
use jreg_oci::{Algorithm, Digest};
use jreg_registry::{
    GcOptions, GcReport, ManifestPush, NoObserver, PageRequest, Registry, RegistryOptions,
    RetentionOptions,
};
use jreg_storage::testing::{Call, InterceptedStore, Interceptor, ManualClock};
use jreg_storage::{ByteStream, Key, ListRequest, MemoryStore, PutMode, Result, Store};
use jreg_testkit::s3::{S3Operation, S3Server, S3Spec};
use jreg_testkit::{Rng, SmallPagesStore};

const PAGE_ENTRIES: usize = 1000;
const PAGE: u64 = PAGE_ENTRIES as u64;
const HOUR: Duration = Duration::from_secs(3600);
/// Number of links from which memory is asserted: below, other memory dominates.
const FULL_LINKS: u64 = 1_000_000;
/// Maximum memory of a run at full size.
const PEAK_BYTES_MAX: u64 = 200 * 1024 * 1024;
/// When a segment of notes is written.
const SEGMENT_BYTES: u64 = 1024 * 1024;
const LINK_NOTE_BYTES: u64 = 28;

/// One of this many links is unreferenced.
const LOOSE: u64 = 100;
/// One of this many records changes before the third run.
const CHANGED: u64 = 100;

/// Whether a link is unreferenced.
fn is_loose(link: u64) -> bool {
    Rng::new(link).chance(1, LOOSE)
}

fn is_changed(record: u64) -> bool {
    Rng::new(record).below(CHANGED) == CHANGED - 1
}

/// Size of the store: a hundred manifests per repository.
#[derive(Clone, Copy, Debug)]
struct Size {
    links: u64,
    manifests: u64,
}

impl Size {
    fn of_environment() -> Self {
        let of = |name, few| {
            std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(few)
        };
        Self { links: of("JREG_SCALE_LINKS", 10_000), manifests: of("JREG_SCALE_MANIFESTS", 1000) }
    }

    fn repositories(self) -> u64 {
        self.manifests.div_ceil(100)
    }
}

/// Counts calls by operation and by the first word of the key.
#[derive(Debug, Default)]
struct Counter(Mutex<BTreeMap<&'static str, u64>>);

#[async_trait]
impl Interceptor for Counter {
    type Plan = ();

    async fn before(&self, call: &Call) -> Result<()> {
        *self.0.lock().unwrap().entry(call.operation).or_default() += 1;
        Ok(())
    }

    async fn after(&self, _call: &Call, _plan: &()) -> Result<()> {
        Ok(())
    }

    fn stream(&self, _call: &Call, _plan: &(), stream: ByteStream) -> ByteStream {
        stream
    }
}

/// Store requests of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Requests {
    lists: u64,
    gets: u64,
    puts: u64,
    deletes: u64,
    deletes_of_many: u64,
}

impl Requests {
    fn all(self) -> u64 {
        self.lists + self.gets + self.puts + self.deletes + self.deletes_of_many
    }
}

impl Counter {
    fn take(&self) -> Requests {
        let counts = std::mem::take(&mut *self.0.lock().unwrap());
        let of = |operation| counts.get(operation).copied().unwrap_or_default();
        Requests {
            lists: of("list"),
            gets: of("get"),
            puts: of("put"),
            deletes: of("delete"),
            deletes_of_many: of("delete_many"),
        }
    }
}

/// A record as it lies in the store.
struct Written {
    key: String,
    bytes: Bytes,
}

fn digest(of: &str) -> Digest {
    Digest::of(Algorithm::Sha256, of.as_bytes())
}

fn nonce(number: u64) -> String {
    format!("{number:032x}")
}

fn repository(size: Size, number: u64) -> String {
    format!("team/app{:05}", number % size.repositories())
}

/// The first two digits, by which blobs are spread.
fn head(hex: &str) -> &str {
    hex.split_at(2).0
}

/// What a link's key begins with, up to these digits.
fn shard(link: &str) -> &str {
    link.split_at("links/sha256/00".len()).0
}

/// The key of a link; no name has a character but `/` that is written in another way.
fn link_key(name: &str, digest: &Digest) -> String {
    let hex = digest.hex();
    format!("links/sha256/{}/{hex}/{}", head(&hex), name.replace('/', "."))
}

fn link(size: Size, number: u64, version: u64) -> [Written; 2] {
    let (digest, name) = (digest(&number.to_string()), repository(size, number));
    let hex = digest.hex();
    let location = format!("blobs/sha256/{}/{hex}/{number:026}", head(&hex));
    let nonce = nonce(number + version);
    let record =
        format!(r#"{{"nonce":"{nonce}","v":1,"state":"live","location":"{location}","size":1}}"#);
    [
        Written { key: location, bytes: Bytes::from_static(b"x") },
        Written { key: link_key(&name, &digest), bytes: record.into() },
    ]
}

/// The links that a manifest names: those of its repository, but for the loose ones.
fn named_by(size: Size, manifest: u64) -> Vec<u64> {
    let repositories = size.repositories();
    let (repository, place) = (manifest % repositories, manifest / repositories);
    let of_repository = size.manifests.div_ceil(repositories);
    let links = (0..).map(|step| repository + repositories * (place + of_repository * step));
    links.take_while(|link| *link < size.links).filter(|link| !is_loose(*link)).collect()
}

fn manifest(size: Size, number: u64, version: u64) -> [Written; 3] {
    let layers: Vec<_> = named_by(size, number)
        .iter()
        .map(|link| {
            let digest = digest(&link.to_string());
            format!(r#"{{"mediaType":"application/x","digest":"{digest}","size":1}}"#)
        })
        .collect();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let config = digest(&named_by(size, number)[0].to_string());
    let bytes = format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{{"mediaType":"application/x","digest":"{config}","size":1}},"annotations":{{"n":"{number}"}},"layers":[{}]}}"#,
        layers.join(",")
    );
    let (own, len, nonce) = (digest(&bytes), bytes.len(), nonce(number + version));
    let header = format!(r#"{{"nonce":"{nonce}","mediaType":"{kind}","size":{len}}}"#);
    let tag = format!(
        r#"{{"nonce":"{nonce}","digest":"{own}","mediaType":"{kind}","size":{len},"time":0}}"#
    );
    let (folder, hex) = (format!("repositories/{}", repository(size, number)), own.hex());
    [
        Written {
            key: format!("{folder}/_manifests/sha256/{hex}"),
            bytes: format!("{header}\n{bytes}").into(),
        },
        Written { key: format!("{folder}/_tags/v{number}"), bytes: tag.into() },
        Written {
            key: format!("{folder}/_tagged/sha256/{hex}/v{number}"),
            bytes: format!(r#"{{"nonce":"{nonce}"}}"#).into(),
        },
    ]
}

/// Everything, record by record.
fn content(size: Size) -> impl Iterator<Item = Written> {
    let catalog = (0..size.repositories()).map(move |number| {
        let name = repository(size, number).replace('/', ".");
        let bytes = format!(r#"{{"nonce":"{}"}}"#, nonce(number)).into();
        Written { key: format!("catalog/{name}"), bytes }
    });
    let links = (0..size.links).flat_map(move |number| link(size, number, 0));
    let manifests = (0..size.manifests).flat_map(move |number| manifest(size, number, 0));
    catalog.chain(links).chain(manifests)
}

/// What one in a hundred records is next.
fn changes(size: Size) -> impl Iterator<Item = Written> {
    let version = 1 << 40;
    let links = (0..size.links).filter(|number| is_changed(*number) && !is_loose(*number));
    let links = links.map(move |number| link(size, number, version)).map(|[_, link]| link);
    let manifests = (0..size.manifests).filter(|number| is_changed(*number));
    let manifests = manifests.map(move |number| manifest(size, number, version));
    links.chain(manifests.map(|[manifest, ..]| manifest))
}

fn options(sweep_now: bool) -> GcOptions {
    GcOptions { sweep_now, ..GcOptions::default() }
}

/// What the formula needs to know, by looking at the keys.
#[derive(Clone, Debug)]
struct Census {
    repositories: Vec<String>,
    links: u64,
    bytes: u64,
    catalog: u64,
    /// How many links each shard has, and how many of them nothing keeps.
    shards: BTreeMap<String, (u64, u64)>,
}

fn pages(count: u64) -> u64 {
    count.div_ceil(PAGE).max(1)
}

impl Census {
    fn new(size: Size, keys: impl Iterator<Item = String>) -> Self {
        let loose: std::collections::BTreeSet<_> = (0..size.links)
            .filter(|link| is_loose(*link))
            .map(|link| link_key(&repository(size, link), &digest(&link.to_string())))
            .collect();
        let mut keys: Vec<_> = keys.collect();
        keys.sort_unstable();
        let mut census = Self {
            repositories: Vec::new(),
            links: 0,
            bytes: 0,
            catalog: 0,
            shards: BTreeMap::new(),
        };
        for key in keys {
            match key.split('/').next().unwrap() {
                "repositories" => census.repositories.push(key),
                "blobs" => census.bytes += 1,
                "catalog" => census.catalog += 1,
                "links" => {
                    census.links += 1;
                    let shard = census.shards.entry(shard(&key).to_owned()).or_default();
                    shard.0 += 1;
                    shard.1 += u64::from(loose.contains(&key));
                }
                _ => {}
            }
        }
        census
    }

    /// The same after unreferenced content was deleted; for bytes, after their keys were listed.
    fn without_loose(&self) -> Self {
        let mut rest = self.clone();
        rest.links -= self.candidates();
        rest.bytes -= self.candidates();
        rest.shards.values_mut().for_each(|(links, loose)| *links -= std::mem::take(loose));
        rest
    }

    /// The segments of notes about all links.
    fn link_segments(&self) -> u64 {
        let pages_of_one = SEGMENT_BYTES.div_ceil(PAGE * LINK_NOTE_BYTES);
        pages(self.links).div_ceil(pages_of_one)
    }

    /// The segments of notes about all manifests, which lie among tags and hints.
    fn manifest_segments(&self, size: Size) -> u64 {
        let names: BTreeMap<String, u64> = (0..size.manifests)
            .map(|number| {
                let [manifest, ..] = manifest(size, number, 0);
                (manifest.key, named_by(size, number).len() as u64)
            })
            .collect();
        let (mut segments, mut filled) = (0, 0);
        for page in self.repositories.chunks(PAGE_ENTRIES) {
            let notes = page.iter().filter_map(|key| names.get(key));
            filled += notes.map(|named| 20 + 8 * (1 + named)).sum::<u64>();
            if filled >= SEGMENT_BYTES {
                (segments, filled) = (segments + 1, 0);
            }
        }
        segments + u64::from(filled > 0)
    }

    fn candidates(&self) -> u64 {
        self.shards.values().map(|(_, loose)| loose).sum()
    }

    /// What every run asks for with a sweep, but for what it reads and removes.
    fn common(&self, size: Size) -> Requests {
        let (links, manifests) = (self.link_segments(), self.manifest_segments(size));
        Requests {
            // Four of them find nothing: deleted manifests (twice), notes about them, the history.
            lists: 13
                + 2 * pages(self.repositories.len() as u64)
                + pages(self.catalog)
                + pages(self.links)
                + 2 * pages(self.bytes),
            // The mark of the store; when it swept last, as it begins and as it ends.
            gets: 3,
            puts: links + manifests + 1,
            deletes: 0,
            deletes_of_many: 0,
        }
    }

    /// A run that knows nothing.
    fn first(&self, size: Size) -> Requests {
        let mut all = self.common(size);
        all.gets += size.manifests + self.links;
        let shards: Vec<_> = self.shards.values().filter(|(_, loose)| *loose > 0).collect();
        if !shards.is_empty() {
            let notes = shards.len().div_ceil(16) as u64;
            all.lists += shards.iter().map(|(links, _)| pages(*links)).sum::<u64>();
            all.gets += 1 + notes + self.candidates();
            all.puts += notes + shards.len() as u64;
            all.deletes += self.candidates();
        }
        all
    }

    /// A run that knows all but some.
    fn next(&self, size: Size, changed: u64) -> Requests {
        let mut all = self.common(size);
        all.gets += self.link_segments() + self.manifest_segments(size) + changed;
        all.deletes_of_many += 2;
        all
    }

    /// The same after one that removed what `self` has and `rest` has not.
    fn next_to_remove_bytes(&self, rest: &Self, size: Size) -> Requests {
        let queues = self.shards.values().filter(|(_, loose)| *loose > 0).count() as u64;
        let mut all = rest.next(size, 0);
        // The queue entries of deleted links are read as well, and their bytes are listed once.
        all.gets += self.link_segments() - rest.link_segments() + queues;
        // Of the quarantine, what is in it once.
        all.lists += pages(self.bytes) - pages(rest.bytes) + self.candidates() + 1;
        all.deletes += queues;
        all.deletes_of_many += queues;
        all
    }
}

/// Memory as the system counts it: the peak since the last time that it was reset, and now.
struct Memory {
    before: u64,
}

impl Memory {
    /// Resets the peak; `None`: the system does not let us.
    fn watch() -> Option<Self> {
        fs::write("/proc/self/clear_refs", "5").ok()?;
        Some(Self { before: status("VmRSS:")? })
    }

    fn peak(self) -> Option<u64> {
        Some(status("VmHWM:")?.saturating_sub(self.before))
    }
}

fn status(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// A registry on a store in memory that counts.
struct Home {
    clock: Arc<ManualClock>,
    store: Arc<InterceptedStore<Counter>>,
    bare: Arc<MemoryStore>,
}

impl Home {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let store = MemoryStore::builder().remote().clock(clock.clone());
        let bare = Arc::new(store.build());
        let pages = Arc::new(SmallPagesStore::new(bare.clone(), PAGE_ENTRIES));
        Self { clock, store: Arc::new(InterceptedStore::with(pages, Counter::default())), bare }
    }

    async fn write(&self, records: impl Iterator<Item = Written>) {
        for Written { key, bytes } in records {
            let key: Key = key.parse().unwrap();
            self.bare.put(&key, bytes, PutMode::Overwrite).await.unwrap();
        }
    }

    /// Collects as an instance that has just been started.
    async fn collect(&self, what: &str, size: Size) -> (GcReport, Requests) {
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let registry = Registry::open(store, clock, RegistryOptions::default()).await.unwrap();
        self.store.interceptor().take();
        let (memory, began) = (Memory::watch(), Instant::now());
        let done = registry.collect_garbage(&options(true), &NoObserver).await.unwrap();
        let took = began.elapsed();
        let requests = self.store.interceptor().take();
        let Some(peak) = memory.and_then(Memory::peak) else {
            println!("{what}: {requests:?} in {took:?}; this system does not tell of memory");
            return (done, requests);
        };
        let (mib, each) = (peak / 1024 / 1024, peak / size.links);
        println!(
            "{what}: {} requests, {requests:?}, in {took:?}; {mib} MiB, {each} bytes a link",
            requests.all()
        );
        if size.links >= FULL_LINKS {
            assert!(peak <= PEAK_BYTES_MAX, "{what}: {mib} MiB");
        }
        (done, requests)
    }
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn requests_and_memory_of_a_gc_run_follow_from_the_content() {
    block_on(async {
        let (size, home) = (Size::of_environment(), Home::new());
        home.write(content(size)).await;
        home.clock.advance(48 * HOUR);
        let (first, first_requests) = home.collect("first", size).await;
        home.clock.advance(2 * HOUR);
        let (second, second_requests) = home.collect("second", size).await;
        home.write(changes(size)).await;
        home.clock.advance(2 * HOUR);
        let (third, third_requests) = home.collect("third, 1 % changed", size).await;

        // Only now: what this takes and gives back would hide what the runs take.
        let census = Census::new(size, content(size).map(|written| written.key));
        let rest = census.without_loose();
        assert_eq!(first.links.removed, census.candidates());
        assert_eq!(first_requests, census.first(size), "first");
        assert_eq!((second.manifests_read, second.links_read), (0, 0));
        assert_eq!(second.blobs.removed, census.candidates());
        assert_eq!(second_requests, census.next_to_remove_bytes(&rest, size), "second");
        let changed = third.manifests_read + third.links_read;
        let about = (size.links + size.manifests) / CHANGED;
        assert!((about / 2..about * 2).contains(&changed), "{changed} were reloaded");
        assert_eq!(third.links.removed, 0);
        assert_eq!(third_requests, rest.next(size, changed), "third");
    });
}

#[test]
fn a_bucket_is_asked_for_the_same() {
    block_on(async {
        let size = Size { links: 1500, manifests: 200 };
        let server = S3Server::start(S3Spec::default()).await;
        for Written { key, bytes } in content(size) {
            server.insert(&key, bytes);
        }
        server.clock().advance(48 * HOUR);
        let census = Census::new(size, server.keys().into_iter());
        let first = ask(&server).await;
        assert_eq!(first, in_a_bucket(census.first(size), &census));

        server.clock().advance(2 * HOUR);
        let second = ask(&server).await;
        let rest = census.without_loose();
        assert_eq!(second, in_a_bucket(census.next_to_remove_bytes(&rest, size), &rest));
    });
}

/// With the tombstones that are looked for.
fn in_a_bucket(requests: Requests, census: &Census) -> Requests {
    Requests { lists: requests.lists + pages(census.repositories.len() as u64), ..requests }
}

/// What a run asks of a bucket.
async fn ask(server: &S3Server) -> Requests {
    let clock = Arc::new(server.clock().clone());
    let registry = Registry::open(server.store(), clock, RegistryOptions::default()).await.unwrap();
    server.take_requests();
    registry.collect_garbage(&options(true), &NoObserver).await.unwrap();
    let requests = server.take_requests();
    let of =
        |operation| requests.iter().filter(|request| request.operation == operation).count() as u64;
    let counted = Requests {
        lists: of(S3Operation::ListObjectsV2),
        gets: of(S3Operation::GetObject),
        puts: of(S3Operation::PutObject),
        deletes: of(S3Operation::DeleteObject),
        deletes_of_many: of(S3Operation::DeleteObjects),
    };
    assert_eq!(counted.all(), requests.len() as u64, "nothing else is asked");
    counted
}

/// A repository with many tags of few manifests, as it is listed, judged and collected.
///
/// With T tags of K manifests, each tag with its hint: a page of the list is one request wherever it begins, so all tags
/// are pages(T) lists. The history of a tag that never moved is 2 requests, whatever T is. A preview of retention
/// lists pages(T) + 2 times and reads each tag once; manifests are read only where a tag would go. A GC run lists
/// pages(K + 2 T) twice and reads each manifest, and no tag.
///
/// `JREG_SCALE_TAGS` sets T.
#[test]
fn many_tags_cost_what_the_formula_says() {
    const MANIFESTS: u64 = 10;
    let tags = std::env::var("JREG_SCALE_TAGS").ok().and_then(|value| value.parse().ok());
    let tags: u64 = tags.unwrap_or(20_000);
    block_on(async {
        let (home, size) = (Home::new(), Size { links: 1, manifests: 1 });
        let manifests: Vec<_> = (0..MANIFESTS).map(artifact).collect();
        home.write(manifests.iter().map(|(key, bytes)| written(key, bytes))).await;
        home.write((0..tags).flat_map(|n| tag_records(n, &manifests[(n % MANIFESTS) as usize])))
            .await;
        home.write([catalog_entry()].into_iter()).await;
        home.clock.advance(48 * HOUR);
        let registry = open(&home).await;
        let repository = registry.repository("many/tags".parse().unwrap());
        let counter = home.store.interceptor();
        counter.take();

        let (mut listed, mut last) = (0, None);
        loop {
            let page = PageRequest { limit: PAGE_ENTRIES, last };
            let page = repository.tags(&page).await.unwrap();
            listed += page.items.len() as u64;
            last = page.next;
            if last.is_none() {
                break;
            }
        }
        let listing = counter.take();
        assert_eq!(listed, tags);
        // The last page may be full.
        let list_requests = Requests { lists: pages(tags), ..Requests::default() };
        assert_eq!(listing, list_requests, "all tags");

        let page = PageRequest { limit: 50, last: None };
        let name = format!("t{:07}", tags / 2).parse().unwrap();
        let history = repository.tag_history(&name, &page).await.unwrap();
        assert_eq!(history.items.len(), 1);
        let expected = Requests { lists: 1, gets: 1, ..Requests::default() };
        assert_eq!(counter.take(), expected, "history of one of many tags");

        let rules =
            "[[retention]]\nrepositories = [\"**\"]\n[[retention.keep]]\ntags = [\"t*\"]\n[end]\n";
        let rules = CurrentRules::new(Arc::new(LifecycleRules::parse(rules).unwrap()));
        let (memory, began) = (Memory::watch(), Instant::now());
        let judging = registry.with_rules(rules);
        let options = RetentionOptions::default();
        let report = judging.preview_retention(&options, false, &NoObserver).await.unwrap();
        let requests = counter.take();
        let mib = memory.and_then(Memory::peak).unwrap_or_default() / 1024 / 1024;
        println!("preview of {tags} tags: {requests:?} in {:?}, {mib} MiB", began.elapsed());
        assert_eq!((report.tags, report.kept), (tags, tags));
        // The catalog, what was pulled and since when that is known, and the tags.
        let (lists, gets) = (2 + pages(tags), 1 + tags);
        let expected = Requests { lists, gets, ..Requests::default() };
        assert_eq!(requests, expected, "preview of retention");

        let (first, requests) = home.collect("GC of many tags", size).await;
        assert_eq!((first.manifests_read, first.links.removed), (MANIFESTS, 0));
        let of_repository = pages(MANIFESTS + 2 * tags);
        let expected = Requests {
            lists: 13 + 2 * of_repository + 1 + 1 + 2,
            gets: 3 + MANIFESTS,
            puts: 1 + 1,
            ..Requests::default()
        };
        assert_eq!(requests, expected, "GC of many tags");
    });
}

/// A tag that was moved 10,000 times: a page costs the same wherever it begins, and GC removes all but the latest
/// thousand of the replaced changes, a thousand with each request.
#[test]
fn a_tag_that_was_moved_ten_thousand_times_costs_what_the_formula_says() {
    const MOVES: u64 = 10_000;
    block_on(async {
        let home = Home::new();
        let manifests: Vec<_> = (0..2).map(artifact).collect();
        home.write(manifests.iter().map(|(key, bytes)| written(key, bytes))).await;
        home.write([catalog_entry()].into_iter()).await;
        let registry = open(&home).await;
        let repository = registry.repository("many/tags".parse().unwrap());
        for n in 0..=MOVES {
            let (_, bytes) = &manifests[(n % 2) as usize];
            let push = ManifestPush {
                reference: "moving".parse().unwrap(),
                tags: Vec::new(),
                media_type: None,
                bytes: content_of(bytes),
                condition: None,
            };
            repository.manifest_put(push).await.unwrap();
            home.clock.advance(Duration::from_secs(1));
        }
        let counter = home.store.interceptor();
        let name = "moving".parse().unwrap();
        let sizes = entry_sizes(&home).await;
        let bytes: u64 = sizes.iter().sum();
        println!("{} entries of {} bytes", sizes.len(), bytes / sizes.len() as u64);
        assert_eq!(sizes.len() as u64, MOVES);
        let (mut shown, mut last) = (0, None);
        counter.take();
        loop {
            let is_first = last.is_none();
            let page =
                repository.tag_history(&name, &PageRequest { limit: 50, last }).await.unwrap();
            let requests = counter.take();
            let archived = page.items.len() as u64 - u64::from(is_first);
            let expected = Requests { lists: 1, gets: 1 + archived, ..Requests::default() };
            assert_eq!(requests, expected, "page from {shown} on");
            shown += page.items.len() as u64;
            last = page.next;
            if last.is_none() {
                break;
            }
        }
        assert_eq!(shown, MOVES + 1);

        home.clock.advance(3 * HOUR);
        let run = registry.collect_garbage(&options(true), &NoObserver).await.unwrap();
        let requests = counter.take();
        println!("GC of {MOVES} entries: {requests:?}");
        assert_eq!(run.history.removed, MOVES - 1000);
        assert_eq!(requests.deletes_of_many, (MOVES - 1000) / PAGE);
        assert_eq!(entry_sizes(&home).await.len(), 1000);
    });
}

async fn open(home: &Home) -> Registry {
    let (store, clock) = (home.store.clone(), home.clock.clone());
    Registry::open(store, clock, RegistryOptions::default()).await.unwrap()
}

async fn entry_sizes(home: &Home) -> Vec<u64> {
    let mut request = ListRequest::below("history/");
    let mut sizes = Vec::new();
    loop {
        let page = home.bare.list(&request).await.unwrap();
        sizes.extend(page.entries.iter().map(|entry| entry.size_bytes));
        match page.next {
            Some(next) => request.start_after = Some(next),
            None => return sizes,
        }
    }
}

fn written(key: &str, bytes: &Bytes) -> Written {
    Written { key: key.to_owned(), bytes: bytes.clone() }
}

fn catalog_entry() -> Written {
    let bytes = format!(r#"{{"nonce":"{}"}}"#, nonce(0)).into();
    Written { key: "catalog/many.tags".to_owned(), bytes }
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A manifest without references, as it lies in the store.
fn artifact(number: u64) -> (String, Bytes) {
    let content = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[],"annotations":{{"n":"{number}"}}}}"#
    );
    let header = format!(
        r#"{{"nonce":"{}","mediaType":"{INDEX}","size":{}}}"#,
        nonce(number),
        content.len()
    );
    let key = format!("repositories/many/tags/_manifests/sha256/{}", digest(&content).hex());
    (key, format!("{header}\n{content}").into())
}

/// The manifest of a record.
fn content_of(record: &Bytes) -> Bytes {
    let end = record.iter().position(|byte| *byte == b'\n').unwrap();
    record.slice(end + 1..)
}

fn tag_records(number: u64, (_, record): &(String, Bytes)) -> [Written; 2] {
    let content = content_of(record);
    let (digest, size, nonce) =
        (Digest::of(Algorithm::Sha256, &content), content.len(), nonce(number));
    let tag = format!(
        r#"{{"nonce":"{nonce}","digest":"{digest}","mediaType":"{INDEX}","size":{size},"time":0}}"#
    );
    let folder = "repositories/many/tags";
    [
        Written { key: format!("{folder}/_tags/t{number:07}"), bytes: tag.into() },
        Written {
            key: format!("{folder}/_tagged/sha256/{}/t{number:07}", digest.hex()),
            bytes: format!(r#"{{"nonce":"{nonce}"}}"#).into(),
        },
    ]
}
