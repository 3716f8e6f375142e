//! The mirrors of other registries: the tables `[[mirror]]` of the file.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use jreg_auth::Secret;
use jreg_client::{CredentialSource, InvalidCredentialSource, SecretSource, UpstreamUrl};
use jreg_mirror::{MirrorOptions, OnGone, SyncRequest, SyncSelection};
use jreg_oci::{MirrorName, MirrorNames, RepositoryName, RepositoryPattern, UnknownNamespace};
use toml::{Table, Value as TomlValue};

use crate::sinks::{SinkFault as Fault, required, text, texts};
use crate::value::Value;
use crate::{Assignment, ConfigError, Origin, nearest, place_in_file};

/// What the tables are called among the assignments. No flag or variable is.
pub(crate) const MIRRORS: &str = "mirror";

/// Maximum number of mirrors.
const MIRRORS_MAX: usize = 64;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEARS: Duration = Duration::from_secs(3650 * 24 * 3600);

/// How often a schedule fetches at the most.
const SYNC_INTERVAL_MIN: Duration = MINUTE;
/// At how many pulls that a registry still allows a schedule stops, and how many blobs it fetches at the same time:
/// the defaults of `jreg mirror sync`.
const SYNC_RATE_LIMIT_REST: u64 = 10;
const SYNC_JOBS: usize = 4;

/// The namespace of Docker Hub, and what else names it.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

const KEYS: [&str; 27] = [
    "namespace",
    "prefix",
    "aliases",
    "upstream",
    "default-repository-prefix",
    "fresh",
    "fresh-digest",
    "immutable",
    "stale-if-error",
    "on-gone",
    "negative",
    "allow",
    "deny",
    "keep",
    "max-bytes",
    "sync",
    "sync-interval",
    "sync-platforms",
    "sync-referrers",
    "public",
    "credentials",
    "username",
    "password",
    "password-file",
    "token-hosts",
    "private-addresses",
    "ca-file",
];
const REQUESTS_PER_SECOND: &str = "requests-per-second";

/// The assignment of `[[mirror]]`.
pub(crate) fn assignment(
    path: &std::path::Path,
    mirrors: &TomlValue,
) -> Result<Assignment, ConfigError> {
    let origin = Origin::File(path.to_owned());
    let wrong = || mirror_error(path, MIRRORS, "it must be [[mirror]] tables");
    let tables = mirrors.as_array().ok_or_else(wrong)?;
    let texts = tables.iter().map(|mirror| mirror.as_table().map(ToString::to_string));
    let values = texts.collect::<Option<_>>().ok_or_else(wrong)?;
    Ok(Assignment { name: MIRRORS.to_owned(), values, origin })
}

/// The mirrors of an assignment.
pub(crate) fn parse(assignment: &Assignment) -> Result<Vec<MirrorOptions>, ConfigError> {
    let path = match &assignment.origin {
        Origin::File(path) => path.clone(),
        Origin::Flag | Origin::Variable => PathBuf::new(),
    };
    let mut mirrors: Vec<MirrorOptions> = Vec::new();
    for text in &assignment.values {
        let table: Table =
            text.parse().map_err(|_| mirror_error(&path, MIRRORS, "it must be a table"))?;
        let mirror = mirror(&table).map_err(|(key, why)| {
            let key = key.map_or_else(String::new, |key| format!(": {key}"));
            mirror_error(&path, &format!("{MIRRORS}{key}"), &why)
        })?;
        mirrors.push(mirror);
    }
    if mirrors.len() > MIRRORS_MAX {
        let why = format!("there may be {MIRRORS_MAX} mirrors at most");
        return Err(mirror_error(&path, MIRRORS, &why));
    }
    let names = mirrors.iter().map(|mirror| mirror.name.clone()).collect();
    MirrorNames::new(names, UnknownNamespace::Ignore)
        .map_err(|error| mirror_error(&path, MIRRORS, &error.to_string()))?;
    Ok(mirrors)
}

fn mirror_error(path: &std::path::Path, key: &str, why: &str) -> ConfigError {
    ConfigError::Table { place: place_in_file(path, key), why: why.to_owned() }
}

fn mirror(table: &Table) -> Result<MirrorOptions, Fault> {
    let known = || KEYS.into_iter().chain([REQUESTS_PER_SECOND]);
    if let Some(unknown) = table.keys().find(|key| !known().any(|known| known == key.as_str())) {
        let meant = nearest(unknown, known().map(str::to_owned));
        let meant = meant.map_or_else(String::new, |key| format!(", did you mean `{key}`?"));
        return Err((None, format!("unknown key `{unknown}`{meant}")));
    }
    let name = name(table)?;
    let upstream = upstream(table, &name.namespace)?;
    let credentials = credentials(table)?;
    let has_credentials = credentials != CredentialSource::Anonymous;
    let allow = patterns(table, "allow")?;
    let deny = patterns(table, "deny")?;
    if has_credentials && allow.is_empty() {
        let why = "with credentials, the repositories that are mirrored must be named, for example [\"team/**\"]";
        return Err((Some("allow"), why.to_owned()));
    }
    let first = upstream.first();
    if has_credentials && first.is_some_and(|url| url.is_plain() && !url.is_loopback()) {
        let why = "credentials are not sent over plain HTTP: the first must be an https:// address";
        return Err((Some("upstream"), why.to_owned()));
    }
    let sync = sync(table, &name, |upstream| {
        let matches = |patterns: &[RepositoryPattern]| {
            patterns.iter().any(|pattern| pattern.matches(upstream))
        };
        (allow.is_empty() || matches(&allow)) && !matches(&deny)
    })?;
    let stale_default = if has_credentials { HOUR } else { 30 * DAY };
    Ok(MirrorOptions {
        name,
        upstream,
        credentials,
        ca_file: text(table, "ca-file")?.map(PathBuf::from),
        token_hosts: texts(table, "token-hosts")?.unwrap_or_default(),
        private_addresses: flag(table, "private-addresses")?,
        requests_per_second: requests_per_second(table)?,
        fresh: duration(table, "fresh")?.unwrap_or(5 * MINUTE),
        fresh_digest: duration(table, "fresh-digest")?.unwrap_or(DAY),
        immutable: parsed(table, "immutable")?,
        stale_if_error: duration(table, "stale-if-error")?.unwrap_or(stale_default),
        on_gone: on_gone(table)?,
        negative: duration(table, "negative")?.unwrap_or(Duration::from_secs(30)),
        allow,
        deny,
        keep: duration(table, "keep")?,
        bytes_max: size(table, "max-bytes")?,
        sync,
        is_public: flag(table, "public")?,
    })
}

fn name(table: &Table) -> Result<MirrorName, Fault> {
    let namespace = required(table, "namespace")?;
    let is_authority = |b: u8| b.is_ascii_alphanumeric() || b"._-:".contains(&b);
    if namespace.len() > 255 || !namespace.bytes().all(is_authority) {
        let why = "it must be the host of a registry, with its port if it has one";
        return Err((Some("namespace"), why.to_owned()));
    }
    let prefix = match text(table, "prefix")? {
        Some(prefix) => prefix.parse::<RepositoryName>().map_err(|error| error.to_string()),
        None => namespace.parse().map_err(|_| {
            "this namespace is no name of a repository: a prefix must be set".to_owned()
        }),
    };
    let prefix = prefix.map_err(|why| (Some("prefix"), why))?;
    let is_hub = namespace == DOCKER_HUB;
    let aliases = texts(table, "aliases")?.unwrap_or_else(|| match is_hub {
        true => DOCKER_HUB_ALIASES.map(str::to_owned).into(),
        false => Vec::new(),
    });
    let key = "default-repository-prefix";
    let default = text(table, key)?.or_else(|| is_hub.then(|| "library/".to_owned()));
    if let Some(default) = &default {
        let is_name = |name: &str| name.parse::<RepositoryName>().is_ok();
        if !default.strip_suffix('/').is_some_and(is_name) {
            let why = "it must be a name of a repository and a slash, for example library/";
            return Err((Some(key), why.to_owned()));
        }
    }
    Ok(MirrorName { namespace, aliases, prefix, default_repository_prefix: default })
}

/// What is fetched regularly; the names are those at the registry, as in `allow`.
fn sync(
    table: &Table,
    name: &MirrorName,
    is_mirrored: impl Fn(&RepositoryName) -> bool,
) -> Result<Option<(SyncRequest, Duration)>, Fault> {
    let selections: Vec<SyncSelection> = parsed(table, "sync")?;
    let platforms = parsed(table, "sync-platforms")?;
    let interval = duration(table, "sync-interval")?.unwrap_or(DAY);
    let has_referrers = optional_flag(table, "sync-referrers")?.unwrap_or(true);
    if interval < SYNC_INTERVAL_MIN {
        return Err((Some("sync-interval"), "it must be 1m or more".to_owned()));
    }
    if selections.is_empty() {
        return Ok(None);
    }
    let local = |selection: SyncSelection| {
        let upstream = match (&name.default_repository_prefix, selection.name.as_str()) {
            (Some(default), short) if !short.contains('/') => format!("{default}{short}"),
            (_, whole) => whole.to_owned(),
        };
        let wrong = |why: String| (Some("sync"), format!("{selection}: {why}"));
        let upstream: RepositoryName =
            upstream.parse().map_err(|error| wrong(format!("{error}")))?;
        if !is_mirrored(&upstream) {
            return Err(wrong("this repository is not mirrored (allow, deny)".to_owned()));
        }
        let local = format!("{}/{upstream}", name.prefix).parse();
        let local = local.map_err(|error| wrong(format!("{error}")))?;
        Ok(SyncSelection { name: local, ..selection })
    };
    let selections = selections.into_iter().map(local).collect::<Result<_, Fault>>()?;
    let request = SyncRequest {
        selections,
        platforms,
        has_referrers,
        rate_limit_rest: SYNC_RATE_LIMIT_REST,
        jobs: SYNC_JOBS,
        is_dry_run: false,
    };
    Ok(Some((request, interval)))
}

fn upstream(table: &Table, namespace: &str) -> Result<Vec<UpstreamUrl>, Fault> {
    let key = "upstream";
    let wrong = |error: jreg_client::InvalidUpstreamUrl| (Some(key), format!("it {error}"));
    match texts(table, key)? {
        None => Ok(vec![UpstreamUrl::of_registry(namespace).map_err(wrong)?]),
        Some(urls) if urls.is_empty() => Err((Some(key), "it must have an address".to_owned())),
        Some(urls) => urls.iter().map(|url| url.parse().map_err(wrong)).collect(),
    }
}

fn credentials(table: &Table) -> Result<CredentialSource, Fault> {
    let key = "credentials";
    let user = text(table, "username")?;
    let password = match (text(table, "password")?, text(table, "password-file")?) {
        (Some(_), Some(_)) => {
            return Err((Some("password"), "set the password itself or its file".to_owned()));
        }
        (Some(password), None) => Some(SecretSource::Value(Secret::new(password))),
        (None, Some(file)) => Some(SecretSource::File(PathBuf::from(file))),
        (None, None) => None,
    };
    match (user, password, text(table, key)?) {
        (None, None, None) => Ok(CredentialSource::Anonymous),
        (Some(user), Some(password), None) => Ok(CredentialSource::Password { user, password }),
        (None, None, Some(source)) => source
            .parse()
            .map_err(|error: InvalidCredentialSource| (Some(key), format!("it {error}"))),
        (None, _, None) => Err((Some("username"), "it is missing".to_owned())),
        (Some(_), None, None) => Err((Some("password"), "it is missing".to_owned())),
        (_, _, Some(_)) => Err((Some(key), "set this or username and password".to_owned())),
    }
}

fn on_gone(table: &Table) -> Result<OnGone, Fault> {
    match text(table, "on-gone")?.as_deref() {
        None | Some("404") => Ok(OnGone::NotFound),
        Some("keep") => Ok(OnGone::Keep),
        Some(_) => Err((Some("on-gone"), "it must be 404 or keep".to_owned())),
    }
}

fn patterns(table: &Table, key: &'static str) -> Result<Vec<RepositoryPattern>, Fault> {
    parsed(table, key)
}

fn parsed<T>(table: &Table, key: &'static str) -> Result<Vec<T>, Fault>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let texts = texts(table, key)?.unwrap_or_default();
    let parse = |text: &String| text.parse::<T>().map_err(|error| (Some(key), error.to_string()));
    texts.iter().map(parse).collect()
}

fn duration(table: &Table, key: &'static str) -> Result<Option<Duration>, Fault> {
    let Some(text) = text(table, key)? else { return Ok(None) };
    let parsed = <Duration as Value>::parse(&text).filter(|duration| *duration <= YEARS);
    parsed.map(Some).ok_or_else(|| (Some(key), "it must be a duration up to 3650d".to_owned()))
}

fn size(table: &Table, key: &'static str) -> Result<Option<u64>, Fault> {
    let Some(text) = text(table, key)? else { return Ok(None) };
    let parsed = <u64 as Value>::parse(&text).filter(|bytes| *bytes > 0);
    parsed
        .map(Some)
        .ok_or_else(|| (Some(key), "it must be a size above 0, such as 500GiB".to_owned()))
}

fn flag(table: &Table, key: &'static str) -> Result<bool, Fault> {
    Ok(optional_flag(table, key)?.unwrap_or_default())
}

fn optional_flag(table: &Table, key: &'static str) -> Result<Option<bool>, Fault> {
    match table.get(key) {
        None => Ok(None),
        Some(TomlValue::Boolean(flag)) => Ok(Some(*flag)),
        Some(_) => Err((Some(key), "it must be true or false".to_owned())),
    }
}

fn requests_per_second(table: &Table) -> Result<Option<NonZeroU32>, Fault> {
    let Some(value) = table.get(REQUESTS_PER_SECOND) else { return Ok(None) };
    let number = value.as_integer().and_then(|number| u32::try_from(number).ok());
    number
        .and_then(NonZeroU32::new)
        .map(Some)
        .ok_or_else(|| (Some(REQUESTS_PER_SECOND), "it must be a number, 1 or more".to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Settings, read_file};

    fn from_file(text: &str) -> Result<Vec<MirrorOptions>, ConfigError> {
        let assignments = read_file(std::path::Path::new("jreg.toml"), text)?;
        Ok(Settings::resolve(assignments)?.mirrors)
    }

    const HUB: &str = "[[mirror]]\nnamespace = 'docker.io'\n";

    #[test]
    fn a_mirror_has_defaults_and_all_its_keys() {
        let mirrors = from_file(HUB).unwrap();
        let [hub] = &mirrors[..] else { panic!("{mirrors:?}") };
        assert_eq!(hub.name.prefix.as_str(), "docker.io");
        assert_eq!(hub.name.aliases, DOCKER_HUB_ALIASES);
        assert_eq!(hub.name.default_repository_prefix.as_deref(), Some("library/"));
        assert_eq!(hub.upstream[0].host(), "registry-1.docker.io");
        assert_eq!((hub.fresh, hub.stale_if_error), (5 * MINUTE, 30 * DAY));
        assert_eq!((hub.on_gone, hub.keep, hub.is_public), (OnGone::NotFound, None, false));
        let text = "[[mirror]]\nnamespace = 'registry.example.com:5000'\nprefix = 'cache/example'\n\
                    aliases = ['other']\nupstream = ['https://a/', 'http://127.0.0.1:5000']\n\
                    default-repository-prefix = 'x/'\nfresh = '0s'\nfresh-digest = '1h'\n\
                    immutable = ['sha-*']\nstale-if-error = '2h'\non-gone = 'keep'\n\
                    negative = '1s'\nallow = ['a/**']\ndeny = ['a/b']\nkeep = '90d'\n\
                    max-bytes = '500GiB'\npublic = true\nusername = 'me'\npassword = 'hush'\n\
                    token-hosts = ['t']\nprivate-addresses = true\nca-file = '/ca.pem'\n\
                    requests-per-second = 5\n";
        let mirrors = from_file(text).unwrap();
        let [other] = &mirrors[..] else { panic!("{mirrors:?}") };
        assert!(!format!("{other:?}").contains("hush"));
        assert_eq!((other.upstream.len(), other.keep), (2, Some(90 * DAY)));
        assert_eq!(other.bytes_max, Some(500 << 30));
        assert!(other.allows(&"a/c".parse().unwrap()) && !other.allows(&"a/b".parse().unwrap()));
        assert!(!other.allows(&"b".parse().unwrap()));
        for (source, expected) in [
            ("ecr", CredentialSource::Ecr),
            ("helper:x", CredentialSource::Helper("x".parse().unwrap())),
            ("docker-config:/x", CredentialSource::DockerConfig("/x".into())),
        ] {
            let text = format!("{HUB}allow = ['**']\ncredentials = '{source}'\n");
            let mirrors = from_file(&text).unwrap();
            assert_eq!(mirrors[0].credentials, expected);
            assert_eq!(mirrors[0].stale_if_error, HOUR);
        }
    }

    #[test]
    fn what_is_fetched_regularly_is_named_as_at_the_registry() {
        let text = format!("{HUB}sync = ['alpine', 'grafana/grafana@^12', 'nginx:*-alpine']\n");
        let mirrors = from_file(&text).unwrap();
        let (request, interval) = mirrors[0].sync.clone().unwrap();
        let names: Vec<_> = request.selections.iter().map(ToString::to_string).collect();
        let expected = ["library/alpine", "grafana/grafana@^12", "library/nginx:*-alpine"];
        assert_eq!(names, expected.map(|name| format!("docker.io/{name}")));
        assert_eq!((interval, request.has_referrers), (DAY, true));
        let more = "sync-interval = '6h'\nsync-platforms = ['linux/amd64']\nsync-referrers = false";
        let mirrors = from_file(&format!("{text}{more}")).unwrap();
        let (request, interval) = mirrors[0].sync.clone().unwrap();
        assert_eq!((interval, request.has_referrers), (6 * HOUR, false));
        assert_eq!(request.platforms, ["linux/amd64".parse().unwrap()]);
        assert_eq!(from_file(HUB).unwrap()[0].sync, None);
        for (more, expected) in [
            ("sync = ['UPPER']", "`mirror: sync`: must be REPOSITORY[:TAGS][@VERSIONS]"),
            ("sync = ['a']\ndeny = ['library/**']", "this repository is not mirrored"),
            ("sync = ['a']\nsync-interval = '1s'", "`mirror: sync-interval`: it must be 1m"),
            ("sync = ['a']\nsync-platforms = ['linux']", "`mirror: sync-platforms`: must be OS/"),
            ("sync-referrers = 1", "`mirror: sync-referrers`: it must be true or false"),
        ] {
            let error = from_file(&format!("{HUB}{more}")).unwrap_err().to_string();
            assert!(error.contains(expected), "{more}: {error}");
        }
    }

    #[test]
    fn a_wrong_mirror_is_an_error_that_names_the_key_and_no_value() {
        for (more, expected) in [
            ("names = 'x'", "`mirror`: unknown key `names`"),
            ("fresh = 'HUSH'", "`mirror: fresh`: it must be a duration up to 3650d"),
            ("on-gone = 'HUSH'", "`mirror: on-gone`: it must be 404 or keep"),
            ("public = 'HUSH'", "`mirror: public`: it must be true or false"),
            ("max-bytes = 'HUSH'", "`mirror: max-bytes`: it must be a size"),
            ("max-bytes = '0'", "`mirror: max-bytes`: it must be a size above 0"),
            ("upstream = 'HUSH'", "`mirror: upstream`: it must be https://"),
            ("upstream = 'https://u:HUSH@x'", "`mirror: upstream`: it must be https://"),
            ("username = 'HUSH'", "`mirror: password`: it is missing"),
            ("password = 'HUSH'", "`mirror: username`: it is missing"),
            ("username = 'a'\npassword = 'HUSH'", "`mirror: allow`: with credentials"),
            ("credentials = 'HUSH'", "`mirror: credentials`: it must be anonymous"),
            (
                "upstream = 'http://x.test'\nallow = ['**']\ncredentials = 'ecr'",
                "`mirror: upstream`: credentials are not sent over plain HTTP",
            ),
            ("default-repository-prefix = 'HUSH'", "it must be a name of a repository and a slash"),
            ("immutable = ['-HUSH']", "`mirror: immutable`: "),
            ("requests-per-second = 0", "`mirror: requests-per-second`: it must be a number"),
        ] {
            let error = from_file(&format!("{HUB}{more}")).unwrap_err().to_string();
            let shows = error.contains("HUSH") && !more.starts_with("immutable");
            assert!(error.contains(expected) && !shows, "{more}: {error}");
        }
        for (text, expected) in [
            ("[[mirror]]\nprefix = 'a'", "`mirror: namespace`: it is missing"),
            ("[[mirror]]\nnamespace = 'a:5000'", "`mirror: prefix`: this namespace is no name"),
            ("[[mirror]]\nnamespace = 'a/b'", "`mirror: namespace`: it must be the host"),
            (&format!("{HUB}{HUB}"), "two mirrors have the namespace \"docker.io\""),
            (
                &format!("{HUB}[[mirror]]\nnamespace = 'x'\nprefix = 'docker.io/x'"),
                "is below docker.io, which is the prefix of another mirror",
            ),
            ("mirror = 1", "`mirror`: it must be [[mirror]] tables"),
        ] {
            let error = from_file(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
