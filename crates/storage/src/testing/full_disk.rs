//! [`FullDisk`]: a disk without space, or without inodes.

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
    inodes: Mutex<Option<usize>>,
}

fn lock(room: &Mutex<Option<usize>>) -> MutexGuard<'_, Option<usize>> {
    room.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FullDisk {
    /// From now on there is space for so many calls.
    pub fn set_room(&self, calls: usize) {
        *lock(&self.room) = Some(calls);
    }

    /// From now on there are so many inodes, and one more with each file or folder that is removed.
    pub fn set_inodes(&self, inodes: usize) {
        *lock(&self.inodes) = Some(inodes);
    }

    fn take_inode(&self, call: Syscall) -> bool {
        let mut inodes = lock(&self.inodes);
        let Some(left) = &mut *inodes else { return true };
        let after = match call {
            Syscall::Create | Syscall::MakeFolder => left.checked_sub(1),
            Syscall::Unlink | Syscall::RemoveFolder => Some(*left + 1),
            _ => Some(*left),
        };
        after.inspect(|after| *left = *after).is_some()
    }
}

impl SyscallHook for FullDisk {
    fn before(&self, call: Syscall, _: SyscallTarget<'_>) -> io::Result<()> {
        if !self.take_inode(call) {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        let mut room = lock(&self.room);
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
