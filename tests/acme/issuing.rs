//! Certificates that are issued, kept, shared and renewed.

use std::time::SystemTime;

use jreg_net::acme::PAUSE;
use jreg_storage::{FsOptions, FsStore};
use serde_json::json;
use std::sync::Arc;

use super::{DAY, NAME, World, get};

#[tokio::test]
async fn the_first_certificate_comes_and_is_shown() {
    let world = World::new().await;
    let instance = world.start().await;
    assert_eq!(world.shown(&instance).await, None, "there is none yet");
    world.authority.look_at(instance.address);
    instance.acme.look().await;
    let mut stream = world.client().connect_to(NAME, instance.address).await.unwrap();
    assert!(get(&mut stream, "/v2/").await.starts_with("HTTP/1.1 200 OK\r\n"));
    let mut stream = world.client().connect_to(NAME, instance.address).await.unwrap();
    assert!(get(&mut stream, "/readyz").await.starts_with("HTTP/1.1 200 OK\r\n"));
    for (name, value) in [
        ("jreg_acme_orders_total{outcome=\"ok\"}", 1.0),
        ("jreg_acme_orders_total{outcome=\"failed\"}", 0.0),
        ("jreg_tls_handshakes_total{outcome=\"challenge\"}", 1.0),
        ("jreg_tls_handshakes_total{outcome=\"no_certificate\"}", 1.0),
        ("jreg_tls_reloads_total{outcome=\"ok\"}", 1.0),
    ] {
        assert_eq!(world.metric(&instance, name).await, value, "{name}");
    }
    let expiry = world.metric(&instance, "jreg_tls_certificate_expiry_timestamp_seconds").await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((88.0..90.0).contains(&((expiry - now) / 86400.0)), "{expiry}");
    instance.acme.look().await;
    assert_eq!(world.authority.orders(), 1, "it is good for a while");
}

#[tokio::test]
async fn a_restart_shows_what_is_stored_at_once() {
    let mut world = World::new().await;
    let open = |world: &World| {
        FsStore::open(world.folder.path().join("storage"), FsOptions::default()).unwrap()
    };
    world.store = Arc::new(open(&world));
    let instance = world.started().await;
    let first = world.shown(&instance).await;
    assert!(first.is_some());
    instance.running.shutdown().await;
    drop(instance.acme);
    world.store = Arc::new(jreg_storage::MemoryStore::new());
    world.store = Arc::new(open(&world));
    let instance = world.start().await;
    assert_eq!(world.shown(&instance).await, first);
    instance.acme.look().await;
    assert_eq!((world.authority.orders(), world.shown(&instance).await), (1, first));
}

#[tokio::test]
async fn another_instance_answers_for_an_order_and_shows_its_certificate() {
    let world = World::new().await;
    let (first, second) = (world.start().await, world.start().await);
    world.authority.look_at(second.address);
    first.acme.look().await;
    second.acme.look().await;
    let shown = world.shown(&first).await;
    assert!(shown.is_some());
    assert_eq!(world.shown(&second).await, shown);
    assert_eq!(world.authority.orders(), 1);
    let challenges = "jreg_tls_handshakes_total{outcome=\"challenge\"}";
    assert_eq!(world.metric(&first, challenges).await, 0.0);
    assert_eq!(world.metric(&second, challenges).await, 1.0);
    // One that comes later has it from the start.
    let third = world.start().await;
    assert_eq!(world.shown(&third).await, shown);
}

#[tokio::test]
async fn instances_that_look_at_the_same_time_order_once() {
    let world = World::new().await;
    let (first, second) = (world.start().await, world.start().await);
    world.authority.look_at(first.address);
    tokio::join!(first.acme.look(), second.acme.look());
    tokio::join!(first.acme.look(), second.acme.look());
    assert_eq!(world.authority.orders(), 1);
    assert!(world.shown(&first).await.is_some());
    assert_eq!(world.shown(&first).await, world.shown(&second).await);
}

#[tokio::test]
async fn two_thirds_of_its_life_over_it_is_renewed() {
    let world = World::of(SystemTime::now() - 61 * DAY).await;
    let (first, second) = (world.started().await, world.start().await);
    let old = world.shown(&first).await;
    world.clock.advance(59 * DAY);
    first.acme.look().await;
    assert_eq!(world.authority.orders(), 1, "60 of 90 days are not over");
    world.clock.advance(2 * DAY);
    second.acme.look().await;
    assert_eq!(world.authority.orders(), 2);
    let new = world.shown(&second).await;
    assert_ne!(new, old);
    first.acme.look().await;
    assert_eq!((world.authority.orders(), world.shown(&first).await), (2, new));
}

#[tokio::test]
async fn all_names_are_on_one_certificate_and_a_new_one_leads_to_another() {
    let mut world = World::new().await;
    world.settings.acme_domains.push("other.test".to_owned());
    let old = world.started().await;
    assert_eq!(world.authority.orders(), 1);
    for name in [NAME, "other.test"] {
        assert!(world.client().connect_to(name, old.address).await.is_ok(), "{name}");
    }
    // Who has fewer names is content.
    world.settings.acme_domains = vec!["other.test".to_owned()];
    world.clock.advance(2 * PAUSE);
    let fewer = world.start().await;
    fewer.acme.look().await;
    assert_eq!(world.authority.orders(), 1);
    world.settings.acme_domains = vec!["third.test".to_owned(), NAME.to_owned()];
    let new = world.start().await;
    world.authority.look_at(new.address);
    new.acme.look().await;
    assert_eq!(world.authority.orders(), 2);
    assert!(world.client().connect_to("third.test", new.address).await.is_ok());
    // The other does not take its turn at once, whose name is missing now.
    old.acme.look().await;
    assert_eq!(world.authority.orders(), 2);
}

#[tokio::test]
async fn an_account_is_opened_once_and_again_if_the_authority_has_lost_it() {
    let mut world = World::of(SystemTime::now() - 130 * DAY).await;
    world.settings.acme_contact = Some("ops@example.com".to_owned());
    let instance = world.started().await;
    assert_eq!(world.authority.contacts(), [json!(["mailto:ops@example.com"])]);
    drop(instance);
    world.settings.acme_contact = Some("others@example.com".to_owned());
    let instance = world.start().await;
    world.authority.look_at(instance.address);
    world.clock.advance(65 * DAY);
    instance.acme.look().await;
    assert_eq!(world.authority.issued(), 2);
    assert_eq!(world.authority.contacts(), [json!(["mailto:others@example.com"])], "the same");
    world.authority.forget_accounts();
    world.clock.advance(65 * DAY);
    instance.acme.look().await;
    assert_eq!((world.authority.issued(), world.authority.contacts().len()), (3, 1));
}
