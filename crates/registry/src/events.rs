//! Events: what changed, for sinks that want to know (docs/events.md).
//!
//! - A writer that changes a tag or a manifest writes the event to the *queue* before the change, in the wave
//!   of writes that precedes it. So no change is without its event, and the queue may have events of
//!   changes that never took effect.
//! - The *sequencer* (`sequencer.rs`) confirms what is in the queue by looking at the store, and appends
//!   it to the *log* (`log.rs`), in the order of the changes of each tag.
//! - Each sink has a *cursor* over the log (`cursor.rs`). What a sink refuses for good is a *dead letter*
//!   (`dead_letter.rs`).
//!
//! Nothing is written while no sink wants anything.

mod cursor;
mod dead_letter;
mod evidence;
mod log;
mod queue;
mod sequencer;

pub use cursor::{LogPosition, SinkCursor, SinkName, StoredCursor};
pub use dead_letter::DeadLetter;
pub use evidence::{ChangeEvidence, ChangeState};
pub use log::{EVENTS_PER_SEGMENT_MAX, LogSegment, SequencedEvent};
pub use sequencer::{Sequencer, SequencerReport};
