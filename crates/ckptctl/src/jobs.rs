//! Jobs: programs that were started with `run` and have a name.

mod attach;
mod doubt;
mod end;
mod everywhere;
mod history;
mod list;
mod logs;
mod restore;
mod run;
mod schedule;
mod store;

pub use attach::attach;
pub use end::{rm, stop};
pub use everywhere::everywhere;
pub use history::{History, Reason, Scene, history};
pub use list::{cpu, ps, status_of, statuses};
pub use logs::logs;
pub use restore::{branch, named, restore};
pub use run::run;
pub use schedule::{Schedule, schedule};
pub use store::{Job, JobEnding, JobStore, Moving, Phase, ProcessId, now, path_of, read_json, write_ending};
