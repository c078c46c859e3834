//! Jobs: programs that were started with `run` and have a name.

mod attach;
mod end;
mod everywhere;
mod history;
mod list;
mod logs;
mod restore;
mod run;
mod store;

pub use attach::attach;
pub use end::{rm, stop};
pub use history::{History, history};
pub use list::{ps, status_of, statuses};
pub use logs::logs;
pub use restore::{named, restore};
pub use run::run;
pub use store::{Job, JobEnding, JobStore, Moving, Phase, ProcessId, path_of, read_json, write_ending};
