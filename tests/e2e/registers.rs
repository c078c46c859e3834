//! Every register survives in the middle of a loop that only looks at memory.

use ckpt_tests::{Suite, Whos};

use crate::{Plain, add_roundtrips};

const ROUNDTRIPS: &[Plain] = &[
    ("registers::general_and_direction_flag", "regs_general", &[]),
    ("registers::x87_stack_and_control_words", "regs_float", &[]),
    ("registers::sse", "regs_vector", &["sse"]),
    ("registers::avx", "regs_vector", &["avx"]),
    ("registers::avx512_and_masks", "regs_vector", &["avx512"]),
    ("registers::amx_tiles", "regs_tile", &[]),
    ("registers::segment_bases", "regs_segment", &[]),
    ("registers::protection_keys", "regs_segment", &["pkeys"]),
];

pub fn add(suite: &mut Suite) {
    add_roundtrips(suite, Whos::Both, ROUNDTRIPS);
}
