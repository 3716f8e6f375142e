//! [`UiRoute`]: a request line below `/ui/` as one value.
//!
//! ```text
//! /ui/                               the repositories
//! /ui/-/<page>                       what belongs to no repository
//! /ui/<name>                         a repository
//! /ui/<name>/-/<page>                a page of it
//! /ui/<name>:<tag>                   an image
//! /ui/<name>@<digest>
//! ```
//!
//! No component of a name is `-`, so the two kinds of pages are never the same path.

use jreg_oci::{
    Digest, PATH_BYTES_MAX, QUERY_BYTES_MAX, Reference, RepositoryName, RouteError, Tag,
    percent_decode,
};

use super::query::UiQuery;

/// A page, and its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UiRoute {
    pub(crate) page: UiPage,
    pub(crate) query: UiQuery,
}

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UiPage {
    Asset {
        name: String,
    },
    Repositories,
    Search,
    Usage,
    Activity,
    Mirrors,
    /// The page to log in (GET), and a password (POST).
    Login,
    /// The beginning of a login at an OpenID provider.
    LoginBegin {
        issuer: String,
    },
    /// Where the provider sends the browser back to.
    LoginCallback {
        issuer: String,
    },
    Logout,
    /// Who is logged in (GET), and a token for `docker login` (POST).
    Account,
    /// Access tokens (GET), and a new one (POST).
    AccessTokens,
    AccessTokenRevoke,
    PolicyTest,
    Repository {
        name: RepositoryName,
    },
    Image {
        name: RepositoryName,
        reference: Reference,
    },
    Manifests {
        name: RepositoryName,
    },
    Deleted {
        name: RepositoryName,
    },
    Lifecycle {
        name: RepositoryName,
    },
    RepositoryUsage {
        name: RepositoryName,
    },
    History {
        name: RepositoryName,
        tag: Tag,
    },
    Referrers {
        name: RepositoryName,
        digest: Digest,
    },
    Kept {
        name: RepositoryName,
        digest: Digest,
    },
    /// A blob as a download.
    Blob {
        name: RepositoryName,
        digest: Digest,
    },
    /// The question (GET), and the delete (POST).
    Delete {
        name: RepositoryName,
    },
    RestoreTag {
        name: RepositoryName,
    },
    RestoreManifest {
        name: RepositoryName,
    },
}

/// A row of the table of pages.
#[derive(Clone, Copy, Debug)]
pub struct UiRouteInfo {
    /// Its name in logs and metrics.
    pub id: &'static str,
    pub methods: &'static [&'static str],
    /// With `{name}`, `{tag}`, `{digest}`, `{issuer}` and `{asset}`.
    pub template: &'static str,
}

const fn route(
    id: &'static str,
    methods: &'static [&'static str],
    template: &'static str,
) -> UiRouteInfo {
    UiRouteInfo { id, methods, template }
}

/// Every page. A path of a page that is not here serves no method.
pub const UI_ROUTES: &[UiRouteInfo] = &[
    route("ui-asset", READ, "/ui/-/assets/{asset}"),
    route("ui-repositories", READ, "/ui/"),
    route("ui-search", READ, "/ui/-/search?q={name}:{tag}"),
    route("ui-usage", READ, "/ui/-/usage?count=yes"),
    route("ui-activity", READ, "/ui/-/activity"),
    route("ui-mirrors", READ, "/ui/-/mirrors?count=yes"),
    route("ui-login", QUESTION, "/ui/-/login"),
    route("ui-login-begin", VISIT, "/ui/-/login/oidc/{issuer}"),
    route("ui-login-callback", VISIT, "/ui/-/login/oidc/{issuer}/callback"),
    route("ui-logout", FORM, "/ui/-/logout"),
    route("ui-account", QUESTION, "/ui/-/account"),
    route("ui-access-tokens", QUESTION, "/ui/-/admin"),
    route("ui-access-token-revoke", FORM, "/ui/-/admin/revoke"),
    route("ui-policy-test", READ, "/ui/-/admin/policy"),
    route("ui-repository", READ, "/ui/{name}"),
    route("ui-image", READ, "/ui/{name}:{tag}"),
    route("ui-image", READ, "/ui/{name}@{digest}"),
    route("ui-manifests", READ, "/ui/{name}/-/manifests"),
    route("ui-deleted", READ, "/ui/{name}/-/deleted"),
    route("ui-lifecycle", READ, "/ui/{name}/-/lifecycle"),
    route("ui-repository-usage", READ, "/ui/{name}/-/usage?count=yes"),
    route("ui-history", READ, "/ui/{name}/-/history/{tag}"),
    route("ui-referrers", READ, "/ui/{name}/-/referrers/{digest}?tag={tag}"),
    route("ui-kept", READ, "/ui/{name}/-/kept/{digest}?tag={tag}"),
    route("ui-blob", READ, "/ui/{name}/-/blob/{digest}"),
    route("ui-delete", QUESTION, "/ui/{name}/-/delete?tag={tag}"),
    route("ui-restore-tag", FORM, "/ui/{name}/-/restore-tag"),
    route("ui-restore-manifest", FORM, "/ui/{name}/-/restore-manifest"),
];

const READ: &[&str] = &["GET", "HEAD"];
const QUESTION: &[&str] = &["GET", "HEAD", "POST"];
const FORM: &[&str] = &["POST"];
/// What begins or ends a login at a provider, once.
const VISIT: &[&str] = &["GET"];

impl UiRoute {
    /// Parses a request line.
    ///
    /// # Errors
    ///
    /// [`RouteError`].
    pub(crate) fn parse(method: &str, path: &str, query: Option<&str>) -> Result<Self, RouteError> {
        let query = query.unwrap_or_default();
        for (part, max_bytes) in [(path, PATH_BYTES_MAX), (query, QUERY_BYTES_MAX)] {
            if part.len() > max_bytes {
                return Err(RouteError::PathTooLong { max_bytes });
            }
        }
        let path = path.strip_prefix("/ui").ok_or(RouteError::NotFound)?;
        let path = percent_decode(path).ok_or(RouteError::NotFound)?;
        let page = match path.strip_prefix('/') {
            Some(rest) => UiPage::parse(rest),
            None => path.is_empty().then_some(UiPage::Repositories),
        };
        let page = page.ok_or(RouteError::NotFound)?;
        let allowed = page.methods();
        if !allowed.contains(&method) {
            return Err(RouteError::MethodNotAllowed { allowed });
        }
        Ok(Self { page, query: UiQuery::parse(query) })
    }
}

impl UiPage {
    /// `None`: there is no such page. An invalid name is none either: what cannot exist is not found.
    fn parse(path: &str) -> Option<Self> {
        if path.is_empty() {
            return Some(Self::Repositories);
        }
        if let Some(service) = path.strip_prefix("-/") {
            return Self::service(service);
        }
        if let Some((name, page)) = path.split_once("/-/") {
            return Self::of_repository(name.parse().ok()?, page);
        }
        if let Some((name, digest)) = path.split_once('@') {
            let reference = Reference::Digest(digest.parse().ok()?);
            return Some(Self::Image { name: name.parse().ok()?, reference });
        }
        if let Some((name, tag)) = path.split_once(':') {
            let reference = Reference::Tag(tag.parse().ok()?);
            return Some(Self::Image { name: name.parse().ok()?, reference });
        }
        let name = path.strip_suffix('/').unwrap_or(path).parse().ok()?;
        Some(Self::Repository { name })
    }

    fn service(path: &str) -> Option<Self> {
        match path.split_once('/').unwrap_or((path, "")) {
            ("assets", name) => Some(Self::Asset { name: name.to_owned() }),
            ("search", "") => Some(Self::Search),
            ("usage", "") => Some(Self::Usage),
            ("activity", "") => Some(Self::Activity),
            ("mirrors", "") => Some(Self::Mirrors),
            ("login", "") => Some(Self::Login),
            ("login", at) => Self::provider(at.strip_prefix("oidc/")?),
            ("logout", "") => Some(Self::Logout),
            ("account", "") => Some(Self::Account),
            ("admin", "") => Some(Self::AccessTokens),
            ("admin", "revoke") => Some(Self::AccessTokenRevoke),
            ("admin", "policy") => Some(Self::PolicyTest),
            _ => None,
        }
    }

    fn provider(path: &str) -> Option<Self> {
        match path.split_once('/') {
            None => Some(Self::LoginBegin { issuer: path.to_owned() }),
            Some((issuer, "callback")) => Some(Self::LoginCallback { issuer: issuer.to_owned() }),
            Some(_) => None,
        }
    }

    /// Whether it is for those who are not logged in, or log out.
    pub(crate) fn is_login(&self) -> bool {
        matches!(
            self,
            Self::Login | Self::LoginBegin { .. } | Self::LoginCallback { .. } | Self::Logout
        )
    }

    fn of_repository(name: RepositoryName, path: &str) -> Option<Self> {
        let (page, argument) = path.split_once('/').unwrap_or((path, ""));
        match (page, argument) {
            ("tags", "") => Some(Self::Repository { name }),
            ("manifests", "") => Some(Self::Manifests { name }),
            ("deleted", "") => Some(Self::Deleted { name }),
            ("lifecycle", "") => Some(Self::Lifecycle { name }),
            ("usage", "") => Some(Self::RepositoryUsage { name }),
            ("delete", "") => Some(Self::Delete { name }),
            ("restore-tag", "") => Some(Self::RestoreTag { name }),
            ("restore-manifest", "") => Some(Self::RestoreManifest { name }),
            ("history", tag) => Some(Self::History { name, tag: tag.parse().ok()? }),
            ("referrers", digest) => Some(Self::Referrers { name, digest: digest.parse().ok()? }),
            ("kept", digest) => Some(Self::Kept { name, digest: digest.parse().ok()? }),
            ("blob", digest) => Some(Self::Blob { name, digest: digest.parse().ok()? }),
            _ => None,
        }
    }

    /// The methods that it is served with, by the table.
    fn methods(&self) -> &'static [&'static str] {
        let row = UI_ROUTES.iter().find(|row| row.id == self.id());
        row.map_or(&[], |row| row.methods)
    }

    /// Its name in logs and metrics.
    pub(crate) fn id(&self) -> &'static str {
        match self {
            Self::Asset { .. } => "ui-asset",
            Self::Repositories => "ui-repositories",
            Self::Search => "ui-search",
            Self::Usage => "ui-usage",
            Self::Activity => "ui-activity",
            Self::Mirrors => "ui-mirrors",
            Self::Login => "ui-login",
            Self::LoginBegin { .. } => "ui-login-begin",
            Self::LoginCallback { .. } => "ui-login-callback",
            Self::Logout => "ui-logout",
            Self::Account => "ui-account",
            Self::AccessTokens => "ui-access-tokens",
            Self::AccessTokenRevoke => "ui-access-token-revoke",
            Self::PolicyTest => "ui-policy-test",
            Self::Repository { .. } => "ui-repository",
            Self::Image { .. } => "ui-image",
            Self::Manifests { .. } => "ui-manifests",
            Self::Deleted { .. } => "ui-deleted",
            Self::Lifecycle { .. } => "ui-lifecycle",
            Self::RepositoryUsage { .. } => "ui-repository-usage",
            Self::History { .. } => "ui-history",
            Self::Referrers { .. } => "ui-referrers",
            Self::Kept { .. } => "ui-kept",
            Self::Blob { .. } => "ui-blob",
            Self::Delete { .. } => "ui-delete",
            Self::RestoreTag { .. } => "ui-restore-tag",
            Self::RestoreManifest { .. } => "ui-restore-manifest",
        }
    }

    pub(crate) fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Asset { .. }
            | Self::Repositories
            | Self::Search
            | Self::Usage
            | Self::Activity
            | Self::Mirrors
            | Self::Login
            | Self::LoginBegin { .. }
            | Self::LoginCallback { .. }
            | Self::Logout
            | Self::Account
            | Self::AccessTokens
            | Self::AccessTokenRevoke
            | Self::PolicyTest => None,
            Self::Repository { name }
            | Self::Image { name, .. }
            | Self::Manifests { name }
            | Self::Deleted { name }
            | Self::Lifecycle { name }
            | Self::RepositoryUsage { name }
            | Self::History { name, .. }
            | Self::Referrers { name, .. }
            | Self::Kept { name, .. }
            | Self::Blob { name, .. }
            | Self::Delete { name }
            | Self::RestoreTag { name }
            | Self::RestoreManifest { name } => Some(name),
        }
    }

    /// The tag or digest, for the log.
    pub(crate) fn reference(&self) -> Option<String> {
        match self {
            Self::Image { reference, .. } => Some(reference.to_string()),
            Self::History { tag, .. } => Some(tag.to_string()),
            Self::Referrers { digest, .. }
            | Self::Kept { digest, .. }
            | Self::Blob { digest, .. } => Some(digest.to_string()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn page(method: &str, path: &str) -> Result<&'static str, RouteError> {
        UiRoute::parse(method, path, None).map(|route| route.page.id())
    }

    #[test]
    fn paths_are_pages() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (path, id) in [
            ("/ui", "ui-repositories"),
            ("/ui/", "ui-repositories"),
            ("/ui/-/search", "ui-search"),
            ("/ui/-/activity", "ui-activity"),
            ("/ui/-/usage", "ui-usage"),
            ("/ui/-/mirrors", "ui-mirrors"),
            ("/ui/-/login", "ui-login"),
            ("/ui/-/login/oidc/company", "ui-login-begin"),
            ("/ui/-/login/oidc/company/callback", "ui-login-callback"),
            ("/ui/-/account", "ui-account"),
            ("/ui/-/admin", "ui-access-tokens"),
            ("/ui/-/admin/policy", "ui-policy-test"),
            ("/ui/-/assets/x.css", "ui-asset"),
            ("/ui/login", "ui-repository"),
            ("/ui/library/nginx", "ui-repository"),
            ("/ui/library/nginx/", "ui-repository"),
            ("/ui/library%2Fnginx", "ui-repository"),
            ("/ui/library/nginx/-/tags", "ui-repository"),
            ("/ui/library/nginx:1.27", "ui-image"),
            (&format!("/ui/library/nginx@{digest}"), "ui-image"),
            ("/ui/a/-/history/1.27", "ui-history"),
            ("/ui/a/-/deleted", "ui-deleted"),
            ("/ui/a/-/manifests", "ui-manifests"),
            ("/ui/a/-/lifecycle", "ui-lifecycle"),
            ("/ui/a/-/usage", "ui-repository-usage"),
            ("/ui/a/-/delete", "ui-delete"),
            (&format!("/ui/a/-/referrers/{digest}"), "ui-referrers"),
            (&format!("/ui/a/-/kept/{digest}"), "ui-kept"),
            (&format!("/ui/a/-/blob/{digest}"), "ui-blob"),
        ] {
            assert_eq!(page("GET", path).unwrap(), id, "{path}");
        }
        for path in [
            "/ui/A",
            "/ui/a/-/",
            "/ui/-/",
            "/ui/-/nothing",
            "/ui/-/login/x",
            "/ui/-/login/oidc/a/b",
            "/ui/-/login/oidc/a/callback/x",
            "/ui/-/admin/x",
            "/ui/a:",
            "/ui/a@x",
            "/ui/a/-/x",
            "/ui/%zz",
            "/uix",
            "/ui/a/-/history/",
            "/ui/../x",
        ] {
            assert!(matches!(page("GET", path), Err(RouteError::NotFound)), "{path}");
        }
        let long = format!("/ui/{}", "a".repeat(PATH_BYTES_MAX));
        assert!(matches!(page("GET", &long), Err(RouteError::PathTooLong { .. })));
    }

    #[test]
    fn the_table_of_pages_is_what_is_parsed() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for info in UI_ROUTES {
            let target = info.template.replace("{name}", "a/b").replace("{tag}", "v1");
            let target = target.replace("{digest}", &digest);
            let target = target.replace("{issuer}", "company").replace("{asset}", "style.css");
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            let route = UiRoute::parse(info.methods[0], path, Some(query)).unwrap();
            assert_eq!((route.page.id(), route.page.methods()), (info.id, info.methods));
        }
    }

    #[test]
    fn only_forms_are_posted() {
        for path in [
            "/ui/a/-/restore-tag",
            "/ui/a/-/restore-manifest",
            "/ui/a/-/delete",
            "/ui/-/login",
            "/ui/-/logout",
            "/ui/-/account",
            "/ui/-/admin",
            "/ui/-/admin/revoke",
        ] {
            assert!(page("POST", path).is_ok(), "{path}");
        }
        for path in ["/ui/-/logout", "/ui/-/admin/revoke"] {
            assert!(page("GET", path).is_err(), "{path}");
        }
        for path in ["/ui/-/login/oidc/a", "/ui/-/login/oidc/a/callback", "/ui/-/admin/policy"] {
            assert!(page("POST", path).is_err() && page("GET", path).is_ok(), "{path}");
        }
        assert!(matches!(
            page("GET", "/ui/a/-/restore-tag"),
            Err(RouteError::MethodNotAllowed { .. })
        ));
        for path in ["/ui/", "/ui/a", "/ui/a:1", "/ui/-/search"] {
            for method in ["POST", "PUT", "DELETE", "PATCH", "get"] {
                assert!(
                    matches!(page(method, path), Err(RouteError::MethodNotAllowed { .. })),
                    "{path}"
                );
            }
        }
    }
}
