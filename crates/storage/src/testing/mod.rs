//! Stores that fail, record and wait as a test tells them.
//!
//! Each is put around any store and keeps its contract as long as the test asks for nothing.

mod clock;
mod faulty;
mod gate;
mod intercept;
mod recording;

pub use clock::ManualClock;
pub use faulty::{Fault, Faults, Faulty, Hit};
pub use gate::{Gate, Gates, Held};
pub use intercept::{Call, Intercepted, Interceptor};
pub use recording::{Log, Recording};
