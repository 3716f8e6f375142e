//! What `jreg serve` says when it has started, and whether it may listen where it should.

use std::net::SocketAddr;

use jreg_config::{Settings, StorageLocation};

use crate::error::StartError;

/// Whether a registry may listen at its address: one without authentication on loopback only, unless the
/// operator insists.
///
/// # Errors
///
/// [`StartError::Insecure`].
pub fn check_exposure(settings: &Settings) -> Result<(), StartError> {
    let address = settings.listen;
    let is_allowed =
        is_local(settings) || settings.requires_authentication() || settings.insecure_open;
    is_allowed.then_some(()).ok_or(StartError::Insecure { address })
}

fn is_local(settings: &Settings) -> bool {
    settings.listen.ip().to_canonical().is_loopback()
}

/// Logs what is dangerous about the address.
pub(super) fn warn_if_open(settings: &Settings) {
    let address = settings.listen;
    if is_local(settings) {
        return;
    }
    if !settings.requires_authentication() {
        tracing::warn!(%address, "insecure-open: every client that reaches this address may pull, push and delete");
    } else if !settings.has_tls() && settings.trusted_proxies.is_empty() {
        tracing::warn!(
            %address,
            "credentials cross the network unencrypted: set tls-cert and tls-key, acme-domains, or trusted-proxies if a reverse proxy terminates TLS (docs/tls.md)"
        );
    }
}

/// Logs where the registry listens and where it keeps everything.
pub fn log_start(settings: &Settings, address: SocketAddr) {
    let durability = match settings.durability {
        jreg_storage::Durability::Strict => "strict",
        jreg_storage::Durability::Relaxed => "relaxed",
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        %address,
        tls = settings.has_tls(),
        storage = %settings.storage,
        durability,
        "listening"
    );
}

/// What `jreg serve` says when it has started.
pub fn greeting(settings: &Settings, address: SocketAddr) -> String {
    let storage = match &settings.storage {
        StorageLocation::Memory => "memory: data is lost when it stops".to_owned(),
        StorageLocation::Folder(path) => format!("{} ({})", path.display(), durability(settings)),
        StorageLocation::Bucket(url) => url.to_string(),
    };
    // An address that means "every one here" is no address to push to, nor one that a certificate is
    // not for.
    let host = if let Some(name) = settings.acme_domains.first() {
        format!("{name}:{}", address.port())
    } else if address.ip().is_unspecified() {
        format!("127.0.0.1:{}", address.port())
    } else {
        address.to_string()
    };
    let scheme = if settings.has_tls() { "https" } else { "http" };
    format!(
        "jreg {} listens on {scheme}://{address}\n  storage  {storage}\n\n\
         Try it:\n  docker pull alpine\n  docker tag alpine {host}/alpine\n  docker push {host}/alpine\n",
        env!("CARGO_PKG_VERSION")
    )
}

fn durability(settings: &Settings) -> &'static str {
    match settings.durability {
        jreg_storage::Durability::Strict => "strict durability: survives a power failure",
        jreg_storage::Durability::Relaxed => "relaxed durability: survives a crash of jreg only",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_greeting_says_where_and_what_to_try() {
        let settings = Settings::default();
        let text = greeting(&settings, settings.listen);
        assert!(text.contains("listens on http://127.0.0.1:5000\n"), "{text}");
        assert!(text.contains("./jreg-data (strict durability"), "{text}");
        assert!(text.contains("docker tag alpine 127.0.0.1:5000/alpine\n"), "{text}");
        assert!(text.contains("docker push 127.0.0.1:5000/alpine\n"), "{text}");
    }

    #[test]
    fn the_greeting_says_that_memory_keeps_nothing_and_names_an_address_to_push_to() {
        let settings = Settings { storage: StorageLocation::Memory, ..Settings::default() };
        let text = greeting(&settings, "0.0.0.0:80".parse().unwrap());
        assert!(text.contains("data is lost"), "{text}");
        assert!(text.contains("listens on http://0.0.0.0:80\n"), "{text}");
        assert!(text.contains("docker push 127.0.0.1:80/alpine"), "{text}");
    }

    #[test]
    fn the_greeting_says_https_where_tls_is_spoken() {
        let tls_cert = Some("cert.pem".to_owned());
        let settings = Settings { tls_cert, ..Settings::default() };
        let text = greeting(&settings, settings.listen);
        assert!(text.contains("listens on https://127.0.0.1:5000\n"), "{text}");
        let acme_domains = vec!["registry.test".to_owned()];
        let settings = Settings { acme_domains, ..Settings::default() };
        let text = greeting(&settings, settings.listen);
        assert!(text.contains("listens on https://127.0.0.1:5000\n"), "{text}");
        assert!(text.contains("docker push registry.test:5000/alpine"), "{text}");
    }

    #[test]
    fn an_open_registry_is_for_this_machine() {
        let start = |listen: &str, change: fn(&mut Settings)| {
            let mut settings = Settings { listen: listen.parse().unwrap(), ..Settings::default() };
            change(&mut settings);
            check_exposure(&settings)
        };
        for listen in ["127.0.0.1:0", "127.8.8.8:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            assert!(start(listen, |_| {}).is_ok(), "{listen}");
        }
        for listen in ["0.0.0.0:0", "[::]:0", "10.0.0.1:0"] {
            let refused = start(listen, |_| {}).unwrap_err().to_string();
            assert!(refused.contains("--insecure-open") && refused.contains(listen), "{refused}");
            assert!(start(listen, |settings| settings.insecure_open = true).is_ok());
            assert!(start(listen, |settings| settings.authentication = true).is_ok());
        }
    }
}
