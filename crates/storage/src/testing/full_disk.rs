//! [`FullDisk`]: a disk without space.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Syscall, SyscallHook, SyscallTarget};

/// For how many calls there is space after a file was made shorter.
const STEP: usize = 8;
const ENOSPC: i32 = 28;

/// A disk that has space for so many more calls that need some, and for some more with each step that
/// the store gives back. At first there is no end of it.
#[derive(Debug, Default)]
pub struct FullDisk {
    room: Mutex<Option<usize>>,
}

impl FullDisk {
    fn room(&self) -> MutexGuard<'_, Option<usize>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on there is space for so many calls.
    pub fn set_room(&self, calls: usize) {
        *self.room() = Some(calls);
    }
}

impl SyscallHook for FullDisk {
    fn before(&self, call: Syscall, _: SyscallTarget<'_>) -> io::Result<()> {
        let mut room = self.room();
        let Some(left) = &mut *room else { return Ok(()) };
        let needed = match call {
            Syscall::Create | Syscall::Write | Syscall::MakeFolder => 1,
            Syscall::Allocate => STEP,
            Syscall::SetLength => {
                *left += STEP;
                return Ok(());
            }
            _ => return Ok(()),
        };
        if *left < needed {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        *left -= needed;
        Ok(())
    }
}
