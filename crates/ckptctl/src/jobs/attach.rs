//! `attach`: be at a job's terminal.

use super::run::finish;
use super::store::JobStore;
use crate::cli::AttachArgs;
use crate::client::{self, Attaching, Session};
use crate::config::{self, Config};

/// Stays attached until the job ends or the user detaches.
pub fn attach(args: &AttachArgs) -> anyhow::Result<i32> {
    let store = JobStore::open()?;
    store.living(&args.job)?;
    let Config { detach_key, .. } = if args.read_only { Config::default() } else { config::load()? };
    let session = Session::begin(args.read_only)?;
    let attaching = Attaching { read_only: args.read_only, pipes_input: false, is_launcher: false, detach_key };
    Ok(finish(&args.job, &client::attach(&store, &args.job, session, None, None, attaching)?))
}
