//! Programs that nobody prepared for this, in several languages.

use ckpt_tests::{Suite, Whos};

use crate::{Plain, add_roundtrips};

const ROUNDTRIPS: &[Plain] = &[
    ("languages::cplusplus_with_an_exception_in_flight", "cplusplus", &[]),
    ("languages::rust", "rusty", &[]),
    ("languages::go", "golang", &[]),
    ("languages::python", "python", &[]),
];

pub fn add(suite: &mut Suite) {
    add_roundtrips(suite, Whos::Both, ROUNDTRIPS);
}
