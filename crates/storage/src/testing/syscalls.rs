//! [`SyscallFaults`]: system calls of a folder store that fail, or wait, as a test says.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Syscall, SyscallHook, SyscallTarget};

/// How long a test waits for what is sure to come.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The faults of the system calls of one [`FsStore`](crate::FsStore).
#[derive(Debug, Default)]
pub struct SyscallFaults {
    rules: Mutex<SyscallRules>,
    changed: Condvar,
    segment_bytes: Option<u64>,
}

#[derive(Debug, Default)]
struct SyscallRules {
    calls: u64,
    /// Those that need space.
    space_calls: u64,
    first: Option<SyscallFault>,
    failing: Vec<(Syscall, i32)>,
    next: Option<(Syscall, i32)>,
    held: Vec<Syscall>,
    waiting: usize,
    failed: u64,
}

/// Calls that fail, by their numbers.
#[derive(Clone, Copy, Debug)]
struct SyscallFault {
    from: u64,
    to: u64,
    errno: i32,
    /// Whether only calls count that need space.
    needs_space: bool,
}

/// No space left on device.
const ENOSPC: i32 = 28;
/// The calls that need space.
const NEEDS_SPACE: [Syscall; 4] =
    [Syscall::Create, Syscall::MakeFolder, Syscall::Write, Syscall::Allocate];

impl SyscallFaults {
    fn lock(&self) -> MutexGuard<'_, SyscallRules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Without faults, and with short segments of the write-ahead log.
    pub fn with_segments(bytes: u64) -> Self {
        Self { segment_bytes: Some(bytes), ..Self::default() }
    }

    /// How many calls were made.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// How many calls failed.
    pub fn failed(&self) -> u64 {
        self.lock().failed
    }

    /// Fails the call after `calls` more, once.
    pub fn fail_after(&self, calls: u64, errno: i32) {
        let mut rules = self.lock();
        let from = rules.calls + calls;
        rules.first = Some(SyscallFault { from, to: from + 1, errno, needs_space: false });
    }

    /// Fails every call after `calls` more.
    pub fn fail_all_after(&self, calls: u64, errno: i32) {
        let mut rules = self.lock();
        let from = rules.calls + calls;
        rules.first = Some(SyscallFault { from, to: u64::MAX, errno, needs_space: false });
    }

    /// Finds no space in the call that needs some after `calls` more such, once.
    pub fn no_space_after(&self, calls: u64) {
        let mut rules = self.lock();
        let from = rules.space_calls + calls;
        rules.first = Some(SyscallFault { from, to: from + 1, errno: ENOSPC, needs_space: true });
    }

    /// Fails every call of these kinds.
    pub fn fail(&self, calls: &[Syscall], errno: i32) {
        self.lock().failing.extend(calls.iter().map(|call| (*call, errno)));
    }

    /// Fails the next call of this kind, once.
    pub fn fail_next(&self, call: Syscall, errno: i32) {
        self.lock().next = Some((call, errno));
    }

    /// Fails every call that needs space, as a full disk does.
    pub fn fill_disk(&self) {
        self.fail(&NEEDS_SPACE, ENOSPC);
    }

    /// Lets calls of this kind wait.
    pub fn hold(&self, call: Syscall) {
        self.lock().held.push(call);
    }

    /// Lets calls of this kind continue.
    pub fn release(&self, call: Syscall) {
        self.lock().held.retain(|held| *held != call);
        self.changed.notify_all();
    }

    /// Ends all faults.
    pub fn heal(&self) {
        let mut rules = self.lock();
        rules.first = None;
        rules.next = None;
        rules.failing.clear();
        rules.held.clear();
        self.changed.notify_all();
    }

    /// Waits until so many calls wait. `false`: they do not come.
    pub fn waits_for_held(&self, calls: usize) -> bool {
        self.wait_until(|rules| rules.waiting >= calls)
    }

    /// Waits until so many calls have failed. `false`: they do not come.
    pub fn waits_for_failed(&self, calls: u64) -> bool {
        self.wait_until(|rules| rules.failed >= calls)
    }

    fn wait_until(&self, is_so: impl Fn(&SyscallRules) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), WAIT_MAX, |rules| !is_so(rules));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl SyscallHook for SyscallFaults {
    fn segment_bytes(&self) -> Option<u64> {
        self.segment_bytes
    }

    fn before(&self, call: Syscall, _: SyscallTarget<'_>) -> io::Result<()> {
        let mut rules = self.lock();
        let needs_space = NEEDS_SPACE.contains(&call);
        let (number, space_number) = (rules.calls, rules.space_calls);
        rules.calls += 1;
        rules.space_calls += u64::from(needs_space);
        if rules.held.contains(&call) {
            rules.waiting += 1;
            self.changed.notify_all();
            let is_held = |rules: &mut SyscallRules| rules.held.contains(&call);
            let waited = self.changed.wait_while(rules, is_held);
            rules = waited.unwrap_or_else(PoisonError::into_inner);
            rules.waiting -= 1;
        }
        let first = rules.first.filter(|fault| {
            let number = if fault.needs_space { space_number } else { number };
            (needs_space || !fault.needs_space) && (fault.from..fault.to).contains(&number)
        });
        let next = rules.next.take_if(|(failing, _)| *failing == call);
        let failing = rules.failing.iter().find(|(failing, _)| *failing == call);
        let by_call = next.or(failing.copied()).map(|(_, errno)| errno);
        let Some(errno) = first.map(|fault| fault.errno).or(by_call) else { return Ok(()) };
        rules.failed += 1;
        self.changed.notify_all();
        Err(io::Error::from_raw_os_error(errno))
    }
}
