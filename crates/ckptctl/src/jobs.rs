//! Jobs: programs that were started with `run` and have a name.

mod list;
mod run;
mod store;

pub use list::ps;
pub use run::run;
pub use store::JobStore;
