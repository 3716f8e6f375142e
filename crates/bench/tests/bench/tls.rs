//! A registry that speaks TLS: who is trusted, and that it is measured like any other.

use jreg_testkit::{TestCa, TlsProxy};

use jreg_bench::{BenchError, RunPlan, measure};

use crate::common::{block_on, one_by_one, plan};
use crate::fake::FakeRegistry;

#[test]
fn a_registry_is_trusted_by_the_authorities_that_were_given() {
    block_on(async {
        let (fake, authority) = (FakeRegistry::start().await, TestCa::new());
        let proxy = TlsProxy::start(&authority, fake.address()).await;
        let url = format!("https://{}", proxy.address());
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, authority.pem()).unwrap();
        // A megabyte is many records of TLS.
        let workloads = "blob-get-1m,push-docker-1m,push-known-4k";
        let run = one_by_one(&url, workloads, |plan| {
            plan.ca = Some(ca);
            plan.verify = true;
        })
        .await;
        for measured in &run.results {
            assert_eq!((measured.operations, measured.errors.len()), (4, 0), "{measured:?}");
        }
        let error = measure(plan(&url), &mut |_| {}).await.unwrap_err();
        assert!(matches!(error, BenchError::Unreachable(_)), "an untrusted CA: {error:?}");
    });
}

#[test]
fn a_file_without_certificates_is_named() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        for ca in [empty, folder.path().join("missing.pem")] {
            let plan = RunPlan { ca: Some(ca.clone()), ..plan("https://127.0.0.1:1") };
            let error = measure(plan, &mut |_| {}).await.unwrap_err().to_string();
            assert_eq!(error, format!("cannot read certificates from {}", ca.display()));
        }
    });
}
