//! The ELF64 format of a core file (elf(5)): header, program headers, notes.

use super::plan::Segment;

const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
const SECTION_HEADER: u16 = 64;
const PAGE: u64 = 4096;
const ET_CORE: u16 = 4;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `e_phnum` when there are more program headers than it can count: `sh_info` of section 0 tells their number.
const PN_XNUM: u16 = 0xffff;

/// A note: who defines it, its type, and its contents.
pub struct Note {
    /// `CORE` or `LINUX`.
    pub owner: &'static str,
    /// `NT_*`.
    pub kind: u32,
    /// The contents.
    pub contents: Vec<u8>,
}

impl Note {
    fn encode(&self, out: &mut Vec<u8>) {
        let name = [self.owner.as_bytes(), &[0]].concat();
        out.extend_from_slice(&length(name.len()).to_le_bytes());
        out.extend_from_slice(&length(self.contents.len()).to_le_bytes());
        out.extend_from_slice(&self.kind.to_le_bytes());
        for part in [&name, &self.contents] {
            out.extend_from_slice(part);
            out.resize(out.len().next_multiple_of(4), 0);
        }
    }
}

/// All that comes before the memory, and the segments with their places in the file.
pub fn head(machine: u16, notes: &[Note], mut segments: Vec<Segment>) -> (Vec<u8>, Vec<Segment>) {
    let mut encoded = Vec::new();
    for note in notes {
        note.encode(&mut encoded);
    }
    let count = segments.len() + 1;
    let many = count >= usize::from(PN_XNUM);
    let sections = if many { SECTION_HEADER } else { 0 };
    let notes_at = behind_program_headers(count) + u64::from(sections);
    let mut offset = notes_at + encoded.len() as u64;
    for segment in &mut segments {
        offset = offset.next_multiple_of(PAGE);
        segment.offset = offset;
        offset += segment.file_size;
    }

    let mut out = file_header(machine, count, many);
    program_header(&mut out, PT_NOTE, 0, [notes_at, 0, encoded.len() as u64, 0, 4]);
    for segment in &segments {
        let extent = [segment.offset, segment.start, segment.file_size, segment.end - segment.start, PAGE];
        program_header(&mut out, PT_LOAD, flags(segment.protection), extent);
    }
    if many {
        let mut section = [0; SECTION_HEADER as usize];
        section[44..48].copy_from_slice(&length(count).to_le_bytes());
        out.extend_from_slice(&section);
    }
    out.extend_from_slice(&encoded);
    (out, segments)
}

fn behind_program_headers(count: usize) -> u64 {
    u64::from(HEADER) + u64::from(PROGRAM_HEADER) * count as u64
}

fn file_header(machine: u16, count: usize, many: bool) -> Vec<u8> {
    let mut out = b"\x7fELF\x02\x01\x01".to_vec(); // 64 bits, little-endian, version 1
    out.resize(16, 0);
    out.extend_from_slice(&ET_CORE.to_le_bytes());
    out.extend_from_slice(&machine.to_le_bytes());
    out.extend_from_slice(&1_u32.to_le_bytes());
    let sections_at = if many { behind_program_headers(count) } else { 0 };
    for word in [0, u64::from(HEADER), sections_at] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&0_u32.to_le_bytes());
    let program_headers = u16::try_from(count).ok().filter(|_| !many).unwrap_or(PN_XNUM);
    let section_headers = u16::from(many);
    for half in [HEADER, PROGRAM_HEADER, program_headers, SECTION_HEADER, section_headers, 0] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    out
}

/// `extent` is offset, address, size in the file, size in memory, alignment.
fn program_header(out: &mut Vec<u8>, kind: u32, flags: u32, extent: [u64; 5]) {
    let [offset, address, file_size, memory_size, align] = extent;
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    for word in [offset, address, 0, file_size, memory_size, align] {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// `PF_*` of `PROT_*`: the same three bits in the other order.
fn flags(protection: u32) -> u32 {
    (protection & 1) << 2 | protection & 2 | (protection & 4) >> 2
}

/// Lengths here are far below 4 GiB: notes are bounded by an image's descriptions.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(start: u64, file_size: u64) -> Segment {
        Segment { start, end: start + 0x2000, protection: 5, file_size, offset: 0 }
    }

    fn word(bytes: &[u8], at: usize) -> u64 {
        bytes[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
    }

    #[test]
    fn segments_lie_behind_each_other_on_whole_pages() {
        let note = Note { owner: "CORE", kind: 1, contents: vec![7; 5] };
        let (head, segments) =
            head(62, &[note], vec![segment(0x1000, 0x2000), segment(0x8000, 0), segment(0x9000, 0x2000)]);
        assert_eq!(&head[..4], b"\x7fELF");
        assert_eq!((head[16], head[18], head[56]), (4, 62, 4));
        assert_eq!(segments.iter().map(|s| s.offset).collect::<Vec<_>>(), [0x1000, 0x3000, 0x3000]);
        let second = usize::from(HEADER + PROGRAM_HEADER);
        assert_eq!(head[second + 4], 5, "read and execute");
        assert_eq!(word(&head, second + 8), 0x1000);
        assert_eq!((word(&head, second + 32), word(&head, second + 40)), (0x2000, 0x2000));
        let notes = usize::from(HEADER + 4 * PROGRAM_HEADER);
        assert_eq!(head[notes..notes + 12], [5, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(head[notes + 12..], *b"CORE\0\0\0\0\x07\x07\x07\x07\x07\0\0\0");
    }

    #[test]
    fn more_segments_than_the_header_can_count() {
        let (head, _) = head(62, &[], vec![segment(0x1000, 0); 70_000]);
        assert_eq!(&head[56..58], &PN_XNUM.to_le_bytes());
        let section = usize::try_from(word(&head, 40)).unwrap_or_default();
        assert_eq!(head[section + 44..section + 48], 70_001_u32.to_le_bytes());
    }
}
