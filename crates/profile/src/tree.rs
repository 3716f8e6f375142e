//! [`MeasuredWork`]: what a thread works on, and the processor time of each kind of work.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::time::{ClockId, clock_gettime};

use crate::WorkName;

/// Maximum number of kinds of work that a table keeps; what exceeds it counts for the work around it.
const NODES_MAX: usize = 4096;
/// Number of tables, so that threads seldom wait for each other.
const TABLES: usize = 16;
/// The work of a thread that is in none.
const ROOT: usize = 0;

/// The number of the recording that runs; 0: none.
static RECORDED: AtomicU64 = AtomicU64::new(0);
/// Each thread writes to one of them.
static TREES: [Mutex<WorkTree>; TABLES] = [const { Mutex::new(WorkTree::new()) }; TABLES];
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static TREE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % TABLES;
    static PLACE: Cell<WorkPlace> = const { Cell::new(WorkPlace::NONE) };
}

/// What a thread works on.
#[derive(Clone, Copy)]
struct WorkPlace {
    recording: u64,
    node: usize,
    /// Time of the work within it that has ended.
    nested_ns: u64,
}

impl WorkPlace {
    const NONE: Self = Self { recording: 0, node: ROOT, nested_ns: 0 };
}

/// The kinds of work that some threads have done in a recording.
struct WorkTree {
    recording: u64,
    nodes: Vec<WorkNode>,
    children: BTreeMap<(usize, WorkName), usize>,
}

/// A kind of work below others.
#[derive(Clone, Copy)]
struct WorkNode {
    parent: usize,
    name: WorkName,
    runs: u64,
    own_ns: u64,
}

impl WorkTree {
    const fn new() -> Self {
        Self { recording: 0, nodes: Vec::new(), children: BTreeMap::new() }
    }

    fn of(index: usize) -> MutexGuard<'static, Self> {
        TREES[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own() -> MutexGuard<'static, Self> {
        Self::of(TREE.with(|tree| *tree))
    }

    fn reset(&mut self, recording: u64) {
        let root = WorkNode { parent: ROOT, name: WorkName("", ""), runs: 0, own_ns: 0 };
        *self = Self { recording, nodes: vec![root], children: BTreeMap::new() };
    }

    fn child(&mut self, parent: usize, name: WorkName) -> usize {
        if let Some(node) = self.children.get(&(parent, name)) {
            return *node;
        }
        if self.nodes.len() >= NODES_MAX {
            return parent;
        }
        let node = self.nodes.len();
        self.nodes.push(WorkNode { parent, name, runs: 0, own_ns: 0 });
        self.children.insert((parent, name), node);
        node
    }

    /// The names from the outermost work to this.
    fn path(&self, mut node: usize) -> Vec<WorkName> {
        let mut names = Vec::new();
        while let Some(of) = self.nodes.get(node).filter(|_| node != ROOT) {
            names.push(of.name);
            node = of.parent;
        }
        names.reverse();
        names
    }
}

/// The work from which other work is handed to another thread.
pub(crate) struct WorkPath {
    recording: u64,
    names: Vec<WorkName>,
}

impl WorkPath {
    /// That of this thread, if it is recorded.
    pub(crate) fn current() -> Option<Self> {
        let recording = RECORDED.load(Ordering::Relaxed);
        let place = PLACE.get();
        if recording == 0 || place.recording != recording {
            return None;
        }
        let tree = WorkTree::own();
        (tree.recording == recording).then(|| Self { recording, names: tree.path(place.node) })
    }
}

/// Work that is measured until this is dropped, on the thread that began it.
pub(crate) struct MeasuredWork {
    around: WorkPlace,
    began_ns: u64,
}

impl MeasuredWork {
    /// Begins work, if a recording runs.
    pub(crate) fn begin(name: WorkName) -> Option<Self> {
        match RECORDED.load(Ordering::Relaxed) {
            0 => None,
            recording => Self::begin_in(recording, None, name),
        }
    }

    /// The same with the work that it belongs to.
    pub(crate) fn begin_below(path: Option<WorkPath>, name: WorkName) -> Option<Self> {
        match RECORDED.load(Ordering::Relaxed) {
            0 => None,
            recording => Self::begin_in(recording, path, name),
        }
    }

    fn begin_in(recording: u64, path: Option<WorkPath>, name: WorkName) -> Option<Self> {
        let around = PLACE.get();
        let mut tree = WorkTree::own();
        if tree.recording != recording {
            return None;
        }
        let mut node = if around.recording == recording { around.node } else { ROOT };
        for above in
            path.filter(|path| path.recording == recording).into_iter().flat_map(|path| path.names)
        {
            node = tree.child(node, above);
        }
        let node = tree.child(node, name);
        drop(tree);
        PLACE.set(WorkPlace { recording, node, nested_ns: 0 });
        Some(Self { around, began_ns: thread_time_ns() })
    }
}

impl Drop for MeasuredWork {
    fn drop(&mut self) {
        let total_ns = thread_time_ns().saturating_sub(self.began_ns);
        let place = PLACE.get();
        let nested_ns = self.around.nested_ns.saturating_add(total_ns);
        PLACE.set(WorkPlace { nested_ns, ..self.around });
        let mut tree = WorkTree::own();
        // The recording may have ended meanwhile, and another begun.
        if tree.recording == place.recording
            && let Some(node) = tree.nodes.get_mut(place.node)
        {
            node.runs += 1;
            node.own_ns += total_ns.saturating_sub(place.nested_ns);
        }
    }
}

/// Processor time of this thread.
pub(crate) fn thread_time_ns() -> u64 {
    nanoseconds(ClockId::ThreadCPUTime)
}

/// Processor time of all threads.
pub(crate) fn process_time_ns() -> u64 {
    nanoseconds(ClockId::ProcessCPUTime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let nanoseconds = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    u64::try_from(nanoseconds).unwrap_or_default()
}

/// Own time of a kind of work, below others.
pub(crate) struct WorkTime {
    pub(crate) names: Vec<WorkName>,
    pub(crate) runs: u64,
    pub(crate) own_ns: u64,
}

/// Begins to measure. Only one recording may run at a time.
pub(crate) fn begin(recording: u64) {
    (0..TABLES).for_each(|index| WorkTree::of(index).reset(recording));
    RECORDED.store(recording, Ordering::Relaxed);
}

/// Ends measuring, and takes what was measured.
pub(crate) fn end() -> Vec<WorkTime> {
    RECORDED.store(0, Ordering::Relaxed);
    let mut times = Vec::new();
    for index in 0..TABLES {
        let tree = std::mem::replace(&mut *WorkTree::of(index), WorkTree::new());
        // What would have been too many kinds at the root is left to other time.
        for (node, of) in tree.nodes.iter().enumerate().skip(1).filter(|(_, of)| of.runs > 0) {
            let WorkNode { runs, own_ns, .. } = *of;
            times.push(WorkTime { names: tree.path(node), runs, own_ns });
        }
    }
    times
}
