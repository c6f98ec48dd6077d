//! What root may still do in a container: Docker's default set.

use std::{collections::HashSet, io};

use caps::{CapSet, Capability, errors::CapsError};

use super::sys;

/// Without SYS_ADMIN, NET_ADMIN, BPF, SYS_PTRACE and SYS_MODULE a container can neither undo
/// its mounts nor change how its packets travel.
pub const KEPT: [Capability; 14] = [
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_CHROOT,
];

/// Why capabilities could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The bounding set.
    #[error("capability {0} stays in the bounding set")]
    Bounding(u8, #[source] io::Error),
    /// The process's own sets.
    #[error("the process's own set stays as it is")]
    Own(#[from] CapsError),
}

/// Gives up every capability but those that are kept, for this process and all it starts.
/// Never gains one: what the process lacked it lacks afterwards.
pub fn limit() -> Result<(), LimitError> {
    // The bounding set first, since that takes SETPCAP; it is what binds after the next exec.
    let kept_numbers = KEPT.map(|capability| capability.index());
    for number in (0..64).filter(|number| !kept_numbers.contains(number)) {
        match sys::drop_from_bounding_set(number) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return Err(LimitError::Bounding(number, error)),
        }
    }
    // Ambient and inheritable ones would reach programs that are not root's.
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    let held = caps::read(None, CapSet::Permitted)?;
    let kept: HashSet<_> =
        KEPT.into_iter().filter(|capability| held.contains(capability)).collect();
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    Ok(())
}
