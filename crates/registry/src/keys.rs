//! Where everything lies in the store. Every key is made here and nowhere else.
//!
//! ```text
//! jreg.json                                            the format's version
//! blobs/<alg>/<aa>/<hex>/<ulid>                        bytes stored under a digest known before
//! blobs/_/<aa>/<ulid>                                  bytes that came before their digest
//! links/<alg>/<aa>/<hex>/{name}                        this repository has this blob, there
//! repositories/<name>/_manifests/<alg>/<hex>           a header line, then the pushed bytes
//! repositories/<name>/_tags/<tag>                      the digest a tag points to
//! repositories/<name>/_tagged/<alg>/<hex>/<tag>        a hint: this tag may point to this manifest
//! repositories/<name>/_referrers/<alg>/<hex>/<alg>-<hex>   descriptor of one referrer of a subject
//! catalog/{name}                                       a manifest was pushed to this repository
//! history/{name}/<tag>/<inverted ulid>-<alg>-<hex>     a change of a tag that another has replaced
//! history/{name}/<tag>/<inverted ulid>-deleted         the same, of a delete
//! deleted/{name}/<alg>/<hex>/<ulid>                    a copy of a manifest that was deleted
//! deleted/{name}/<alg>/<hex>/purged                    that it must not be restored
//! mirror/{name}/tags/<tag>                             the digest that a tag of a mirrored registry had
//! mirror/{name}/blocked/<alg>/<hex>                    content that must not be fetched again
//! fills/<alg>/<hex>/{name}                             the instance that stores a blob of a mirror
//! uploads/<id>, uploads/<id>.<ulid>                    an upload's session, and a tail of its bytes
//! gc/...                                               notes of GC runs and checks
//! events/queue/<ulid>                                  an event of a change that may not have happened
//! events/log/<number>                                  confirmed events in their order
//! events/sinks/<name>                                  how far a sink has been sent the log
//! events/dead/<name>/<ulid>                            an event that a sink refused for good
//! events/lease                                         the instance that sends events
//! pulls/<hour>/<instance>-<ulid>                       what one instance saw pulled
//! pulls/times/<aa>                                     when tags were pulled last
//! pulls/since                                          since when no pull was missed
//! pulls/lease                                          the instance that merges them
//! auth/keys                                            the keys that sign access tokens
//! auth/access-tokens/<id>                              an access token, its secret hashed
//! auth/robots/<id>                                     the same in stores of earlier versions
//! auth/sessions/<hex>                                  when the logins of an identity ended (SHA-256 of its name)
//! auth/acme/<what>                                     the certificate of TLS, and how it is got
//! quarantine/<ulid>/<key>                              what fsck quarantined
//! probe/writable                                       overwritten to see whether the store takes writes
//! ```
//!
//! No component of a repository name starts with `_`, so the `_words` separate. `{name}` is a
//! whole name as one component: `-`, `.` and `/` are written `!`, `-` and `.`, which keeps its
//! length and, among names, the byte order.

use jreg_oci::{Algorithm, Digest, RepositoryName, Tag};
use jreg_storage::Key;
use ulid::Ulid;

use crate::{ChangeId, UploadId};

fn key(text: String) -> Key {
    Key::try_from(text).expect("validated names, tags and digests make valid keys")
}

fn encode(name: &RepositoryName) -> String {
    let encode = |c| match c {
        '-' => '!',
        '.' => '-',
        '/' => '.',
        other => other,
    };
    name.as_str().chars().map(encode).collect()
}

fn decode(component: &str) -> Option<RepositoryName> {
    let decode = |c| match c {
        '!' => '-',
        '-' => '.',
        '.' => '/',
        other => other,
    };
    component.chars().map(decode).collect::<String>().parse().ok()
}

/// `<alg>/<aa>/<hex>`, so that no folder grows with the number of blobs.
fn spread(digest: &Digest) -> String {
    let hex = digest.hex();
    let head = hex.get(..2).expect("a digest has at least two hex digits");
    format!("{}/{head}/{hex}", digest.algorithm())
}

fn flat(digest: &Digest) -> String {
    format!("{}/{}", digest.algorithm(), digest.hex())
}

/// The store's format marker.
pub(crate) fn format() -> Key {
    key("jreg.json".to_owned())
}

/// Whether a top-level name of a store (a folder with its slash) may belong to a registry.
pub(crate) fn is_top_level(name: &str) -> bool {
    name == "jreg.json" || ROOTS.contains(&name)
}

/// Whether a record of this key could be brought back by a Create that lands after its delete:
/// tags, manifests and referrers. What else is deleted has a key that is never used again, or is
/// old.
pub fn may_come_back(key: &Key) -> bool {
    key.as_str().starts_with(REPOSITORIES)
}

/// A new key for bytes of a known digest.
pub(crate) fn new_blob(digest: &Digest) -> Key {
    key(format!("blobs/{}/{}", spread(digest), Ulid::generate()))
}

/// A new key for bytes whose digest will only be known after them.
pub(crate) fn new_blob_without_digest() -> Key {
    let ulid = Ulid::generate().to_string();
    let tail = ulid.get(24..).expect("a ulid has 26 characters");
    key(format!("blobs/_/{tail}/{ulid}"))
}

/// The link of a repository to a blob.
pub(crate) fn link(digest: &Digest, name: &RepositoryName) -> Key {
    key(format!("{}{}", links(digest), encode(name)))
}

/// The links of every holder of a blob.
pub(crate) fn links(digest: &Digest) -> String {
    format!("links/{}/", spread(digest))
}

/// The repository that a key below [`links`] names.
pub(crate) fn linking_repository(link: &Key) -> Option<RepositoryName> {
    last(link).and_then(decode)
}

/// The content of repositories.
pub(crate) const REPOSITORIES: &str = "repositories/";

/// The manifests of a repository.
pub(crate) fn manifests(name: &RepositoryName) -> String {
    format!("{REPOSITORIES}{name}/_manifests/")
}

pub(crate) fn manifest(name: &RepositoryName, digest: &Digest) -> Key {
    key(format!("{}{}", manifests(name), flat(digest)))
}

/// The tags of a repository.
pub(crate) fn tags(name: &RepositoryName) -> String {
    format!("{REPOSITORIES}{name}/_tags/")
}

pub(crate) fn tag(name: &RepositoryName, tag: &Tag) -> Key {
    key(format!("{}{tag}", tags(name)))
}

/// The tags that may point to any manifest of a repository.
pub(crate) fn all_tagged(name: &RepositoryName) -> String {
    format!("{REPOSITORIES}{name}/_tagged/")
}

/// The tags that may point to a manifest.
pub(crate) fn tagged(name: &RepositoryName, digest: &Digest) -> String {
    format!("{REPOSITORIES}{name}/_tagged/{}/", flat(digest))
}

/// The hint that a tag may point to a manifest.
pub(crate) fn tag_hint(name: &RepositoryName, digest: &Digest, tag: &Tag) -> Key {
    key(format!("{}{tag}", tagged(name, digest)))
}

/// The tag that a key below [`tags`] or [`tagged`] names.
pub(crate) fn tag_of(key: &Key) -> Option<Tag> {
    last(key)?.parse().ok()
}

/// The referrers of a subject.
pub(crate) fn referrers(name: &RepositoryName, subject: &Digest) -> String {
    format!("{REPOSITORIES}{name}/_referrers/{}/", flat(subject))
}

/// The changes of tags that others have replaced.
pub(crate) const HISTORY: &str = "history/";

/// What ends the key of a change that deleted its tag.
const DELETED: &str = "deleted";

/// The replaced changes of the tags of a repository.
pub(crate) fn histories(name: &RepositoryName) -> String {
    format!("{HISTORY}{}/", encode(name))
}

/// The replaced changes of a tag, the latest first.
pub(crate) fn tag_history(name: &RepositoryName, tag: &Tag) -> String {
    format!("{}{tag}/", histories(name))
}

/// A change that made a tag point to a digest, or deleted it (`None`).
pub(crate) fn history_entry(
    name: &RepositoryName,
    tag: &Tag,
    change: ChangeId,
    digest: Option<&Digest>,
) -> Key {
    let what = digest
        .map_or(DELETED.to_owned(), |digest| format!("{}-{}", digest.algorithm(), digest.hex()));
    key(format!("{}{}-{what}", tag_history(name, tag), change.inverted()))
}

/// Copies of manifests that were deleted.
pub(crate) const DELETED_MANIFESTS: &str = "deleted/";

/// The copies of the deleted manifests of a repository.
pub(crate) fn deleted_manifests(name: &RepositoryName) -> String {
    format!("{DELETED_MANIFESTS}{}/", encode(name))
}

/// The copies of one deleted manifest, the oldest first, and the mark of its purge after them.
pub(crate) fn copies(name: &RepositoryName, digest: &Digest) -> String {
    format!("{}{}/", deleted_manifests(name), flat(digest))
}

/// The copy that a delete makes.
pub(crate) fn manifest_copy(name: &RepositoryName, digest: &Digest, change: ChangeId) -> Key {
    key(format!("{}{change}", copies(name, digest)))
}

/// The mark that a manifest was purged.
pub(crate) fn purge_mark(name: &RepositoryName, digest: &Digest) -> Key {
    key(format!("{}{PURGED}", copies(name, digest)))
}

const PURGED: &str = "purged";

/// Records of mirrors of other registries.
pub(crate) const MIRROR: &str = "mirror/";

/// The records of the mirrored repositories below a prefix.
pub(crate) fn mirrors_below(prefix: &RepositoryName) -> String {
    format!("{MIRROR}{}.", encode(prefix))
}

/// The tags of a mirrored repository.
pub(crate) fn mirror_tags(name: &RepositoryName) -> String {
    format!("{MIRROR}{}/tags/", encode(name))
}

/// A tag of a mirrored repository.
pub(crate) fn mirror_tag(name: &RepositoryName, tag: &Tag) -> Key {
    key(format!("{}{tag}", mirror_tags(name)))
}

/// The mark that content must not be fetched again.
pub(crate) fn mirror_block(name: &RepositoryName, digest: &Digest) -> Key {
    key(format!("{MIRROR}{}/blocked/{}", encode(name), flat(digest)))
}

/// Which instances store blobs of mirrors.
pub(crate) const FILLS: &str = "fills/";

/// Which instance stores a blob of a mirror.
pub(crate) fn fill(name: &RepositoryName, digest: &Digest) -> Key {
    key(format!("{FILLS}{}/{}", flat(digest), encode(name)))
}

/// The entry of one referrer of a subject.
pub(crate) fn referrer(name: &RepositoryName, subject: &Digest, referrer: &Digest) -> Key {
    let own = format!("{}-{}", referrer.algorithm(), referrer.hex());
    key(format!("{}{own}", referrers(name, subject)))
}

/// What lies at a key of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ParsedKey {
    /// The format's version.
    Format,
    /// The bytes of a blob; with its digest, if that was known before them.
    Blob(Option<Digest>),
    /// The link of a repository to a blob.
    Link(Digest, RepositoryName),
    Manifest(RepositoryName, Digest),
    Tag(RepositoryName, Tag),
    /// The hint that a tag may point to a manifest.
    Hint(RepositoryName, Digest, Tag),
    /// The entry of a referrer (the second digest) of a subject.
    Referrer(RepositoryName, Digest, Digest),
    /// A repository's entry in the catalog.
    Catalog(RepositoryName),
    /// A replaced change of a tag, which made it point to this digest, or deleted it.
    History(RepositoryName, Tag, ChangeId, Option<Digest>),
    /// The copy of a manifest that this change deleted.
    ManifestCopy(RepositoryName, Digest, ChangeId),
    /// The mark that a manifest was purged.
    PurgeMark(RepositoryName, Digest),
    /// A tag of a mirrored repository.
    MirrorTag(RepositoryName, Tag),
    /// The mark that content of a mirrored repository must not be fetched again.
    MirrorBlock(RepositoryName, Digest),
    /// The claim of an instance that stores a blob of a mirror.
    Fill(RepositoryName, Digest),
    /// A session, or the tail of an upload.
    Upload(UploadKey),
    /// A record that a GC run or fsck leaves for the next one.
    Note,
    /// What fsck quarantined.
    Quarantined,
    /// Signing keys, an access token, the end of sessions, or a record of the TLS certificate.
    Auth,
    /// An event, or what is known of sending events.
    Event(EventKey),
    /// When what was pulled.
    Pulls(PullsKey),
}

impl ParsedKey {
    /// The kind of object at a key; `None`: unknown to this version.
    pub(crate) fn parse(key: &Key) -> Option<Self> {
        let parts: Vec<&str> = key.as_str().split('/').collect();
        match *parts.as_slice() {
            ["jreg.json"] => Some(Self::Format),
            ["blobs", "_", _, ulid] => is_ulid(ulid).then_some(Self::Blob(None)),
            ["blobs", alg, aa, hex, ulid] if is_ulid(ulid) => {
                spread_digest(alg, aa, hex).map(|digest| Self::Blob(Some(digest)))
            }
            ["links", alg, aa, hex, name] => {
                Some(Self::Link(spread_digest(alg, aa, hex)?, decode(name)?))
            }
            ["catalog", name] => Some(Self::Catalog(decode(name)?)),
            ["history", name, tag, change] => Self::history(name, tag, change),
            ["deleted", name, alg, hex, last] => {
                let (name, digest) = (decode(name)?, digest(alg, hex)?);
                match last {
                    PURGED => Some(Self::PurgeMark(name, digest)),
                    change => Some(Self::ManifestCopy(name, digest, change.parse().ok()?)),
                }
            }
            ["mirror", name, "tags", tag] => {
                Some(Self::MirrorTag(decode(name)?, tag.parse().ok()?))
            }
            ["mirror", name, "blocked", alg, hex] => {
                Some(Self::MirrorBlock(decode(name)?, digest(alg, hex)?))
            }
            ["fills", alg, hex, name] => Some(Self::Fill(decode(name)?, digest(alg, hex)?)),
            ["uploads", _] => upload_key(key).map(Self::Upload),
            ["gc", ..] => Some(Self::Note),
            ["quarantine", ..] => Some(Self::Quarantined),
            ["events", ref below @ ..] => event_key(below).map(Self::Event),
            ["pulls", ref below @ ..] => pulls_key(below).map(Self::Pulls),
            ["auth", "keys"] => Some(Self::Auth),
            ["auth", "access-tokens" | "robots", id] => {
                is_access_token_id(id).then_some(Self::Auth)
            }
            ["auth", "sessions", hex] => digest("sha256", hex).map(|_| Self::Auth),
            ["auth", "acme", "account" | "certificate" | "order"] => Some(Self::Auth),
            ["repositories", ref below @ ..] => Self::in_repository(below),
            _ => None,
        }
    }

    /// Whether it is a record of mirrors, which is a cache.
    pub(crate) fn is_of_mirror(&self) -> bool {
        matches!(self, Self::MirrorTag(..) | Self::MirrorBlock(..) | Self::Fill(..))
    }

    fn history(name: &str, tag: &str, entry: &str) -> Option<Self> {
        let (change, what) = entry.split_once('-')?;
        let digest = match what.split_once('-') {
            Some((algorithm, hex)) => Some(digest(algorithm, hex)?),
            None if what == DELETED => None,
            None => return None,
        };
        let change = ChangeId::from_inverted(change)?;
        Some(Self::History(decode(name)?, tag.parse().ok()?, change, digest))
    }

    fn in_repository(parts: &[&str]) -> Option<Self> {
        let word = parts.iter().position(|part| part.starts_with('_'))?;
        let (name, rest) = parts.split_at(word);
        let name = name.join("/").parse().ok()?;
        match *rest {
            ["_manifests", alg, hex] => Some(Self::Manifest(name, digest(alg, hex)?)),
            ["_tags", tag] => Some(Self::Tag(name, tag.parse().ok()?)),
            ["_tagged", alg, hex, tag] => {
                Some(Self::Hint(name, digest(alg, hex)?, tag.parse().ok()?))
            }
            ["_referrers", alg, hex, own] => {
                let (own_alg, own_hex) = own.split_once('-')?;
                Some(Self::Referrer(name, digest(alg, hex)?, digest(own_alg, own_hex)?))
            }
            _ => None,
        }
    }
}

fn digest(algorithm: &str, hex: &str) -> Option<Digest> {
    format!("{algorithm}:{hex}").parse().ok()
}

fn spread_digest(algorithm: &str, head: &str, hex: &str) -> Option<Digest> {
    hex.starts_with(head).then(|| digest(algorithm, hex)).flatten()
}

fn is_ulid(text: &str) -> bool {
    Ulid::from_string(text).is_ok()
}

fn is_access_token_id(id: &str) -> bool {
    id.len() == 16 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The keys that sign access tokens.
pub fn signing_keys() -> Key {
    key("auth/keys".to_owned())
}

/// The key of the access token with this id, which is 16 hex digits; `None` if it is not.
pub fn access_token_key(id: &str) -> Option<Key> {
    is_access_token_id(id).then(|| key(format!("{ACCESS_TOKENS}{id}")))
}

/// The same in stores of earlier versions, which is read and revoked, but not created any more.
pub fn legacy_access_token_key(id: &str) -> Option<Key> {
    is_access_token_id(id).then(|| key(format!("{LEGACY_ACCESS_TOKENS}{id}")))
}

/// When logins ended.
pub(crate) const SESSIONS: &str = "auth/sessions/";

/// The record of when the logins of an identity ended. Its name may be any text.
pub fn session_key(identity: &str) -> Key {
    key(format!("{SESSIONS}{}", Digest::of(Algorithm::Sha256, identity.as_bytes()).hex()))
}

/// The account at an authority that issues certificates (RFC 8555).
pub fn acme_account() -> Key {
    key("auth/acme/account".to_owned())
}

/// The certificate that it issued, with its key.
pub fn acme_certificate() -> Key {
    key("auth/acme/certificate".to_owned())
}

/// The certificate order in progress, with its challenges.
pub fn acme_order() -> Key {
    key("auth/acme/order".to_owned())
}

/// The kind of a key below [`EVENTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKey {
    Queued,
    Segment,
    Cursor,
    DeadLetter,
    Lease,
}

fn event_key(below: &[&str]) -> Option<EventKey> {
    match *below {
        ["queue", ulid] => is_ulid(ulid).then_some(EventKey::Queued),
        ["log", number] => segment_number(number).map(|_| EventKey::Segment),
        ["sinks", _] => Some(EventKey::Cursor),
        ["dead", _, ulid] => is_ulid(ulid).then_some(EventKey::DeadLetter),
        ["lease"] => Some(EventKey::Lease),
        _ => None,
    }
}

/// What has to do with events.
pub(crate) const EVENTS: &str = "events/";

/// Events of which it is not known yet whether they happened.
pub(crate) const EVENT_QUEUE: &str = "events/queue/";

pub(crate) fn queued_event(change: ChangeId) -> Key {
    key(format!("{EVENT_QUEUE}{change}"))
}

/// Confirmed events.
pub(crate) const EVENT_LOG: &str = "events/log/";

/// Digits of a segment's number, so that the order of the keys is that of the numbers.
const SEGMENT_DIGITS: usize = 16;

pub(crate) fn event_segment(number: u64) -> Key {
    key(format!("{EVENT_LOG}{number:0SEGMENT_DIGITS$}"))
}

/// The number of the segment at a key below [`EVENT_LOG`].
pub(crate) fn event_segment_number(key: &Key) -> Option<u64> {
    segment_number(key.as_str().strip_prefix(EVENT_LOG)?)
}

fn segment_number(text: &str) -> Option<u64> {
    let is_number = text.len() == SEGMENT_DIGITS && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// How far each sink has been sent the log.
pub(crate) const EVENT_CURSORS: &str = "events/sinks/";

pub(crate) fn event_cursor(sink: &str) -> Key {
    key(format!("{EVENT_CURSORS}{sink}"))
}

/// The sink whose cursor a key below [`EVENT_CURSORS`] is.
pub(crate) fn event_cursor_sink(key: &Key) -> Option<&str> {
    last(key)
}

/// What sinks have refused for good.
pub(crate) const DEAD_LETTERS: &str = "events/dead/";

pub(crate) fn dead_letters(sink: &str) -> String {
    format!("{DEAD_LETTERS}{sink}/")
}

pub(crate) fn dead_letter(sink: &str, ulid: Ulid) -> Key {
    key(format!("{}{ulid}", dead_letters(sink)))
}

/// Which instance sends events.
pub(crate) fn events_lease() -> Key {
    key(format!("{EVENTS}lease"))
}

/// The kind of a key below [`PULLS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullsKey {
    /// What one instance saw pulled.
    Object,
    Shard(u8),
    Since,
    Lease,
}

fn pulls_key(below: &[&str]) -> Option<PullsKey> {
    match *below {
        ["since"] => Some(PullsKey::Since),
        ["lease"] => Some(PullsKey::Lease),
        ["times", shard] => {
            let number = u8::from_str_radix(shard, 16).ok()?;
            (format!("{number:02x}") == shard).then_some(PullsKey::Shard(number))
        }
        [hour, object] => {
            let (instance, ulid) = object.split_once('-')?;
            let is_instance =
                instance.len() == 32 && instance.bytes().all(|b| b.is_ascii_hexdigit());
            let is_hour = !hour.is_empty() && hour.bytes().all(|b| b.is_ascii_digit());
            (is_hour && is_instance && is_ulid(ulid)).then_some(PullsKey::Object)
        }
        _ => None,
    }
}

/// When what was pulled.
pub(crate) const PULLS: &str = "pulls/";

/// What one instance saw pulled, written in this hour of the Unix epoch.
pub(crate) fn pulls_object(hour: u64, instance: &str, ulid: Ulid) -> Key {
    key(format!("{PULLS}{hour}/{instance}-{ulid}"))
}

pub(crate) fn is_pulls_object(key: &Key) -> bool {
    let below: Vec<&str> = key.as_str().split('/').skip(1).collect();
    key.as_str().starts_with(PULLS) && pulls_key(&below) == Some(PullsKey::Object)
}

/// When tags were pulled last.
pub(crate) const PULL_SHARDS: &str = "pulls/times/";

pub(crate) fn pulls_shard(shard: u8) -> Key {
    key(format!("{PULL_SHARDS}{shard:02x}"))
}

/// Since when no pull was missed.
pub(crate) fn pulls_since() -> Key {
    key(format!("{PULLS}since"))
}

/// Which instance merges pull times.
pub(crate) fn pulls_lease() -> Key {
    key(format!("{PULLS}lease"))
}

/// The prefix of the keys of access tokens.
pub const ACCESS_TOKENS: &str = "auth/access-tokens/";

/// The same in stores of earlier versions.
pub const LEGACY_ACCESS_TOKENS: &str = "auth/robots/";

/// Folders of a folder store whose records are secrets: signing keys, access tokens, private keys.
pub const SECRET_FOLDERS: &[&str] = &["auth"];

/// Records of authentication.
pub(crate) const AUTH: &str = "auth/";

/// Every location of blob bytes.
pub(crate) const BLOBS: &str = "blobs/";

pub(crate) const LINKS: &str = "links/";

/// What lies below a prefix that ends in a digest's first two hex digits: `<alg>/<aa>`, of a key
/// below [`LINKS`].
pub(crate) fn shard(link: &Key) -> Option<&str> {
    let below = link.as_str().strip_prefix(LINKS)?;
    let end = below.match_indices('/').nth(1)?.0;
    below.get(..end)
}

/// A note of a GC run or of a check.
pub(crate) fn note(name: &str) -> Key {
    key(format!("{NOTES}{name}"))
}

/// The notes of GC runs and checks: never needed for safety.
pub(crate) const NOTES: &str = "gc/";

/// Prefixes of keys that are only written to free space: a store may use reserved space for them.
pub const FREES_SPACE: &str = NOTES;

/// What fsck quarantined.
pub(crate) const QUARANTINE: &str = "quarantine/";

/// The record that is written to find out whether the store takes writes.
pub(crate) fn write_probe() -> Key {
    key(format!("{PROBES}writable"))
}

/// The objects with which a start probes a bucket, and the record of [`write_probe()`].
const PROBES: &str = "probe/";

/// Everything that a key of ours may start with, but for [`format()`].
pub(crate) const ROOTS: [&str; 15] = [
    BLOBS,
    LINKS,
    REPOSITORIES,
    HISTORY,
    DELETED_MANIFESTS,
    CATALOG,
    UPLOADS,
    NOTES,
    QUARANTINE,
    PROBES,
    AUTH,
    EVENTS,
    MIRROR,
    FILLS,
    PULLS,
];

/// A new key for what fsck quarantines.
pub(crate) fn quarantined(original: &Key) -> Key {
    // Those that are too long for it keep their end.
    let room = jreg_storage::KEY_BYTES_MAX - QUARANTINE.len() - 27;
    let original = original.as_str();
    let start = original.len().saturating_sub(room);
    let kept = original.get(start..).unwrap_or(original).trim_start_matches(['/', '.']);
    key(format!("{QUARANTINE}{}/{kept}", Ulid::generate()))
}

/// The key that an object below [`QUARANTINE`] had.
pub(crate) fn before_quarantine(key: &Key) -> Option<Key> {
    key.as_str().strip_prefix(QUARANTINE)?.split_once('/')?.1.parse().ok()
}

/// The sessions of uploads and their tails, in the order in which the uploads began.
pub(crate) const UPLOADS: &str = "uploads/";

/// The kind of a key below [`UPLOADS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UploadKey {
    /// A session record.
    Session(UploadId),
    /// Bytes that a session references or referenced.
    Tail(UploadId, Key),
}

impl UploadKey {
    /// The upload that it belongs to.
    pub(crate) fn id(&self) -> &UploadId {
        match self {
            Self::Session(id) | Self::Tail(id, _) => id,
        }
    }
}

/// The kind of a key below [`UPLOADS`]; `None`: not written by jreg.
pub(crate) fn upload_key(key: &Key) -> Option<UploadKey> {
    let name = last(key)?;
    if let Ok(id) = name.parse() {
        return Some(UploadKey::Session(id));
    }
    let (id, ulid) = name.rsplit_once('.')?;
    Ulid::from_string(ulid).ok()?;
    Some(UploadKey::Tail(id.parse().ok()?, key.clone()))
}

/// The repositories that a manifest was pushed to.
pub(crate) const CATALOG: &str = "catalog/";

/// A repository's entry in the catalog.
pub(crate) fn catalog(name: &RepositoryName) -> Key {
    key(format!("{CATALOG}{}", encode(name)))
}

/// Where in the catalog a page continues after `last`, which need not be a repository.
pub(crate) fn catalog_after(last: &str) -> String {
    match last.parse() {
        Ok(name) => format!("{CATALOG}{}", encode(&name)),
        // Not a name: only this much is guaranteed of its order among the encoded names.
        Err(_) => {
            format!("{CATALOG}{}", last.replace('-', "!").replace('.', "-").replace('/', "."))
        }
    }
}

/// The repository that a key below [`CATALOG`] names.
pub(crate) fn catalog_name(key: &Key) -> Option<RepositoryName> {
    last(key).and_then(decode)
}

/// An upload's session.
pub(crate) fn upload(id: &UploadId) -> Key {
    key(format!("uploads/{id}"))
}

/// A new key for the bytes of an upload that are short of a part.
pub(crate) fn new_upload_tail(id: &UploadId) -> Key {
    key(format!("uploads/{id}.{}", Ulid::generate()))
}

/// The last component of a key.
pub(crate) fn last(key: &Key) -> Option<&str> {
    key.as_str().rsplit('/').next()
}

#[cfg(test)]
mod tests;
