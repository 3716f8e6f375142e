//! Combinations of settings that are not allowed, and those that are likely not meant.

use std::net::SocketAddr;

use crate::value::Value;
use crate::{ConfigError, LETS_ENCRYPT, Settings, StorageLocation, login};

/// All errors of the combination.
pub(crate) fn errors(settings: &Settings) -> Vec<ConfigError> {
    let mut errors = contradictions(settings);
    errors.extend(incomplete(settings));
    errors.extend(history_keep(settings));
    errors
}

/// Settings that exclude each other.
fn contradictions(settings: &Settings) -> Vec<ConfigError> {
    let acme = !settings.acme_domains.is_empty();
    let certificate = "the certificate comes either from a file or from an ACME CA";
    let secret = "set the secret itself or its file";
    let (read_only, sinks) = (settings.read_only, !settings.event_sinks.is_empty());
    let mirrors = !settings.mirrors.is_empty();
    let same = settings.admin_listen.is_some_and(|admin| overlaps(admin, settings.listen));
    let own = "each needs an address or a port of its own";
    let kept = "the storage would have to be written";
    [
        (same, "admin-listen", "listen", own),
        (read_only && acme, "read-only", "acme-domains", kept),
        (read_only && sinks, "read-only", "events.sink", kept),
        (read_only && mirrors, "read-only", "mirror", kept),
        (acme && settings.tls_cert.is_some(), "acme-domains", "tls-cert", certificate),
        (acme && settings.tls_key.is_some(), "acme-domains", "tls-key", certificate),
        (
            settings.s3_secret_access_key.is_some() && settings.s3_secret_access_key_file.is_some(),
            "s3-secret-access-key-file",
            "s3-secret-access-key",
            secret,
        ),
        (
            settings.s3_session_token.is_some() && settings.s3_session_token_file.is_some(),
            "s3-session-token-file",
            "s3-session-token",
            secret,
        ),
    ]
    .into_iter()
    .filter(|(is_wrong, ..)| *is_wrong)
    .map(|(_, given, other, why)| ConfigError::Contradictory { given, other, why })
    .collect()
}

/// Whether not both can be listened at. The system chooses a port in place of 0.
fn overlaps(one: SocketAddr, other: SocketAddr) -> bool {
    let (first, second) = (one.ip(), other.ip());
    let is_any = first.is_unspecified() || second.is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && (first == second || is_any && first.is_ipv4() == second.is_ipv4())
}

/// Warnings about settings that are allowed and likely not meant.
pub(crate) fn remarks(settings: &Settings) -> Vec<String> {
    let is_bucket = matches!(settings.storage, StorageLocation::Bucket(_));
    let redirect = (settings.redirect && !is_bucket).then(|| {
        "`redirect` has no effect: only downloads from a bucket can be redirected".to_owned()
    });
    let everyone = settings.trusted_proxies.iter().find(|network| network.prefix_len() == 0);
    let proxies = everyone.map(|network| {
        format!(
            "`trusted-proxies` holds {network}: every client chooses the address by which it is limited, \
             judged by the policy and named in logs; give the networks of the proxies"
        )
    });
    redirect.into_iter().chain(proxies).collect()
}

/// Settings that require another.
fn incomplete(settings: &Settings) -> Vec<ConfigError> {
    let (cert, key) = (settings.tls_cert.is_some(), settings.tls_key.is_some());
    let (client_ca, acme) = (settings.tls_client_ca.is_some(), !settings.acme_domains.is_empty());
    let has_login = !settings.login_clients.is_empty();
    let client_cert_required = settings.tls_client_cert_required;
    [
        (cert, "tls-cert", key, "tls-key"),
        (key, "tls-key", cert, "tls-cert"),
        (client_ca, "tls-client-ca", settings.has_tls(), "tls-cert"),
        (settings.acme_directory != LETS_ENCRYPT, "acme-directory", acme, "acme-domains"),
        (settings.acme_contact.is_some(), "acme-contact", acme, "acme-domains"),
        (settings.acme_ca_file.is_some(), "acme-ca-file", acme, "acme-domains"),
        (client_cert_required, "tls-client-cert-required", client_ca, "tls-client-ca"),
        (has_login, login::CLIENTS, settings.public_url.is_some(), "public-url"),
        (has_login, login::CLIENTS, settings.policy.is_some(), "policy"),
    ]
    .into_iter()
    .filter(|(given, _, other, _)| *given && !other)
    .map(|(_, given, _, missing)| ConfigError::Incomplete { given, missing })
    .collect()
}

fn history_keep(settings: &Settings) -> Option<ConfigError> {
    let (keep, grace) = (settings.history_keep, settings.gc_grace);
    if keep.is_zero() || keep >= grace {
        return None;
    }
    let (value, grace) = (Value::show(&keep), Value::show(&grace));
    let why = format!("it must be 0s (nothing is kept), or gc-grace ({grace}) or more");
    Some(ConfigError::NotAllowed { place: "history-keep".to_owned(), value, why })
}
