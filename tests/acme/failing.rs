//! CAs that are unreachable, refuse or misbehave, and instances that crash.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jreg_net::acme::{BACKOFF_MIN, PAUSE};
use jreg_registry::{acme_certificate, acme_order};
use jreg_storage::PutMode;
use jreg_testkit::acme::AcmeBehavior;
use serde_json::Value;

use super::{AcmeScenario, DAY, NAME};

const FAILED: &str = "jreg_acme_orders_total{outcome=\"failed\"}";
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn orders_back_off_together_while_the_ca_is_unreachable() {
    let scenario = AcmeScenario::new().await;
    scenario.authority.behavior(AcmeBehavior::Unavailable);
    let (first, second) = (scenario.start().await, scenario.start().await);
    scenario.authority.look_at(first.address);
    let mut wait = BACKOFF_MIN;
    for asked in 1..=4 {
        first.acme.look().await;
        second.acme.look().await;
        assert_eq!(scenario.authority.requests(), asked, "one of them asks once");
        scenario.clock.advance(wait - SECOND);
        first.acme.look().await;
        assert_eq!(scenario.authority.requests(), asked, "not yet");
        scenario.clock.advance(SECOND);
        wait *= 2;
    }
    scenario.authority.behavior(AcmeBehavior::Issue);
    first.acme.look().await;
    let failed = scenario.metric(&first, FAILED).await;
    second.acme.look().await;
    assert_eq!(failed + scenario.metric(&second, FAILED).await, 4.0);
    assert_eq!(scenario.order().await["failures"], 0);
}

#[tokio::test]
async fn a_failed_renewal_keeps_the_old_certificate_even_when_it_is_over() {
    let scenario = AcmeScenario::of(SystemTime::now() - 61 * DAY).await;
    let instance = scenario.started().await;
    let old = scenario.shown(&instance).await;
    assert!(old.is_some());
    scenario.authority.behavior(AcmeBehavior::Refuse("too many certificates", 3 * 3600));
    scenario.clock.advance(61 * DAY);
    instance.acme.look().await;
    assert_eq!(scenario.shown(&instance).await, old);
    assert_eq!(scenario.metric(&instance, FAILED).await, 1.0);
    scenario.authority.behavior(AcmeBehavior::Issue);
    scenario.clock.advance(3 * 3600 * SECOND - SECOND);
    instance.acme.look().await;
    assert_eq!(scenario.authority.issued(), 1, "the authority said when");
    // Long after it expired, by the instance's clock.
    scenario.clock.advance(60 * DAY);
    scenario.authority.behavior(AcmeBehavior::Refuse("too many certificates", 0));
    instance.acme.look().await;
    assert_eq!(scenario.shown(&instance).await, old);
    let restarted = scenario.start().await;
    assert_eq!(scenario.shown(&restarted).await, old, "better than none");
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_is_refused_and_nothing_is_taken() {
    let scenario = AcmeScenario::new().await;
    let instance = scenario.start().await;
    // No server listens there.
    let closed_port =
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    scenario.authority.look_at(closed_port);
    instance.acme.look().await;
    assert_eq!((scenario.authority.orders(), scenario.authority.issued()), (1, 0));
    let order = scenario.order().await;
    assert_eq!((&order["failures"], &order["holder"]), (&Value::from(1), &Value::Null));
    assert_eq!(order["challenges"], serde_json::json!({}), "what is over is not shown");
    // With other settings there is no back-off.
    let mut scenario = scenario;
    scenario.settings.acme_domains = vec!["other.test".to_owned()];
    let other = scenario.start().await;
    scenario.authority.look_at(other.address);
    other.acme.look().await;
    assert_eq!((scenario.authority.orders(), scenario.authority.issued()), (2, 1));
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_taken() {
    let scenario = AcmeScenario::new().await;
    scenario.authority.behavior(AcmeBehavior::WrongName);
    let instance = scenario.start().await;
    scenario.authority.look_at(instance.address);
    instance.acme.look().await;
    assert_eq!(scenario.authority.issued(), 1);
    assert!(scenario.client().connect_to("other.test", instance.address).await.is_err());
    assert!(scenario.store.get(&acme_certificate()).await.is_err_and(|error| error.is_not_found()));
    scenario.authority.behavior(AcmeBehavior::Issue);
    scenario.clock.advance(BACKOFF_MIN);
    instance.acme.look().await;
    assert!(scenario.shown(&instance).await.is_some());
    assert_eq!(scenario.metric(&instance, FAILED).await, 1.0);
}

#[tokio::test]
async fn the_order_of_an_instance_that_died_is_taken_over_after_a_while() {
    let scenario = AcmeScenario::new().await;
    let first = scenario.start().await;
    let dying = tokio::spawn({
        let acme = Arc::clone(&first.acme);
        async move { acme.look().await }
    });
    // The order is in progress: the CA does not validate the name.
    while scenario.authority.orders() == 0 {
        tokio::task::yield_now().await;
    }
    dying.abort();
    drop(first);
    let second = scenario.start().await;
    scenario.authority.look_at(second.address);
    second.acme.look().await;
    assert_eq!(scenario.authority.orders(), 1, "it may be alive");
    scenario.clock.advance(Duration::from_secs(240));
    second.acme.look().await;
    assert_eq!((scenario.authority.orders(), scenario.authority.issued()), (2, 1));
    assert!(scenario.shown(&second).await.is_some());
}

#[tokio::test]
async fn records_that_are_damaged_are_replaced() {
    let scenario = AcmeScenario::new().await;
    let instance = scenario.started().await;
    let old = scenario.shown(&instance).await;
    for key in [acme_certificate(), acme_order()] {
        let etag = scenario.store.get(&key).await.unwrap().etag;
        let garbage = Bytes::from_static(b"{\"v\":1,\"key\":\"MARKED\"}");
        scenario.store.put(&key, garbage, PutMode::Match(etag)).await.unwrap();
    }
    let other = scenario.start().await;
    assert_eq!(scenario.shown(&other).await, None);
    scenario.clock.advance(PAUSE);
    scenario.authority.look_at(other.address);
    other.acme.look().await;
    instance.acme.look().await;
    let new = scenario.shown(&instance).await;
    assert!(new.is_some() && new != old);
    assert_eq!(scenario.shown(&other).await, new);
    assert_eq!(scenario.authority.orders(), 2);
}

#[tokio::test]
async fn a_certificate_that_is_removed_is_ordered_again() {
    let scenario = AcmeScenario::new().await;
    let instance = scenario.started().await;
    let old = scenario.shown(&instance).await;
    scenario.store.delete(&acme_certificate(), None).await.unwrap();
    scenario.clock.advance(PAUSE);
    instance.acme.look().await;
    let new = scenario.shown(&instance).await;
    assert!(new.is_some() && new != old);
}

#[tokio::test]
async fn the_ca_bundle_of_the_acme_server_must_be_readable() {
    for (text, why) in [(None, "cannot read "), (Some("garbage"), "it has no certificate")] {
        let mut scenario = AcmeScenario::new().await;
        let path = scenario.folder.path().join("other.pem");
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        scenario.settings.acme_ca_file = Some(path.display().to_string());
        let error = scenario.build().await.err().unwrap();
        assert_eq!(error.to_string(), "cannot set up ACME (acme-domains)");
        let source = error.source().unwrap().to_string();
        assert!(source.contains(why) && source.contains("other.pem"), "{source}");
    }
}

#[tokio::test]
async fn an_acme_server_with_an_unknown_ca_gets_no_order() {
    let scenario = AcmeScenario::new().await;
    let other = AcmeScenario::new().await;
    std::fs::write(scenario.folder.path().join("ca.pem"), other.authority.ca_pem()).unwrap();
    let instance = scenario.start().await;
    scenario.authority.look_at(instance.address);
    instance.acme.look().await;
    assert_eq!(scenario.authority.requests(), 0);
    assert_eq!(scenario.order().await["failures"], 1);
    assert_eq!(scenario.order().await["domains"], serde_json::json!([NAME]));
}
