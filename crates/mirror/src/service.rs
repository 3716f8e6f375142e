//! [`Mirrors`]: all mirrors of a registry, and [`MirrorRepository`], one repository of one of them.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jreg_client::{
    EnvironmentVariables, UpstreamClient, UpstreamOptions, UpstreamSetupError, UpstreamTracing,
};
use jreg_oci::{MirrorNames, MirrorNamesError, RepositoryName, UnknownNamespace};
use jreg_registry::{LIST_KEYS_MAX, MirrorRoom, PageRequest, Registry, Repository};
use jreg_storage::Clock;
use jreg_telemetry::metrics::Metrics;
use jreg_telemetry::trace;

use crate::blobs::BlobFlights;
use crate::lists::ReferrersMemo;
use crate::manifests::ManifestRequests;
use crate::remembered::Remembered;
use crate::{MirrorLimits, MirrorOptions};

/// Maximum number of repositories below the prefixes of mirrors that are looked at for tags of clients.
const LOCAL_NAMES_MAX: usize = 10_000;

/// How long a request retries and waits, in all: then the client has another mirror to ask, or the registry.
const PATIENCE: Duration = Duration::from_secs(5);

/// Maximum number of requests to one registry in flight: also for readers of large blobs that read alone.
const CONNECTIONS_MAX: usize = 256;

/// Why mirrors cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MirrorSetupError {
    #[error(transparent)]
    Names(#[from] MirrorNamesError),
    #[error("mirror of {namespace}: {error}")]
    Client { namespace: String, error: UpstreamSetupError },
}

/// What all mirrors share.
pub(crate) struct MirrorShared {
    /// With room for mirrors.
    pub(crate) registry: Registry,
    pub(crate) limits: MirrorLimits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) remembered: Remembered,
    pub(crate) flights: BlobFlights,
    pub(crate) manifests: ManifestRequests,
    pub(crate) referrers: ReferrersMemo,
}

impl fmt::Debug for MirrorShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirrorShared").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A mirrored registry, and how it is asked.
#[derive(Clone, Debug)]
pub(crate) struct MirroredRegistry {
    pub(crate) options: Arc<MirrorOptions>,
    pub(crate) client: UpstreamClient,
}

/// The mirrors of a registry. A clone is the same mirrors.
#[derive(Clone, Debug)]
pub struct Mirrors {
    names: Arc<MirrorNames>,
    registries: Arc<[MirroredRegistry]>,
    shared: Arc<MirrorShared>,
    /// Repositories below a prefix to which clients have pushed tags: these win.
    local: Arc<HashSet<RepositoryName>>,
}

/// Requests to mirrored registries are part of the trace of the client's.
const TRACING: UpstreamTracing = UpstreamTracing {
    parent: trace::parent_header,
    note: |outcome, duration| {
        let outcome = if outcome.is_ok() { "ok" } else { "unavailable" };
        trace::note("upstream", outcome, duration);
    },
};

/// One repository of a mirrored registry.
#[derive(Clone, Debug)]
pub struct MirrorRepository {
    pub(crate) registry: MirroredRegistry,
    pub(crate) shared: Arc<MirrorShared>,
    /// With room for mirrors.
    pub(crate) repository: Repository,
    /// Its name there.
    pub(crate) upstream: RepositoryName,
    /// Whether clients have pushed tags to it.
    pub(crate) is_local: bool,
}

/// The names of mirrors.
///
/// # Errors
///
/// [`MirrorNamesError`].
pub(crate) fn names_of(
    mirrors: &[MirrorOptions],
    unknown: UnknownNamespace,
) -> Result<MirrorNames, MirrorNamesError> {
    MirrorNames::new(mirrors.iter().map(|mirror| mirror.name.clone()).collect(), unknown)
}

impl MirrorOptions {
    fn client(
        &self,
        limits: &MirrorLimits,
        environment: &EnvironmentVariables,
    ) -> Result<UpstreamClient, UpstreamSetupError> {
        let mut options = UpstreamOptions::new(self.upstream.clone(), self.credentials.clone());
        options.ca_file.clone_from(&self.ca_file);
        options.token_hosts.clone_from(&self.token_hosts);
        options.private_addresses = self.private_addresses;
        options.environment = environment.clone();
        options.tracing = Some(TRACING);
        options.timeouts.patience = PATIENCE;
        options.limits.requests_per_second = self.requests_per_second;
        options.limits.connections_max = CONNECTIONS_MAX;
        options.limits.manifest_bytes_max = limits.manifest_bytes_max;
        options.limits.mismatch_pause = self.negative;
        UpstreamClient::new(options)
    }
}

impl Mirrors {
    /// Sends no request yet.
    ///
    /// # Errors
    ///
    /// [`MirrorSetupError`].
    pub fn open(
        mirrors: Vec<MirrorOptions>,
        limits: MirrorLimits,
        environment: &EnvironmentVariables,
        registry: &Registry,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, MirrorSetupError> {
        let names = names_of(&mirrors, UnknownNamespace::Ignore)?;
        let mut registries = Vec::new();
        for options in mirrors {
            let client = options.client(&limits, environment).map_err(|error| {
                let namespace = options.name.namespace.clone();
                MirrorSetupError::Client { namespace, error }
            })?;
            metrics.mirror.add(&options.name.namespace);
            registries.push(MirroredRegistry { options: Arc::new(options), client });
        }
        let room = MirrorRoom {
            fills_max: limits.fills_max,
            buffer_bytes: limits.memory_bytes / 2,
            wait_max: limits.wait,
        };
        let shared = MirrorShared {
            registry: registry.for_mirrors(room),
            limits,
            metrics,
            remembered: Remembered::new(Arc::clone(&clock)),
            flights: BlobFlights::new(&limits),
            manifests: ManifestRequests::default(),
            referrers: ReferrersMemo::new(clock),
        };
        Ok(Self {
            names: Arc::new(names),
            registries: registries.into(),
            shared: Arc::new(shared),
            local: Arc::default(),
        })
    }

    /// Finds the repositories below the prefixes to which clients have pushed tags: what they have is not
    /// asked for elsewhere.
    ///
    /// # Errors
    ///
    /// [`jreg_registry::Error::Store`].
    pub async fn find_local(mut self) -> Result<Self, jreg_registry::Error> {
        let mut local = HashSet::new();
        for mirror in self.names.all() {
            let below = format!("{}/", mirror.prefix);
            let mut page = PageRequest { limit: LIST_KEYS_MAX, last: Some(below.clone()) };
            page.last = Some(mirror.prefix.to_string());
            let mut examined = 0;
            'pages: loop {
                let found = self.shared.registry.catalog(&page).await?;
                for name in found.items {
                    if !name.as_str().starts_with(&below) {
                        break 'pages;
                    }
                    examined += 1;
                    if examined > LOCAL_NAMES_MAX {
                        break 'pages;
                    }
                    if self.shared.registry.repository(name.clone()).has_tags().await? {
                        tracing::warn!(repository = %name, mirror = mirror.namespace, "a repository below the prefix of a mirror has tags that clients have pushed: these are served");
                        local.insert(name);
                    }
                }
                match found.next {
                    Some(next) => page.last = Some(next),
                    None => break,
                }
            }
        }
        self.local = Arc::new(local);
        Ok(self)
    }

    /// The repository of a mirrored registry that a local name means; `None`: the name is local.
    pub fn repository(&self, name: &RepositoryName) -> Option<MirrorRepository> {
        let (index, mirror) = self.names.of_repository(name)?;
        Some(MirrorRepository {
            registry: self.registries.get(index)?.clone(),
            shared: Arc::clone(&self.shared),
            repository: self.shared.registry.repository(name.clone()),
            upstream: mirror.upstream(name)?,
            is_local: self.local.contains(name),
        })
    }

    pub(crate) fn registries(&self) -> &[MirroredRegistry] {
        &self.registries
    }

    pub(crate) fn shared(&self) -> &MirrorShared {
        &self.shared
    }

    /// Reads the counts of the clients.
    pub fn update_metrics(&self) {
        for MirroredRegistry { options, client } in self.registries.iter() {
            let (namespace, statistics) = (&options.name.namespace, client.statistics());
            let metrics = &self.shared.metrics.mirror;
            for (kind, outcome, count) in statistics.requests {
                metrics.set_requests(namespace, kind.as_str(), outcome.as_str(), count);
            }
            metrics.set_received(namespace, statistics.bytes);
            if let Some(remaining) = client.rate_limit().and_then(|limit| limit.remaining) {
                metrics.set_rate_limit(namespace, remaining);
            }
        }
        self.shared.metrics.mirror.set_memory(self.shared.flights.memory_used());
    }

    /// How many bytes of memory blobs on their way to readers have reserved.
    pub fn memory_used(&self) -> u64 {
        self.shared.flights.memory_used()
    }
}

impl MirrorRepository {
    /// Its local name.
    pub fn name(&self) -> &RepositoryName {
        self.repository.name()
    }

    /// Whether it is mirrored by the settings.
    pub(crate) fn is_allowed(&self) -> bool {
        self.registry.options.allows(&self.upstream)
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.registry.options.name.namespace
    }
}
