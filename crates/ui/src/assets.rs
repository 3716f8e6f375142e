//! The stylesheet, the script and the icon, under names that change with their content.

use std::sync::OnceLock;

/// For assets: a name is never used again for other content.
pub const ASSET_CACHE_CONTROL: &str = "public, max-age=31536000, immutable";

/// A file that pages refer to.
#[derive(Debug)]
pub struct Asset {
    stem: &'static str,
    extension: &'static str,
    pub content_type: &'static str,
    pub bytes: &'static [u8],
    name: OnceLock<String>,
}

pub(crate) static STYLE: Asset =
    Asset::new("style", "css", "text/css; charset=utf-8", include_bytes!("../assets/style.css"));
pub(crate) static SCRIPT: Asset = Asset::new(
    "script",
    "js",
    "text/javascript; charset=utf-8",
    include_bytes!("../assets/script.js"),
);
pub(crate) static ICON: Asset =
    Asset::new("icon", "svg", "image/svg+xml", include_bytes!("../assets/icon.svg"));

/// The asset of this name.
pub fn find_asset(name: &str) -> Option<&'static Asset> {
    [&STYLE, &SCRIPT, &ICON].into_iter().find(|asset| asset.name() == name)
}

impl Asset {
    const fn new(
        stem: &'static str,
        extension: &'static str,
        content_type: &'static str,
        bytes: &'static [u8],
    ) -> Self {
        Self { stem, extension, content_type, bytes, name: OnceLock::new() }
    }

    /// The name with a hash of the content.
    pub fn name(&self) -> &str {
        self.name.get_or_init(|| {
            format!("{}-{:016x}.{}", self.stem, fingerprint(self.bytes), self.extension)
        })
    }
}

/// FNV-1a: the content is ours, so nobody looks for collisions.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE_BYTES_MAX: usize = 20 * 1024;
    const SCRIPT_BYTES_MAX: usize = 4 * 1024;

    #[test]
    fn assets_are_small_and_found_by_name() {
        assert!(STYLE.bytes.len() <= STYLE_BYTES_MAX, "{}", STYLE.bytes.len());
        assert!(SCRIPT.bytes.len() <= SCRIPT_BYTES_MAX, "{}", SCRIPT.bytes.len());
        for asset in [&STYLE, &SCRIPT, &ICON] {
            assert_eq!(find_asset(asset.name()).map(|found| found.bytes), Some(asset.bytes));
        }
        assert!(find_asset("style.css").is_none());
    }

    #[test]
    fn the_stylesheet_loads_nothing_from_elsewhere() {
        let style = std::str::from_utf8(STYLE.bytes).expect("the stylesheet is UTF-8");
        for banned in ["url(", "@import", "http"] {
            assert!(!style.contains(banned), "{banned}");
        }
    }
}
