//! The settings: one flat definition, from which every flag, environment variable and key of the
//! file is made.
//!
//! A setting called `log-format` is the flag `--log-format`, the variable `JREG_LOG_FORMAT` and
//! the key `log-format`. A flag goes before a variable, a variable before the file, the file
//! before the default. An unknown key or a value that is not allowed is an error that says what
//! would have been right. Nothing here reads the environment or the disk: both are passed in.

mod value;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use jreg_oci::MediaTypePattern;
use jreg_registry::{GRACE_MIN, ReferencePolicy};
use jreg_storage::Durability;

pub use crate::audit::AuditTarget;
pub use crate::logging::LogFormat;
pub use jreg_auth::ForwardedHeader;
pub use value::{PublicUrl, Secret, StorageLocation, TlsVersion};

pub(crate) use value::Value;
use value::{REDACTED, repeatable};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The most bytes of warnings that one answer may carry (distribution-spec, "Warnings").
const WARNING_BYTES_MAX: usize = 4096;

/// The most names of one certificate: what Let's Encrypt takes.
const ACME_DOMAINS_MAX: usize = 100;
/// The directory of Let's Encrypt.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// One setting: its name, its meaning, and how to set and show it.
pub struct Key {
    field: &'static str,
    /// The heading it stands under in the help and the sample file.
    pub section: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// Which values it takes.
    pub allowed: &'static str,
    is_secret: bool,
    set: fn(&mut Settings, &[String]) -> bool,
    refusal: fn(&str) -> Option<String>,
    show: fn(&Settings) -> Vec<String>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Key").field(&self.name()).finish()
    }
}

impl Key {
    /// Its name in the file, and as a flag after `--`.
    pub fn name(&self) -> String {
        self.field.replace('_', "-")
    }

    /// Its environment variable.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.field.to_uppercase())
    }

    /// Whether its value must not be shown.
    pub fn is_secret(&self) -> bool {
        self.is_secret
    }

    /// Whether it may be given more than once.
    fn takes_several(&self) -> bool {
        self.show(&Settings::default()).is_empty()
    }

    /// Its value in `settings`, as it would be written.
    pub fn show(&self, settings: &Settings) -> Vec<String> {
        (self.show)(settings)
    }
}

/// What every environment variable of jreg starts with.
pub const VARIABLE_PREFIX: &str = "JREG_";

macro_rules! settings {
    ($($section:literal { $(
        $(#[doc = $doc:literal])+
        $field:ident: $type:ty = $default:expr, $allowed:literal, $check:expr;
    )+ })+) => {
        /// Everything that an operator can set, as data.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings { $($(
            $(#[doc = $doc])+
            #[doc = concat!("\n\nAllowed: `", $allowed, "`.")]
            pub $field: $type,
        )+)+ }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($($field: $default,)+)+ }
            }
        }

        /// Every setting, in the order of the help and of the sample file.
        pub const KEYS: &[Key] = &[$($(Key {
            field: stringify!($field),
            section: $section,
            doc: concat!($($doc),+),
            allowed: $allowed,
            is_secret: <$type as Value>::IS_SECRET,
            set: |settings, texts| {
                let check: fn(&$type) -> bool = $check;
                match <$type as Value>::parse_all(texts).filter(check) {
                    Some(value) => { settings.$field = value; true }
                    None => false,
                }
            },
            refusal: <$type as Value>::refusal,
            show: |settings| Value::show_all(&settings.$field),
        },)+)+];
    };
}

settings! {
    "Service" {
        /// The address and port to listen on.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 5000)),
            "IP:PORT (an address, not a name), for example 0.0.0.0:5000 or [::]:5000", |_| true;
        /// Where to keep everything: a folder, a bucket, or memory (nothing is kept).
        storage: StorageLocation = StorageLocation::Folder(PathBuf::from("./jreg-data")),
            "a folder's path, file:PATH, s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&..] or memory:",
            |_| true;
        /// How sure a write to the folder must be before it is acknowledged: strict survives a
        /// power cut, relaxed a crash of jreg only.
        durability: Durability = Durability::Strict, "strict or relaxed", |_| true;
        /// Which content a manifest may name that the repository does not hold: none (strict),
        /// the manifests of an index (sparse-index), anything (off).
        references: ReferencePolicy = ReferencePolicy::SparseIndex,
            "strict, sparse-index or off", |_| true;
        /// Media types that a pushed manifest may have; may be given several times. Browsers show
        /// other types than application/* as pages.
        manifest_media_types: Vec<MediaTypePattern> = vec![MediaTypePattern::application()],
            "a media type, TYPE/* or */*, for example application/*", |types| !types.is_empty();
        /// Whether blobs, manifests and tags may be deleted through the API.
        deletes: bool = true, "on or off", |_| true;
        /// The address by which clients reach this registry. Without it, `Location` is absolute
        /// only where the request makes the address certain, and a path otherwise.
        public_url: Option<PublicUrl> = None,
            "none, or an http:// or https:// address, for example https://registry.example.com",
            |_| true;
        /// Proxies that are believed of the address, scheme and host of their clients; may be given
        /// several times. Of anybody else, what is said of that is ignored.
        trusted_proxies: Vec<IpNet> = Vec::new(),
            "an address and a prefix length, for example 10.0.0.0/8 or 127.0.0.1/32", |_| true;
        /// The headers by which they say it: X-Forwarded-For, -Proto and -Host (x-forwarded), or
        /// Forwarded (forwarded). The others are ignored.
        forwarded_header: ForwardedHeader = ForwardedHeader::XForwarded,
            "x-forwarded or forwarded", |_| true;
        /// A warning that clients show to their users; may be given several times.
        warning: Vec<String> = Vec::new(),
            "printable ASCII without quote or backslash, 4096 bytes over all",
            |all| warnings_fit(all);
    }
    "Authentication" {
        /// The file of users and the hashes of their passwords, as htpasswd -B and jreg user add
        /// write it; read again when it changes.
        htpasswd: Option<String> = None, "none, or a file's path", |_| true;
        /// The file of rules that say who may do what; read again when it changes. Without it,
        /// every user may do everything.
        policy: Option<String> = None, "none, or a file's path", |_| true;
        /// Whether clients must say who they are although neither htpasswd nor policy is given:
        /// then only access tokens let them in.
        authentication: bool = false, "on or off", |_| true;
        /// Whether everyone may pull without saying who they are, and list what there is.
        anonymous_pull: bool = false, "on or off", |_| true;
        /// Whether others than this machine may reach a registry that asks nobody who they are.
        insecure_open: bool = false, "on or off", |_| true;
        /// Whether clients exchange their passwords for short-lived tokens at /token; otherwise
        /// they send them with every request.
        token_service: bool = true, "on or off", |_| true;
        /// The address of another token service, which clients are sent to instead of /token. The
        /// policy says by which keys its tokens are known.
        token_realm: Option<PublicUrl> = None,
            "none, or an http:// or https:// address, for example https://login.example.com/token",
            |_| true;
        /// The name of this registry in tokens, the same for all instances.
        token_audience: String = "jreg".to_owned(),
            "1 to 255 letters, digits and . _ : / -", |name| is_audience(name);
        /// How long a token from /token is good for.
        token_lifetime: Duration = 5 * MINUTE, "a duration from 1m to 1h",
            |lifetime| (MINUTE..=HOUR).contains(lifetime);
        /// How long clients may get new tokens without the password.
        refresh_lifetime: Duration = 30 * DAY, "a duration from 1h to 365d",
            |lifetime| (HOUR..=365 * DAY).contains(lifetime);
        /// How many logins for a name may fail from one address, and ten times as many from an
        /// address over all names, before further ones have to wait; 0 never makes anybody wait.
        login_failures_free: u32 = 5, "a number up to 1000", |failures| *failures <= 1000;
        /// The longest that a login has to wait after others have failed: it begins with a second,
        /// and each failure doubles it.
        login_delay_max: Duration = 5 * MINUTE, "a duration from 1s to 1d",
            |delay| (SECOND..=DAY).contains(delay);
        /// How often the key that signs tokens is replaced.
        key_rotation: Duration = DAY, "a duration from 1h to 90d",
            |rotation| (HOUR..=90 * DAY).contains(rotation);
    }
    "TLS" {
        /// The file (PEM) of the server's certificate, and of those between it and what clients trust;
        /// read again when it changes. With it, TLS is all that is spoken.
        tls_cert: Option<String> = None, "none, or a file's path", |_| true;
        /// The file (PEM, not encrypted) of the certificate's private key; read again when it changes.
        tls_key: Option<String> = None, "none, or a file's path", |_| true;
        /// The oldest version of TLS that is spoken.
        tls_min_version: TlsVersion = TlsVersion::Tls12, "1.2 or 1.3", |_| true;
        /// The file (PEM) of those who vouch for the certificates of clients; read again when it
        /// changes. With it, clients may show one.
        tls_client_ca: Option<String> = None, "none, or a file's path", |_| true;
        /// Whether clients must show a certificate: without one, no connection is made.
        tls_client_cert_required: bool = false, "on or off", |_| true;
        /// A name by which clients reach this registry, for the certificate that an authority issues
        /// by ACME in the place of tls-cert; may be given several times. Giving it agrees to the
        /// authority's terms of service.
        acme_domains: Vec<String> = Vec::new(),
            "a host's name in lower case without wildcards, each once and 100 over all, for example \
             registry.example.com",
            |names| is_certifiable(names);
        /// The address of the authority's directory (RFC 8555).
        acme_directory: String = LETS_ENCRYPT.to_owned(),
            "an https:// address, for example https://ca.example.com/acme/directory",
            |address| is_directory(address);
        /// Whom the authority writes to about the certificates.
        acme_contact: Option<String> = None,
            "none, or an e-mail address, for example ops@example.com",
            |address| address.as_deref().is_none_or(is_mail_address);
        /// The file (PEM) of those who vouch for the authority itself, where it is not one that this
        /// machine trusts; read at the start.
        acme_ca_file: Option<String> = None, "none, or a file's path", |_| true;
    }
    "Bucket" {
        /// Whether this is the only instance that writes to the bucket: the one way to use a store
        /// that does not honour conditional writes.
        single_instance: bool = false, "on or off", |_| true;
        /// The id of the access key. Without it, credentials are found as the AWS tools find them:
        /// in AWS_* variables, a web identity, a pod or task identity, the instance.
        s3_access_key_id: Option<String> = None, "none, or an id", |_| true;
        /// The secret of the access key.
        s3_secret_access_key: Option<Secret> = None, "none, or a secret", |_| true;
        /// File with the secret of the access key, instead of s3-secret-access-key; read at the
        /// start. A line break at the end is ignored.
        s3_secret_access_key_file: Option<String> = None, "none, or a file's path", |_| true;
        /// The token of a session, where the access key is a temporary one.
        s3_session_token: Option<Secret> = None, "none, or a token", |_| true;
        /// File with the token of a session, instead of s3-session-token; read at the start. A line
        /// break at the end is ignored.
        s3_session_token_file: Option<String> = None, "none, or a file's path", |_| true;
        /// A header for every request to the bucket, not for secrets; may be given several times.
        s3_header: Vec<String> = Vec::new(), "NAME: VALUE",
            |all| all.iter().all(|header| header.contains(':'));
        /// How long connecting to the bucket may take.
        s3_connect_timeout: Duration = 5 * SECOND, "a duration from 100ms to 1h",
            |timeout| is_timeout(*timeout);
        /// How long one attempt of a small request to the bucket may take.
        s3_request_timeout: Duration = 10 * SECOND, "a duration from 100ms to 1h",
            |timeout| is_timeout(*timeout);
        /// How long a failing small request to the bucket is repeated.
        s3_request_budget: Duration = 30 * SECOND, "a duration from 100ms to 1m",
            |budget| is_timeout(*budget) && *budget <= MINUTE;
        /// How long the bucket may send nothing in the middle of a body.
        s3_idle_timeout: Duration = 30 * SECOND, "a duration from 100ms to 1h",
            |timeout| is_timeout(*timeout);
        /// How long a failing transfer of blob bytes is repeated.
        s3_transfer_budget: Duration = 180 * SECOND, "a duration from 100ms to 1h",
            |budget| is_timeout(*budget);
        /// Whether a small read that the bucket is slow to answer is sent once more: at most one
        /// for every twenty reads.
        s3_hedge_reads: bool = true, "on or off", |_| true;
    }
    "Logs" {
        /// The form of the log on standard error: auto is pretty on a terminal, otherwise json.
        log_format: LogFormat = LogFormat::Auto, "auto, json or pretty", |_| true;
        /// What to log: a level, or a list like info,jreg=debug.
        log: String = "info".to_owned(),
            "error, warn, info, debug, trace, off, or a list of target=level",
            |filter| is_log_filter(filter);
    }
    "Audit" {
        /// Where decisions about who may do what are written, one JSON object a line: a file, which
        /// may be rotated at any time, or a standard stream.
        audit_log: AuditTarget = AuditTarget::Off, "off, stdout, stderr, or a file's path", |_| true;
        /// Whether reads that were allowed are written there, too.
        audit_reads: bool = false, "on or off", |_| true;
    }
    "Content" {
        /// The largest manifest.
        manifest_bytes_max: u64 = 4 * MIB, "a size from 64KiB to 7MiB",
            |bytes| (64 * KIB..=7 * MIB).contains(bytes);
        /// The most bytes of manifests that are being received, over all requests; more wait.
        manifest_buffer_bytes: u64 = 128 * MIB, "a size from 8MiB to 1TiB",
            |bytes| (8 * MIB..=MIB * MIB).contains(bytes);
        /// Maximum time that a request waits for room in upload-buffer-bytes or
        /// manifest-buffer-bytes; then it gets 429.
        buffer_wait_max: Duration = 30 * SECOND, "a duration from 100ms to 1h",
            |wait| is_timeout(*wait);
        /// The most items in one page of a listing.
        page_items_max: usize = 1000, "a number from 1 to 10000",
            |items| (1..=10_000).contains(items);
        /// How long an upload may go on from its creation.
        upload_age_max: Duration = 6 * DAY, "a duration from 1m to 30d",
            |age| (60 * SECOND..=30 * DAY).contains(age);
        /// How often old uploads are looked for, and what they left behind is removed.
        upload_reap_interval: Duration = HOUR, "a duration from 1m to 30d",
            |interval| (60 * SECOND..=30 * DAY).contains(interval);
        /// The most uploads that send at the same time; more are told to try again (429).
        uploads_max: usize = 512, "a number from 1 to 100000",
            |uploads| (1..=100_000).contains(uploads);
        /// The most bytes of uploads in memory, over all uploads.
        upload_buffer_bytes: u64 = 256 * MIB, "a size from 16MiB to 1TiB",
            |bytes| (16 * MIB..=MIB * MIB).contains(bytes);
        /// The size of the parts in which an upload of unknown length goes to the store.
        part_bytes: Option<u64> = None, "auto, or a size from 64KiB to 5GiB",
            |part| part.is_none_or(|bytes| (64 * KIB..=5 * KIB * MIB).contains(&bytes));
        /// The most parts of one upload that are on their way to the store.
        parts_in_flight: usize = 4, "a number from 1 to 64", |parts| (1..=64).contains(parts);
        /// The most store reads that one manifest push makes at the same time.
        wave_reads_max: usize = 64, "a number from 1 to 1024", |reads| (1..=1024).contains(reads);
        /// The most repositories that a mount without `from` looks at.
        mount_candidates_max: usize = 16, "a number from 1 to 1000",
            |candidates| (1..=1000).contains(candidates);
        /// The most bytes of manifests and links kept in memory; 0 keeps none.
        cache_bytes: u64 = 64 * MIB, "a size up to 1TiB", |bytes| *bytes <= MIB * MIB;
        /// How long a cached entry is trusted where other instances share the store.
        cache_trust: Duration = 60 * SECOND, "a duration up to 1h", |trust| *trust <= HOUR;
    }
    "Collection" {
        /// How often what nothing keeps is collected while jreg serves.
        gc_interval: Option<Duration> = Some(6 * HOUR), "off, or a duration from 1m to 30d",
            |interval| is_interval(*interval);
        /// How old what nothing keeps must be before it is removed.
        gc_grace: Duration = DAY, "a duration from 2h to 365d",
            |grace| (GRACE_MIN..=365 * DAY).contains(grace);
        /// How long a manifest must have had no tag before it is removed, unless an index names it
        /// or its subject is there; off keeps it for ever.
        gc_untagged: Option<Duration> = None, "off, or a duration up to 3650d",
            |untagged| untagged.is_none_or(|after| after <= 3650 * DAY);
        /// The most links that one run removes, in percent of all (but 100 in any case): the rest
        /// waits for the next run.
        gc_share_max: u32 = 33, "a number from 1 to 100", |percent| (1..=100).contains(percent);
        /// The most store requests a second that collecting, and checking, makes; a page of a
        /// listing counts once more for each hundred entries.
        gc_requests_per_second: u32 = 300, "a number from 1 to 100000",
            |rate| (1..=100_000).contains(rate);
        /// How often everything that is stored is checked while jreg serves, bytes included.
        scrub_interval: Option<Duration> = None, "off, or a duration from 1m to 365d",
            |interval| interval.is_none_or(|every| (MINUTE..=365 * DAY).contains(&every));
        /// The most bytes a second that such a check reads.
        scrub_bytes_per_second: u64 = 10 * MIB, "a size from 64KiB to 1TiB",
            |rate| (64 * KIB..=MIB * MIB).contains(rate);
    }
    "Redirects" {
        /// Whether clients are sent to the store itself for blobs (S3 only).
        redirect: bool = false, "on or off", |_| true;
        /// The smallest blob that a client is sent to the store for.
        redirect_bytes_min: u64 = MIB, "a size up to 1TiB", |bytes| *bytes <= MIB * MIB;
        /// Networks whose clients are sent to the store; may be given several times. None: all.
        redirect_networks: Vec<IpNet> = Vec::new(),
            "an address and a prefix length, for example 10.0.0.0/8", |_| true;
        /// Clients that are never sent to the store, by how their User-Agent begins; may be given
        /// several times.
        redirect_agents_except: Vec<String> = Vec::new(), "a text, for example crane/",
            |all| all.iter().all(|agent| !agent.is_empty());
        /// How long a client may begin to read from the store after it was sent there.
        redirect_expiry: Duration = 20 * MINUTE, "a duration from 1m to 12h",
            |expiry| (MINUTE..=12 * HOUR).contains(expiry);
    }
    "Connections" {
        /// The most connections at the same time; more are told to try again (503). Fewer if
        /// RLIMIT_NOFILE, which is raised as far as it goes, leaves less than two file descriptors
        /// for each.
        connections_max: usize = 4096, "a number from 1 to 1000000",
            |connections| (1..=1_000_000).contains(connections);
        /// Maximum connections at the same time from one address (IPv6: one /64) that is not a
        /// trusted proxy; auto is a quarter of connections-max, at least 64; 0 is no limit but that.
        connections_per_address_max: Option<usize> = None, "auto, or a number up to 1000000",
            |connections| connections.is_none_or(|max| max <= 1_000_000);
        /// The most requests at the same time on one HTTP/2 connection.
        h2_streams_max: u32 = 256, "a number from 1 to 10000",
            |streams| (1..=10_000).contains(streams);
        /// Maximum memory for bytes that HTTP/2 clients have sent and no request has read, over all
        /// connections: each connection has a receive window of 2 MiB while there is some left, the
        /// others have 64 KiB each.
        h2_window_bytes: u64 = 128 * MIB, "a size up to 1TiB", |bytes| *bytes <= MIB * MIB;
        /// The most requests a second of one identity, of nobody in particular of one address; 0 is
        /// no limit. More are told to try again (429).
        rate_limit_requests: u32 = 0, "a number up to 1000000", |rate| *rate <= 1_000_000;
        /// The most requests a second from one address, whoever asks; 0 is no limit.
        rate_limit_address_requests: u32 = 0, "a number up to 1000000", |rate| *rate <= 1_000_000;
        /// How much of these rates may be saved up and used at once.
        rate_limit_burst: Duration = 10 * SECOND, "a duration up to 1h", |burst| *burst <= HOUR;
        /// The most uploads of one identity that send at the same time, of nobody in particular of
        /// one address; 0 is no limit but uploads-max.
        rate_limit_uploads: usize = 0, "a number up to 100000", |uploads| *uploads <= 100_000;
        /// The most bytes of bodies, of requests and of answers, that one identity has under way at the
        /// same time, nobody in particular of one address; 0 is no limit. What would be more is told to
        /// try again (429), unless nothing else is under way.
        rate_limit_bytes_in_flight: u64 = 0, "a size up to 1TiB", |bytes| *bytes <= MIB * MIB;
        /// The most bytes of bodies that one address has under way at the same time, whoever asks; 0
        /// is no limit.
        rate_limit_address_bytes_in_flight: u64 = 0, "a size up to 1TiB",
            |bytes| *bytes <= MIB * MIB;
        /// How long a connection may be without a request, and the head of one, or a TLS handshake,
        /// may take.
        header_read_timeout: Duration = 60 * SECOND, "a duration from 100ms to 1h",
            |timeout| is_timeout(*timeout);
        /// How long a client may send nothing in the middle of a body.
        body_idle_timeout: Duration = 60 * SECOND, "a duration from 100ms to 1h",
            |timeout| is_timeout(*timeout);
        /// Minimum bytes per second of a request body, averaged over each body-rate-grace in which
        /// jreg waits for the client; a slower body gets 408. 0 is no limit.
        body_rate_min: u64 = KIB, "a size up to 1GiB (per second)", |rate| *rate <= KIB * MIB;
        /// Time over which body-rate-min is averaged: no body is too slow before.
        body_rate_grace: Duration = 60 * SECOND, "a duration from 100ms to 1h",
            |grace| is_timeout(*grace);
        /// How long a client may take nothing of an answer.
        write_stall_timeout: Duration = 120 * SECOND, "a duration from 100ms to 1h",
            |timeout| is_timeout(*timeout);
        /// How much of a refused body is read so that the client sees the refusal.
        drain_bytes_max: u64 = 8 * MIB, "a size up to 1GiB", |bytes| *bytes <= KIB * MIB;
        /// When clients that are told to try again should do so.
        retry_after: Duration = 5 * SECOND, "a duration from 1s to 1h",
            |after| (SECOND..=HOUR).contains(after);
        /// How long running requests may take to finish when jreg is told to stop.
        shutdown_deadline: Duration = 30 * SECOND, "a duration up to 1h",
            |deadline| *deadline <= HOUR;
    }
}

impl Settings {
    /// Whether TLS is what is spoken.
    pub fn speaks_tls(&self) -> bool {
        self.tls_cert.is_some() || !self.acme_domains.is_empty()
    }

    /// Whether clients are asked who they are.
    pub fn asks_who(&self) -> bool {
        self.authentication || self.htpasswd.is_some() || self.policy.is_some()
    }
}

fn is_audience(name: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:/-".contains(&b);
    (1..=255).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// Names that an authority can look at by TLS-ALPN-01 (RFC 8737), which has no wildcards.
fn is_certifiable(names: &[String]) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // An address ends in a number, a name does not.
    let is_address = |name: &str| {
        name.rsplit('.').next().is_none_or(|last| last.bytes().all(|b| b.is_ascii_digit()))
    };
    let is_name =
        |name: &String| name.len() <= 253 && name.split('.').all(is_label) && !is_address(name);
    let is_new = |(place, name): (usize, &String)| !names.iter().take(place).any(|n| n == name);
    names.len() <= ACME_DOMAINS_MAX
        && names.iter().all(is_name)
        && names.iter().enumerate().all(is_new)
}

fn is_directory(address: &str) -> bool {
    let Ok(uri) = address.parse::<http::Uri>() else { return false };
    let is_host = |authority: &http::uri::Authority| {
        !authority.as_str().contains('@') && !authority.host().is_empty()
    };
    uri.scheme_str() == Some("https")
        && uri.authority().is_some_and(is_host)
        && !address.contains('#')
}

fn is_mail_address(address: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic());
    // Others would be several addresses, or headers of the mail (RFC 6068).
    let is_one = !address.contains([',', '?', '%', '&', '<', '>', '"', '\\']);
    address.len() <= 254
        && is_one
        && address
            .split_once('@')
            .is_some_and(|(name, host)| is_part(name) && is_part(host) && !host.contains('@'))
}

fn is_interval(interval: Option<Duration>) -> bool {
    interval.is_none_or(|every| (MINUTE..=30 * DAY).contains(&every))
}

fn is_timeout(timeout: Duration) -> bool {
    (Duration::from_millis(100)..=HOUR).contains(&timeout)
}

/// A level, or levels by target. What reads the filter would take any word for a target.
fn is_log_filter(filter: &str) -> bool {
    let is_level = |word: &str| {
        !word.is_empty() && word.parse::<tracing::level_filters::LevelFilter>().is_ok()
    };
    let is_directive = |part: &str| match part.split_once('=') {
        Some((target, level)) => !target.is_empty() && is_level(level),
        None => is_level(part),
    };
    filter.split(',').all(is_directive)
}

fn warnings_fit(warnings: &[String]) -> bool {
    let printable = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
    warnings.iter().all(|text| !text.is_empty() && text.bytes().all(printable))
        && warnings.iter().map(String::len).sum::<usize>() <= WARNING_BYTES_MAX
}

/// Where a value was written, for the message when it is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `--name`.
    Flag,
    /// `JREG_NAME`.
    Variable,
    /// A key of this file.
    File(PathBuf),
}

/// A value for a setting that is not yet understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The setting's name, in the spelling of the file.
    pub name: String,
    /// The values: one, except for settings that may be given several times.
    pub values: Vec<String>,
    /// Where it was written.
    pub origin: Origin,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not a TOML file: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// No setting has this name.
    #[error("{}: unknown key `{name}`{}", path.display(), nearest.as_ref().map_or_else(String::new, |known| format!(", did you mean `{known}`?")))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
        /// The known name that is most like it, if one is.
        nearest: Option<String>,
    },
    /// A flag that takes one value was given several times.
    #[error("{place} is given {count} times, it can be given once")]
    Repeated {
        /// The flag.
        place: String,
        /// How often it was given.
        count: usize,
    },
    /// A setting is of no use without another.
    #[error("`{given}` is of no use without `{missing}`: give both, or none")]
    Incomplete {
        /// The name of the one that is given.
        given: &'static str,
        /// The name of the other.
        missing: &'static str,
    },
    /// Two settings exclude each other.
    #[error("`{given}` cannot be given with `{other}`: {why}")]
    Contradictory {
        /// The name of the one.
        given: &'static str,
        /// The name of the other.
        other: &'static str,
        /// Why.
        why: &'static str,
    },
    /// The setting does not take this value.
    #[error("{place} cannot be {value:?}: {why}")]
    NotAllowed {
        /// The flag, variable, or file and key.
        place: String,
        /// The value.
        value: String,
        /// What is wrong with it, or which values would be right.
        why: String,
    },
}

impl Settings {
    /// The defaults, changed by `assignments` in their order: later ones win.
    pub fn resolve(assignments: impl IntoIterator<Item = Assignment>) -> Result<Self, ConfigError> {
        let mut settings = Self::default();
        for assignment in assignments {
            settings.assign(&assignment)?;
        }
        settings.check()?;
        Ok(settings)
    }

    /// Whether what belongs together is given together.
    fn check(&self) -> Result<(), ConfigError> {
        let (cert, key) = (self.tls_cert.is_some(), self.tls_key.is_some());
        let (client_ca, acme) = (self.tls_client_ca.is_some(), !self.acme_domains.is_empty());
        for (given, name) in [(cert, "tls-cert"), (key, "tls-key")] {
            if given && acme {
                let why = "the certificate comes from a file, or from an authority by ACME";
                return Err(ConfigError::Contradictory { given: "acme-domains", other: name, why });
            }
        }
        for (secret, file, given, other) in [
            (
                &self.s3_secret_access_key,
                &self.s3_secret_access_key_file,
                "s3-secret-access-key-file",
                "s3-secret-access-key",
            ),
            (
                &self.s3_session_token,
                &self.s3_session_token_file,
                "s3-session-token-file",
                "s3-session-token",
            ),
        ] {
            if secret.is_some() && file.is_some() {
                let why = "a secret is in the setting or in a file";
                return Err(ConfigError::Contradictory { given, other, why });
            }
        }
        for (given, name, other, missing) in [
            (cert, "tls-cert", key, "tls-key"),
            (key, "tls-key", cert, "tls-cert"),
            (client_ca, "tls-client-ca", self.speaks_tls(), "tls-cert"),
            (self.acme_directory != LETS_ENCRYPT, "acme-directory", acme, "acme-domains"),
            (self.acme_contact.is_some(), "acme-contact", acme, "acme-domains"),
            (self.acme_ca_file.is_some(), "acme-ca-file", acme, "acme-domains"),
            (self.tls_client_cert_required, "tls-client-cert-required", client_ca, "tls-client-ca"),
        ] {
            if given && !other {
                return Err(ConfigError::Incomplete { given: name, missing });
            }
        }
        Ok(())
    }

    fn assign(&mut self, assignment: &Assignment) -> Result<(), ConfigError> {
        let Some(key) = KEYS.iter().find(|key| key.name() == assignment.name) else {
            return Err(unknown(assignment));
        };
        if (key.set)(self, &assignment.values) {
            return Ok(());
        }
        if assignment.values.len() > 1 && assignment.origin == Origin::Flag && !key.takes_several()
        {
            let place = place(key, &assignment.origin);
            return Err(ConfigError::Repeated { place, count: assignment.values.len() });
        }
        Err(not_allowed(key, assignment))
    }
}

fn not_allowed(key: &Key, assignment: &Assignment) -> ConfigError {
    let given = assignment.values.join(", ");
    let value = if key.is_secret { REDACTED.to_owned() } else { repeatable(&given) };
    // A refusal repeats what it is about.
    let refused = assignment.values.first().filter(|_| value == given);
    let refusal = refused.and_then(|text| (key.refusal)(text.trim()));
    ConfigError::NotAllowed {
        place: place(key, &assignment.origin),
        value,
        why: refusal.unwrap_or_else(|| format!("it must be {}", key.allowed)),
    }
}

fn place(key: &Key, origin: &Origin) -> String {
    match origin {
        Origin::Flag => format!("--{}", key.name()),
        Origin::Variable => key.variable(),
        Origin::File(path) => format!("{}: `{}`", path.display(), key.name()),
    }
}

fn unknown(assignment: &Assignment) -> ConfigError {
    let path = match &assignment.origin {
        Origin::File(path) => path.clone(),
        Origin::Flag | Origin::Variable => PathBuf::new(),
    };
    let nearest = nearest(&assignment.name, KEYS.iter().map(Key::name));
    ConfigError::UnknownKey { path, name: assignment.name.clone(), nearest }
}

/// The one of `known` that `name` was most likely meant to be.
pub fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    const LIKENESS_MIN: f64 = 0.7;
    known
        .map(|known| (strsim::normalized_damerau_levenshtein(name, &known), known))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

/// The assignments that a configuration file makes.
pub fn read_file(path: &std::path::Path, text: &str) -> Result<Vec<Assignment>, ConfigError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        ConfigError::Syntax { path: path.to_owned(), message: syntax(text, &error) }
    })?;
    table.into_iter().map(|(name, value)| file_assignment(path, name, &value)).collect()
}

/// Where a file is wrong, and how. Its line is not repeated: it may be that of a secret.
fn syntax(text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
    format!("line {line}, column {column}: {}", error.message())
}

fn file_assignment(
    path: &std::path::Path,
    name: String,
    value: &toml::Value,
) -> Result<Assignment, ConfigError> {
    let origin = Origin::File(path.to_owned());
    if let Some(values) = texts(value) {
        return Ok(Assignment { name, values, origin });
    }
    // An unknown name is reported as such, whatever its value looks like.
    let unsuited = Assignment { name, values: vec![value.to_string()], origin };
    let key = KEYS.iter().find(|key| key.name() == unsuited.name);
    Err(key.map_or_else(|| unknown(&unsuited), |key| not_allowed(key, &unsuited)))
}

fn texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(flag) => Some(vec![flag.to_string()]),
        toml::Value::Array(items) => {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        }
        toml::Value::Float(number) => Some(vec![number.to_string()]),
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests;
