//! Addresses: paths of pages, and links that clients pushed.

use jreg_oci::{Digest, Reference, RepositoryName, Tag};
use maud::{Markup, html};

use crate::text;

/// Maximum length of an external address that becomes a link.
const URL_BYTES_MAX: usize = 2000;

/// Paths of pages below the path of `public-url`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// Without a slash at its end.
    base: String,
}

impl Paths {
    /// Paths below the path of this address, which may be empty.
    pub fn new(public_url: &str) -> Self {
        let after_scheme = public_url.split_once("://").map_or(public_url, |(_, rest)| rest);
        let path = after_scheme.find('/').and_then(|slash| after_scheme.get(slash..));
        Self { base: path.unwrap_or_default().trim_end_matches('/').to_owned() }
    }

    /// The list of repositories.
    pub fn home(&self) -> String {
        format!("{}/ui/", self.base)
    }

    /// A path below `/ui/` that a request had, as a browser has it.
    pub fn returning(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// A page that belongs to no repository: `activity`, `login`.
    pub fn service(&self, page: &str) -> String {
        format!("{}/ui/-/{page}", self.base)
    }

    pub fn asset(&self, name: &str) -> String {
        format!("{}/ui/-/assets/{name}", self.base)
    }

    pub fn repository(&self, name: &RepositoryName) -> String {
        format!("{}/ui/{name}", self.base)
    }

    /// A page of a repository: `deleted`, `history/<tag>`.
    pub fn repository_page(&self, name: &RepositoryName, page: &str) -> String {
        format!("{}/ui/{name}/-/{page}", self.base)
    }

    pub fn tag(&self, name: &RepositoryName, tag: &Tag) -> String {
        format!("{}/ui/{name}:{tag}", self.base)
    }

    pub fn manifest(&self, name: &RepositoryName, digest: &Digest) -> String {
        format!("{}/ui/{name}@{digest}", self.base)
    }

    pub fn reference(&self, name: &RepositoryName, reference: &Reference) -> String {
        match reference {
            Reference::Tag(tag) => self.tag(name, tag),
            Reference::Digest(digest) => self.manifest(name, digest),
        }
    }
}

/// A path with query parameters; those without a value are left out.
pub fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut target = path.to_owned();
    let mut separator = '?';
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        target.push(separator);
        target.push_str(name);
        target.push('=');
        target.push_str(&encode(value));
        separator = '&';
    }
    target
}

/// Percent-encodes a query value.
pub fn encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~/:@".contains(&byte) {
            true => encoded.push(char::from(byte)),
            false => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A value that may be an address: a link if it is one that shows where it leads, else text.
pub fn external(value: &str) -> Markup {
    if !is_linkable(value) {
        return text::line(value);
    }
    html! { a class="external" href=(value) rel="noopener nofollow ugc" { (text::line(value)) } }
}

/// Whether an address is `http` or `https`, names its host plainly, and has only visible ASCII.
pub fn is_linkable(url: &str) -> bool {
    let lower = url.get(..8).unwrap_or(url).to_ascii_lowercase();
    let Some(scheme) = ["https://", "http://"].into_iter().find(|scheme| lower.starts_with(scheme))
    else {
        return false;
    };
    let rest = url.get(scheme.len()..).unwrap_or_default();
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    url.len() <= URL_BYTES_MAX
        && !host.is_empty()
        && !host.contains('@')
        && url.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'<>\\`".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_web_addresses_become_links() {
        for good in ["https://a.example/x?y=1#z", "HTTP://a.example", "http://[::1]:8080/"] {
            assert!(is_linkable(good), "{good}");
        }
        for bad in [
            "javascript:alert(1)",
            "data:text/html,x",
            "//a.example",
            "https://",
            "https://google.com@evil.example/",
            "https://a.example/\u{202e}",
            "https://a.example/ b",
            "https://a.example\\@b",
            " https://a.example",
            "https:/a.example",
            "ftp://a.example",
            "https://a.example/\"onclick=1",
        ] {
            assert!(!is_linkable(bad), "{bad}");
            assert!(!external(bad).into_string().contains("<a"), "{bad}");
        }
        let link = external("https://a.example/?a&b").into_string();
        let expected = "<a class=\"external\" href=\"https://a.example/?a&amp;b\" \
                        rel=\"noopener nofollow ugc\"><bdi>https://a.example/?a&amp;b</bdi></a>";
        assert_eq!(link, expected);
    }

    #[test]
    fn paths_are_below_the_path_of_the_public_address() {
        for (url, home) in [
            ("", "/ui/"),
            ("https://a.example", "/ui/"),
            ("https://a.example/base", "/base/ui/"),
            ("https://a.example/b/c/", "/b/c/ui/"),
        ] {
            assert_eq!(Paths::new(url).home(), home);
        }
        let path = with_query("/ui/a", &[("after", "v1+2 &"), ("q", "")]);
        assert_eq!(path, "/ui/a?after=v1%2B2%20%26");
    }
}
