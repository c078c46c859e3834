//! `restore JOB[@N]`: a job that has ended goes on from one of its checkpoints, under its name.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ckpt_core::Class;
use ckpt_core::resource::bytes::Bytes;

use super::doubt;
use super::history::History;
use super::run::{finish, standard};
use super::store::{Claim, Job, JobStore};
use crate::cli::{self, BranchArgs, RestoreArgs};
use crate::client::{self, Attaching, Session};
use crate::config::{self, Config};
use crate::failure::Failure;
use crate::keeper::{Origin, RestoreWords, Stdio};
use crate::supervisor::{Launch, LaunchKind};
use crate::{output, text};

/// The job and the number of the checkpoint that are meant, if a word names a job and not an image file.
pub fn named(word: &Path) -> anyhow::Result<Option<(Job, Option<u64>)>> {
    let Some(text) = word.to_str().filter(|text| !text.contains('/')) else { return Ok(None) };
    if word.extension().is_some_and(|extension| extension == "ckpt") && word.exists() {
        return Ok(None);
    }
    let (name, number) = match text.rsplit_once('@') {
        Some((name, number)) => match number.parse() {
            Ok(number) => (name, Some(number)),
            Err(_) => return Ok(None),
        },
        None => (text, None),
    };
    // Where no job can be written down there is none.
    let Ok(store) = JobStore::open() else { return Ok(None) };
    Ok(store.known(name)?.map(|job| (job, number)))
}

fn bytes(path: &Path) -> Bytes {
    Bytes(path.as_os_str().as_bytes().to_vec())
}

/// Restores the job.
pub fn restore(args: &RestoreArgs, job: &Job, number: Option<u64>) -> anyhow::Result<i32> {
    let store = JobStore::open()?;
    let was_over = job.is_over();
    let job = &doubt::settle(&store, job.clone())?;
    if let Some(host) = job.host.as_ref().filter(|_| was_over && !job.is_over()) {
        let message = format!("the job {0} runs on {host} after all: ckptctl attach {0}", job.name);
        return Err(Failure::new(Class::Failed, message).into());
    }
    if !job.is_over() {
        let place = job.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
        let message = format!(
            "the job {0} runs{place}; `ckptctl stop {0}` ends it, `ckptctl branch {0}` starts a second run beside it",
            job.name
        );
        return Err(Failure::new(Class::Failed, message).into());
    }
    let file = image_of(&store, job, number)?;
    let claim = store.claim(Some(&job.name), Path::new(&job.name))?;
    go_on(&store, args, job, file, claim)
}

/// Starts a second run of a job from one of its checkpoints, beside the first, as a job of its own.
pub fn branch(args: &BranchArgs) -> anyhow::Result<i32> {
    let Some((job, number)) = named(&args.restore.file)? else {
        let message = format!("there is no job {}; `ckptctl ps` lists the jobs", text::path(&args.restore.file));
        return Err(Failure::new(Class::Failed, message).into());
    };
    let store = JobStore::open()?;
    let file = image_of(&store, &job, number)?;
    let claim = match args.name.as_deref() {
        Some(name) if name == job.name => {
            let message =
                format!("a branch of {name} has another name than {name}, which keeps its log and its history");
            return Err(Failure::new(Class::Usage, message).into());
        }
        Some(name) => store.claim(Some(name), Path::new(name))?,
        None => store.claim_unknown(&job.name)?,
    };
    claim.prepare()?;
    go_on(&store, &args.restore, &job, file, claim)
}

/// The image to restore a job from.
fn image_of(store: &JobStore, job: &Job, number: Option<u64>) -> anyhow::Result<PathBuf> {
    let history = History::of(&store.directory(&job.name));
    Ok(match (&job.saved, number) {
        // It was ended with an image, which may be a file of the user's.
        (Some(image), None) => crate::jobs::path_of(image),
        _ => history.image(history.find(&job.name, number)?.number),
    })
}

/// Restores a job's image under a claimed name.
fn go_on(store: &JobStore, args: &RestoreArgs, job: &Job, file: PathBuf, claim: Claim<'_>) -> anyhow::Result<i32> {
    let name = claim.name().to_owned();
    let history = History::of(&store.directory(&job.name));
    let Config { detach_key, .. } = if args.detach { Config::default() } else { config::load()? };
    let session = (!args.detach).then(|| Session::begin(false)).transpose()?;
    let (standard, given) = standard(session.as_ref().map(|(session, _)| &**session));
    let pipes_input = standard.stdio[0] == Stdio::Pipe;
    let options = RestoreWords {
        nest: cli::nest_policy_name(args.nest).to_owned(),
        files: cli::files_policy_name(args.files).to_owned(),
        ignore_cpu: args.ignore_cpu,
        show: args.view().iter().map(|shown| (bytes(&shown.path), bytes(&shown.source), shown.read_only)).collect(),
    };
    let shown = history.all()?.into_iter().find(|one| history.image(one.number) == file);
    let shown = shown.map(|one| one.scene.terminal).unwrap_or_default();
    let (origin, command) = (Origin::Image { file, options }, job.command.clone());
    let kind = LaunchKind::Program { origin, standard, command, shown };
    let launched = client::launch(&Launch { name: name.clone(), kind }, &given, None);
    let launched = launched.inspect_err(|_| store.drop_unused(&name))?;
    drop(claim);
    for note in &launched.notes {
        if !(args.detach && args.json) {
            eprintln!("ckptctl: note: {}", text::plain(note));
        }
    }
    match session {
        None if args.json => {
            let told = serde_json::json!({ "job": name, "pid": launched.pid, "notes": launched.notes });
            output::print_json(&told).map(|()| 0)
        }
        None => output::print(&format!("{}\n", launched.pid.unwrap_or_default())).map(|()| 0),
        Some(session) => {
            let stream = launched.receiver.stream().try_clone()?;
            let attaching = Attaching { read_only: false, pipes_input, is_launcher: true, detach_key };
            Ok(finish(&name, &client::attach(store, &name, session, Some(stream), None, attaching)?))
        }
    }
}
