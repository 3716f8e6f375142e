//! Profiles of work for people ([`to_text`]) and for the tool `pprof` ([`to_pprof`]).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use jreg_profile::{ProfiledWork, ThreadTime, WorkName, WorkProfile};

use crate::protobuf::Message;

/// Number of kinds of work that the text names; the others are summed up.
const LINES_MAX: usize = 100;

/// What a profile calls the time outside marked work: the runtime, the log, allocations outside requests.
const OTHER: WorkName = WorkName("other", "");

/// One line for each kind of work, the most expensive first, then the threads.
pub fn to_text(profile: &WorkProfile) -> String {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let seconds = profile.duration.as_secs_f64();
    let mut text = format!(
        "{seconds:.1} s on {processors} processors: {:.3} s of processor time ({:.0} % of one)\n\n{:>7} {:>10} {:>10}  work\n",
        profile.process.as_secs_f64(),
        percent(profile.process, profile.duration),
        "share",
        "seconds",
        "runs",
    );
    let mut line = |own: Duration, runs: &str, name: &str| {
        let share = percent(own, profile.process);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{share:>5.1} % {:>10.3} {runs:>10}  {name}", own.as_secs_f64());
    };
    for ProfiledWork { names, runs, own } in profile.work.iter().take(LINES_MAX) {
        let names: Vec<_> = names.iter().map(WorkName::to_string).collect();
        line(*own, &runs.to_string(), &names.join(" > "));
    }
    let rest = profile.work.iter().skip(LINES_MAX);
    line(rest.map(|work| work.own).sum::<Duration>() + profile.other(), "", "other");
    text.push_str("\nthreads that are there at the beginning and at the end:\n");
    for ThreadTime { name, time } in &profile.threads {
        let _ = writeln!(
            text,
            "{:>5.1} % {:>10.3}  {name}",
            percent(*time, profile.process),
            time.as_secs_f64()
        );
    }
    text
}

fn percent(part: Duration, whole: Duration) -> f64 {
    100.0 * part.as_secs_f64() / whole.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// Names and functions of a profile of pprof.
struct PprofTables {
    profile: Message,
    strings: HashMap<String, u64>,
    texts: Vec<String>,
    functions: HashMap<WorkName, u64>,
}

impl PprofTables {
    fn new() -> Self {
        let (strings, texts) = (HashMap::from([(String::new(), 0)]), vec![String::new()]);
        Self { profile: Message::default(), strings, texts, functions: HashMap::new() }
    }

    /// The index of a string.
    fn text(&mut self, text: &str) -> u64 {
        if let Some(index) = self.strings.get(text) {
            return *index;
        }
        let index = self.texts.len() as u64;
        self.strings.insert(text.to_owned(), index);
        self.texts.push(text.to_owned());
        index
    }

    /// A ValueType.
    fn value_type(&mut self, kind: &str, unit: &str) -> Message {
        let mut value_type = Message::default();
        value_type.number(1, self.text(kind));
        value_type.number(2, self.text(unit));
        value_type
    }

    /// The number of the location, and of the function, of a kind of work.
    fn location(&mut self, name: WorkName) -> u64 {
        if let Some(number) = self.functions.get(&name) {
            return *number;
        }
        let number = self.functions.len() as u64 + 1;
        self.functions.insert(name, number);
        let text = self.text(&name.to_string());
        let (mut line, mut location, mut function) =
            (Message::default(), Message::default(), Message::default());
        line.number(1, number);
        location.number(1, number);
        location.message(4, line);
        function.number(1, number);
        function.number(2, text);
        self.profile.message(4, location);
        self.profile.message(5, function);
        number
    }

    fn sample(&mut self, names: &[WorkName], runs: u64, own: Duration) {
        // The innermost first.
        let locations: Vec<_> = names.iter().rev().map(|name| self.location(*name)).collect();
        let mut sample = Message::default();
        sample.numbers(1, locations);
        sample.numbers(2, [runs, nanoseconds(own)]);
        self.profile.message(2, sample);
    }
}

/// A profile of pprof (`profile.proto`), not compressed. Its functions are kinds of work.
pub fn to_pprof(profile: &WorkProfile) -> Vec<u8> {
    let mut tables = PprofTables::new();
    let (runs, cpu) = (tables.value_type("runs", "count"), tables.value_type("cpu", "nanoseconds"));
    tables.profile.message(1, runs);
    tables.profile.message(1, cpu);
    for ProfiledWork { names, runs, own } in &profile.work {
        tables.sample(names, *runs, *own);
    }
    tables.sample(&[OTHER], 0, profile.other());
    let began = profile.began_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let period = tables.value_type("cpu", "nanoseconds");
    let default = tables.text("cpu");
    tables.profile.number(9, nanoseconds(began));
    tables.profile.number(10, nanoseconds(profile.duration));
    tables.profile.message(11, period);
    tables.profile.number(12, 1);
    tables.profile.number(14, default);
    for text in &tables.texts {
        tables.profile.bytes(6, text.as_bytes());
    }
    tables.profile.into_bytes()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn example() -> WorkProfile {
        let work = |names: &[WorkName], runs, own_ms| ProfiledWork {
            names: names.to_vec(),
            runs,
            own: Duration::from_millis(own_ms),
        };
        let request = WorkName("request", "blob_get");
        WorkProfile {
            began_at: SystemTime::UNIX_EPOCH,
            duration: Duration::from_secs(2),
            process: Duration::from_secs(1),
            work: vec![
                work(&[request, WorkName("store", "read")], 7, 600),
                work(&[request], 9, 150),
            ],
            threads: vec![ThreadTime {
                name: "tokio-rt-worker".to_owned(),
                time: Duration::from_millis(900),
            }],
        }
    }

    #[test]
    fn text_names_the_most_expensive_work_first() {
        let text = to_text(&example());
        let (head, table) = text.split_once("\n\n").expect("a head and a table");
        assert!(head.starts_with("2.0 s on "), "{head}");
        assert!(head.ends_with(": 1.000 s of processor time (50 % of one)"), "{head}");
        let expected = "  share    seconds       runs  work
 60.0 %      0.600          7  request blob_get > store read
 15.0 %      0.150          9  request blob_get
 25.0 %      0.250             other

threads that are there at the beginning and at the end:
 90.0 %      0.900  tokio-rt-worker
";
        assert_eq!(table, expected);
    }

    #[test]
    fn pprof_has_each_name_once() {
        let bytes = to_pprof(&example());
        for name in ["request blob_get", "store read", "other", "cpu", "nanoseconds"] {
            let name = name.as_bytes();
            let found = bytes.windows(name.len()).filter(|part| *part == name).count();
            assert_eq!(found, 1, "{name:?}");
        }
    }
}
