//! Messages on a stream: a head that says what it is, in JSON, and a body of plain bytes.
//!
//! A message is the head's length and the body's length (each 32 bits, little endian), the head, and the body. It is the
//! same on a socket of this machine and on an SSH channel.

use std::io::{self, ErrorKind, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest head, in bytes: lists of files are the longest.
pub const MOST_HEAD: usize = 16 << 20;
/// The longest body, in bytes.
pub const MOST_BODY: usize = 1 << 20;

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The stream broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The stream ended in the middle of a message.
    #[error("the other side ended in the middle of a message")]
    Cut,
    /// What came is no message.
    #[error("the other side does not speak this protocol: {0}")]
    Nonsense(String),
}

/// Sends a message and sees that it is on its way.
///
/// # Errors
/// [`WireError::Nonsense`] for one that is too long, [`WireError::Io`].
pub fn send(to: &mut impl Write, head: &impl Serialize, body: &[u8]) -> Result<(), WireError> {
    let head = serde_json::to_vec(head).map_err(|error| WireError::Nonsense(error.to_string()))?;
    if head.len() > MOST_HEAD || body.len() > MOST_BODY {
        return Err(WireError::Nonsense(format!("a message of {} and {} bytes is too long", head.len(), body.len())));
    }
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    // In one write, so that several threads that share a stream by a lock, and small packets, stay whole.
    let mut message = Vec::with_capacity(8 + head.len() + body.len());
    message.extend_from_slice(&length(&head));
    message.extend_from_slice(&length(body));
    message.extend_from_slice(&head);
    message.extend_from_slice(body);
    to.write_all(&message)?;
    Ok(to.flush()?)
}

/// Receives a message; `None` when the stream ended between two.
///
/// # Errors
/// [`WireError`].
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> Result<Option<(T, Vec<u8>)>, WireError> {
    let mut lengths = [0; 8];
    if !fill(from, &mut lengths)? {
        return Ok(None);
    }
    let length = |bytes: &[u8]| bytes.try_into().map_or(usize::MAX, |bytes| u32::from_le_bytes(bytes) as usize);
    let (head_len, body_len) = (length(&lengths[..4]), length(&lengths[4..]));
    if head_len > MOST_HEAD || body_len > MOST_BODY {
        return Err(WireError::Nonsense(format!("it announced a message of {head_len} and {body_len} bytes")));
    }
    let head = take(from, head_len)?;
    let body = take(from, body_len)?;
    let head = serde_json::from_slice(&head).map_err(|error| WireError::Nonsense(error.to_string()))?;
    Ok(Some((head, body)))
}

fn take(from: &mut impl Read, length: usize) -> Result<Vec<u8>, WireError> {
    // Memory is taken as bytes come: an announced length alone takes none.
    let mut bytes = Vec::new();
    from.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length { Err(WireError::Cut) } else { Ok(bytes) }
}

/// False when the stream ended before the first byte.
fn fill(from: &mut impl Read, bytes: &mut [u8]) -> Result<bool, WireError> {
    let mut filled = 0;
    while filled < bytes.len() {
        match from.read(&mut bytes[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(WireError::Cut),
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    #[test]
    fn messages_come_back_as_they_were_sent() {
        let mut stream = Vec::new();
        send(&mut stream, &"head", b"body").unwrap();
        send(&mut stream, &7, b"").unwrap();
        let mut reader = stream.as_slice();
        assert_eq!(receive::<String>(&mut reader).unwrap(), Some(("head".to_owned(), b"body".to_vec())));
        assert_eq!(receive::<u32>(&mut reader).unwrap(), Some((7, Vec::new())));
        assert_eq!(receive::<u32>(&mut reader).unwrap(), None);
        for cut in 1..stream.len() {
            let mut reader = &stream[..cut];
            let mut result = receive::<serde_json::Value>(&mut reader);
            if matches!(result, Ok(Some(_))) {
                result = receive::<serde_json::Value>(&mut reader);
            }
            assert!(matches!(result, Err(WireError::Cut) | Ok(None)), "{cut}");
        }
    }

    #[test]
    fn an_announced_length_is_not_believed() {
        let huge = [&u32::MAX.to_le_bytes()[..], &0_u32.to_le_bytes()].concat();
        assert!(matches!(receive::<u32>(&mut huge.as_slice()), Err(WireError::Nonsense(_))));
        let banner = b"Welcome to this machine, authorized users only\n";
        assert!(matches!(receive::<u32>(&mut banner.as_slice()), Err(WireError::Nonsense(_))));
        assert!(send(&mut Vec::new(), &0, &vec![0; MOST_BODY + 1]).is_err());
    }
}
