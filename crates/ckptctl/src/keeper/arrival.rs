//! A program that comes from another machine: built as its image comes, and let go by word of the supervisor.

use std::io::Read;
use std::os::fd::OwnedFd;

use anyhow::Context;
use ckpt_core::resource::bytes::Bytes;
use ckpt_core::{Class, RestoreOptions, Restored, Shown};
use ckpt_transfer::frames::FrameReader;
use serde::{Deserialize, Serialize};

use super::{Order, Report};
use crate::failure::Failure;
use crate::fate::{self, Fate};
use crate::jobs::{JobStore, ProcessId, path_of};
use crate::local::{self, Receiver};

/// A program that comes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Coming {
    /// The move.
    pub txn: String,
    /// How many data channels there are; their descriptors come last.
    pub channels: usize,
    /// What it finds at its paths: path, source, whether it can only read there.
    pub view: Vec<(Bytes, Bytes, bool)>,
    /// Also where the processor lacks features.
    pub ignore_cpu: bool,
}

/// Builds it, says so, waits for the word, and lets it go. When the supervisor goes before, nothing is left of it.
pub fn receive(
    job: &str,
    coming: &Coming,
    channels: Vec<OwnedFd>,
    supervisor: &mut Receiver,
) -> anyhow::Result<Restored> {
    let shown = |(path, source, read_only): &(Bytes, Bytes, bool)| Shown {
        path: path_of(path),
        source: path_of(source),
        read_only: *read_only,
    };
    let options = RestoreOptions {
        view: coming.view.iter().map(shown).collect(),
        ignore_cpu: coming.ignore_cpu,
        ..RestoreOptions::default()
    };
    let mut frames = FrameReader::new(channels);
    let arrival = ckpt_core::arrive(&mut frames, &options)?;
    // The ends of the channels: until they were read the source is still sending.
    if frames.read(&mut [0]).context("the image does not end as it should")? > 0 {
        return Err(Failure::new(Class::BadImage, "more than an image has come").into());
    }
    drop(frames);
    let process = ProcessId::of(arrival.report().pid)?;
    local::send(supervisor.stream(), &Report::Built { process, notes: arrival.report().notes.clone() }, &[])?;
    match supervisor.receive::<Order>() {
        Ok(Some((Order::Go, _))) => {}
        _ => return Err(Failure::new(Class::Cancelled, "the move was called off").into()),
    }
    let ran = Fate::Ran { job: job.to_owned(), process };
    if fate::decide(&JobStore::open()?, &coming.txn, &ran)? != ran {
        return Err(Failure::new(Class::Cancelled, "the move was called off before the program was let go").into());
    }
    Ok(arrival.go()?)
}
