//! Eviction of what is not pulled any more.

use jreg_registry::{Error, EvictionOptions, EvictionReport};

use crate::Mirrors;

impl Mirrors {
    /// Evicts what the settings of the mirrors do not keep, and tidies up claims.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub async fn evict(&self) -> Result<EvictionReport, Error> {
        let mut all = EvictionReport::default();
        for registry in self.registries() {
            let options = &registry.options;
            if !options.evicts() {
                continue;
            }
            let prefix = options.name.prefix.clone();
            let (keep, bytes_max) = (options.keep, options.bytes_max);
            let wanted = EvictionOptions { prefix, keep, bytes_max };
            let report = self.shared().registry.evict(&wanted).await?;
            self.shared().metrics.mirror.count_evicted(&options.name.namespace, report.evicted);
            self.shared().runs.note_eviction(&options.name.namespace, report);
            all.manifests += report.manifests;
            all.evicted += report.evicted;
            all.kept_bytes += report.kept_bytes;
            all.evicted_bytes += report.evicted_bytes;
        }
        self.shared().registry.tidy_fills().await?;
        Ok(all)
    }
}
