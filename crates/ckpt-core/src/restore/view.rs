//! The view: files and directories of this machine that a restored program finds at other paths, those it had before.
//!
//! It is made in a mount namespace of the nest's own ([`mounts`]); the machine's own directories stay as they are. Before
//! there is such a namespace, and where there is none, paths are translated instead: [`View::source_of`].

mod mounts;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

pub use mounts::{Owner, root};
use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::Error;

/// A file or directory of this machine that the program finds at another path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Where the program finds it; absolute.
    pub path: PathBuf,
    /// What it finds there: a file or a directory of this machine.
    pub source: PathBuf,
    /// Whether it can only read there.
    pub read_only: bool,
}

/// All that is shown at other paths.
#[derive(Debug, Default)]
pub struct View {
    /// In the order of their paths, so that a directory comes before what is in it.
    places: Vec<Place>,
    /// Directories that the program uses and that this user may not search: it finds empty ones.
    closed: Vec<PathBuf>,
}

/// Something that is shown.
#[derive(Debug)]
struct Place {
    /// Without `.` or `..`.
    path: PathBuf,
    /// Without symbolic links.
    source: PathBuf,
    is_directory: bool,
    read_only: bool,
}

/// A name on the way to what is shown.
#[derive(Debug, Default)]
struct Node {
    /// What is shown here: its place in the view.
    shows: Option<usize>,
    below: BTreeMap<OsString, Node>,
}

impl View {
    /// Checks what is to be shown to a program that uses these directories.
    ///
    /// # Errors
    /// [`Error::Restore`] for a path where nothing can be shown, and a source that is not there.
    pub fn new<'a>(shown: &[Shown], directories: impl IntoIterator<Item = &'a Path>) -> Result<Self, Error> {
        let mut places = Vec::with_capacity(shown.len());
        for Shown { path, source, read_only } in shown {
            let path = normal(path).map_err(|what| {
                let what = format!("nothing can be shown at {}: {what}", path.display());
                Error::restore(what, "name files and directories by their absolute paths")
            })?;
            let looking = || Error::reopening("look at what is to be shown at another path,", source);
            let source = fs::canonicalize(source).map_err(looking())?;
            let is_directory = fs::metadata(&source).map_err(looking())?.is_dir();
            places.push(Place { path, source, is_directory, read_only: *read_only });
        }
        places.sort_by(|one, next| one.path.cmp(&next.path));
        if let Some(twice) = places.windows(2).find(|pair| pair[0].path == pair[1].path) {
            let what = format!("two files are to be shown at {}", twice[0].path.display());
            return Err(Error::restore(what, "name each path once"));
        }
        let mut view = Self { places, closed: Vec::new() };
        for inner in &view.places {
            let outer = inner.path.parent().and_then(|parent| view.nearest(parent));
            if let Some(outer) = outer.filter(|outer| !outer.is_directory) {
                let (inner, outer) = (inner.path.display(), outer.path.display());
                let what = format!("{inner} cannot be in {outer}, where a file is to be shown");
                return Err(Error::restore(what, "show a directory there, or leave out one of the two"));
            }
        }
        let is_closed = |path: &&Path| view.nearest(path).is_none() && !may_search(path);
        view.closed = directories.into_iter().filter(is_closed).filter_map(|path| normal(path).ok()).collect();
        Ok(view)
    }

    /// Whether nothing is shown at another path.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty() && self.closed.is_empty()
    }

    /// The paths where something is shown, for a message.
    pub fn named(&self) -> String {
        let shown = self.places.iter().map(|place| &place.path);
        let paths: Vec<&Path> = shown.chain(&self.closed).map(PathBuf::as_path).collect();
        some_of(paths.into_iter())
    }

    /// Where this machine has what the program finds at `path`.
    pub fn source_of<'a>(&self, path: &'a Path) -> Cow<'a, Path> {
        match self.nearest(path) {
            Some(place) => match path.strip_prefix(&place.path) {
                Ok(rest) if rest.as_os_str().is_empty() => Cow::Owned(place.source.clone()),
                Ok(rest) => Cow::Owned(place.source.join(rest)),
                Err(_) => Cow::Borrowed(path),
            },
            None => Cow::Borrowed(path),
        }
    }

    /// Whether `path` is a directory on the way to what is shown: it exists for the program in any case.
    pub fn leads_through(&self, path: &Path) -> bool {
        self.places.iter().any(|place| place.path != path && place.path.starts_with(path))
    }

    /// What `path` is or lies in.
    fn nearest(&self, path: &Path) -> Option<&Place> {
        path.ancestors().find_map(|path| {
            let found = self.places.binary_search_by(|place| place.path.as_path().cmp(path));
            self.places.get(found.ok()?)
        })
    }

    /// The paths as a tree.
    fn tree(&self) -> Node {
        let mut root = Node::default();
        for (index, place) in self.places.iter().enumerate() {
            let mut node = &mut root;
            for name in place.path.iter().skip(1) {
                node = node.below.entry(name.to_owned()).or_default();
            }
            node.shows = Some(index);
        }
        for path in &self.closed {
            path.iter().skip(1).fold(&mut root, |node, name| node.below.entry(name.to_owned()).or_default());
        }
        root
    }
}

/// The first few paths, and how many there are.
fn some_of<'a>(paths: impl ExactSizeIterator<Item = &'a Path>) -> String {
    const FEW: usize = 3;
    let more = paths.len().saturating_sub(FEW);
    let named: Vec<String> = paths.take(FEW).map(|path| path.display().to_string()).collect();
    if more == 0 { named.join(", ") } else { format!("{} and {more} more", named.join(", ")) }
}

/// Whether this user may look for something in a directory of this machine. Nothing forbids it where there is none.
pub fn may_search(directory: &Path) -> bool {
    !fs::metadata(directory).is_ok_and(|stat| stat.is_dir())
        || accessat(CWD, directory, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

/// An absolute path without anything superfluous; or why nothing can be shown there.
fn normal(path: &Path) -> Result<PathBuf, &'static str> {
    if !path.is_absolute() {
        return Err("it is no absolute path");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("it goes up by `..`");
    }
    let normal: PathBuf = path.components().collect();
    if normal == Path::new("/") {
        return Err("it is the root directory");
    }
    if normal.starts_with("/proc") {
        return Err("/proc is the kernel's");
    }
    Ok(normal)
}

#[cfg(test)]
mod tests;
