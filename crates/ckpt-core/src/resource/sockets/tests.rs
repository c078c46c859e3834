#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use std::io::{Read, Write};

use super::*;

fn connection(host: IpAddr) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(SocketAddr::new(host, 0)).unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

fn state(socket: impl Into<OwnedFd>) -> Option<SocketState> {
    SocketState::of(&socket.into())
}

#[test]
fn what_sockets_are_doing() {
    let v4 = Ipv4Addr::LOCALHOST.into();
    let (one, other) = connection(v4);
    assert_eq!(state(one.try_clone().unwrap()), Some(SocketState::Connected(Family::Ipv4)));
    assert_eq!(state(TcpListener::bind((v4, 0)).unwrap()), Some(SocketState::Listening));
    let fresh = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    assert_eq!(state(fresh), Some(SocketState::Fresh));
    let datagrams = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    assert_eq!(state(datagrams), None);
    // Half closed by the other side, it can still be written to.
    other.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(state(one.try_clone().unwrap()), Some(SocketState::Connected(Family::Ipv4)));
    sockopt::set_socket_linger(&other, Some(Duration::ZERO)).unwrap();
    drop(other);
    let over = ResetSocket { family: Family::Ipv4, is_told: false };
    assert_eq!(state(one), Some(SocketState::Over(over)));
    let (one, other) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None).unwrap();
    assert_eq!(SocketState::of(&one), Some(SocketState::Connected(Family::Unix)));
    drop(other);
    assert_eq!(state(one), Some(SocketState::Over(ResetSocket { family: Family::Unix, is_told: true })));
}

/// What a program sees, and that it can be saved again in the same state.
fn check(family: Family, is_told: bool) {
    let reset = ResetSocket { family, is_told };
    let socket = reset.rebuild().unwrap();
    assert_eq!(SocketState::of(&socket), Some(SocketState::Over(reset)), "looking changes nothing");
    let told = events(&socket, Duration::ZERO).unwrap();
    assert!(told.contains(PollFlags::HUP | PollFlags::RDHUP), "{told:?}");
    assert_eq!(told.contains(PollFlags::ERR), !is_told);
    let mut stream = TcpStream::from(socket);
    if !is_told {
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(stream.write(&[0]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(state(stream), Some(SocketState::Over(ResetSocket { family, is_told: true })));
}

#[test]
fn a_reset_socket_is_one_whose_peer_has_reset_it() {
    for is_told in [false, true] {
        check(Family::Ipv4, is_told);
        check(Family::Unix, is_told);
    }
}

/// The first write after the reset is told so as well.
#[test]
fn writing_first_is_told_of_the_reset() {
    let mut stream = TcpStream::from(ResetSocket::of(Family::Ipv4).rebuild().unwrap());
    assert_eq!(stream.write(&[0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}
