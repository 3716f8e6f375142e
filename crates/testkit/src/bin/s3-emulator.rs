//! The S3 emulator as a program, for benchmarks and for those who develop: prints one line that
//! says where it is and how to get in, and serves until it is interrupted.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use jreg_testkit::s3::{
    ConditionalDelete, Conditions, FaultRule, IfMatchForm, S3Fault, S3Refusal, S3Server, S3Spec,
    SwapOfNothing,
};

/// How long a conditional write waits for another, where they are kept one at a time.
const RACE_MAX: Duration = Duration::from_millis(20);
/// So that the same requests are refused in every run.
const SEED: u64 = 1;

/// Serves one S3 bucket from memory.
#[derive(Debug, Parser)]
#[command(name = "s3-emulator")]
struct EmulatorArgs {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// The name of the bucket.
    #[arg(long, default_value = "jreg")]
    bucket: String,
    /// The access key.
    #[arg(long, default_value = "emulator")]
    access_key: String,
    /// The secret key.
    #[arg(long, default_value = "emulator-secret")]
    secret_key: String,
    /// How many milliseconds longer every request takes.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// Maximum number of megabytes (10⁶ bytes) of one response in a second; 0: no limit.
    #[arg(long, default_value_t = 0)]
    response_mb_per_second: u64,
    /// Answer one in so many requests with 503 SlowDown; 0: none.
    #[arg(long, default_value_t = 0)]
    slow_down_one_in: u64,
    /// Want all parts of an upload but the last to be of one size, as Cloudflare R2 does.
    #[arg(long)]
    equal_parts: bool,
    /// How to keep the conditions of writes.
    #[arg(long, value_enum, default_value_t = WriteConditions::Atomic)]
    conditions: WriteConditions,
    /// How to keep the condition of a delete.
    #[arg(long, value_enum, default_value_t = DeleteConditions::Honoured)]
    conditional_delete: DeleteConditions,
    /// Write on If-Match where there is no object, as MinIO before September 2025 does.
    #[arg(long)]
    swap_nothing: bool,
    /// Want the etag of If-Match without quotes, as Ceph RGW before 17 does.
    #[arg(long)]
    bare_if_match: bool,
    /// Keep no bytes of what is put in one request of more than this many, and give zeros
    /// instead: for benchmarks that store more than there is memory.
    #[arg(long)]
    forget_above_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WriteConditions {
    /// Check and write are one step.
    Atomic,
    /// They are two, so that of concurrent writers several win.
    OneAtATime,
    /// Accepted, and not looked at.
    Ignored,
    /// Answered with 501.
    Refused,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DeleteConditions {
    /// As those of writes are.
    Honoured,
    /// Accepted, and not looked at.
    Ignored,
    /// Answered with 501.
    Refused,
}

impl EmulatorArgs {
    fn spec(self) -> S3Spec {
        S3Spec::with(|spec| {
            spec.listen = self.listen;
            spec.latency = Duration::from_millis(self.latency_ms);
            spec.response_bytes_per_second =
                Some(self.response_mb_per_second.saturating_mul(1_000_000))
                    .filter(|rate| *rate > 0);
            spec.parts.equal_sizes = self.equal_parts;
            spec.forget_above_bytes = self.forget_above_bytes;
            spec.conditions = match self.conditions {
                WriteConditions::Atomic => Conditions::Atomic,
                WriteConditions::OneAtATime => Conditions::OneAtATime(RACE_MAX),
                WriteConditions::Ignored => Conditions::Ignored,
                WriteConditions::Refused => Conditions::Refused,
            };
            spec.conditional_delete = match self.conditional_delete {
                DeleteConditions::Honoured => ConditionalDelete::Honoured,
                DeleteConditions::Ignored => ConditionalDelete::Ignored,
                DeleteConditions::Refused => ConditionalDelete::Refused,
            };
            if self.swap_nothing {
                spec.swap_of_nothing = SwapOfNothing::Written;
            }
            if self.bare_if_match {
                spec.if_match = IfMatchForm::Bare;
            }
            spec.bucket = self.bucket;
            spec.access_key = self.access_key;
            spec.secret_key = self.secret_key;
        })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = EmulatorArgs::parse();
    let slow_down_one_in = options.slow_down_one_in;
    let spec = options.spec();
    let address = spec.listen;
    let server = match S3Server::try_start(spec).await {
        Ok(server) => server,
        Err(error) => {
            eprintln!("s3-emulator: listen on {address}: {error}");
            return ExitCode::FAILURE;
        }
    };
    if slow_down_one_in > 0 {
        server.inject(
            FaultRule::new(S3Fault::Refuse(S3Refusal::SlowDown)).one_in(slow_down_one_in, SEED),
        );
    }
    println!(
        "{} access_key={} secret_key={} storage={}",
        server.endpoint(),
        server.access_key(),
        server.secret_key(),
        server.storage_url(),
    );
    tokio::signal::ctrl_c().await.ok();
    server.stop().await;
    ExitCode::SUCCESS
}
