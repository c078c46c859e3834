//! The program's functions that run before and after a checkpoint. A fixed table: the handler cannot allocate.

use std::ffi::{c_int, c_void};
use std::mem::transmute;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

pub(super) type Before = extern "C" fn(*mut c_void);
pub(super) type After = extern "C" fn(c_int, *mut c_void);

const SLOTS: usize = 32;

struct Table {
    used: AtomicUsize,
    slots: [Slot; SLOTS],
}

struct Slot {
    /// Set when the other two are.
    ready: AtomicBool,
    function: AtomicPtr<c_void>,
    argument: AtomicPtr<c_void>,
}

impl Table {
    const fn new() -> Self {
        let slots = [const {
            Slot {
                ready: AtomicBool::new(false),
                function: AtomicPtr::new(null_mut()),
                argument: AtomicPtr::new(null_mut()),
            }
        }; SLOTS];
        Self { used: AtomicUsize::new(0), slots }
    }

    /// False if the table is full.
    fn add(&self, function: *mut c_void, argument: *mut c_void) -> bool {
        let next = |used: usize| (used < SLOTS).then_some(used + 1);
        let Ok(index) = self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next) else { return false };
        let slot = &self.slots[index];
        slot.function.store(function, Ordering::SeqCst);
        slot.argument.store(argument, Ordering::SeqCst);
        slot.ready.store(true, Ordering::SeqCst);
        true
    }

    fn ready(&self) -> impl DoubleEndedIterator<Item = (*mut c_void, *mut c_void)> {
        let ready = self.slots.iter().filter(|slot| slot.ready.load(Ordering::SeqCst));
        ready.map(|slot| (slot.function.load(Ordering::SeqCst), slot.argument.load(Ordering::SeqCst)))
    }
}

static BEFORE: Table = Table::new();
static AFTER: Table = Table::new();

/// Registers a function to run before each checkpoint; false if there are too many.
pub(super) fn add_before(function: Before, argument: *mut c_void) -> bool {
    BEFORE.add(function as *mut c_void, argument)
}

/// Registers a function to run after each checkpoint and each restore; false if there are too many.
pub(super) fn add_after(function: After, argument: *mut c_void) -> bool {
    AFTER.add(function as *mut c_void, argument)
}

/// The last registered first, as the handlers of `pthread_atfork` do before a fork.
pub(super) fn run_before() {
    for (function, argument) in BEFORE.ready().rev() {
        // SAFETY: `add_before` stored a function of this type.
        let function: Before = unsafe { transmute(function) };
        function(argument);
    }
}

/// The first registered first.
pub(super) fn run_after(restored: bool) {
    for (function, argument) in AFTER.ready() {
        // SAFETY: `add_after` stored a function of this type.
        let function: After = unsafe { transmute(function) };
        function(c_int::from(restored), argument);
    }
}
