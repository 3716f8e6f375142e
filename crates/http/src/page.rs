//! Pagination: the requested page, and the Link to the next.

use http::HeaderValue;
use jreg_registry::PageRequest;

use super::{HttpOptions, headers};

/// The requested page. A larger `n` is reduced to the limit, not refused: clients follow the Link.
pub(super) fn request(page: jreg_oci::PageParams, options: &HttpOptions) -> PageRequest {
    let limit = page.n.unwrap_or(options.page_items_max).min(options.page_items_max);
    PageRequest { limit, last: page.last }
}

/// The Link to the page after `last` (RFC 8288).
pub(super) fn link(
    options: &HttpOptions,
    path: &str,
    limit: usize,
    last: &str,
    filter: Option<(&str, &str)>,
) -> HeaderValue {
    let filter =
        filter.map_or_else(String::new, |(name, value)| format!("&{name}={}", encode(value)));
    let target = format!("{}{path}?n={limit}&last={}{filter}", options.public_url, encode(last));
    headers::value(&format!("<{target}>; rel=\"next\""))
}

/// Percent-encodes a query value; slashes and colons are allowed there.
fn encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> HttpOptions {
        HttpOptions::default()
    }

    #[test]
    fn a_page_is_cut_to_the_limit() {
        for (n, limit) in [(None, 1000), (Some(0), 0), (Some(5), 5), (Some(usize::MAX), 1000)] {
            let page = jreg_oci::PageParams { n, last: Some("x".to_owned()) };
            let expected = PageRequest { limit, last: Some("x".to_owned()) };
            assert_eq!(request(page, &options()), expected);
        }
    }

    #[test]
    fn a_link_leads_to_the_next_page() {
        let plain = link(&options(), "/v2/a/b/tags/list", 2, "v1.0_x-y", None);
        assert_eq!(plain, r#"</v2/a/b/tags/list?n=2&last=v1.0_x-y>; rel="next""#);
        let filter = Some(("artifactType", "application/vnd.a+json"));
        let path = "/v2/a/referrers/sha256:0";
        assert_eq!(
            link(&options(), path, 1000, "sha256:1", filter),
            r#"</v2/a/referrers/sha256:0?n=1000&last=sha256:1&artifactType=application/vnd.a%2Bjson>; rel="next""#
        );
    }

    #[test]
    fn a_link_stands_below_the_public_address() {
        let options = HttpOptions { public_url: "https://a.example/base".into(), ..options() };
        assert_eq!(
            link(&options, "/v2/_catalog", 1, "a/b", None),
            r#"<https://a.example/base/v2/_catalog?n=1&last=a/b>; rel="next""#
        );
    }
}
