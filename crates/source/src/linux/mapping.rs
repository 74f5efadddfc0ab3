//! Memory that outlives the process: a sealed memfd, and a view of a part of it.

#![expect(unsafe_code, reason = "the one place where shared memory becomes values")]

use std::fs::File;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::{AsFd, OwnedFd};
use std::{fmt, io};

use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A view begins at a multiple of this, which is one of every page size in use.
pub const ALIGN: usize = 64 << 10;

/// Values that every pattern of bits is one of, without padding that matters and without references.
///
/// # Safety
/// Implement it only for such `#[repr(C)]` types: what a dead process left in memory is taken for one.
pub unsafe trait Plain {}

/// A `T` in shared memory. There is one view of a part, and one process that has any.
pub struct View<T: Plain> {
    map: MmapMut,
    of: PhantomData<fn() -> T>,
}

/// Makes `bytes` of zeroed memory that neither grows nor shrinks.
///
/// # Errors
/// The kernel has no memfd, or the process may have no more files.
pub fn create(bytes: usize) -> io::Result<OwnedFd> {
    let memory =
        memfd_create(c"autoweave-usb-received", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let file = File::from(memory);
    file.set_len(bytes as u64)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// Whether `memory` is what [`create`] makes: of this size for ever, so that no access can fault.
pub fn is_memory(memory: impl AsFd, bytes: usize) -> bool {
    let seals = fcntl(memory.as_fd(), FcntlArg::F_GET_SEALS).unwrap_or(0);
    let stat = nix::sys::stat::fstat(memory.as_fd());
    SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK)
        && stat.is_ok_and(|stat| usize::try_from(stat.st_size) == Ok(bytes))
}

impl<T: Plain> View<T> {
    /// A view of the part of `memory` that begins at `offset`, a multiple of [`ALIGN`].
    ///
    /// # Errors
    /// The memory is too small, or the process may map no more.
    pub fn new(memory: impl AsFd, offset: usize) -> io::Result<Self> {
        let fd = memory.as_fd();
        let end = offset.saturating_add(size_of::<T>());
        let has_room = usize::try_from(nix::sys::stat::fstat(fd)?.st_size).is_ok_and(|bytes| end <= bytes);
        if !has_room || !offset.is_multiple_of(ALIGN) || align_of::<T>() > ALIGN {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let file = File::from(fd.try_clone_to_owned()?);
        // SAFETY: the memory cannot shrink under the mapping (`is_memory`), and only this process maps it: its
        // holder gives it to a daemon when the one before is dead.
        let map = unsafe { MmapOptions::new().offset(offset as u64).len(size_of::<T>()).map_mut(&file)? };
        Ok(Self { map, of: PhantomData })
    }
}

impl<T: Plain> View<T> {
    /// Gives memory back to the system; it reads as zeros afterwards. Where that cannot be done, nothing happens.
    pub fn release(&mut self, bytes: Range<usize>) {
        debug_assert!(bytes.start.is_multiple_of(ALIGN) && bytes.end <= size_of::<T>());
        // SAFETY: zeros are a `T` as well (`Plain`), and nobody holds a reference into `self` now.
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::Remove, bytes.start, bytes.len()) };
    }
}

impl<T: Plain> fmt::Debug for View<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("View").field(&self.map.as_ptr()).finish()
    }
}

impl<T: Plain> Deref for View<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping is as large as a `T`, aligned to a page, and any bits in it are a `T` (`Plain`).
        unsafe { &*self.map.as_ptr().cast::<T>() }
    }
}

impl<T: Plain> DerefMut for View<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `self` is borrowed for as long as the value is.
        unsafe { &mut *self.map.as_mut_ptr().cast::<T>() }
    }
}
