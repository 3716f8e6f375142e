//! The command line of `jreg-bench`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::auth::BenchCredentials;
use crate::plan::{PlanAmount, RunPlan};
use crate::rng::BenchRng;
use crate::url::{InvalidUrl, Url};
use crate::workload::{Workload, WorkloadPattern, select};

/// Maximum concurrent operations.
pub(crate) const CONCURRENCY_MAX: u64 = 4096;
/// Maximum numbers of `--bulk-concurrency`.
pub(crate) const LEVELS_MAX: usize = 8;
/// Maximum MiB to warm.
pub(crate) const WARM_MIB_MAX: u64 = 1 << 20;
/// Maximum rounds of one run.
pub(crate) const ROUNDS_MAX: u32 = 100;
/// Maximum tags of `tag-page`.
pub(crate) const TAGS_MAX: u64 = 1_000_000;
/// Maximum repositories of `catalog`.
pub(crate) const REPOSITORIES_MAX: u64 = 1_000_000;
/// Maximum of every duration.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
/// Maximum workload results in one file, and maximum files of one report.
pub(crate) const FILES_MAX: usize = 1000;

const ABOUT: &str = "\
Benchmark an OCI registry over HTTP/1.1: jreg or any other

Pushes generated content to repositories below --namespace and deletes nothing: use a registry whose
content may be discarded. All content is unique, so that nothing is deduplicated. Each workload starts
with one operation whose bytes are verified, then warms up, then measures.
Exit codes: 0 done, 1 something failed, 2 wrong command line.";

/// Arguments of `jreg-bench`.
#[derive(Debug, Parser)]
#[command(name = "jreg-bench", version, about = "Benchmark an OCI registry over HTTP/1.1")]
#[command(long_about = ABOUT)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub(crate) action: Option<BenchAction>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Subcommands of `jreg-bench`.
#[derive(Debug, Subcommand)]
pub enum BenchAction {
    /// Compare the results of runs: medians over all rounds, as Markdown and as a chart
    Report(ReportArgs),
    /// Respond to pushes and keep nothing of them: what the client can send at most
    Sink(SinkArgs),
    /// Have the host of a virtual machine provide memory: allocates, writes to and frees it, and
    /// writes and removes a file
    Warm(WarmArgs),
}

/// Arguments of `jreg-bench sink`.
#[derive(Debug, Args)]
pub struct SinkArgs {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: SocketAddr,
}

/// Arguments of `jreg-bench warm`.
#[derive(Debug, Args)]
pub struct WarmArgs {
    /// MiB of memory
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(0..=WARM_MIB_MAX))]
    memory_mib: u64,
    /// MiB of the file
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(0..=WARM_MIB_MAX))]
    file_mib: u64,
    /// Folder of the file
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
}

impl WarmArgs {
    pub(crate) fn memory_bytes(&self) -> usize {
        usize::try_from(self.memory_mib.saturating_mul(MIB)).unwrap_or(usize::MAX)
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_mib.saturating_mul(MIB)
    }
}

/// Arguments of `jreg-bench report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Result files written with --json; files with the same label are one registry
    #[arg(value_name = "FILE", required = true, num_args = 1..=FILES_MAX)]
    pub(crate) files: Vec<PathBuf>,
    /// Prefix of the labels that are compared with the best of the others
    #[arg(long, value_name = "PREFIX", default_value = "jreg")]
    pub(crate) subject: String,
    /// Labels of the registries that sync blobs before they acknowledge them
    #[arg(long, value_name = "LABEL", value_delimiter = ',')]
    pub(crate) syncing: Vec<String>,
    /// Label of the runs against jreg-bench sink: how fast the client can send, not a registry
    #[arg(long, value_name = "LABEL", default_value = "sink")]
    pub(crate) sink: String,
    /// Write a chart to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

/// Arguments of a run.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// URL of the registry, for example http://127.0.0.1:5000
    #[arg(value_name = "URL", value_parser = registry, required_unless_present = "list")]
    pub(crate) url: Option<Url>,
    /// List the workloads
    #[arg(long)]
    pub(crate) list: bool,
    /// Run these workloads only; * stands for any characters, as in push-known-*
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<WorkloadPattern>,
    /// Skip these workloads
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    skip: Vec<WorkloadPattern>,
    /// Number of concurrent operations, each on its own connection
    #[arg(long, value_name = "NUMBER", default_value = "16")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=CONCURRENCY_MAX))]
    concurrency: u64,
    /// Concurrency of workloads with blobs of 1 MiB or more, one result for each [default: that of
    /// --concurrency]. Images of published sizes take those up to 4
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', num_args = 1..=LEVELS_MAX)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=CONCURRENCY_MAX))]
    bulk_concurrency: Vec<u64>,
    /// Time for which a workload starts operations; started ones are completed
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// Number of operations of each workload, instead of a duration
    #[arg(long, value_name = "NUMBER", conflicts_with = "duration")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Warm-up time of a workload before measuring
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    warmup: Duration,
    /// Number of times that all workloads run, one after the other
    #[arg(long, value_name = "NUMBER", default_value = "1")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(ROUNDS_MAX)))]
    rounds: u32,
    /// Prefix of all repository names
    #[arg(long, value_name = "NAME", default_value = "bench", value_parser = namespace)]
    namespace: String,
    /// Number of tags in the repository of tag-page
    #[arg(long, value_name = "NUMBER", default_value = "600")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=TAGS_MAX))]
    tags: u64,
    /// Number of repositories that catalog pushes
    #[arg(long, value_name = "NUMBER", default_value = "200")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=REPOSITORIES_MAX))]
    repositories: u64,
    /// Maximum MiB pushed by one workload; no push starts after that, except one for each
    /// concurrent operation
    #[arg(long, value_name = "MIB", default_value = "4096")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    push_mib_max: u64,
    /// Timeout of a request
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    timeout: Duration,
    /// User name and password, used if the registry requires authentication
    #[arg(long, value_name = "NAME:PASSWORD")]
    user: Option<BenchCredentials>,
    /// PEM bundle of additional CAs to trust
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Verify the digest of every body while measuring; takes CPU time of the client
    #[arg(long)]
    verify: bool,
    /// Run sync before each workload, so that none pays for the writes of the one before
    #[arg(long)]
    sync: bool,
    /// MiB of memory to allocate, write to and free before each workload, so that each starts with
    /// free pages that the host of a virtual machine provides
    #[arg(long, value_name = "MIB", default_value = "0")]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=WARM_MIB_MAX))]
    warm_mib: u64,
    /// Shell command that mix-gc runs in a loop, for example jreg gc. Without it mix-gc is skipped
    #[arg(long, value_name = "COMMAND")]
    gc_command: Option<String>,
    /// Process id of the server, to measure its CPU time and memory; Linux only
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Name of the registry in reports [default: its host and port]
    #[arg(long, value_name = "NAME", value_parser = label)]
    label: Option<String>,
    /// Seed of the content, to repeat that of another run [default: random]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Write the results as JSON to a file; -: to standard output, instead of the table
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a chart to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

impl RunArgs {
    /// A workload that was selected by name and needs `--gc-command`.
    pub(crate) fn lacks_gc_command(&self) -> Option<Workload> {
        // A pattern takes what can be run.
        let names = self.only.iter().filter_map(|WorkloadPattern(found)| match found.as_slice() {
            [one] => Some(*one),
            _ => None,
        });
        let mut asked = names.filter(|workload| workload.runs_gc);
        asked.next().filter(|_| self.gc_command.is_none())
    }

    /// The plan for that registry.
    pub(crate) fn plan(self, url: Url) -> RunPlan {
        let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        RunPlan {
            label: self.label.unwrap_or_else(|| url.authority.host_header()),
            url,
            workloads: select(&flat(&self.only), &flat(&self.skip), self.gc_command.is_some()),
            concurrency: number(self.concurrency),
            bulk_concurrency: self.bulk_concurrency.iter().copied().map(number).collect(),
            amount: self.count.map_or(PlanAmount::Duration(self.duration), PlanAmount::Count),
            warmup: self.warmup,
            rounds: self.rounds,
            namespace: self.namespace,
            tags: number(self.tags),
            repositories: number(self.repositories),
            push_bytes_max: self.push_mib_max.saturating_mul(MIB),
            warm_bytes: number(self.warm_mib.saturating_mul(MIB)),
            timeout: self.timeout,
            verify: self.verify,
            sync: self.sync,
            gc_command: self.gc_command,
            pid: self.pid,
            credentials: self.user,
            ca: self.ca,
            seed: self.seed.unwrap_or_else(new_seed),
        }
    }
}

/// Bytes of a MiB.
const MIB: u64 = 1 << 20;

fn flat(patterns: &[WorkloadPattern]) -> Vec<Workload> {
    patterns.iter().flat_map(|WorkloadPattern(found)| found.iter().copied()).collect()
}

/// A new seed each time: from the clock and the process id.
fn new_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanoseconds = since.unwrap_or_default().as_nanos() & u128::from(u64::MAX);
    BenchRng::new(u64::try_from(nanoseconds).unwrap_or_default(), std::process::id().into()).bits()
}

fn registry(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error: InvalidUrl| error.to_string())?;
    match url.target.as_str() {
        "/" => Ok(url),
        path => Err(format!("it must have no path, but has {path:?}")),
    }
}

fn namespace(text: &str) -> Result<String, String> {
    let component = |part: &str| {
        let edge =
            |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        edge(part.chars().next()) && edge(part.chars().last()) && part.chars().all(inner)
    };
    match text.len() <= 128 && text.split('/').all(component) {
        true => Ok(text.to_owned()),
        false => Err("it must be a prefix of repository names: lower-case letters, digits and - \
                      between slashes, 128 characters at most"
            .to_owned()),
    }
}

fn label(text: &str) -> Result<String, String> {
    match (1..=64).contains(&text.chars().count())
        && !text.contains(|c: char| c.is_control() || c == '|')
    {
        true => Ok(text.to_owned()),
        false => Err("it must be 1 to 64 characters without |".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let error = || "it must be a duration such as 500ms, 5s or 2m, 24h at most".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).ok_or_else(error)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(error()),
    };
    let number: u64 = number.parse().map_err(|_| error())?;
    let duration = number.checked_mul(milliseconds).map(Duration::from_millis);
    duration.filter(|duration| *duration <= DURATION_MAX).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &str) -> Result<BenchArgs, String> {
        let args = std::iter::once("jreg-bench").chain(args.split_whitespace());
        BenchArgs::try_parse_from(args).map_err(|error| error.to_string())
    }

    fn plan(args: &str) -> RunPlan {
        let mut run = parse(args).unwrap().run;
        let url = run.url.take().unwrap();
        run.plan(url)
    }

    #[test]
    fn the_command_line_is_consistent() {
        BenchArgs::command().debug_assert();
    }

    #[test]
    fn a_url_is_enough() {
        let plan = plan("http://127.0.0.1:5000");
        assert_eq!((plan.concurrency, plan.rounds, plan.tags), (16, 1, 600));
        assert_eq!(plan.amount, PlanAmount::Duration(Duration::from_secs(5)));
        assert_eq!(plan.label, "127.0.0.1:5000");
        assert_eq!(plan.workloads, select(&[], &[], false));
    }

    #[test]
    fn workloads_are_chosen_by_name() {
        let names = |args: &str| -> Vec<_> {
            plan(args).workloads.iter().map(|workload| workload.name).collect()
        };
        assert_eq!(names("http://a --only mix,blob-head"), ["blob-head", "mix"]);
        assert_eq!(names("http://a --only mix,blob-head --skip mix"), ["blob-head"]);
    }

    #[test]
    fn mix_gc_needs_a_gc_command() {
        let lacks = |args: &str| parse(args).unwrap().run.lacks_gc_command().map(|w| w.name);
        assert_eq!(lacks("http://a --only mix,mix-gc"), Some("mix-gc"));
        assert_eq!(lacks("http://a --only mix-gc --gc-command true"), None);
        assert_eq!(lacks("http://a"), None);
    }

    #[test]
    fn two_runs_have_two_seeds() {
        assert_eq!(plan("http://a --seed 7").seed, 7);
        assert_ne!(plan("http://a").seed, plan("http://a").seed);
    }

    #[test]
    fn a_report_needs_no_url_and_a_run_needs_one() {
        assert!(parse("report a.json b.json").unwrap().action.is_some());
        assert!(parse("--list").unwrap().run.list);
        assert!(parse("").unwrap_err().contains("<URL>"));
        assert!(parse("report").unwrap_err().contains("<FILE>"));
    }

    #[test]
    fn errors_name_the_argument() {
        for (args, said) in [
            ("127.0.0.1:5000", "is no URL such as http://127.0.0.1:5000"),
            ("http://a/v2/", "it must have no path, but has \"/v2/\""),
            ("http://a --only pull", "there is no workload \"pull\"; --list names them"),
            ("http://a --concurrency 0", "0 is not in 1..=4096"),
            ("http://a --count 5 --duration 1s", "cannot be used with"),
            ("http://a --duration 5", "it must be a duration such as 500ms"),
            ("http://a --duration 25h", "24h at most"),
            ("http://a --user me", "it must be NAME:PASSWORD"),
            ("http://a --namespace A", "lower-case letters"),
            ("http://a --namespace a//b", "lower-case letters"),
            ("http://a --label a|b", "without |"),
            ("http://a --rounds 101", "101 is not in 1..=100"),
        ] {
            let error = parse(args).unwrap_err();
            assert!(error.contains(said), "{args}: {error}");
        }
    }
}
