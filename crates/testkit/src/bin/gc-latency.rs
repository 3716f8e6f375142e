//! How much slower pushes are while a GC run runs: pairs of rounds on one server, without and with
//! `jreg gc` running over and over beside it at its usual rate, and the ratio of the latencies.
//!
//! ```sh
//! cargo build --release --workspace
//! target/release/gc-latency target/release/jreg
//! ```

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use futures::future::join_all;
use jreg_testkit::{Client, Image, ImageSpec, Process, Request};

/// Compares the latency of pushes with and without a GC run.
#[derive(Debug, Parser)]
#[command(name = "gc-latency")]
struct GcLatencyArgs {
    /// The binary.
    jreg: PathBuf,
    /// How many images are there before.
    #[arg(long, default_value_t = 2000)]
    images: u64,
    /// How many pairs of rounds.
    #[arg(long, default_value_t = 7)]
    pairs: u64,
    /// How many images a round pushes.
    #[arg(long, default_value_t = 400)]
    pushes: u64,
    /// How many clients push at the same time.
    #[arg(long, default_value_t = 4)]
    clients: u64,
    /// How long each layer is.
    #[arg(long, default_value_t = 16 * 1024)]
    layer_bytes: usize,
}

fn main() -> ExitCode {
    let options = GcLatencyArgs::parse();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let server = Process::start(&options.jreg.to_string_lossy(), folder.path());
    runtime.block_on(measure(&options, &server.client(), folder.path()));
    ExitCode::SUCCESS
}

async fn measure(options: &GcLatencyArgs, client: &Client, folder: &Path) {
    round(options, client, 0, options.images).await;
    let mut seed = options.images;
    let mut ratios: [Vec<f64>; 2] = Default::default();
    for pair in 0..options.pairs {
        let mut quantiles = [[0.0; 2]; 2];
        // Which of the two comes first alternates.
        for with in [pair % 2 == 1, pair % 2 == 0] {
            let gc_loop = with.then(|| GcLoop::start(&options.jreg, folder));
            let mut latencies = round(options, client, seed, options.pushes).await;
            seed += options.pushes;
            latencies.sort_unstable();
            let runs = gc_loop.map_or(0, GcLoop::stop);
            quantiles[usize::from(with)] = [quantile(&latencies, 50), quantile(&latencies, 99)];
            let [p50, p99] = quantiles[usize::from(with)];
            println!("GC {with}: p50 {p50:.2} ms, p99 {p99:.2} ms, {runs} runs");
        }
        let [[p50, p99], [p50_with, p99_with]] = quantiles;
        ratios[0].push(p50_with / p50);
        ratios[1].push(p99_with / p99);
    }
    for (name, mut ratios) in ["p50", "p99"].into_iter().zip(ratios) {
        ratios.sort_by(f64::total_cmp);
        let (low, high) = (ratios[0], ratios[ratios.len() - 1]);
        let median = ratios[ratios.len() / 2];
        println!("{name} with / without: median {median:.3}, from {low:.3} to {high:.3}");
    }
}

/// Milliseconds.
#[expect(clippy::cast_precision_loss, reason = "microseconds of a push are few")]
fn quantile(sorted_us: &[u64], percent: usize) -> f64 {
    let index = (sorted_us.len() * percent / 100).min(sorted_us.len() - 1);
    sorted_us[index] as f64 / 1000.0
}

/// Pushes images, and gives the microseconds that each took.
async fn round(options: &GcLatencyArgs, client: &Client, seed: u64, images: u64) -> Vec<u64> {
    let (next, end) = (AtomicU64::new(seed), seed + images);
    let work = (0..options.clients).map(|_| async {
        let mut latencies = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return latencies;
            }
            let spec = ImageSpec { seed, layer_bytes: options.layer_bytes, ..ImageSpec::default() };
            let (image, began) = (spec.build(), Instant::now());
            push(client, &image, seed).await;
            latencies.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
    });
    join_all(work).await.concat()
}

async fn push(client: &Client, image: &Image, seed: u64) {
    let repository = format!("bench/{}", seed % 16);
    for blob in &image.blobs {
        let target = format!("/v2/{repository}/blobs/uploads/?digest={}", blob.digest());
        let response = client.send(Request::new("POST", target).body(blob.bytes.clone())).await;
        assert_eq!(response.status, 201, "{response}");
    }
    let manifest = &image.manifest;
    let request = Request::new("PUT", format!("/v2/{repository}/manifests/v{seed}"))
        .header("Content-Type", &manifest.media_type)
        .body(manifest.bytes.clone());
    let response = client.send(request).await;
    assert_eq!(response.status, 201, "{response}");
}

/// `jreg gc` over and over, in a thread.
struct GcLoop {
    stopping: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl GcLoop {
    fn start(jreg: &Path, folder: &Path) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut command = Command::new(jreg);
        command.args(["gc", "--sweep", "--storage"]).arg(folder).stdout(Stdio::null());
        let until = stopping.clone();
        let thread = std::thread::spawn(move || {
            let mut runs = 0;
            while !until.load(Ordering::Relaxed) {
                let mut child = command.spawn().expect("the binary can be started");
                loop {
                    if child.try_wait().expect("it is our child").is_some() {
                        runs += 1;
                        break;
                    }
                    if until.load(Ordering::Relaxed) {
                        // It no longer exists, or it goes now.
                        let _ = child.kill();
                        let _ = child.wait();
                        break;
                    }
                    pause();
                }
            }
            runs
        });
        Self { stopping, thread }
    }

    fn stop(self) -> u64 {
        self.stopping.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic")
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}
