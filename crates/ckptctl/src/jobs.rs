//! Jobs: programs that were started with `run` and have a name.

mod list;
mod run;
mod store;

pub use list::ps;
pub use run::run;
pub use store::JobStore;
pub use store::now;
/// stub
pub fn statuses() -> anyhow::Result<Vec<ckpt_transfer::protocol::JobStatus>> {
    Ok(Vec::new())
}
/// stub
pub fn holds(_pid: i32) -> anyhow::Result<Vec<(String, Vec<String>)>> {
    Ok(Vec::new())
}
/// stub
pub fn printed(_job: &str) -> anyhow::Result<Vec<u8>> {
    Ok(Vec::new())
}
