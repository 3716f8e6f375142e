//! The mirrors of other registries, as the settings have them.

use std::sync::Arc;

use jreg_client::EnvironmentVariables;
use jreg_config::Settings;
use jreg_mirror::Mirrors;
use jreg_registry::Registry;
use jreg_storage::Clock;
use jreg_telemetry::metrics::Metrics;

use crate::error::StartError;
use crate::options;

/// The mirrors of other registries, if the settings name any.
pub(crate) async fn open(
    settings: &Settings,
    registry: &Registry,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Mirrors>, StartError> {
    if settings.mirrors.is_empty() {
        return Ok(None);
    }
    let environment = EnvironmentVariables::new(std::env::vars());
    let (mirrors, limits) = (settings.mirrors.clone(), options::mirrors(settings));
    let (clock, metrics) = (Arc::clone(clock), Arc::clone(metrics));
    let mirrors = Mirrors::open(mirrors, limits, &environment, registry, clock, metrics)?;
    let mirrors = mirrors.find_local().await.map_err(StartError::LocalRepositories)?;
    Ok(Some(mirrors))
}
