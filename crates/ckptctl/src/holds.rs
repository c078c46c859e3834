//! What a process of this machine holds, for people: threads, files, memory by region.

use std::path::Path;

use ckpt_core::Class;
use ckpt_core::proc::{self, VmaKind};
use ckpt_transfer::protocol::{Reply, Request};
use ckpt_transfer::ssh::Nobody;

use crate::failure::Failure;
use crate::jobs::{Job, JobStore};
use crate::remote::Machine;
use crate::text;

/// Lines under headings.
pub type Groups = Vec<(String, Vec<String>)>;

/// Looks at a job's program, wherever it runs; nobody is asked anything.
///
/// # Errors
/// When it has ended, or its host cannot be asked.
pub fn of_job(name: &str) -> anyhow::Result<Groups> {
    let job = JobStore::open()?.living(name)?;
    let Job { host: Some(host), name_there, .. } = &job else { return of(job.pid) };
    let there = name_there.clone().unwrap_or_else(|| name.to_owned());
    let agent = Machine::of(host)?.agent(&[], &mut Nobody, &mut |_, _| ())?;
    match agent.ask(&Request::Holds { job: there })? {
        Reply::Holds { groups } => Ok(groups),
        _ => Err(Failure::new(Class::Remote, format!("{host} answers something else than asked for")).into()),
    }
}

/// Looks at a process, without stopping it.
///
/// # Errors
/// When it has ended, or belongs to somebody else.
pub fn of(pid: i32) -> anyhow::Result<Groups> {
    let threads = proc::tree::threads(pid)?;
    let named = threads.iter().map(|tid| {
        let name = proc::read(format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_default();
        format!("{tid:<8} {}", String::from_utf8_lossy(&name).trim())
    });
    let threads = (text::count(threads.len(), "thread", "threads"), named.collect());

    let mut files: Vec<String> = Vec::new();
    for fd in proc::tree::fds(pid)? {
        // One that it closes this moment is not held any more.
        if let Ok(link) = std::fs::read_link(format!("/proc/{pid}/fd/{fd}")) {
            files.push(format!("{fd:<8} {}", link.to_string_lossy()));
        }
    }
    let files = (text::count(files.len(), "open file or socket", "open files and sockets"), files);

    let mut regions: Vec<(u64, String)> = Vec::new();
    for vma in proc::maps::smaps(pid)? {
        let name = match vma.kind() {
            VmaKind::File { .. } => {
                let path = String::from_utf8_lossy(&vma.name).into_owned();
                Path::new(&path).file_name().map_or(path.clone(), |name| name.to_string_lossy().into_owned())
            }
            _ if vma.name.is_empty() => "memory without a file".to_owned(),
            _ => String::from_utf8_lossy(&vma.name).into_owned(),
        };
        match regions.iter_mut().find(|(_, known)| *known == name) {
            Some((size, _)) => *size += vma.rss + vma.swap,
            None => regions.push((vma.rss + vma.swap, name)),
        }
    }
    regions.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    let total: u64 = regions.iter().map(|(size, _)| size).sum();
    let lines =
        regions.iter().filter(|(size, _)| *size > 0).map(|(size, name)| format!("{:<12} {name}", text::size(*size)));
    let memory = (format!("{} of memory", text::size(total)), lines.collect());
    Ok(vec![threads, files, memory])
}
