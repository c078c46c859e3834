//! Who a process runs as: user, groups, capabilities.

use ckpt_trace::Batch;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::proc::{IdMap, Status};

/// User and group ids and capabilities, as the program itself sees them: in a nest these need not be those that it has outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Effective capabilities.
    pub effective: u64,
    /// Permitted capabilities.
    pub permitted: u64,
    /// Inheritable capabilities.
    pub inheritable: u64,
}

impl Credentials {
    /// The credentials of a process.
    ///
    /// # Errors
    /// A process that runs with several user ids at once is refused.
    pub fn capture(pid: i32, status: &Status) -> Result<Self, Error> {
        let same = |ids: [u32; 4]| ids.iter().all(|id| *id == ids[0]);
        if !same(status.uid) || !same(status.gid) {
            return Err(Error::refused(
                pid,
                "it runs with different real and effective user or group ids",
                "wait until the set-user-id program is done",
            ));
        }
        let (mut uid, mut gid, mut groups) = (status.uid[0], status.gid[0], status.groups.clone());
        if let Some((users, groups_of_users)) = IdMap::of(pid)? {
            uid = users.inside(uid).unwrap_or(uid);
            gid = groups_of_users.inside(gid).unwrap_or(gid);
            // Those that it has no name for are the machine's.
            groups = groups.iter().filter_map(|group| groups_of_users.inside(*group)).collect();
        }
        Ok(Self { uid, gid, groups, effective: status.cap_eff, permitted: status.cap_prm, inheritable: status.cap_inh })
    }

    /// Takes on the user and groups of the image: for root, who may. In a nest of an ordinary user the mapping of the
    /// user namespace does that.
    pub fn rebuild_ids(&self, batch: &mut Batch) {
        let groups: Vec<u8> = self.groups.iter().flat_map(|group| group.to_le_bytes()).collect();
        let at = batch.data(&groups);
        batch.call("setgroups", libc::SYS_setgroups, &[self.groups.len() as u64, at]);
        let (uid, gid) = (self.uid.into(), self.gid.into());
        batch.call("setresgid", libc::SYS_setresgid, &[gid, gid, gid]);
        batch.call("setresuid", libc::SYS_setresuid, &[uid, uid, uid]);
    }

    /// Gives up the capabilities that the program did not have; `held` are those that the new process has.
    pub fn rebuild_capabilities(&self, batch: &mut Batch, held: u64) {
        const VERSION_3: u32 = 0x2008_0522;
        let header = batch.data(&[VERSION_3.to_le_bytes(), [0; 4]].concat());
        let sets = [self.effective & held, self.permitted & held, self.inheritable & held];
        // Two halves, low first, each with effective, permitted and inheritable.
        let low = sets.iter().flat_map(|set| (set & 0xffff_ffff).to_le_bytes().into_iter().take(4));
        let high = sets.iter().flat_map(|set| (set >> 32).to_le_bytes().into_iter().take(4));
        let data: Vec<u8> = low.chain(high).collect();
        let data = batch.data(&data);
        batch.call("capset", libc::SYS_capset, &[header, data]);
    }
}
