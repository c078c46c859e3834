//! Files go from the source to the destination, through the mover.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Ends, Fault, Mover, Side};
use crate::protocol::{FileEntry, FileRole, FilesPolicy, Reply, Request, Target};
use crate::wire::MOST_BODY;

/// How much of a file may be on its way from the source that the destination does not want any more.
const MOST_AHEAD: u64 = 64 << 20;

/// A file that was smaller is sent again as a whole.
const WORTH_IT: u64 = 64 << 10;

/// Files by their paths.
pub(super) fn by_path(files: &[FileEntry]) -> BTreeMap<&Path, &FileEntry> {
    files.iter().map(|file| (file.path.as_path(), file)).collect()
}

impl<E: Ends> Mover<'_, E> {
    /// Which of these contents the destination lacks.
    pub(super) fn lacking(&mut self, files: &[FileEntry]) -> Result<Vec<(usize, u64)>, Fault> {
        let question = Request::Lacking { files: files.to_vec(), policy: self.plan.options.files };
        self.say(Side::Destination, &question);
        self.expect(Side::Destination, None, |reply| match reply {
            Reply::Lacking { files } => Ok(files),
            other => Err(other),
        })
    }

    /// Says of files that are larger than they were before that they may only have grown: the destination has what they were.
    pub(super) fn tell_grown(&mut self, files: &[FileEntry], before: &[FileEntry]) -> Result<(), Fault> {
        if self.plan.options.files != FilesPolicy::Carry {
            return Ok(());
        }
        let before = by_path(before);
        for file in files {
            let was = before.get(file.path.as_path()).filter(|was| (WORTH_IT..file.size).contains(&was.size));
            let (Some(hash), Some(from)) = (&file.hash, was.and_then(|was| was.hash.as_ref())) else { continue };
            self.say(Side::Destination, &Request::Grown { hash: hash.clone(), from: from.clone() });
            self.expect(Side::Destination, None, |reply| if reply == Reply::Done { Ok(()) } else { Err(reply) })?;
        }
        Ok(())
    }

    /// Has the destination put in place what it has of these files. What changes until the freeze it puts there again.
    pub(super) fn place(&mut self, files: &[FileEntry]) -> Result<(), Fault> {
        let policy = self.plan.options.files;
        if policy != FilesPolicy::Carry {
            return Ok(());
        }
        self.say(Side::Destination, &Request::Place { files: files.to_vec(), policy });
        self.expect(Side::Destination, None, |reply| if reply == Reply::Done { Ok(()) } else { Err(reply) })
    }

    /// Copies contents from the source into the destination's store: index into `files`, and how many bytes are there. As long
    /// as the program runs, one that changes meanwhile is left out: it is looked at again when it is frozen.
    pub(super) fn copy(&mut self, files: &[FileEntry], lacking: &[(usize, u64)], is_frozen: bool) -> Result<(), Fault> {
        let wanted = || lacking.iter().filter_map(|(index, there)| Some((files.get(*index)?, *there)));
        let total = wanted().map(|(file, there)| file.size.saturating_sub(there)).sum();
        let mut done = 0;
        for (file, there) in wanted() {
            let mut tell = |count, mover: &mut Self| {
                done += count;
                mover.ends.tell(Reply::Progress { phase: "files".to_owned(), done, total });
            };
            let mut stored = self.put(file, there, is_frozen, &mut tell);
            if there > 0 && matches!(stored, Err(Fault::Failed(Side::Destination, _))) {
                // It was not the beginning, or another move has finished or dropped what was there of it.
                stored = match self.still_lacking(file)?.first() {
                    Some((_, there)) => self.put(file, *there, is_frozen, &mut tell),
                    None => Ok(()),
                };
            }
            match stored {
                Err(Fault::Failed(Side::Destination, _)) if !is_frozen && file.role != FileRole::Code => {
                    self.still_lacking(file)?;
                }
                stored => stored?,
            }
        }
        Ok(())
    }

    /// What is lacking of a file whose copy has failed. Unless all of it came the destination has closed the connection, since
    /// it understands nothing more: then it is reached again.
    fn still_lacking(&mut self, file: &FileEntry) -> Result<Vec<(usize, u64)>, Fault> {
        let side = Side::Destination;
        match self.lacking(std::slice::from_ref(file)) {
            Err(Fault::Lost(Side::Destination, _)) => {
                self.reach(side)?;
                self.lacking(std::slice::from_ref(file))
            }
            lacking => lacking,
        }
    }

    /// Copies one file.
    fn put(
        &mut self,
        file: &FileEntry,
        there: u64,
        is_frozen: bool,
        sent: &mut dyn FnMut(u64, &mut Self),
    ) -> Result<(), Fault> {
        let Some(hash) = &file.hash else { return Ok(()) };
        let target = Target::Store(hash.clone());
        self.say(Side::Destination, &Request::Put { target, size: file.size, offset: there });
        self.send(file, there, is_frozen, sent)?;
        self.expect(Side::Destination, None, |reply| if reply == Reply::Stored { Ok(()) } else { Err(reply) })
    }

    /// Sends a file's bytes from an offset on, as many as were announced.
    fn send(
        &mut self,
        file: &FileEntry,
        offset: u64,
        is_frozen: bool,
        sent: &mut dyn FnMut(u64, &mut Self),
    ) -> Result<(), Fault> {
        let mut left = file.size.saturating_sub(offset);
        self.say(Side::Source, &Request::Read { path: file.path.clone(), offset, length: left });
        let mut failed = None;
        loop {
            let bytes = match self.chunk() {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                // The program has removed it.
                Err(Fault::Failed(Side::Source, _)) if !is_frozen => break,
                // What the source still sends of it is let pass, if it is not much.
                Err(fault @ (Fault::Failed(Side::Destination, _) | Fault::Lost(Side::Destination, _)))
                    if left <= MOST_AHEAD =>
                {
                    failed.get_or_insert(fault);
                    continue;
                }
                Err(fault) => return Err(fault),
            };
            if failed.is_some() {
                continue;
            }
            let count = (bytes.len() as u64).min(left);
            left -= count;
            let bytes = &bytes[..usize::try_from(count).unwrap_or(bytes.len())];
            self.ends.say(Side::Destination, &Request::Chunk, bytes);
            self.file_bytes += count;
            sent(count, self);
        }
        if let Some(fault) = failed {
            return Err(fault);
        }
        // It became shorter since it was looked at, or has gone. With something else in place of the rest it is found to be wrong there.
        while left > 0 {
            let count = left.min(MOST_BODY as u64);
            left -= count;
            let nothing = vec![0; usize::try_from(count).unwrap_or(MOST_BODY)];
            self.ends.say(Side::Destination, &Request::Chunk, &nothing);
        }
        Ok(())
    }

    /// The next part of a file; `None` at its end. That the image was sent may be said in the middle.
    fn chunk(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        enum Part {
            Bytes(Vec<u8>),
            End,
            Other(Reply),
        }
        let mut others = Vec::new();
        let chunk = loop {
            let part = self.expect_body(Side::Source, None, |reply, body| match reply {
                Reply::Chunk => Ok(Part::Bytes(body)),
                Reply::Done => Ok(Part::End),
                Reply::Sent { .. } => Ok(Part::Other(reply)),
                other => Err(other),
            });
            match part {
                Ok(Part::Other(reply)) => others.push((Side::Source, reply, Vec::new())),
                Ok(Part::Bytes(bytes)) => break Ok(Some(bytes)),
                Ok(Part::End) => break Ok(None),
                Err(fault) => break Err(fault),
            }
        };
        self.early.extend(others);
        chunk
    }
}
