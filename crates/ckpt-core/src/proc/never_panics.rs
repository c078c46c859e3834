//! Whatever bytes come, the parsers answer.

use proptest::prelude::*;

use super::{Auxv, FdInfo, IdMap, PageEntry, Stat, Status, SyscallState, TimensOffsets, VmFlags, maps, sched, timers};

/// Pieces of what the kernel prints, so that the parsers get past the first word.
const PIECES: [&str; 40] = [
    "1000-2000 r--p 00000000 fe:00 12 /a",
    "1000-",
    "rwxs ",
    "fe:00 ",
    "\n",
    "\n",
    "\n",
    " ",
    "\t",
    ":",
    "-",
    "-1",
    "/",
    ".",
    "(",
    ")",
    "0x",
    "0x7f",
    "18446744073709551615",
    "4294967296",
    "99",
    "Rss: ",
    "4 kB",
    "VmFlags: rd ",
    "ProtectionKey: 1",
    "Name:\t",
    "\\n",
    "\\012",
    "State:\tR",
    "Tgid:\t1",
    "Pid:\t1",
    "Uid:\t1 2 3 4",
    "SigBlk:\tff",
    "pos:\t1",
    "flags:\t02",
    "mnt_id:\t1",
    "ID: 1\nsignal: 1/2\nnotify: signal/pid.1\nClockID: 1\n",
    "signal: ",
    "monotonic 1 2",
    "se.exec_start : 1.000001",
];

fn kernel_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(PIECES.as_slice()).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn on_any_bytes(bytes in prop_oneof![kernel_like(), prop::collection::vec(any::<u8>(), 0..400)]) {
        for vma in maps::parse_smaps(&bytes).into_iter().chain(maps::parse_maps(&bytes)).flatten() {
            prop_assert!(vma.size() > 0);
            let _ = (vma.kind(), vma.path().is_some(), vma.given_name().is_some());
        }
        let _ = VmFlags::parse(&bytes);
        let _ = Status::parse(&bytes);
        let _ = Stat::parse(&bytes);
        let _ = FdInfo::parse(&bytes);
        let _ = timers::parse(&bytes);
        let _ = Auxv::parse(&bytes);
        let _ = TimensOffsets::parse(&bytes);
        let _ = IdMap::parse(&bytes).map(|map| map.inside(u32::MAX));
        let _ = sched::parse_exec_start(&bytes);
        let _ = SyscallState::parse(&bytes);
        prop_assert_eq!(PageEntry::parse(&bytes).count(), bytes.len() / 8);
    }

    #[test]
    fn a_mapping_comes_back_as_it_was_printed(
        start in 0u64..1 << 47, pages in 1u64..1 << 20, offset: u64, major: u32, minor: u32,
        inode: u64, letters in "[r-][w-][x-][sp]", name in "(/[a-z\n ]{0,20})?",
    ) {
        let end = start + pages * 4096;
        let escaped = name.replace('\n', "\\012");
        let line = format!(
            "{start:08x}-{end:08x} {letters} {offset:08x} {major:02x}:{minor:02x} {inode}     {escaped}\n"
        );
        let vmas = maps::parse_maps(line.as_bytes()).unwrap();
        let [vma] = vmas.as_slice() else { panic!("{vmas:?}") };
        prop_assert_eq!((vma.start, vma.end, vma.offset), (start, end, offset));
        prop_assert_eq!((vma.dev, vma.inode), ((major, minor), inode));
        prop_assert_eq!(&vma.name, name.as_bytes());
        let perms = [(vma.perms.read, 'r'), (vma.perms.write, 'w'), (vma.perms.exec, 'x'), (vma.perms.shared, 's')];
        for (has, letter) in perms {
            prop_assert_eq!(has, letters.contains(letter));
        }
    }
}
