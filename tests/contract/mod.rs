//! The HTTP contract, as rows: request, then status, headers and body. Each row runs on a server
//! of its own, on the memory store, in a folder and in a bucket.
//!
//! A row whose name starts with `cNN_` is line NN of the list of client requirements; one that
//! starts with `fixed_` is a bug that another registry had. The client checks invariants on every
//! response (see `jreg_testkit::violations`), so rows contain only their specifics.

use jreg_testkit::{Scenario, ServerSpec, Step, StoreKind, TestServer};

/// Joins steps and lists of steps.
macro_rules! steps {
    ($($step:expr),* $(,)?) => {{
        let mut steps: Vec<jreg_testkit::Step> = Vec::new();
        $(steps.extend(Vec::<jreg_testkit::Step>::from($step));)*
        steps
    }};
}

/// Turns rows into tests: `name: steps;`, or `name [settings]: steps;` for a server that is not
/// the default one.
macro_rules! contract {
    ($($(#[$doc:meta])* $name:ident $([$spec:expr])? : $steps:expr;)*) => {
        $($(#[$doc])* mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn spec() -> jreg_testkit::ServerSpec {
                #[allow(unused_variables)]
                let spec = jreg_testkit::ServerSpec::default();
                $(let spec: jreg_testkit::ServerSpec = $spec;)?
                spec
            }

            #[test]
            fn memory() {
                crate::contract::run(stringify!($name), spec().store(jreg_testkit::StoreKind::Memory), $steps);
            }

            #[test]
            fn folder() {
                crate::contract::run(stringify!($name), spec().store(jreg_testkit::StoreKind::Folder), $steps);
            }

            #[test]
            fn bucket() {
                crate::contract::run(stringify!($name), spec().store(jreg_testkit::StoreKind::Bucket), $steps);
            }
        })*
    };
}

mod base;
mod blobs;
mod conditions;
mod connections;
mod deletes;
mod history;
mod listings;
mod manifests;
mod mounts;
mod names;
mod ranges;
mod referrers;
mod rights;
mod uploads;
mod usage;

fn run(name: &str, spec: ServerSpec, steps: Vec<Step>) {
    block_on(async {
        let server = TestServer::start(spec).await;
        Scenario::new(name, server.client()).run(steps).await;
        server.stop().await;
    });
}

/// Runs a test's future, with its server's, on one thread.
fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// Runs a test that is more than rows on each store.
fn on_each<T: Future<Output = ()>>(spec: impl Fn() -> ServerSpec, test: impl Fn(TestServer) -> T) {
    for store in [StoreKind::Memory, StoreKind::Folder, StoreKind::Bucket] {
        block_on(async { test(TestServer::start(spec().store(store)).await).await });
    }
}
