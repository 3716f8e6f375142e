//! Maps settings to the options of each component. Components do not know the settings type.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use jreg_access::AccessGuardOptions;
use jreg_access::limits::LimitOptions;
use jreg_config::{PublicUrl, Settings, TlsVersion};
use jreg_events::SinkInterest;
use jreg_http::{HttpOptions, Proxies, PullExceptions, Redirects};
use jreg_mirror::MirrorLimits;
use jreg_net::acme::{AcmeChallenges, AcmeOptions};
use jreg_net::descriptors::{self, Allowance};
use jreg_net::server::ServerOptions;
use jreg_net::tls::{CertificateSource, TlsOptions};
use jreg_oci::MirrorNames;
use jreg_registry::{
    BYTES_WAIT_MIN, FsckOptions, GcOptions, PartTask, Registry, RegistryLimits, RegistryOptions,
    RetentionOptions, SECRET_FOLDERS,
};
use jreg_storage::{FsOptions, Store};
use jreg_telemetry::audit::AuditOptions;
use jreg_telemetry::trace::{self, TraceOptions};

/// Number of concurrent store requests of a command.
const REQUESTS_AT_ONCE: usize = 16;

/// Options of the API.
pub fn http(settings: &Settings) -> HttpOptions {
    let warning = |text: &String| {
        HeaderValue::from_str(&format!("299 - \"{text}\""))
            .expect("the settings hold only printable warnings")
    };
    HttpOptions {
        deletes: settings.deletes,
        read_only: settings.read_only,
        ui: settings.ui,
        public_url: public_url(settings).unwrap_or_default(),
        warnings: settings.warning.iter().map(warning).collect(),
        manifest_bytes_max: settings.manifest_bytes_max,
        manifest_buffer_bytes: settings.manifest_buffer_bytes,
        page_items_max: settings.page_items_max,
        body_idle_timeout: settings.body_idle_timeout,
        body_rate_min: settings.body_rate_min,
        body_rate_grace: settings.body_rate_grace,
        buffer_wait_max: settings.buffer_wait_max,
        drain_bytes_max: settings.drain_bytes_max,
        retry_after: settings.retry_after,
        redirects: Redirects {
            is_on: settings.redirect,
            bytes_min: settings.redirect_bytes_min,
            networks: settings.redirect_networks.clone(),
            agents_except: settings.redirect_agents_except.clone(),
            expiry: settings.redirect_expiry,
        },
        listens_on_loopback: settings.listen.ip().to_canonical().is_loopback(),
        proxies: Proxies {
            trusted: settings.trusted_proxies.clone(),
            header: settings.forwarded_header,
        },
        mirrors: mirror_names(settings),
        pulls: PullExceptions {
            identities: settings.pulls_identities_except.clone(),
            agents: settings.pulls_agents_except.clone(),
        },
        serves_metrics: settings.admin_listen.is_none(),
    }
}

/// The registry, which writes the events that the sinks want.
pub fn with_events(registry: Registry, settings: &Settings) -> Registry {
    let filters: Vec<_> = settings.event_sinks.iter().map(|sink| sink.filter.clone()).collect();
    match filters.is_empty() {
        true => registry,
        false => registry.with_events(Arc::new(SinkInterest(filters))),
    }
}

/// The names of the mirrors.
pub fn mirror_names(settings: &Settings) -> MirrorNames {
    let names = settings.mirrors.iter().map(|mirror| mirror.name.clone()).collect();
    MirrorNames::new(names, settings.unknown_ns).expect("the settings have checked them")
}

/// What all mirrors share.
pub fn mirrors(settings: &Settings) -> MirrorLimits {
    MirrorLimits {
        fills_max: settings.mirror_fills,
        memory_bytes: settings.mirror_memory,
        window_bytes: settings.mirror_window_bytes,
        wait: settings.mirror_wait,
        manifest_bytes_max: settings.manifest_bytes_max,
    }
}

/// External base URL of the registry.
pub fn public_url(settings: &Settings) -> Option<String> {
    settings.public_url.as_ref().map(|url| url.as_str().to_owned())
}

/// Options of connections, within this process's file descriptor limit.
pub fn server(settings: &Settings) -> ServerOptions {
    server_within(settings, Allowance::of(descriptors::limit()))
}

fn server_within(settings: &Settings, allowance: Allowance) -> ServerOptions {
    let options = ServerOptions {
        connections_max: settings.connections_max,
        h2_window_bytes: settings.h2_window_bytes,
        trusted_proxies: settings.trusted_proxies.clone(),
        h2_streams_max: settings.h2_streams_max,
        header_read_timeout: settings.header_read_timeout,
        write_stall_timeout: settings.write_stall_timeout,
        retry_after: settings.retry_after,
        shutdown_deadline: settings.shutdown_deadline,
        ..ServerOptions::default()
    };
    let options = options.within(allowance);
    match settings.connections_per_address_max {
        Some(connections_per_address_max) => {
            ServerOptions { connections_per_address_max, ..options }
        }
        None => options.with_usual_share(),
    }
}

/// Options of TLS, with the source of the certificate. ACME challenge responses are read from
/// `store`.
pub fn tls(settings: &Settings, store: &Arc<dyn Store>) -> Option<(TlsOptions, CertificateSource)> {
    let options = TlsOptions {
        client_ca: settings.tls_client_ca.as_ref().map(PathBuf::from),
        client_cert_required: settings.tls_client_cert_required,
        allows_tls12: settings.tls_min_version == TlsVersion::Tls12,
    };
    let source = match (&settings.tls_cert, &settings.tls_key) {
        (Some(cert), Some(key)) => CertificateSource::Files { cert: cert.into(), key: key.into() },
        _ if settings.acme_domains.is_empty() => return None,
        _ => {
            let (domains, store) = (settings.acme_domains.clone(), Arc::clone(store));
            let challenges = AcmeChallenges::new(domains, store, options.allows_tls12);
            CertificateSource::Acme(Arc::new(challenges))
        }
    };
    Some((options, source))
}

/// Options of ACME, if it is enabled.
pub fn acme(settings: &Settings) -> Option<AcmeOptions> {
    (!settings.acme_domains.is_empty()).then(|| AcmeOptions {
        domains: settings.acme_domains.clone(),
        directory: settings.acme_directory.clone(),
        contact: settings.acme_contact.clone(),
        ca_file: settings.acme_ca_file.as_ref().map(PathBuf::from),
    })
}

/// Options of authentication and authorization.
pub fn guard(settings: &Settings) -> AccessGuardOptions {
    let realm = settings.token_realm.as_ref();
    AccessGuardOptions {
        htpasswd: settings.htpasswd.as_ref().map(PathBuf::from),
        policy: settings.policy.as_ref().map(PathBuf::from),
        anonymous_pull: settings.anonymous_pull,
        admins: settings.admins.clone(),
        login_clients: settings.login_clients.clone(),
        token_service: settings.token_service,
        token_realm: realm.map(PublicUrl::as_str).map(str::to_owned),
        token_audience: settings.token_audience.clone(),
        token_lifetime: settings.token_lifetime,
        refresh_lifetime: settings.refresh_lifetime,
        key_rotation: settings.key_rotation,
        public_url: public_url(settings),
        login_failures_free: settings.login_failures_free,
        login_delay_max: settings.login_delay_max,
    }
}

/// At least so many concurrent uploads are one client's share.
const UPLOADS_SHARE_MIN: usize = 64;

/// Maximum concurrent uploads of one client: half of all, if the settings have no other limit. So one
/// client cannot take every slot.
fn uploads_of_one_client(settings: &Settings) -> usize {
    match settings.rate_limit_uploads {
        0 => settings.uploads_max.div_ceil(2).max(UPLOADS_SHARE_MIN).min(settings.uploads_max),
        limit => limit,
    }
}

/// Options of rate limits and bytes in flight.
pub fn limits(settings: &Settings) -> LimitOptions {
    LimitOptions {
        address_requests: settings.rate_limit_address_requests,
        identity_requests: settings.rate_limit_requests,
        burst: settings.rate_limit_burst,
        uploads: uploads_of_one_client(settings),
        address_bytes: settings.rate_limit_address_bytes_in_flight,
        identity_bytes: settings.rate_limit_bytes_in_flight,
    }
}

/// Options of traces and of the log of slow requests.
pub fn trace(settings: &Settings) -> TraceOptions {
    TraceOptions { slow: settings.slow_request, percent: settings.trace_percent }
}

/// Options of the audit log.
pub fn audit(settings: &Settings) -> AuditOptions {
    AuditOptions { target: settings.audit_log.clone(), reads: settings.audit_reads }
}

/// Options of the registry.
pub fn registry(settings: &Settings) -> RegistryOptions {
    RegistryOptions {
        references: settings.references,
        manifest_media_types: settings.manifest_media_types.clone(),
        limits: RegistryLimits {
            manifest_bytes_max: settings.manifest_bytes_max,
            page_items_max: settings.page_items_max,
            upload_age_max: settings.upload_age_max,
            uploads_max: settings.uploads_max,
            upload_buffer_bytes: settings.upload_buffer_bytes,
            buffer_wait_max: settings.buffer_wait_max,
            part_bytes: settings.part_bytes,
            parts_in_flight: settings.parts_in_flight,
            manifest_reads_in_flight: settings.manifest_reads_in_flight,
            mount_candidates_max: settings.mount_candidates_max,
        },
        cache_bytes: settings.cache_bytes,
        cache_trust: settings.cache_age_max,
        part_task: PartTask(|work| Box::pin(trace::within(trace::current(), work))),
    }
}

/// Share of `cache-bytes` for the records of a folder; the rest is for parsed content.
const RECORDS_SHARE: u64 = 4;

/// For how long after its maximum age an upload may still be completed: a retry of its closing request, and
/// a margin.
const CLOSING_MAX: Duration = Duration::from_secs(2 * 3600);

/// Options of the folder store.
pub fn folder(settings: &Settings) -> FsOptions {
    FsOptions {
        upload_age_max: settings.upload_age_max + CLOSING_MAX,
        durability: settings.durability,
        cache_bytes: settings.cache_bytes / RECORDS_SHARE,
        private_folders: SECRET_FOLDERS,
        reserved_for: vec![jreg_registry::FREES_SPACE.to_owned()],
        ..FsOptions::default()
    }
}

/// Options of GC.
pub fn gc(settings: &Settings) -> GcOptions {
    // A client may read by a presigned URL, or an instance by a cached link, for this long.
    let redirects = if settings.redirect { settings.redirect_expiry } else { Duration::ZERO };
    // By the history the sequencer sees which events of the queue happened.
    let history_keep = match settings.event_sinks.is_empty() {
        true => settings.history_keep,
        false => settings.history_keep.max(settings.events_keep).max(settings.gc_grace),
    };
    GcOptions {
        grace: settings.gc_grace,
        untagged: settings.gc_untagged,
        mirrors: settings.mirrors.iter().map(|mirror| mirror.name.prefix.clone()).collect(),
        history_keep,
        share_max_percent: u8::try_from(settings.gc_share_max).unwrap_or(100),
        bytes_wait: BYTES_WAIT_MIN + redirects + settings.cache_age_max,
        requests_per_second: settings.gc_requests_per_second,
        requests_at_once: REQUESTS_AT_ONCE,
        dry_run: false,
        sweep_now: false,
    }
}

/// Options of retention.
pub fn retention(settings: &Settings) -> RetentionOptions {
    RetentionOptions {
        repositories: Vec::new(),
        delay: settings.retention_delay,
        force: false,
        requests_per_second: settings.gc_requests_per_second,
        requests_at_once: REQUESTS_AT_ONCE,
    }
}

/// Options of background fsck.
pub fn fsck(settings: &Settings) -> FsckOptions {
    FsckOptions {
        deep: true,
        repair: false,
        restart: false,
        requests_per_second: settings.gc_requests_per_second,
        bytes_per_second: settings.fsck_bytes_per_second,
        requests_at_once: REQUESTS_AT_ONCE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_settings_are_the_defaults_of_the_components() {
        let settings = Settings::default();
        assert_eq!(registry(&settings), RegistryOptions::default());
        assert_eq!(http(&settings), HttpOptions::default());
        assert_eq!(mirrors(&settings), MirrorLimits::default());
        let allowance = Allowance { connections: 100_000, responses: 1024 };
        assert_eq!(server_within(&settings, allowance), ServerOptions::default());
    }

    #[test]
    fn connections_of_an_address_are_a_share_unless_set() {
        let of = |settings: Settings| {
            let allowance = Allowance { connections: 100_000, responses: 1024 };
            server_within(&settings, allowance).connections_per_address_max
        };
        assert_eq!(of(Settings { connections_max: 300, ..Settings::default() }), 75);
        let all = Settings { connections_per_address_max: Some(0), ..Settings::default() };
        assert_eq!(of(all), 0);
    }
}
