//! Stores that fail, record and wait as a test demands, and a schedule for many actors.
//!
//! Each is put around any store and keeps its contract as long as the test asks for nothing.

mod clock;
mod faulty;
mod full_disk;
mod gate;
mod intercept;
mod recording;
mod schedule;
mod syscalls;

pub use clock::ManualClock;
pub use faulty::{Fault, FaultHit, Faults, FaultyStore};
pub use full_disk::FullDisk;
pub use gate::{GateStore, Gates, HeldCalls};
pub use intercept::{Call, InterceptedStore, Interceptor};
pub use recording::{CallLog, RecordingStore};
pub use schedule::{Schedule, ScheduledStore, StopPlace, StopRules, Stopped, Stops};
pub use syscalls::SyscallFaults;
