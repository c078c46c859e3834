//! What can be done to mounts and is not in any library yet.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::checked;

/// `struct mount_attr` (`include/uapi/linux/mount.h`).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Makes a mount tree that `open_tree(2)` has copied read-only, with all that is mounted in it. Its other attributes stay,
/// also those that a user namespace may not change (`mount_setattr(2)`, Linux 5.12).
///
/// # Errors
/// ENOSYS on older kernels.
pub fn make_read_only(tree: impl AsFd) -> io::Result<()> {
    const MOUNT_ATTR_RDONLY: u64 = 1;
    let attr = MountAttr { set: MOUNT_ATTR_RDONLY, ..MountAttr::default() };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let fd = tree.as_fd().as_raw_fd();
    // SAFETY: the path and `attr` are live, and the size of `attr` is given.
    checked(unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, &raw const attr, size_of::<MountAttr>())
    })
    .map(drop)
}
