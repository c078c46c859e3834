//! Memory of every kind comes back with its contents, its rights and its settings.

use std::fs;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use ckpt_tests::{Case, Roundtrip, Suite, Whos};

use crate::{Plain, add_roundtrips};

const ROUNDTRIPS: &[Plain] = &[
    ("memory::heap_keeps_its_contents_and_grows", "heap", &[]),
    ("memory::anonymous_memory_is_anonymous_afterwards", "anon_sparse", &[]),
    ("memory::private_file_mapping_keeps_changes_apart", "file_maps", &["private"]),
    ("memory::shared_file_mapping_reaches_the_file", "file_maps", &["shared"]),
    ("memory::zeros_over_a_private_file_mapping", "zeros", &[]),
    ("memory::mapping_of_an_unlinked_file_private", "nameless", &["unlinked-private"]),
    ("memory::mapping_of_an_unlinked_file_shared", "nameless", &["unlinked-shared"]),
    ("memory::memfd_mapped_and_open", "nameless", &["memfd"]),
    ("memory::memfd_sealed", "nameless", &["sealed"]),
    ("memory::shared_anonymous_memory_stays_shared", "shared_anon", &["once"]),
    ("memory::memory_mapped_twice_stays_one_memory", "shared_anon", &["twice"]),
    ("memory::prot_none_keeps_what_it_hides", "faults", &["none"]),
    ("memory::guard_regions_still_fault", "faults", &["guard"]),
    ("memory::stacks_grow_down_after_the_restore", "stack_grow", &[]),
    ("memory::mlock_holds", "locked", &["mlock"]),
    ("memory::mlock_on_fault_holds", "locked", &["onfault"]),
    ("memory::mlockall_applies_to_future_memory", "locked", &["future"]),
    ("memory::madvise_settings_hold", "advised", &[]),
    ("memory::names_of_memory_hold", "named", &[]),
    ("memory::two_tebibytes_reserved", "reserve", &[]),
    ("memory::whole_address_space_is_the_same", "same_maps", &[]),
    ("memory::position_independent_program", "kinds", &[]),
    ("memory::position_dependent_program", "kinds_no_pie", &[]),
    ("memory::static_program", "kinds_static", &[]),
    ("memory::static_position_independent_program", "kinds_static_pie", &[]),
    ("memory::address_sanitizer", "kinds_asan", &[]),
];

pub fn add(suite: &mut Suite) {
    add_roundtrips(suite, Whos::Both, ROUNDTRIPS);
    suite.add("memory::huge_pages_of_hugetlbfs", Whos::Both, with_huge_pages);
    suite.add("memory::mapping_of_an_unlinked_file_below_its_changes", Whos::Root, |case| {
        Roundtrip::of("nameless").args(&["unlinked-forgotten"]).run(case)
    });
    for codec in ["lz4", "zstd"] {
        suite.add(&format!("memory::contents_through_{codec}"), Whos::User, move |case| {
            Roundtrip::of("anon_sparse").checkpoint_flags(&["--codec", codec]).run(case)
        });
    }
    for (program, args) in [("file_maps", &["private"][..]), ("zeros", &[]), ("nameless", &["unlinked-private"])] {
        suite.add(&format!("memory::self_contained_{program}"), Whos::User, move |case| {
            Roundtrip::of(program).args(args).checkpoint_flags(&["--self-contained", "--codec", "lz4"]).run(case)
        });
    }
    for (program, args) in [("zeros", &[][..]), ("nameless", &["memfd"]), ("nameless", &["unlinked-shared"])] {
        suite.add(&format!("memory::three_generations_{program}_{}", args.concat()), Whos::User, move |case| {
            Roundtrip::of(program).args(args).generations(3).run(case)
        });
    }
}

const POOL: &str = "/proc/sys/vm/nr_hugepages";
static POOL_IN_USE: Mutex<()> = Mutex::new(());

/// The pool of huge pages as it was, once the test is over.
struct Pool(String);

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = fs::write(POOL, &self.0);
    }
}

fn with_huge_pages(case: &Case) -> Result<()> {
    let _one_at_a_time = POOL_IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    let _pool = Pool(fs::read_to_string(POOL).unwrap_or_default());
    // Only root may, and the program says so when it finds none.
    let _ = fs::write(POOL, "8");
    Roundtrip::of("hugetlb").run(case)
}
