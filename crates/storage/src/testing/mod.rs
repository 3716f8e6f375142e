//! Stores that fail, record and wait as a test tells them, and a schedule for many actors.
//!
//! Each is put around any store and keeps its contract as long as the test asks for nothing.

mod clock;
mod faulty;
mod gate;
mod intercept;
mod recording;
mod schedule;
mod syscalls;

pub use clock::ManualClock;
pub use faulty::{Fault, Faults, Faulty, Hit};
pub use gate::{Gate, Gates, Held};
pub use intercept::{Call, Intercepted, Interceptor};
pub use recording::{Log, Recording};
pub use schedule::{Manners, Schedule, Scheduled, StopPlace, Stopped, Stops};
pub use syscalls::SyscallFaults;
