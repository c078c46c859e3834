//! The other side of supervisors: reaching a job's, starting one, asking it for something, staying attached.

mod act;
mod attach;
mod connect;
mod keys;
mod screen;

pub use act::{follow, perform};
pub use attach::{Attaching, Outcome, Session, attach};
pub use connect::{begin, connect, launch};
pub use keys::DetachKey;
pub use screen::Screen;
