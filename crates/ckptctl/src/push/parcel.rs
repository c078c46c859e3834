//! What is pushed: a program, an image of it, and the files that the image refers to.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;
use ckpt_core::Class;
use ckpt_core::resource::files::{FileKind, FileState};

use crate::failure::Failure;
use crate::image::{self, Descriptions};
use crate::jobs::{History, Job, JobStore, path_of};
use crate::text;

/// A name that every program linked with the runtime holds.
const MARK: &[u8] = b"CKPT_ON_INTERRUPT";
const REGULAR: u32 = 0o100_000;

/// A file to be sent.
pub struct Item {
    /// Where it is.
    pub path: PathBuf,
    /// Where the image says that it is.
    pub known_as: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Its size in bytes.
    pub size: u64,
    /// BLAKE3 of its contents.
    pub hash: String,
}

impl Item {
    /// Reads a file.
    pub fn of(path: &Path, known_as: &Path, mode: u32) -> anyhow::Result<Self> {
        let read = || format!("{} cannot be read", text::path(path));
        let file = File::open(path).with_context(read)?;
        let size = file.metadata().with_context(read)?.len();
        let hash = blake3::Hasher::new().update_reader(&file).with_context(read)?.finalize().to_hex().to_string();
        Ok(Self { path: path.to_path_buf(), known_as: known_as.to_path_buf(), mode, size, hash })
    }
}

/// A file that an image refers to.
pub struct Used {
    /// The file.
    pub item: Item,
    /// It is the executable, which is sent anyway.
    pub is_program: bool,
    /// The program does not write to it.
    pub read_only: bool,
}

/// All that is pushed.
pub struct Parcel {
    /// The executable.
    pub program: Item,
    /// The image.
    pub image: Item,
    /// What the image refers to.
    pub files: Vec<Used>,
    /// Whether the program restores itself by `-r`.
    pub is_linked: bool,
    /// Its working directory.
    pub directory: PathBuf,
}

impl Parcel {
    /// That of a job, or of a program with its image beside it.
    pub fn of(word: &str, starts: bool) -> anyhow::Result<Self> {
        let (program, image) = if let Some(job) = JobStore::open()?.known(word)? {
            if starts && !job.is_over() {
                let message = format!(
                    "the job {word} still runs here, and would run twice; use `ckptctl migrate {word} HOST`, or save and end it first: ckptctl checkpoint {word} --stop"
                );
                return Err(Failure::new(Class::Failed, message).into());
            }
            (None, image_of(&job)?)
        } else {
            let program = PathBuf::from(word);
            let image = beside(&program);
            if !program.is_file() {
                let message = format!("there is no job and no program {}", text::quoted(word));
                return Err(Failure::new(Class::Failed, message).into());
            }
            if !image.is_file() {
                let message = format!(
                    "there is no {}; press Ctrl+C in the program to make one, or run it as a job and save that",
                    text::path(&image)
                );
                return Err(Failure::new(Class::Failed, message).into());
            }
            (Some(program), image)
        };
        Self::read(program, &image)
    }

    fn read(program: Option<PathBuf>, image: &Path) -> anyhow::Result<Self> {
        let said = image::describe(image, |_| ())?;
        let executable = executable(&said).with_context(|| format!("{} names no executable", text::path(image)))?;
        let program = program.unwrap_or_else(|| executable.path.clone());
        let program = Item::of(&program, &executable.path, permissions(executable))?;
        if program.size != executable.size {
            let message = format!(
                "{} was built anew since {} was made, which does not fit it any more; save the program again",
                text::path(&program.path),
                text::path(image)
            );
            return Err(Failure::new(Class::Failed, message).into());
        }
        let is_linked = holds(&program.path, MARK)?;
        let directory = said.states.first().map(|state| state.process.cwd.clone()).unwrap_or_default();
        let image = Item::of(image, image, 0o600)?;
        let mut files = Vec::new();
        for file in said.layout.files.iter().filter(|file| is_needed(file)) {
            let is_program = file.id == executable.id;
            let path = if is_program { &program.path } else { &file.path };
            let item = Item::of(path, &file.path, permissions(file))?;
            files.push(Used { item, is_program, read_only: !is_written(&said, file.id) });
        }
        Ok(Self { program, image, files, is_linked, directory })
    }

    /// The program's name.
    pub fn name(&self) -> String {
        self.program.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// The image of a job that was made last: in its history, or by its runtime.
fn image_of(job: &Job) -> anyhow::Result<PathBuf> {
    let history = History::of(&JobStore::open()?.directory(&job.name));
    let mut images = history.images()?;
    if let Some(program) = job.command.first() {
        images.push(beside(&path_of(&job.directory).join(path_of(program))));
    }
    images.extend(job.saved.as_ref().map(path_of));
    let made = |path: &PathBuf| fs::metadata(path).and_then(|stat| stat.modified()).ok();
    images.into_iter().filter(|image| made(image).is_some()).max_by_key(made).ok_or_else(|| {
        let name = &job.name;
        Failure::new(Class::Failed, format!("nothing of the job {name} is saved; save it: ckptctl checkpoint {name}"))
            .into()
    })
}

/// Where the runtime puts a program's image.
fn beside(program: &Path) -> PathBuf {
    let mut name = program.as_os_str().to_owned();
    name.push(".ckpt");
    PathBuf::from(name)
}

fn executable(said: &Descriptions) -> Option<&FileState> {
    let id = said.layout.processes.first()?.memory.executable;
    said.layout.files.iter().find(|file| file.id == id)
}

fn permissions(file: &FileState) -> u32 {
    file.mode & 0o777
}

/// Whether a restore looks for it at its path.
fn is_needed(file: &FileState) -> bool {
    const OF_THE_MACHINE: [&str; 3] = ["/dev", "/proc", "/sys"];
    file.kind == FileKind::Linked
        && !file.is_carried
        && file.mode & 0o170_000 == REGULAR
        && !OF_THE_MACHINE.iter().any(|directory| file.path.starts_with(directory))
}

/// Whether the program may write to a file: it has it open, or mapped, for that.
fn is_written(said: &Descriptions, id: u64) -> bool {
    use ckpt_core::resource::descriptors::Opened;
    use ckpt_core::resource::memory::Backing;
    const ACCESS: u32 = 3;
    let is_open = said.states.iter().flat_map(|state| &state.descriptors.descriptions).any(|description| {
        matches!(description.opened, Opened::File(file) if file == id) && description.flags & ACCESS != 0
    });
    let is_mapped = said.layout.processes.iter().flat_map(|process| &process.memory.regions).any(
        |region| matches!(region.backing, Backing::File { file, shared: true, may_write: true, .. } if file == id),
    );
    is_open || is_mapped
}

fn holds(path: &Path, mark: &[u8]) -> anyhow::Result<bool> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", text::path(path)))?;
    Ok(bytes.windows(mark.len()).any(|window| window == mark))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    #[test]
    fn a_program_without_an_image_is_told_apart_from_none() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("count");
        let word = program.to_str().unwrap();
        let refused = |word: &str| Parcel::of(word, false).err().unwrap().to_string();
        assert!(refused(word).contains("no job and no program"), "{}", refused(word));
        fs::write(&program, "code").unwrap();
        assert!(refused(word).contains("count.ckpt; press Ctrl+C"), "{}", refused(word));
        fs::write(beside(&program), "no image").unwrap();
        assert!(Parcel::of(word, false).is_err());
        assert_eq!(beside(Path::new("bin/a.out")), Path::new("bin/a.out.ckpt"));
        fs::write(&program, [b"xx".as_slice(), MARK, b"yy"].concat()).unwrap();
        assert!(holds(&program, MARK).unwrap());
    }
}
