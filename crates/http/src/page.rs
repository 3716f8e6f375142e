//! Pagination: the requested page, and the Link to the next.

use http::HeaderValue;
use jreg_oci::PageParams;
use jreg_registry::PageRequest;

use crate::headers;

/// What an operator can set about pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageOptions<'a> {
    /// Maximum number of items.
    pub(crate) items_max: usize,
    /// Precedes the path of a Link.
    pub(crate) public_url: &'a str,
}

impl PageOptions<'_> {
    /// The requested page. A larger `n` is reduced to the limit, not refused: clients follow the Link.
    pub(crate) fn request(self, page: PageParams) -> PageRequest {
        let limit = page.n.unwrap_or(self.items_max).min(self.items_max);
        PageRequest { limit, last: page.last }
    }

    /// The Link to the page after `last` (RFC 8288).
    pub(crate) fn link(
        self,
        path: &str,
        limit: usize,
        last: &str,
        filter: Option<(&str, &str)>,
    ) -> HeaderValue {
        let filter = filter.map(|(name, value)| (name, Some(value.to_owned())));
        let last = ("last", Some(last.to_owned()));
        let parameters: Vec<_> = std::iter::once(last).chain(filter).collect();
        self.link_to(path, limit, &parameters)
    }

    /// The Link to the page with these parameters.
    pub(crate) fn link_to(
        self,
        path: &str,
        limit: usize,
        parameters: &[(&str, Option<String>)],
    ) -> HeaderValue {
        let mut target = format!("{}{path}?n={limit}", self.public_url);
        for (name, value) in parameters {
            if let Some(value) = value {
                target.push_str(&format!("&{name}={}", encode(value)));
            }
        }
        headers::value(&format!("<{target}>; rel=\"next\""))
    }
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

    fn options() -> PageOptions<'static> {
        PageOptions { items_max: 1000, public_url: "" }
    }

    #[test]
    fn a_page_is_cut_to_the_limit() {
        for (n, limit) in [(None, 1000), (Some(0), 0), (Some(5), 5), (Some(usize::MAX), 1000)] {
            let page = PageParams { n, last: Some("x".to_owned()) };
            let expected = PageRequest { limit, last: Some("x".to_owned()) };
            assert_eq!(options().request(page), expected);
        }
    }

    #[test]
    fn a_link_leads_to_the_next_page() {
        let plain = options().link("/v2/a/b/tags/list", 2, "v1.0_x-y", None);
        assert_eq!(plain, r#"</v2/a/b/tags/list?n=2&last=v1.0_x-y>; rel="next""#);
        let filter = Some(("artifactType", "application/vnd.a+json"));
        let path = "/v2/a/referrers/sha256:0";
        assert_eq!(
            options().link(path, 1000, "sha256:1", filter),
            r#"</v2/a/referrers/sha256:0?n=1000&last=sha256:1&artifactType=application/vnd.a%2Bjson>; rel="next""#
        );
    }

    #[test]
    fn a_link_stands_below_the_public_address() {
        let options = PageOptions { public_url: "https://a.example/base", ..options() };
        assert_eq!(
            options.link("/v2/_catalog", 1, "a/b", None),
            r#"<https://a.example/base/v2/_catalog?n=1&last=a/b>; rel="next""#
        );
    }
}
