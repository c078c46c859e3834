//! Checkpoints of the job: made here, because the supervisor is the program's ancestor and may trace it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use ckpt_core::resource::bytes::Bytes;
use ckpt_core::{After, CheckpointOptions, CheckpointReport, Class};
use ckpt_transfer::protocol::Reply;

use super::connection::Writer;
use super::{Act, Place, Supervisor, away};
use crate::failure::Failure;
use crate::jobs::{History, Reason};
use crate::progress::Watching;

/// What is to be saved, and how.
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own on the command line")]
#[derive(Debug, Clone)]
pub struct Wish {
    /// Into this file; `None`: into the job's history.
    pub file: Option<Bytes>,
    /// End the program when its image is complete.
    pub stop: bool,
    /// How memory is compressed.
    pub codec: String,
    /// The image carries mapped files.
    pub self_contained: bool,
    /// The image carries open files.
    pub carry_files: bool,
    /// Connected TCP sockets become reset ones.
    pub tcp_close: bool,
    /// Why.
    pub reason: Reason,
}

impl Wish {
    /// A checkpoint into the history that nobody asked for.
    pub fn unasked(reason: Reason) -> Self {
        let (file, stop, self_contained, carry_files, tcp_close) = (None, false, false, false, false);
        Self { file, stop, codec: "lz4".to_owned(), self_contained, carry_files, tcp_close, reason }
    }
}

/// Saves the program in a thread of its own, which answers. The flag is set as long as it can be cancelled.
pub fn start(
    supervisor: &Arc<Supervisor>,
    wish: Wish,
    writer: Writer,
    is_acting: &Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let act = supervisor.begin_checkpoint()?;
    is_acting.store(true, Ordering::Relaxed);
    let (supervisor, is_acting) = (Arc::clone(supervisor), Arc::clone(is_acting));
    let acting = move || {
        let saved = save(&supervisor, &wish, act, Some(&writer));
        is_acting.store(false, Ordering::Relaxed);
        match saved {
            Ok(report) => writer.tell(&Reply::Saved { report }),
            Err(error) => writer.fail(&error),
        }
    };
    std::thread::Builder::new().name("ckptctl".to_owned()).spawn(acting).context("no thread could be made")?;
    Ok(())
}

/// Saves the program. `news` hears how far that is.
pub fn save(
    supervisor: &Arc<Supervisor>,
    wish: &Wish,
    act: Act,
    news: Option<&Writer>,
) -> anyhow::Result<serde_json::Value> {
    let codec = wish.codec.parse().map_err(|_| Failure::new(Class::Usage, format!("{:?} is no codec", wish.codec)))?;
    let options = CheckpointOptions {
        after: if wish.stop { After::Kill } else { After::Continue },
        codec,
        self_contained: wish.self_contained,
        carry_files: wish.carry_files,
        tcp_close: wish.tcp_close,
        ..CheckpointOptions::default()
    };
    let history = History::of(&supervisor.directory);
    let number = if wish.file.is_none() { Some(history.next()?) } else { None };
    let file = match (&wish.file, number) {
        (Some(file), _) => PathBuf::from(OsStr::from_bytes(&file.0)),
        (None, Some(number)) => history.image(number),
        (None, None) => return Err(Failure::new(Class::Failed, "there is no place for the image").into()),
    };
    let is_away = matches!(&supervisor.state().place, Place::Away(_));
    let report = if is_away {
        away::save(supervisor, wish, &file, news)?
    } else {
        let _watching = news.map(|writer| watch(&options.progress, writer)).transpose()?;
        ckpt_core::checkpoint(supervisor.pid()?, &file, &options)?
    };
    if let Some(number) = number {
        history.enter(number, &report, wish.stop, supervisor.scene(wish.reason))?;
    }
    if wish.stop {
        supervisor.saved(&Bytes(file.as_os_str().as_bytes().to_vec()))?;
    }
    drop(act);
    told(&report, number)
}

/// Tells a client how far the engine is.
pub fn watch(progress: &Arc<ckpt_core::Progress>, writer: &Writer) -> anyhow::Result<Watching> {
    let writer = writer.clone();
    let tell = move |done, total| writer.tell(&Reply::Progress { phase: "memory".to_owned(), done, total });
    Watching::start(Arc::clone(progress), tell)
}

/// The report, with its number in the history.
fn told(report: &CheckpointReport, number: Option<u64>) -> anyhow::Result<serde_json::Value> {
    let mut told = serde_json::to_value(report).context("the report does not fit JSON")?;
    if let (Some(object), Some(number)) = (told.as_object_mut(), number) {
        object.insert("number".to_owned(), number.into());
    }
    Ok(told)
}
