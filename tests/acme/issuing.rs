//! Certificates are issued, stored, shared and renewed.

use std::time::SystemTime;

use jreg_net::acme::PAUSE;
use jreg_storage::{FsOptions, FsStore};
use serde_json::json;
use std::sync::Arc;

use super::{AcmeScenario, DAY, NAME, get};

#[tokio::test]
async fn the_first_certificate_comes_and_is_shown() {
    let scenario = AcmeScenario::new().await;
    let instance = scenario.start().await;
    assert_eq!(scenario.shown(&instance).await, None, "there is none yet");
    scenario.authority.look_at(instance.address);
    instance.acme.look().await;
    let mut stream = scenario.client().connect_to(NAME, instance.address).await.unwrap();
    assert!(get(&mut stream, "/v2/").await.starts_with("HTTP/1.1 200 OK\r\n"));
    let mut stream = scenario.client().connect_to(NAME, instance.address).await.unwrap();
    assert!(get(&mut stream, "/readyz").await.starts_with("HTTP/1.1 200 OK\r\n"));
    for (name, value) in [
        ("jreg_acme_orders_total{outcome=\"ok\"}", 1.0),
        ("jreg_acme_orders_total{outcome=\"failed\"}", 0.0),
        ("jreg_tls_handshakes_total{outcome=\"challenge\"}", 1.0),
        ("jreg_tls_handshakes_total{outcome=\"no_certificate\"}", 1.0),
        ("jreg_tls_reloads_total{outcome=\"ok\"}", 1.0),
    ] {
        assert_eq!(scenario.metric(&instance, name).await, value, "{name}");
    }
    let expiry = scenario.metric(&instance, "jreg_tls_certificate_expiry_timestamp_seconds").await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((88.0..90.0).contains(&((expiry - now) / 86400.0)), "{expiry}");
    instance.acme.look().await;
    assert_eq!(scenario.authority.orders(), 1, "it is good for a while");
}

#[tokio::test]
async fn a_restart_shows_what_is_stored_at_once() {
    let mut scenario = AcmeScenario::new().await;
    let open = |scenario: &AcmeScenario| {
        FsStore::open(scenario.folder.path().join("storage"), FsOptions::default()).unwrap()
    };
    scenario.store = Arc::new(open(&scenario));
    let instance = scenario.started().await;
    let first = scenario.shown(&instance).await;
    assert!(first.is_some());
    instance.running.shutdown().await;
    drop(instance.acme);
    scenario.store = Arc::new(jreg_storage::MemoryStore::new());
    scenario.store = Arc::new(open(&scenario));
    let instance = scenario.start().await;
    assert_eq!(scenario.shown(&instance).await, first);
    instance.acme.look().await;
    assert_eq!((scenario.authority.orders(), scenario.shown(&instance).await), (1, first));
}

#[tokio::test]
async fn another_instance_completes_the_challenge_of_an_order_and_serves_its_certificate() {
    let scenario = AcmeScenario::new().await;
    let (first, second) = (scenario.start().await, scenario.start().await);
    scenario.authority.look_at(second.address);
    first.acme.look().await;
    second.acme.look().await;
    let shown = scenario.shown(&first).await;
    assert!(shown.is_some());
    assert_eq!(scenario.shown(&second).await, shown);
    assert_eq!(scenario.authority.orders(), 1);
    let challenges = "jreg_tls_handshakes_total{outcome=\"challenge\"}";
    assert_eq!(scenario.metric(&first, challenges).await, 0.0);
    assert_eq!(scenario.metric(&second, challenges).await, 1.0);
    // A later instance has it from the start.
    let third = scenario.start().await;
    assert_eq!(scenario.shown(&third).await, shown);
}

#[tokio::test]
async fn instances_that_look_at_the_same_time_order_once() {
    let scenario = AcmeScenario::new().await;
    let (first, second) = (scenario.start().await, scenario.start().await);
    scenario.authority.look_at(first.address);
    tokio::join!(first.acme.look(), second.acme.look());
    tokio::join!(first.acme.look(), second.acme.look());
    assert_eq!(scenario.authority.orders(), 1);
    assert!(scenario.shown(&first).await.is_some());
    assert_eq!(scenario.shown(&first).await, scenario.shown(&second).await);
}

#[tokio::test]
async fn two_thirds_of_its_life_over_it_is_renewed() {
    let scenario = AcmeScenario::of(SystemTime::now() - 61 * DAY).await;
    let (first, second) = (scenario.started().await, scenario.start().await);
    let old = scenario.shown(&first).await;
    scenario.clock.advance(59 * DAY);
    first.acme.look().await;
    assert_eq!(scenario.authority.orders(), 1, "60 of 90 days are not over");
    scenario.clock.advance(2 * DAY);
    second.acme.look().await;
    assert_eq!(scenario.authority.orders(), 2);
    let new = scenario.shown(&second).await;
    assert_ne!(new, old);
    first.acme.look().await;
    assert_eq!((scenario.authority.orders(), scenario.shown(&first).await), (2, new));
}

#[tokio::test]
async fn all_names_are_on_one_certificate_and_a_new_one_leads_to_another() {
    let mut scenario = AcmeScenario::new().await;
    scenario.settings.acme_domains.push("other.test".to_owned());
    let old = scenario.started().await;
    assert_eq!(scenario.authority.orders(), 1);
    for name in [NAME, "other.test"] {
        assert!(scenario.client().connect_to(name, old.address).await.is_ok(), "{name}");
    }
    // An instance with fewer names keeps the certificate.
    scenario.settings.acme_domains = vec!["other.test".to_owned()];
    scenario.clock.advance(2 * PAUSE);
    let fewer = scenario.start().await;
    fewer.acme.look().await;
    assert_eq!(scenario.authority.orders(), 1);
    scenario.settings.acme_domains = vec!["third.test".to_owned(), NAME.to_owned()];
    let new = scenario.start().await;
    scenario.authority.look_at(new.address);
    new.acme.look().await;
    assert_eq!(scenario.authority.orders(), 2);
    assert!(scenario.client().connect_to("third.test", new.address).await.is_ok());
    // The instance whose name is missing does not order at once.
    old.acme.look().await;
    assert_eq!(scenario.authority.orders(), 2);
}

#[tokio::test]
async fn an_account_is_opened_once_and_again_if_the_authority_has_lost_it() {
    let mut scenario = AcmeScenario::of(SystemTime::now() - 130 * DAY).await;
    scenario.settings.acme_contact = Some("ops@example.com".to_owned());
    let instance = scenario.started().await;
    assert_eq!(scenario.authority.contacts(), [json!(["mailto:ops@example.com"])]);
    drop(instance);
    scenario.settings.acme_contact = Some("others@example.com".to_owned());
    let instance = scenario.start().await;
    scenario.authority.look_at(instance.address);
    scenario.clock.advance(65 * DAY);
    instance.acme.look().await;
    assert_eq!(scenario.authority.issued(), 2);
    assert_eq!(scenario.authority.contacts(), [json!(["mailto:others@example.com"])], "the same");
    scenario.authority.forget_accounts();
    scenario.clock.advance(65 * DAY);
    instance.acme.look().await;
    assert_eq!((scenario.authority.issued(), scenario.authority.contacts().len()), (3, 1));
}
