//! What can be told of a program without stopping it: what stands in the way of saving it, what it needs elsewhere.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ckpt_trace::TraceError;
use ckpt_trace::sys::{self, Shared};

use crate::depart::DepartOptions;
use crate::proc::{self, Stat, Status, Vma, VmaKind};
use crate::resource::descriptors::{DescriptorState, Opened};
use crate::resource::file_table::FileTable;
use crate::resource::files::{FileKind, FileState};
use crate::resource::machine::Machine;
use crate::resource::memory::{Backing, MemoryState};
use crate::resource::process;
use crate::{Error, cancel};

/// What a program holds and needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The machine it is on, with the processor features that the program may use.
    pub machine: Machine,
    /// How many bytes of memory have to be sent, about.
    pub memory: u64,
    /// How many threads it has.
    pub threads: usize,
    /// The files that it refers to, in the order in which the image will number them.
    pub files: Vec<SurveyedFile>,
    /// Its working directory.
    pub directory: PathBuf,
    /// What the user should know, in sentences.
    pub notes: Vec<String>,
}

/// A file that a program refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SurveyedFile {
    /// Its path, as the program knows it.
    pub path: PathBuf,
    /// Whether the path leads to it. Where it does not, the image carries it.
    pub kind: FileKind,
    /// What it is to the program.
    pub uses: Uses,
    /// Its size in bytes.
    pub size: u64,
    /// Type and permission bits (`st_mode`).
    pub mode: u32,
    /// Its last modification, in nanoseconds since 1970.
    pub modified: i64,
    /// The build id of an ELF file.
    pub build_id: Option<String>,
}

/// What a file is to a program.
#[allow(clippy::struct_excessive_bools)] // each is a question of its own
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uses {
    /// It is the executable.
    pub executable: bool,
    /// It is mapped.
    pub mapped: bool,
    /// It is open for reading.
    pub read: bool,
    /// It is open for writing, or mapped so that writing changes it.
    pub written: bool,
    /// It is a directory that is open.
    pub directory: bool,
}

/// Looks at a process without stopping or changing it, and refuses by name what can be seen to stand in the way of
/// [`depart`](crate::depart).
///
/// # Errors
/// [`Error::Refused`], [`Error::NotPermitted`], [`Error::NoProcess`].
pub fn survey(pid: i32, options: &DepartOptions) -> Result<Survey, Error> {
    crate::raise_descriptor_limit();
    let result = patiently(|| {
        look(pid, options)?;
        walk_through(pid, options)
    });
    result.map_err(|error| match error {
        Error::System { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => not_traceable(pid),
        Error::Proc(proc::ProcError::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            not_traceable(pid)
        }
        error => explain(pid, error),
    })
}

/// Asks every kind of resource that can be asked without the process's help.
fn walk_through(pid: i32, options: &DepartOptions) -> Result<Survey, Error> {
    let vmas = proc::maps::smaps(pid)?;
    let mut files = FileTable::new(pid, options.carry());
    let descriptors = DescriptorState::capture(pid, &mut files, options.tcp_close)?;
    let stat = Stat::of(pid)?;
    let memory = MemoryState::capture(pid, &vmas, &stat, stat.start_brk, &mut files)?;
    let (files, _) = files.finish();
    Ok(Survey {
        machine: machine(pid, &vmas)?,
        memory: own_memory(&vmas),
        threads: proc::tree::threads(pid)?.len(),
        files: used_files(&files, &memory, &descriptors),
        directory: process::working_directory(pid)?,
        notes: notes(&descriptors),
    })
}

/// Looks again at a process that runs, as long as what stands in the way may pass in a moment.
pub fn patiently<T>(mut look: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    const PATIENCE: Duration = Duration::from_millis(500);
    const MOMENT: Duration = Duration::from_millis(1);
    let until = Instant::now() + PATIENCE;
    loop {
        match look() {
            Err(error) if is_passing(&error) && Instant::now() < until => {
                cancel::check()?;
                std::thread::sleep(MOMENT);
            }
            result => return result,
        }
    }
}

/// Whether a failure is of something that the process has just let go of, or may at any moment.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::Refused { is_passing, .. } => *is_passing,
        Error::Proc(error) => error.is_gone(),
        Error::System { source, .. } | Error::File { source, .. } => {
            matches!(source.raw_os_error(), Some(libc::ENOENT | libc::EBADF | libc::ESRCH))
        }
        _ => false,
    }
}

/// This machine, as the process may use it.
///
/// # Errors
/// When it has ended.
pub fn machine(pid: i32, vmas: &[Vma]) -> Result<Machine, Error> {
    // A process may have given that memory away: then it has told us nothing.
    let environment = match proc::read(format!("/proc/{pid}/environ")) {
        Err(error) if error.is_gone() => return Err(error.into()),
        read => read.unwrap_or_default(),
    };
    let mapped = vmas.iter().filter(|vma| matches!(vma.kind(), VmaKind::File { .. }));
    let mapped = mapped.map(|vma| Path::new(std::ffi::OsStr::from_bytes(&vma.name)));
    Ok(Machine::of_program(&environment, mapped))
}

/// How many bytes of memory are the program's own.
pub fn own_memory(vmas: &[Vma]) -> u64 {
    let own = |vma: &Vma| match vma.kind() {
        VmaKind::Vdso => vma.size(),
        VmaKind::Vvar | VmaKind::Vsyscall => 0,
        // Not counted as resident.
        _ if vma.flags.is_hugetlb() => vma.size(),
        VmaKind::SharedAnon => vma.rss + vma.swap,
        _ if vma.perms.shared => 0,
        _ => vma.anonymous + vma.swap,
    };
    vmas.iter().map(own).sum()
}

/// The files of a table, with what each is to the program.
pub fn used_files(files: &[FileState], memory: &MemoryState, descriptors: &DescriptorState) -> Vec<SurveyedFile> {
    files
        .iter()
        .map(|file| SurveyedFile {
            path: file.path.clone(),
            kind: file.kind.clone(),
            uses: Uses::of(file, memory, descriptors),
            size: file.size,
            mode: file.mode,
            modified: file.modified,
            build_id: file.build_id.clone(),
        })
        .collect()
}

impl Uses {
    fn of(file: &FileState, memory: &MemoryState, descriptors: &DescriptorState) -> Self {
        let mut uses = Self { executable: memory.executable == file.id, ..Self::default() };
        for region in &memory.regions {
            if let Backing::File { file: id, shared, may_write, .. } = region.backing
                && id == file.id
            {
                uses.mapped = true;
                uses.written |= shared && may_write;
            }
        }
        for description in &descriptors.descriptions {
            if !matches!(description.opened, Opened::File(id) if id == file.id) {
                continue;
            }
            uses.directory |= file.mode & libc::S_IFMT == libc::S_IFDIR;
            let access = description.flags & libc::O_ACCMODE.unsigned_abs();
            uses.read |= access != libc::O_WRONLY.unsigned_abs();
            uses.written |= access != libc::O_RDONLY.unsigned_abs();
        }
        uses
    }
}

/// What the user should know of what is saved.
pub fn notes(descriptors: &DescriptorState) -> Vec<String> {
    let mut notes = Vec::new();
    for descriptor in &descriptors.descriptors {
        let opened = descriptors.descriptions.get(descriptor.description).map(|description| &description.opened);
        if matches!(opened, Some(Opened::ResetSocket(socket)) if !socket.is_told) {
            notes.push(format!(
                "the connection of descriptor {} is given up: the program finds it reset",
                descriptor.fd
            ));
        }
    }
    notes
}

/// Refuses what can be seen without stopping anything.
pub fn look(pid: i32, options: &DepartOptions) -> Result<(), Error> {
    let gone = |error: proc::ProcError| if error.is_gone() { Error::NoProcess { pid } } else { error.into() };
    if pid <= 0 {
        return Err(Error::NoProcess { pid });
    }
    let status = Status::of(pid).map_err(gone)?;
    let name = String::from_utf8_lossy(&status.name).into_owned();
    let refuse = |what: &str, advice: &str| Err(Error::refused(pid, format!("{name} {what}"), advice));
    if Stat::of(pid).map_err(gone)?.is_kernel_thread() {
        return refuse("is a thread of the kernel", "give the number of a program");
    }
    if status.tgid != pid {
        return refuse(&format!("is a thread of process {}", status.tgid), "give the number of the process");
    }
    if matches!(status.state, 'Z' | 'X') {
        return refuse("has ended and only waits to be collected (a zombie)", "there is nothing left to save");
    }
    if std::process::id().try_into() == Ok(pid) {
        return refuse("is the checkpoint itself", "give the number of another process");
    }
    let us = rustix::process::geteuid();
    if !us.is_root() && status.uid.iter().any(|uid| *uid != us.as_raw()) {
        return Err(Error::NotPermitted {
            what: format!("process {pid} ({name}) belongs to user {} and not to you", status.uid[0]),
            advice: "checkpoint it as that user or as root".to_owned(),
        });
    }
    if status.tracer_pid != 0 {
        let tracer = Status::of(status.tracer_pid).map(|tracer| String::from_utf8_lossy(&tracer.name).into_owned());
        let by = format!("is being traced by process {} ({})", status.tracer_pid, tracer.unwrap_or_default());
        let advice = if by.contains("(ckptctl") {
            "another checkpoint of it is under way; try again when that is done"
        } else {
            "detach the debugger first"
        };
        return refuse(&by, advice);
    }
    look_at_state(pid, &status, options)
}

/// Refuses what it may have at one moment and not at another, and nobody has to be asked about. So it is looked for again
/// when the process is frozen.
pub fn look_at_state(pid: i32, status: &Status, options: &DepartOptions) -> Result<(), Error> {
    let name = String::from_utf8_lossy(&status.name);
    let refuse = |what: &str, advice: &str| Err(Error::refused(pid, format!("{name} {what}"), advice));
    let ours = Status::of(rustix::process::getpid().as_raw_nonzero().get())?;
    if status.seccomp != 0 && (status.seccomp, status.seccomp_filters) != (ours.seccomp, ours.seccomp_filters) {
        return refuse(
            "has a seccomp filter, which cannot be saved",
            "run it without one, or run ckptctl inside the same container",
        );
    }
    if status.x86_features.iter().any(|feature| feature == "shstk") {
        return refuse(
            "has a shadow stack, which cannot be saved",
            "start it with GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK",
        );
    }
    let gone = |error: proc::ProcError| if error.is_gone() { Error::NoProcess { pid } } else { error.into() };
    let children = proc::tree::children(pid).map_err(gone)?;
    if let Some(child) = children.iter().find(|child| options.ignored_child != Some(**child)) {
        let what = format!("{name} has child processes ({child} for one), and only single processes can be saved");
        return Err(Error::held(pid, what, "checkpoint when they have ended"));
    }
    let root = proc::tree::link(pid, "root").map_err(gone)?;
    if root != Path::new("/") {
        return refuse(&format!("has its root directory changed to {}", root.display()), "run it without chroot");
    }
    for tid in proc::tree::threads(pid).map_err(gone)?.into_iter().filter(|tid| *tid != pid) {
        for (what, named) in [(Shared::Files, "descriptors"), (Shared::Fs, "working directory")] {
            if matches!(sys::kcmp(pid, tid, what), Ok(order) if order.is_ne()) {
                return refuse(
                    &format!("has a thread ({tid}) with {named} of its own"),
                    "such threads cannot be saved; let it not unshare them",
                );
            }
        }
    }
    Ok(())
}

/// The same failure, told as what it means for this process.
pub fn explain(pid: i32, error: Error) -> Error {
    match error {
        Error::Trace(TraceError::Gone { .. }) => Error::Died { pid },
        Error::Proc(error) if error.is_gone() => Error::Died { pid },
        Error::Trace(TraceError::Denied { .. }) => not_traceable(pid),
        Error::Trace(TraceError::Call { source, .. }) if source.raw_os_error() == Some(libc::ENOEXEC) => {
            Error::refused(pid, "it runs 32-bit code, which cannot be saved", "use a 64-bit build of the program")
        }
        error if Status::of(pid).is_err_and(|error| error.is_gone()) => {
            drop(error);
            Error::Died { pid }
        }
        error => error,
    }
}

fn not_traceable(pid: i32) -> Error {
    Error::NotPermitted {
        what: format!("the kernel does not permit to trace process {pid}"),
        advice: "`ckptctl doctor` tells what this machine allows and how to allow more".to_owned(),
    }
}
