//! `fetch`: bring home what a program writes on another machine, while it runs there or after it has ended.

use std::path::{Path, PathBuf};

use anyhow::Context;
use ckpt_core::Class;
use ckpt_transfer::files::{Departed, Hashes, below, bring_home, lacking};
use ckpt_transfer::protocol::{FileEntry, FilesPolicy, Reply, Request};
use ckpt_transfer::store::{Store, StoreError};
use ckpt_transfer::wire;
use serde_json::json;

use crate::cli::FetchArgs;
use crate::failure::Failure;
use crate::jobs::{Job, JobStore, path_of};
use crate::progress::Progress;
use crate::prompt::TerminalPrompter;
use crate::remote::{Agent, Machine, Progressing};
use crate::supervisor::DEPARTED;
use crate::{output, text};

/// How often a file that is written to at the same time is tried again.
const TRIES: usize = 5;

/// Brings files home.
pub fn fetch(args: &FetchArgs) -> anyhow::Result<i32> {
    let store = JobStore::open()?;
    let job = store.job(&args.job)?;
    let Some(host) = job.host.clone() else {
        let message = format!("the job {} is here, and so are its files", job.name);
        return Err(Failure::new(Class::Usage, message).into());
    };
    let agent = Machine::of(&host)?.agent(&[], &mut TerminalPrompter, &mut |_, _| ())?;
    let wanted: Vec<PathBuf> = args.paths.iter().map(std::path::absolute).collect::<Result<_, _>>()?;
    let is_final = job.is_over() && wanted.is_empty();
    let wanted = Wanted { paths: wanted, overwrite: args.overwrite, is_final };
    let mut progress = Progress::new(args.json);
    let brought = bring(&agent, &store, &job, &wanted, &mut |done, total| progress.show("files", done, total));
    drop(progress);
    let brought = brought?;
    if is_final {
        // All of it is home: nothing needs to stay there.
        agent.ask(&Request::Forget { job: name_there(&job).to_owned() })?;
        store.put(&Job { host: None, name_there: None, ..job })?;
    }
    if args.json {
        let files: Vec<String> = brought.iter().map(|path| path.display().to_string()).collect();
        output::print_json(&json!({ "job": args.job, "files": files }))?;
    } else {
        let lines: Vec<String> = brought.iter().map(|path| format!("{}\n", text::path(path))).collect();
        output::print(&lines.concat())?;
    }
    Ok(0)
}

fn name_there(job: &Job) -> &str {
    job.name_there.as_ref().unwrap_or(&job.name)
}

/// What is to be brought home.
#[derive(Debug, Default)]
pub struct Wanted {
    /// These files or directories only; all if empty.
    pub paths: Vec<PathBuf>,
    /// Also over files that were changed here meanwhile.
    pub overwrite: bool,
    /// The program writes no more: what it removed goes here as well.
    pub is_final: bool,
}

/// Brings files home from a host; gives those that changed here. `coming` hears how many bytes have come.
pub fn bring(
    agent: &Agent,
    store: &JobStore,
    job: &Job,
    wanted: &Wanted,
    coming: Progressing<'_>,
) -> anyhow::Result<Vec<PathBuf>> {
    let Wanted { paths, overwrite, is_final } = wanted;
    let contents = Store::open()?;
    let mut hashes = Hashes::load(&contents);
    let place = store.directory(&job.name).join(DEPARTED);
    let mut tries = 0;
    let files = loop {
        let Reply::Written { root, files } = agent.ask(&Request::Written { job: name_there(job).to_owned() })? else {
            return Err(Failure::new(Class::Remote, "the agent says something else than asked for").into());
        };
        let root = path_of(&root);
        let is_wanted = |file: &FileEntry| paths.is_empty() || paths.iter().any(|wanted| file.path.starts_with(wanted));
        let files: Vec<FileEntry> = files.into_iter().filter(is_wanted).collect();
        let mut has_changed = false;
        let missing = lacking(&files, FilesPolicy::Carry, &contents, &mut hashes)?;
        let total = missing.iter().map(|(index, there)| files[*index].size.saturating_sub(*there)).sum();
        let mut done = 0;
        for (index, there) in missing {
            let mut came = |count| {
                done += count;
                coming(done, total);
            };
            has_changed |= !take(agent, &root, &files[index], there, &contents, &mut came)?;
        }
        if !has_changed {
            break files;
        }
        tries += 1;
        if tries == TRIES {
            let message = "files are written to all the time; try again when the program does so less, or move it home";
            return Err(Failure::new(Class::Failed, message).into());
        }
    };
    if let Some(path) = paths.iter().find(|wanted| !files.iter().any(|file| file.path.starts_with(wanted))) {
        let message = format!("{} did not go along with the program, and is not brought back", text::path(path));
        return Err(Failure::new(Class::Usage, message).into());
    }
    let mut departed = Departed::load(&place)?;
    let brought = bring_home(&files, &mut departed, &contents, &mut hashes, *overwrite, *is_final);
    departed.save(&place)?;
    Ok(brought?)
}

/// Takes a file's contents into the store, and tells how many bytes come; false when it has changed meanwhile.
fn take(
    agent: &Agent,
    root: &Path,
    file: &FileEntry,
    there: u64,
    store: &Store,
    came: &mut dyn FnMut(u64),
) -> anyhow::Result<bool> {
    let Some(hash) = &file.hash else { return Ok(true) };
    let mut incoming = store.receive(hash, file.size, there)?;
    let request =
        Request::Read { path: below(root, &file.path), offset: there, length: file.size.saturating_sub(there) };
    wire::send(&mut &agent.stream, &request, &[])?;
    loop {
        match wire::receive::<Reply>(&mut &agent.stream) {
            Ok(Some((Reply::Chunk, bytes))) => {
                incoming.write(&bytes)?;
                came(bytes.len() as u64);
            }
            Ok(Some((Reply::Done, _))) => break,
            Ok(Some((Reply::Heartbeat, _))) => {}
            // It was removed meanwhile.
            Ok(Some((Reply::Failed { .. }, _))) => return Ok(false),
            Ok(Some(_)) => anyhow::bail!("the agent says something else than asked for"),
            Ok(None) => return Err(agent.lost("it closed the connection")),
            Err(error) => return Err(agent.lost(&error.to_string())),
        }
    }
    if !incoming.is_whole() {
        return Ok(false);
    }
    match incoming.finish() {
        Ok(_) => Ok(true),
        Err(StoreError::Damaged { .. }) => Ok(false),
        Err(error) => Err(error).context("a file cannot be kept"),
    }
}
