//! [`Mirrors`]: all mirrors of a registry, and [`MirrorRepository`], one repository of one of them.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_client::{
    BreakerStatus, EnvironmentVariables, RateLimit, UpstreamClient, UpstreamOptions,
    UpstreamOutcome, UpstreamSetupError, UpstreamTracing, UpstreamUrl,
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
use crate::runs::{LastRuns, MirrorRuns};
use crate::{MirrorLimits, MirrorOptions};

/// Maximum number of repositories below the prefixes of mirrors that are looked at for tags of clients.
const LOCAL_NAMES_MAX: usize = 10_000;

/// How many of them at the same time.
const LOOKS_AT_ONCE: usize = 16;

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
    pub(crate) runs: MirrorRuns,
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

/// What is known of a mirrored registry, since this process started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorStatus {
    pub namespace: String,
    /// The local repositories are below this.
    pub prefix: RepositoryName,
    /// Where it is, in the order in which they are tried.
    pub upstream: Vec<String>,
    pub requests: u64,
    /// Those that found the registry not working, or allowing no more.
    pub failed: u64,
    pub limited: u64,
    pub received_bytes: u64,
    pub rate_limit: Option<RateLimit>,
    /// Each URL of the registry, and whether requests are sent to it.
    pub breakers: Vec<(UpstreamUrl, BreakerStatus)>,
    pub runs: LastRuns,
    pub options: Arc<MirrorOptions>,
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
    /// Repositories below a prefix to which clients have pushed tags.
    local: Arc<HashSet<RepositoryName>>,
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
            referrers: ReferrersMemo::new(Arc::clone(&clock)),
            runs: MirrorRuns::new(clock),
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
            let last = Some(mirror.prefix.to_string());
            let mut page = PageRequest { limit: LIST_KEYS_MAX, last };
            let mut examined = 0;
            loop {
                let found = self.shared.registry.catalog(&page).await?;
                let count = found.items.len();
                let names =
                    found.items.into_iter().filter(|name| name.as_str().starts_with(&below));
                let names: Vec<_> = names.take(LOCAL_NAMES_MAX - examined).collect();
                examined += names.len();
                let is_end = names.len() < count || examined == LOCAL_NAMES_MAX;
                for name in self.with_tags(names).await? {
                    tracing::warn!(repository = %name, mirror = mirror.namespace, "a repository below the prefix of a mirror has tags that clients have pushed: these are served");
                    local.insert(name);
                }
                match found.next.filter(|_| !is_end) {
                    Some(next) => page.last = Some(next),
                    None => break,
                }
            }
        }
        self.local = Arc::new(local);
        Ok(self)
    }

    /// Those repositories to which clients have pushed tags.
    async fn with_tags(
        &self,
        names: Vec<RepositoryName>,
    ) -> Result<Vec<RepositoryName>, jreg_registry::Error> {
        let looks = names.into_iter().map(|name| {
            let repository = self.shared.registry.repository(name.clone());
            async move { repository.has_tags().await.map(|has| has.then_some(name)) }
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let looks: Vec<_> = looks.collect();
        let found: Vec<_> = stream::iter(looks).buffered(LOOKS_AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The repository of a mirrored registry that a local name means; `None`: the name is local.
    pub fn repository(&self, name: &RepositoryName) -> Option<MirrorRepository> {
        let (index, mirror) = self.names.of_repository(name)?;
        Some(MirrorRepository {
            registry: self.registries.get(index)?.clone(),
            shared: Arc::clone(&self.shared),
            repository: self.shared.registry.repository(name.clone()),
            upstream: mirror.upstream(name)?,
            local: Arc::clone(&self.local),
        })
    }

    pub(crate) fn registries(&self) -> &[MirroredRegistry] {
        &self.registries
    }

    pub(crate) fn shared(&self) -> &MirrorShared {
        &self.shared
    }

    /// The namespace of the registry that a local name belongs to; `None`: the name is local.
    pub fn namespace_of(&self, name: &RepositoryName) -> Option<&str> {
        self.names.of_repository(name).map(|(_, mirror)| mirror.namespace.as_str())
    }

    /// What is known of each mirrored registry.
    pub fn status(&self) -> Vec<MirrorStatus> {
        let status = self.registries.iter().map(|MirroredRegistry { options, client }| {
            let statistics = client.statistics();
            let count = |outcomes: &[UpstreamOutcome]| {
                let of = statistics.requests.iter().filter(|(_, of, _)| outcomes.contains(of));
                of.map(|(_, _, count)| count).sum()
            };
            MirrorStatus {
                namespace: options.name.namespace.clone(),
                prefix: options.name.prefix.clone(),
                upstream: options.upstream.iter().map(ToString::to_string).collect(),
                requests: statistics.requests.iter().map(|(_, _, count)| count).sum(),
                failed: count(&[UpstreamOutcome::Failed, UpstreamOutcome::Timeout]),
                limited: count(&[UpstreamOutcome::TooManyRequests]),
                received_bytes: statistics.bytes,
                rate_limit: client.rate_limit(),
                breakers: client.breakers(),
                runs: self.shared.runs.of(&options.name.namespace),
                options: Arc::clone(options),
            }
        });
        status.collect()
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

    /// Whether its tags are those that clients have pushed.
    pub fn is_local(&self) -> bool {
        self.local.contains(self.name())
    }

    /// Whether the content of a local repository comes from the same registry.
    pub(crate) fn is_of_same_registry(&self, repository: &RepositoryName) -> bool {
        let name = &self.registry.options.name;
        name.upstream(repository).is_some() && !self.local.contains(repository)
    }

    /// The host of its first address, for errors.
    pub(crate) fn host(&self) -> Arc<str> {
        let upstream = self.registry.options.upstream.first();
        upstream.map_or("", |upstream| upstream.host()).into()
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.registry.options.name.namespace
    }
}
