//! The command line of `jreg-bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::auth::Credentials;
use crate::plan::{Amount, Plan};
use crate::rng::Rng;
use crate::url::{InvalidUrl, Url};
use crate::workload::{Workload, select};

/// The most operations at a time.
pub(crate) const CONCURRENCY_MAX: u64 = 4096;
/// The most rounds of one run.
pub(crate) const ROUNDS_MAX: u32 = 100;
/// The most tags of `tag-page`.
pub(crate) const TAGS_MAX: u64 = 1_000_000;
/// The most repositories of `catalog`.
pub(crate) const REPOSITORIES_MAX: u64 = 1_000_000;
/// The longest time that can be given.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
/// The most workload results that are read from one file, and the most files of one report.
pub(crate) const FILES_MAX: usize = 1000;

const ABOUT: &str = "\
Measure an OCI registry over HTTP/1.1

Pushes content of its own to repositories below --namespace, and removes nothing: give it a registry
that can be thrown away. No two pieces of content are equal, so that none is deduplicated. Each
workload begins with one operation of which every byte is checked, then warms up, then counts.
Exit codes: 0 done, 1 something failed, 2 wrong command line.";

/// The arguments of `jreg-bench`.
#[derive(Debug, Parser)]
#[command(name = "jreg-bench", version, about = "Measure an OCI registry over HTTP/1.1")]
#[command(long_about = ABOUT)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub(crate) action: Option<BenchAction>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// What `jreg-bench` does beside measuring.
#[derive(Debug, Subcommand)]
pub enum BenchAction {
    /// Compare what runs measured: medians over all rounds, as Markdown and as a chart
    Report(ReportArgs),
}

/// What a comparison takes.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// What runs wrote with --json; those with one label are one registry
    #[arg(value_name = "FILE", required = true, num_args = 1..=FILES_MAX)]
    pub(crate) files: Vec<PathBuf>,
    /// What the labels begin with that are held against the best of the others
    #[arg(long, value_name = "PREFIX", default_value = "jreg")]
    pub(crate) subject: String,
    /// Write a chart to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

/// What a run takes.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The registry, such as http://127.0.0.1:5000
    #[arg(value_name = "URL", value_parser = registry, required_unless_present = "list")]
    pub(crate) url: Option<Url>,
    /// Print the names of the workloads and what they do
    #[arg(long)]
    pub(crate) list: bool,
    /// Measure these workloads only
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<Workload>,
    /// Leave these workloads out
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    skip: Vec<Workload>,
    /// How many operations run at a time, each on a connection of its own
    #[arg(long, value_name = "NUMBER", default_value = "16")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=CONCURRENCY_MAX))]
    concurrency: u64,
    /// For how long operations of a workload begin; those that began are done to their end
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// Do so many operations of each workload, however long it takes
    #[arg(long, value_name = "NUMBER", conflicts_with = "duration")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// For how long a workload runs before it counts
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    warmup: Duration,
    /// How often all workloads run, one after the other
    #[arg(long, value_name = "NUMBER", default_value = "1")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(ROUNDS_MAX)))]
    rounds: u32,
    /// What the names of all repositories begin with
    #[arg(long, value_name = "NAME", default_value = "bench", value_parser = namespace)]
    namespace: String,
    /// How many tags the repository of tag-page has
    #[arg(long, value_name = "NUMBER", default_value = "600")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=TAGS_MAX))]
    tags: u64,
    /// How many repositories catalog pushes
    #[arg(long, value_name = "NUMBER", default_value = "200")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=REPOSITORIES_MAX))]
    repositories: u64,
    /// After so many MiB in one workload no push begins any more
    #[arg(long, value_name = "MIB", default_value = "4096")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    push_mib_max: u64,
    /// The longest that one request may take
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    timeout: Duration,
    /// Log in with this name and password, where the registry asks for it
    #[arg(long, value_name = "NAME:PASSWORD")]
    user: Option<Credentials>,
    /// Trust the authorities in this PEM file, too
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Hash all that is read, also while it counts; this costs the client time
    #[arg(long)]
    verify: bool,
    /// Run sync before each workload, so that none pays for what the last one left to be written
    #[arg(long)]
    sync: bool,
    /// For mix-gc: run this line of the shell again and again meanwhile, such as jreg gc. Without it
    /// that workload is left out
    #[arg(long, value_name = "COMMAND")]
    collect: Option<String>,
    /// The server's process, to see what it takes; Linux only
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// What the registry is called in reports [default: its host and port]
    #[arg(long, value_name = "NAME", value_parser = label)]
    label: Option<String>,
    /// Repeat the content of another run [default: new content]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Write what was measured as JSON to a file; -: to standard output, instead of the table
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a chart to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

impl RunArgs {
    /// A workload that was asked for by name and cannot be done without `--collect`.
    pub(crate) fn lacks_collector(&self) -> Option<Workload> {
        let asked = self.only.iter().find(|workload| workload.is_collected).copied();
        asked.filter(|_| self.collect.is_none())
    }

    /// What is to be done on that registry.
    pub(crate) fn plan(self, url: Url) -> Plan {
        let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        Plan {
            label: self.label.unwrap_or_else(|| url.authority.host_header()),
            url,
            workloads: select(&self.only, &self.skip, self.collect.is_some()),
            concurrency: number(self.concurrency),
            amount: self.count.map_or(Amount::Duration(self.duration), Amount::Count),
            warmup: self.warmup,
            rounds: self.rounds,
            namespace: self.namespace,
            tags: number(self.tags),
            repositories: number(self.repositories),
            push_bytes_max: self.push_mib_max.saturating_mul(1 << 20),
            timeout: self.timeout,
            verify: self.verify,
            sync: self.sync,
            collect: self.collect,
            pid: self.pid,
            credentials: self.user,
            ca: self.ca,
            seed: self.seed.unwrap_or_else(new_seed),
        }
    }
}

/// Another one each time: from the clock and the process.
fn new_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanoseconds = since.unwrap_or_default().as_nanos() & u128::from(u64::MAX);
    Rng::new(u64::try_from(nanoseconds).unwrap_or_default(), std::process::id().into()).bits()
}

fn registry(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error: InvalidUrl| error.to_string())?;
    match url.target.as_str() {
        "/" => Ok(url),
        path => Err(format!("it may have no path, and has {path:?}")),
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
        false => Err("it must be the beginning of repository names: small letters, digits and - \
                      between slashes, 128 at the most"
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
    let error = || "it must be a duration such as 500ms, 5s or 2m, 24h at the most".to_owned();
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

    fn plan(args: &str) -> Plan {
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
        assert_eq!(plan.amount, Amount::Duration(Duration::from_secs(5)));
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
    fn what_runs_beside_a_collector_needs_one() {
        let lacks = |args: &str| parse(args).unwrap().run.lacks_collector().map(|w| w.name);
        assert_eq!(lacks("http://a --only mix,mix-gc"), Some("mix-gc"));
        assert_eq!(lacks("http://a --only mix-gc --collect true"), None);
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
    fn what_is_wrong_is_named() {
        for (args, said) in [
            ("127.0.0.1:5000", "is no URL such as http://127.0.0.1:5000"),
            ("http://a/v2/", "it may have no path, and has \"/v2/\""),
            ("http://a --only pull", "there is no workload \"pull\"; --list names them"),
            ("http://a --concurrency 0", "0 is not in 1..=4096"),
            ("http://a --count 5 --duration 1s", "cannot be used with"),
            ("http://a --duration 5", "it must be a duration such as 500ms"),
            ("http://a --duration 25h", "24h at the most"),
            ("http://a --user me", "it must be NAME:PASSWORD"),
            ("http://a --namespace A", "small letters"),
            ("http://a --namespace a//b", "small letters"),
            ("http://a --label a|b", "without |"),
            ("http://a --rounds 101", "101 is not in 1..=100"),
        ] {
            let error = parse(args).unwrap_err();
            assert!(error.contains(said), "{args}: {error}");
        }
    }
}
