//! The settings: one flat table that defines every flag, environment variable and file key.
//!
//! The setting `log-format` is the flag `--log-format`, the variable `JREG_LOG_FORMAT` and the key
//! `log-format`. A flag overrides a variable, a variable the file, the file the default. An unknown
//! key or an invalid value is an error that names the allowed ones. Nothing here reads the
//! environment or the disk: both are passed in.

#![allow(missing_docs, reason = "a comment that repeats a name is noise")]

mod combination;
mod effective;
mod login;
mod mirrors;
mod sinks;
mod value;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use jreg_auth::LoginClient;
use jreg_events::SinkOptions;
use jreg_mirror::MirrorOptions;
use jreg_oci::{MediaTypePattern, UnknownNamespace};
use jreg_registry::{GRACE_MIN, ReferencePolicy};
use jreg_storage::Durability;

pub use effective::{CheckedSettings, EffectiveSetting, check};
pub use jreg_auth::ForwardedHeader;
pub use jreg_telemetry::audit::AuditTarget;
pub use jreg_telemetry::logging::LogFormat;
pub use value::{PublicUrl, SecretValue, StorageLocation, TlsVersion};

pub use value::Value;
use value::{REDACTED, repeatable};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Maximum total length of the warnings in a response (distribution-spec, "Warnings").
const WARNING_BYTES_MAX: usize = 4096;

/// Maximum number of names in a certificate: the limit of Let's Encrypt.
const ACME_DOMAINS_MAX: usize = 100;
/// ACME directory of Let's Encrypt.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// A setting: its name, help text, and how to set and show it.
pub struct SettingKey {
    field: &'static str,
    /// Heading in the help and the sample file.
    pub section: &'static str,
    /// Help text.
    pub doc: &'static str,
    /// The allowed values.
    pub allowed: &'static str,
    kind: &'static str,
    is_secret: bool,
    set: fn(&mut Settings, &[String]) -> bool,
    refusal: fn(&str) -> Option<String>,
    show: fn(&Settings) -> Vec<String>,
}

impl std::fmt::Debug for SettingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Key").field(&self.name()).finish()
    }
}

impl SettingKey {
    /// The key in the file, and the flag after `--`.
    pub fn name(&self) -> String {
        self.field.replace('_', "-")
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.field.to_uppercase())
    }

    /// The kind of value, for the help.
    pub fn kind(&self) -> &'static str {
        match self.kind {
            value::TEXT if self.allowed.contains("a file's path") => "FILE",
            value::TEXT if self.allowed.contains("https://") => "URL",
            value::TEXT if self.allowed.starts_with("a host name") => "HOST",
            kind => kind,
        }
    }

    /// Whether the value must not be shown.
    pub fn is_secret(&self) -> bool {
        self.is_secret
    }

    /// Whether the setting may be given several times.
    fn takes_several(&self) -> bool {
        self.show(&Settings::default()).is_empty()
    }

    /// The value in `settings`, in the syntax of the file.
    pub fn show(&self, settings: &Settings) -> Vec<String> {
        (self.show)(settings)
    }
}

/// Prefix of every environment variable.
pub const VARIABLE_PREFIX: &str = "JREG_";

macro_rules! settings {
    ($($section:literal { $(
        $(#[doc = $doc:literal])+
        $field:ident: $type:ty = $default:expr, $allowed:literal, $check:expr;
    )+ })+) => {
        /// The value of every setting.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings { $($(
            $(#[doc = $doc])+
            #[doc = concat!("\n\nAllowed: `", $allowed, "`.")]
            pub $field: $type,
        )+)+
            /// The sinks of events, which only the file can set: `[[events.sink]]`.
            pub event_sinks: Vec<SinkOptions>,
            /// Mirrors of other registries, which only the file can set: `[[mirror]]`.
            pub mirrors: Vec<MirrorOptions>,
            /// OpenID providers for logins in a browser, which only the file can set: `[[login.client]]`.
            pub login_clients: Vec<LoginClient>,
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { event_sinks: Vec::new(), mirrors: Vec::new(), login_clients: Vec::new(), $($($field: $default,)+)+ }
            }
        }

        /// All settings, in the order of the help and the sample file.
        pub const KEYS: &[SettingKey] = &[$($(SettingKey {
            field: stringify!($field),
            section: $section,
            doc: concat!($($doc),+),
            allowed: $allowed,
            kind: <$type as Value>::KIND,
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
        /// Address and port to listen on. A non-loopback address needs authentication, or
        /// insecure-open.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 5000)),
            "IP:PORT, localhost:PORT, or :PORT for all IPv4 addresses, for example [::]:5000", |_| true;
        /// Address and port of a second listener for /metrics, health, profiles and /support,
        /// without TLS and authentication: for a network that clients do not reach. With it, the
        /// first does not serve /metrics.
        admin_listen: Option<SocketAddr> = None,
            "none, IP:PORT, localhost:PORT or :PORT, for example 127.0.0.1:5001", |_| true;
        /// Storage location: a folder, an S3 bucket, or memory (lost when the process ends).
        storage: StorageLocation = StorageLocation::Folder(PathBuf::from("./jreg-data")),
            "a folder's path, file:PATH, s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&..] or memory:",
            |_| true;
        /// Durability of acknowledged writes in a folder: strict survives a power failure, relaxed
        /// survives a crash of jreg only, except for the last second of uploads in progress.
        durability: Durability = Durability::Strict, "strict or relaxed", |_| true;
        /// Content that may be missing from the repository when a manifest that references it is
        /// pushed: none (strict), the manifests of an index (sparse-index), anything (off).
        references: ReferencePolicy = ReferencePolicy::SparseIndex,
            "strict, sparse-index or off", |_| true;
        /// Media types that pushed manifests may have; repeatable. Browsers render types other than
        /// application/* as pages.
        manifest_media_types: Vec<MediaTypePattern> = vec![MediaTypePattern::application()],
            "a media type, TYPE/* or */*, for example application/*", |types| !types.is_empty();
        /// Allow deleting blobs, manifests and tags through the API.
        deletes: bool = true, "on or off", |_| true;
        /// Serve without changing anything in the storage: pushes and deletes get 405, and no job
        /// that writes runs.
        read_only: bool = false, "on or off", |_| true;
        /// Serve the web UI below /ui/, and redirect browsers there from /.
        ui: bool = true, "on or off", |_| true;
        /// External base URL of this registry. Without it, a `Location` header is absolute only if
        /// the request makes scheme and host certain, and a path otherwise.
        public_url: Option<PublicUrl> = None,
            "none, or an http:// or https:// address, for example https://registry.example.com",
            |_| true;
        /// CIDRs of reverse proxies whose `X-Forwarded-*` or `Forwarded` headers are trusted;
        /// repeatable. Headers from other peers are ignored.
        trusted_proxies: Vec<IpNet> = Vec::new(),
            "a CIDR, for example 10.0.0.0/8 or 127.0.0.1/32", |_| true;
        /// Headers in which trusted proxies send the client's address, scheme and host:
        /// X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host (x-forwarded), or Forwarded
        /// (forwarded, RFC 7239). The others are ignored.
        forwarded_header: ForwardedHeader = ForwardedHeader::XForwarded,
            "x-forwarded or forwarded", |_| true;
        /// Text of a `Warning` response header, which clients show to their users; repeatable.
        warning: Vec<String> = Vec::new(),
            "printable ASCII without quote or backslash, 4096 bytes in total",
            |all| warnings_fit(all);
    }
    "Authentication" {
        /// File of users with password hashes, as written by htpasswd -B and jreg user add;
        /// reloaded when it changes. Enables authentication.
        htpasswd: Option<String> = None, "none, or a file's path", |_| true;
        /// Policy file with the authorization rules; reloaded when it changes. Enables
        /// authentication. Without it, every user may use all repositories.
        policy: Option<String> = None, "none, or a file's path", |_| true;
        /// Require authentication even without htpasswd and policy; then only access tokens are
        /// accepted.
        authentication: bool = false, "on or off", |_| true;
        /// Allow anonymous clients to pull and to list.
        anonymous_pull: bool = false, "on or off", |_| true;
        /// Identity that may administer the registry, besides those that the policy allows the action
        /// admin; repeatable. Without a policy no other identity may.
        admins: Vec<String> = Vec::new(),
            "an identity: a user, or a name made of an issuer's claims, such as company:alice",
            |names| names.iter().all(|name| is_identity(name));
        /// Allow listening on a non-loopback address without authentication. Every client that
        /// reaches it may pull, push and delete.
        insecure_open: bool = false, "on or off", |_| true;
        /// Issue short-lived tokens at /token in exchange for passwords; otherwise clients send the
        /// password with every request.
        token_service: bool = true, "on or off", |_| true;
        /// URL of an external token service that clients are sent to instead of /token. The policy
        /// file names the keys that verify its tokens.
        token_realm: Option<PublicUrl> = None,
            "none, or an http:// or https:// address, for example https://login.example.com/token",
            |_| true;
        /// Audience (`aud`) of tokens for this registry, the same for all instances.
        token_audience: String = "jreg".to_owned(),
            "1 to 255 letters, digits and . _ : / -", |name| is_audience(name);
        /// Lifetime of a token issued at /token.
        token_lifetime: Duration = 5 * MINUTE, "a duration from 1m to 1h",
            |lifetime| (MINUTE..=HOUR).contains(lifetime);
        /// Lifetime of a refresh token, with which clients get new tokens without the password.
        refresh_lifetime: Duration = 30 * DAY, "a duration from 1h to 365d",
            |lifetime| (HOUR..=365 * DAY).contains(lifetime);
        /// Failed logins per name and address before login throttling starts, and ten times as many
        /// per address over all names. 0 turns login throttling off.
        login_failures_free: u32 = 5, "a number up to 1000", |failures| *failures <= 1000;
        /// Maximum delay of login throttling: it starts at one second and doubles with each
        /// failure. During the delay even correct credentials get 429, so the response reveals
        /// nothing.
        login_delay_max: Duration = 5 * MINUTE, "a duration from 1s to 1d",
            |delay| (SECOND..=DAY).contains(delay);
        /// Rotation interval of the key that signs tokens.
        key_rotation: Duration = DAY, "a duration from 1h to 90d",
            |rotation| (HOUR..=90 * DAY).contains(rotation);
    }
    "TLS" {
        /// PEM file with the server certificate and its intermediates; reloaded when it changes.
        /// Enables TLS; plain HTTP is then not served.
        tls_cert: Option<String> = None, "none, or a file's path", |_| true;
        /// PEM file with the certificate's private key, not encrypted; reloaded when it changes.
        tls_key: Option<String> = None, "none, or a file's path", |_| true;
        /// Minimum TLS version.
        tls_min_version: TlsVersion = TlsVersion::Tls12, "1.2 or 1.3", |_| true;
        /// PEM bundle of the CAs that issue client certificates (enables mTLS); reloaded when it
        /// changes. Client certificates are optional unless tls-client-cert-required is on.
        tls_client_ca: Option<String> = None, "none, or a file's path", |_| true;
        /// Require a client certificate: TLS handshakes without one fail.
        tls_client_cert_required: bool = false, "on or off", |_| true;
        /// Host name for a certificate obtained by ACME instead of tls-cert; repeatable. Setting it
        /// agrees to the CA's terms of service.
        acme_domains: Vec<String> = Vec::new(),
            "a host name in lower case without wildcards, each once, at most 100, for example \
             registry.example.com",
            |names| is_certifiable(names);
        /// Directory URL of the ACME CA (RFC 8555).
        acme_directory: String = LETS_ENCRYPT.to_owned(),
            "an https:// address, for example https://ca.example.com/acme/directory",
            |address| is_directory(address);
        /// E-mail address to which the ACME CA sends notices about the certificates.
        acme_contact: Option<String> = None,
            "none, or an e-mail address, for example ops@example.com",
            |address| address.as_deref().is_none_or(is_mail_address);
        /// PEM bundle of CAs that verify the ACME server's own TLS certificate, if the system does
        /// not trust it; read at the start.
        acme_ca_file: Option<String> = None, "none, or a file's path", |_| true;
    }
    "Bucket" {
        /// Declare that no other instance writes to the bucket. Needed for stores that do not
        /// honour conditional writes.
        single_instance: bool = false, "on or off", |_| true;
        /// Access key id. Without it, credentials are looked up as the AWS tools do: AWS_*
        /// variables, web identity, pod or task identity, instance metadata.
        s3_access_key_id: Option<String> = None, "none, or an id", |_| true;
        /// Secret access key.
        s3_secret_access_key: Option<SecretValue> = None, "none, or a secret", |_| true;
        /// File with the secret access key, instead of s3-secret-access-key; read at the start. A
        /// line break at the end is ignored.
        s3_secret_access_key_file: Option<String> = None, "none, or a file's path", |_| true;
        /// Session token of a temporary access key.
        s3_session_token: Option<SecretValue> = None, "none, or a token", |_| true;
        /// File with the session token, instead of s3-session-token; read at the start. A line
        /// break at the end is ignored.
        s3_session_token_file: Option<String> = None, "none, or a file's path", |_| true;
        /// Additional header of every request to the bucket, not for secrets; repeatable.
        s3_header: Vec<String> = Vec::new(), "NAME: VALUE",
            |all| all.iter().all(|header| header.contains(':'));
        /// Timeout for connecting to the bucket.
        s3_connect_timeout: Duration = 5 * SECOND, "a duration from 100ms to 1h",
            |timeout| is_timeout(*timeout);
        /// Timeout of one attempt of a small request to the bucket.
        s3_request_timeout: Duration = 10 * SECOND, "a duration from 100ms to 1h",
            |timeout| is_timeout(*timeout);
        /// Maximum time for which a failing small request to the bucket is retried.
        s3_request_budget: Duration = 30 * SECOND, "a duration from 100ms to 1m",
            |budget| is_timeout(*budget) && *budget <= MINUTE;
        /// Maximum time without data in the middle of a body from the bucket.
        s3_idle_timeout: Duration = 30 * SECOND, "a duration from 100ms to 1h",
            |timeout| is_timeout(*timeout);
        /// Maximum time for which a failing transfer of blob bytes is retried.
        s3_transfer_budget: Duration = 180 * SECOND, "a duration from 100ms to 1h",
            |budget| is_timeout(*budget);
        /// Hedge small reads: one that is slower than 1.5 times the recent p95 is sent a second
        /// time, at most one in twenty.
        s3_hedge_reads: bool = true, "on or off", |_| true;
    }
    "Logs" {
        /// Format of the log on standard error: auto is pretty on a terminal and json otherwise.
        log_format: LogFormat = LogFormat::Auto, "auto, json or pretty", |_| true;
        /// Log level, or a list such as info,jreg=debug.
        log: String = "info".to_owned(),
            "error, warn, info, debug, trace, off, or a list of target=level",
            |filter| is_log_filter(filter);
        /// Duration above which a request is logged once more, with its store requests and their times.
        slow_request: Option<Duration> = None, "off, or a duration from 1ms to 1h",
            |slow| slow.is_none_or(|slow| (Duration::from_millis(1)..=HOUR).contains(&slow));
        /// OpenTelemetry collector that traces of requests are sent to (OTLP/HTTP, at /v1/traces of
        /// this URL). A client's `traceparent` header decides whether a request is traced.
        trace_collector: Option<PublicUrl> = None,
            "none, or an http:// or https:// address, for example http://127.0.0.1:4318", |_| true;
        /// Percentage of the requests without `traceparent` that are traced.
        trace_percent: u32 = 0, "a number up to 100", |percent| *percent <= 100;
    }
    "Audit" {
        /// Destination of the audit log, one JSON object per line: a file, which may be rotated at
        /// any time, or a standard stream.
        audit_log: AuditTarget = AuditTarget::Off, "off, stdout, stderr, or a file's path", |_| true;
        /// Write allowed reads to the audit log as well.
        audit_reads: bool = false, "on or off", |_| true;
    }
    "Content" {
        /// Maximum size of a manifest.
        manifest_bytes_max: u64 = 4 * MIB, "a size from 64KiB to 7MiB",
            |bytes| (64 * KIB..=7 * MIB).contains(bytes);
        /// Maximum memory for manifests that are being received, over all requests; further
        /// requests are queued.
        manifest_buffer_bytes: u64 = 128 * MIB, "a size from 8MiB to 1TiB",
            |bytes| (8 * MIB..=MIB * MIB).contains(bytes);
        /// Maximum time that a request is queued for upload-buffer-bytes or manifest-buffer-bytes;
        /// then it gets 429.
        buffer_wait_max: Duration = 30 * SECOND, "a duration from 100ms to 1h",
            |wait| is_timeout(*wait);
        /// Maximum number of items in a page of a listing.
        page_items_max: usize = 1000, "a number from 1 to 10000",
            |items| (1..=10_000).contains(items);
        /// Maximum age of an upload session: requests for an older one get 404, and its data is removed
        /// 20 minutes later, by the next run of upload-reap-interval or GC.
        upload_age_max: Duration = 6 * DAY, "a duration from 1m to 30d",
            |age| (60 * SECOND..=30 * DAY).contains(age);
        /// Interval at which expired upload sessions and their data are removed.
        upload_reap_interval: Duration = HOUR, "a duration from 1m to 30d",
            |interval| (60 * SECOND..=30 * DAY).contains(interval);
        /// Maximum number of uploads that send data concurrently; more get 429.
        uploads_max: usize = 512, "a number from 1 to 100000",
            |uploads| (1..=100_000).contains(uploads);
        /// Maximum memory for upload data, over all uploads. Uploads of unknown length have at most
        /// half of it for parts that are not complete (part-bytes).
        upload_buffer_bytes: u64 = 256 * MIB, "a size from 16MiB to 1TiB",
            |bytes| (16 * MIB..=MIB * MIB).contains(bytes);
        /// Size of the parts in which an upload of unknown length is written to the store.
        part_bytes: Option<u64> = None, "auto, or a size from 64KiB to 5GiB",
            |part| part.is_none_or(|bytes| (64 * KIB..=5 * KIB * MIB).contains(&bytes));
        /// Maximum number of parts of one upload that are in flight to the store.
        parts_in_flight: usize = 4, "a number from 1 to 64", |parts| (1..=64).contains(parts);
        /// Maximum number of concurrent store reads of one manifest push.
        manifest_reads_in_flight: usize = 64, "a number from 1 to 1024", |reads| (1..=1024).contains(reads);
        /// Maximum number of repositories that a mount without `from` searches.
        mount_candidates_max: usize = 16, "a number from 1 to 1000",
            |candidates| (1..=1000).contains(candidates);
        /// Maximum memory for cached manifests and links; 0 turns the cache off.
        cache_bytes: u64 = 64 * MIB, "a size up to 1TiB", |bytes| *bytes <= MIB * MIB;
        /// Maximum age at which a cached entry is used if other instances share the store.
        cache_age_max: Duration = 60 * SECOND, "a duration up to 1h", |trust| *trust <= HOUR;
    }
    "Lifecycle" {
        /// Lifecycle file with the rules of retention, immutable tags and quotas; reloaded when it
        /// changes. An invalid file never replaces a valid one.
        lifecycle: Option<String> = None, "none, or a file's path", |_| true;
        /// Interval of retention, which removes the tags that no rule of the lifecycle file keeps.
        retention_interval: Option<Duration> = Some(DAY), "off, or a duration from 1m to 30d",
            |interval| is_interval(*interval);
        /// Minimum time since the last push of a tag before retention removes it.
        retention_delay: Duration = DAY, "a duration up to 365d",
            |delay| *delay <= 365 * DAY;
        /// Track when tags are pulled also if no rule of the lifecycle file uses pulled_within.
        track_pulls: bool = false, "on or off", |_| true;
        /// Identity whose pulls do not count for pulled_within and events, for example a scanner, as
        /// the audit log names it; repeatable.
        pulls_identities_except: Vec<String> = Vec::new(), "a name, for example scanner",
            |all| all.iter().all(|name| !name.is_empty());
        /// User-Agent prefix of clients whose pulls do not count; repeatable.
        pulls_agents_except: Vec<String> = Vec::new(), "a prefix, for example trivy/",
            |all| all.iter().all(|agent| !agent.is_empty());
        /// Maximum number of repositories whose bytes are metrics: the largest ones; the others are one
        /// sum. They are counted each hour by reading. 0: none.
        usage_metrics: usize = 0, "a number up to 1000", |repositories| *repositories <= 1000;
    }
    "Garbage collection and fsck" {
        /// Interval of online garbage collection (GC).
        gc_interval: Option<Duration> = Some(6 * HOUR), "off, or a duration from 1m to 30d",
            |interval| is_interval(*interval);
        /// Minimum age of unreferenced content before GC may delete it.
        gc_grace: Duration = DAY, "a duration from 2h to 365d",
            |grace| (GRACE_MIN..=365 * DAY).contains(grace);
        /// Minimum time without a tag before GC deletes a manifest that no index references and
        /// whose subject is absent; off keeps untagged manifests.
        gc_untagged: Option<Duration> = None, "off, or a duration up to 3650d",
            |untagged| untagged.is_none_or(|after| after <= 3650 * DAY);
        /// How long replaced changes of tags and deleted manifests can be listed and restored, from
        /// when the next change or the delete ended them; 0s keeps nothing.
        history_keep: Duration = 30 * DAY, "0s, or a duration from gc-grace to 3650d",
            |keep| keep.is_zero() || (GRACE_MIN..=3650 * DAY).contains(keep);
        /// Maximum percentage of links that one GC run deletes (100 links in any case); the rest
        /// waits for the next run.
        gc_share_max: u32 = 33, "a number from 1 to 100", |percent| (1..=100).contains(percent);
        /// Maximum store requests per second of GC and fsck; a page of a listing counts once more
        /// for each hundred entries.
        gc_requests_per_second: u32 = 300, "a number from 1 to 100000",
            |rate| (1..=100_000).contains(rate);
        /// Interval of the background deep fsck, which reads and verifies everything, including
        /// blob bytes.
        fsck_interval: Option<Duration> = None, "off, or a duration from 1m to 365d",
            |interval| interval.is_none_or(|every| (MINUTE..=365 * DAY).contains(&every));
        /// Maximum bytes per second that the background fsck reads.
        fsck_bytes_per_second: u64 = 10 * MIB, "a size from 64KiB to 1TiB",
            |rate| (64 * KIB..=MIB * MIB).contains(rate);
    }
    "Events" {
        /// Time for which events are kept: a sink that does not work for longer loses events.
        events_keep: Duration = 7 * DAY, "a duration from 1h to 90d",
            |keep| (HOUR..=90 * DAY).contains(keep);
        /// Interval at which one instance looks for events of the others, if there is a sink.
        events_interval: Duration = 5 * SECOND, "a duration from 100ms to 1h",
            |interval| is_timeout(*interval);
    }
    "Mirrors" {
        /// Maximum number of blobs of mirrors that are stored at the same time; further ones are sent to
        /// their clients and not stored.
        mirror_fills: usize = 64, "a number from 1 to 10000", |fills| (1..=10_000).contains(fills);
        /// Maximum memory for blobs of mirrors on their way to the store and to clients.
        mirror_memory: u64 = 512 * MIB, "a size from 32MiB to 1TiB",
            |bytes| (32 * MIB..=MIB * MIB).contains(bytes);
        /// In a bucket: maximum size of a blob that stays in memory as a whole while it is stored. Clients
        /// that are too slow for a larger one read it from the mirrored registry themselves.
        mirror_window_bytes: u64 = 64 * MIB, "a size from 1MiB to 16GiB",
            |bytes| (MIB..=16 * KIB * MIB).contains(bytes);
        /// How long a client that is too late for a blob waits for it to be stored, before it reads it
        /// from the mirrored registry itself.
        mirror_wait: Duration = 5 * SECOND, "a duration up to 1h", |wait| *wait <= HOUR;
        /// What to do with a request that names (`?ns=`) a registry that is not mirrored: serve the local
        /// repository of this name (ignore), or 404 (refuse).
        unknown_ns: UnknownNamespace = UnknownNamespace::Ignore, "ignore or refuse", |_| true;
    }
    "Redirects" {
        /// Redirect blob downloads to the bucket (S3 only).
        redirect: bool = false, "on or off", |_| true;
        /// Minimum size of a blob whose download is redirected.
        redirect_bytes_min: u64 = MIB, "a size up to 1TiB", |bytes| *bytes <= MIB * MIB;
        /// CIDRs of clients that are redirected; repeatable. Empty: all clients.
        redirect_networks: Vec<IpNet> = Vec::new(),
            "a CIDR, for example 10.0.0.0/8", |_| true;
        /// User-Agent prefix of clients that are never redirected; repeatable.
        redirect_agents_except: Vec<String> = Vec::new(), "a prefix, for example crane/",
            |all| all.iter().all(|agent| !agent.is_empty());
        /// Time within which a redirected client must start reading from the bucket.
        redirect_expiry: Duration = 20 * MINUTE, "a duration from 1m to 12h",
            |expiry| (MINUTE..=12 * HOUR).contains(expiry);
    }
    "Connections" {
        /// Maximum number of concurrent connections; more get 503. Lower if RLIMIT_NOFILE, which is
        /// raised as far as possible, leaves less than two file descriptors for each.
        connections_max: usize = 4096, "a number from 1 to 1000000",
            |connections| (1..=1_000_000).contains(connections);
        /// Maximum number of concurrent connections per address (IPv6: per /64) that is not a
        /// trusted proxy; auto is a quarter of connections-max, at least 64; 0 means no limit but
        /// that.
        connections_per_address_max: Option<usize> = None, "auto, or a number up to 1000000",
            |connections| connections.is_none_or(|max| max <= 1_000_000);
        /// Maximum number of concurrent requests on one HTTP/2 connection.
        h2_streams_max: u32 = 256, "a number from 1 to 10000",
            |streams| (1..=10_000).contains(streams);
        /// Maximum memory for data that HTTP/2 clients have sent and no request has read, over all
        /// connections: each connection has a receive window of 2 MiB while the budget lasts, the
        /// others have 64 KiB each.
        h2_window_bytes: u64 = 128 * MIB, "a size up to 1TiB", |bytes| *bytes <= MIB * MIB;
        /// Maximum requests per second per identity (per address for anonymous clients); more get
        /// 429. 0 means no limit.
        rate_limit_requests: u32 = 0, "a number up to 1000000", |rate| *rate <= 1_000_000;
        /// Maximum requests per second per address, over all identities; more get 429. 0 means no
        /// limit.
        rate_limit_address_requests: u32 = 0, "a number up to 1000000", |rate| *rate <= 1_000_000;
        /// Burst of these rates: the time over which unused requests accumulate.
        rate_limit_burst: Duration = 10 * SECOND, "a duration up to 1h", |burst| *burst <= HOUR;
        /// Maximum number of uploads that send data concurrently, per identity (per address for
        /// anonymous clients); 0 means half of uploads-max, at least 64.
        rate_limit_uploads: usize = 0, "a number up to 100000", |uploads| *uploads <= 100_000;
        /// Maximum bytes of request and response bodies in flight per identity (per address for
        /// anonymous clients); 0 means no limit. A request that would exceed it gets 429, unless
        /// nothing else is in flight.
        rate_limit_bytes_in_flight: u64 = 0, "a size up to 1TiB", |bytes| *bytes <= MIB * MIB;
        /// Maximum bytes of request and response bodies in flight per address, over all identities;
        /// 0 means no limit.
        rate_limit_address_bytes_in_flight: u64 = 0, "a size up to 1TiB",
            |bytes| *bytes <= MIB * MIB;
        /// Timeout of an idle connection, of the head of a request, and of a TLS handshake.
        header_read_timeout: Duration = 60 * SECOND, "a duration from 100ms to 1h",
            |timeout| is_timeout(*timeout);
        /// Maximum time without data in the middle of a request body.
        body_idle_timeout: Duration = 60 * SECOND, "a duration from 100ms to 1h",
            |timeout| is_timeout(*timeout);
        /// Minimum bytes per second of a request body, averaged over each body-rate-grace in which
        /// jreg waits for the client; a slower body gets 408. 0 means no limit.
        body_rate_min: u64 = KIB, "a size up to 1GiB (per second)", |rate| *rate <= KIB * MIB;
        /// Time over which body-rate-min is averaged: no body is too slow before.
        body_rate_grace: Duration = 60 * SECOND, "a duration from 100ms to 1h",
            |grace| is_timeout(*grace);
        /// Maximum time in which a client reads nothing of a response.
        write_stall_timeout: Duration = 120 * SECOND, "a duration from 100ms to 1h",
            |timeout| is_timeout(*timeout);
        /// Maximum bytes of a rejected request body that are read so that the client sees the
        /// response.
        drain_bytes_max: u64 = 8 * MIB, "a size up to 1GiB", |bytes| *bytes <= KIB * MIB;
        /// `Retry-After` of 429 and 503 responses, unless the cause is known to take longer.
        retry_after: Duration = 5 * SECOND, "a duration from 1s to 1h",
            |after| (SECOND..=HOUR).contains(after);
        /// Time for which a stopping server still accepts connections while /readyz responds 503, so that
        /// load balancers send requests elsewhere.
        shutdown_delay: Duration = Duration::ZERO, "a duration up to 1h", |delay| *delay <= HOUR;
        /// Maximum time for requests in flight to finish at shutdown.
        shutdown_deadline: Duration = 30 * SECOND, "a duration up to 1h",
            |deadline| *deadline <= HOUR;
    }
}

impl Settings {
    /// Whether TLS is enabled.
    pub fn has_tls(&self) -> bool {
        self.tls_cert.is_some() || !self.acme_domains.is_empty()
    }

    /// Whether authentication is enabled.
    pub fn requires_authentication(&self) -> bool {
        self.authentication || self.htpasswd.is_some() || self.policy.is_some()
    }

    /// Warnings about settings that are allowed and likely not meant: they have no effect, or let every client do
    /// what only some should.
    pub fn remarks(&self) -> Vec<String> {
        combination::remarks(self)
    }
}

fn is_identity(name: &str) -> bool {
    (1..=512).contains(&name.len()) && !name.chars().any(char::is_control)
}

fn is_audience(name: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:/-".contains(&b);
    (1..=255).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// Names that a CA can validate by TLS-ALPN-01 (RFC 8737), which does not support wildcards.
fn is_certifiable(names: &[String]) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A host name does not end in a number, an address does.
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
    // Further characters would add recipients or mail headers (RFC 6068).
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

/// A level, or levels by target. The filter's own parser would accept any word as a target.
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

/// The source of a value, for error messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `--name`.
    Flag,
    /// `JREG_NAME`.
    Variable,
    /// A key of this file.
    File(PathBuf),
}

/// An unparsed value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The setting's key.
    pub name: String,
    /// One value, or several for a repeatable setting.
    pub values: Vec<String>,
    pub origin: Origin,
}

/// Why the settings are invalid.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The file is not TOML.
    #[error("{} is not a TOML file: {message}", path.display())]
    Syntax {
        path: PathBuf,
        /// Position and cause.
        message: String,
    },
    /// No setting has this name.
    #[error("{}: unknown key `{name}`{}", path.display(), nearest.as_ref().map_or_else(String::new, |known| format!(", did you mean `{known}`?")))]
    UnknownKey {
        path: PathBuf,
        name: String,
        /// The most similar known key.
        nearest: Option<String>,
    },
    /// A flag that takes one value was given several times.
    #[error("{place} is given {count} times, it can be given once")]
    Repeated { place: String, count: usize },
    /// A setting requires another.
    #[error("`{given}` requires `{missing}`: set both or neither")]
    Incomplete {
        /// The key that is given.
        given: &'static str,
        /// The key that is missing.
        missing: &'static str,
    },
    /// Two settings exclude each other.
    #[error("`{given}` cannot be given with `{other}`: {why}")]
    Contradictory { given: &'static str, other: &'static str, why: &'static str },
    /// A sink of events or a mirror is wrong. Its values are not shown: they may be secrets.
    #[error("{place}: {why}")]
    Table {
        /// The file and key.
        place: String,
        why: String,
    },
    /// An OpenID provider is wrong. Its values are not shown: they may be secrets.
    #[error("{place}: {why}")]
    LoginClient {
        /// The file and key.
        place: String,
        why: String,
    },
    /// The setting does not take this value.
    #[error("{place} cannot be {value:?}: {why}")]
    NotAllowed {
        /// The flag, the variable, or the file and key.
        place: String,
        value: String,
        /// What is wrong, or the allowed values.
        why: String,
    },
}

impl Settings {
    /// The defaults with `assignments` applied in order: later ones win.
    pub fn resolve(assignments: impl IntoIterator<Item = Assignment>) -> Result<Self, ConfigError> {
        let mut settings = Self::default();
        for assignment in assignments {
            settings.assign(&assignment)?;
        }
        match combination::errors(&settings).into_iter().next() {
            Some(error) => Err(error),
            None => Ok(settings),
        }
    }

    fn assign(&mut self, assignment: &Assignment) -> Result<(), ConfigError> {
        if assignment.name == sinks::SINKS {
            self.event_sinks = sinks::parse(assignment)?;
            return Ok(());
        }
        if assignment.name == mirrors::MIRRORS {
            self.mirrors = mirrors::parse(assignment)?;
            return Ok(());
        }
        if assignment.name == login::CLIENTS {
            self.login_clients = login::parse(assignment)?;
            return Ok(());
        }
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

fn not_allowed(key: &SettingKey, assignment: &Assignment) -> ConfigError {
    let given = assignment.values.join(", ");
    let value = if key.is_secret { REDACTED.to_owned() } else { repeatable(&given) };
    // The parser's message already names the value.
    let refused = assignment.values.first().filter(|_| value == given);
    let refusal = refused.and_then(|text| (key.refusal)(text.trim()));
    ConfigError::NotAllowed {
        place: place(key, &assignment.origin),
        value,
        why: refusal.unwrap_or_else(|| format!("it must be {}", key.allowed)),
    }
}

fn place(key: &SettingKey, origin: &Origin) -> String {
    match origin {
        Origin::Flag => format!("--{}", key.name()),
        Origin::Variable => key.variable(),
        Origin::File(path) => place_in_file(path, &key.name()),
    }
}

fn place_in_file(path: &std::path::Path, key: &str) -> String {
    format!("{}: `{key}`", path.display())
}

fn unknown(assignment: &Assignment) -> ConfigError {
    let path = match &assignment.origin {
        Origin::File(path) => path.clone(),
        Origin::Flag | Origin::Variable => PathBuf::new(),
    };
    let nearest = nearest(&assignment.name, KEYS.iter().map(SettingKey::name));
    ConfigError::UnknownKey { path, name: assignment.name.clone(), nearest }
}

/// The name in `known` that is most similar to `name`.
pub fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    const LIKENESS_MIN: f64 = 0.7;
    known
        .map(|known| (strsim::normalized_damerau_levenshtein(name, &known), known))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

/// The assignments of a configuration file.
pub fn read_file(path: &std::path::Path, text: &str) -> Result<Vec<Assignment>, ConfigError> {
    read_keys(path, text)?.into_iter().collect()
}

/// The same, with the error of each key.
fn read_keys(
    path: &std::path::Path,
    text: &str,
) -> Result<Vec<Result<Assignment, ConfigError>>, ConfigError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        ConfigError::Syntax { path: path.to_owned(), message: syntax(text, &error) }
    })?;
    Ok(table.into_iter().map(|(name, value)| file_assignment(path, name, &value)).collect())
}

/// The position and cause of a syntax error. The line is not shown: it may contain a secret.
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
    if name == "events" {
        return sinks::assignment(path, value);
    }
    if name == mirrors::MIRRORS {
        return mirrors::assignment(path, value);
    }
    if name == "login" {
        return login::assignment(path, value);
    }
    let origin = Origin::File(path.to_owned());
    if let Some(values) = texts(value) {
        return Ok(Assignment { name, values, origin });
    }
    // An unknown key is reported as such, even if its value is invalid.
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
