//! Ports that parallel sandboxes leave to each other.
//!
//! Asking the kernel for port 0 and closing it again invites a race: another program may get the
//! number before the server binds it. Here the loopback ports below the ephemeral ranges are cut
//! into blocks, and a block belongs to the process that listens on its first port. That listener is
//! held for as long as the block is used, and the kernel closes it when the process dies.
//!
//! This is a convention between sandboxes. Another program may still take a port of the block after
//! it was checked; the server then fails to start, and the caller reserves another block.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::time::Duration;

/// A block of free loopback TCP ports, reserved until it is dropped.
#[derive(Debug)]
pub struct Ports {
    range: Range<u16>,
    _lock: TcpListener,
}

impl Ports {
    /// The most ports that one reservation can have.
    pub const MOST: u16 = BLOCK - 1;

    /// Reserves `count` consecutive free ports.
    pub fn reserve(count: u16) -> Result<Self, PortsError> {
        // The hasher is the standard library's only source of randomness.
        let start = RandomState::new().hash_one(count) % u64::from(BLOCKS);
        let start = u16::try_from(start).unwrap_or_default();
        Self::reserve_from(start, count)
    }

    /// Tries the blocks in turn, beginning with the one of that index.
    fn reserve_from(start: u16, count: u16) -> Result<Self, PortsError> {
        if count > Self::MOST {
            return Err(PortsError::TooMany { count });
        }
        (0..BLOCKS)
            .map(|step| FIRST + (start + step) % BLOCKS * BLOCK)
            .find_map(|base| Self::lock(base, count))
            .ok_or(PortsError::NoneFree { count })
    }

    fn lock(base: u16, count: u16) -> Option<Self> {
        let lock = TcpListener::bind((Ipv4Addr::LOCALHOST, base)).ok()?;
        let range = base + 1..base + 1 + count;
        range
            .clone()
            .all(is_free)
            .then_some(Self { range, _lock: lock })
    }

    /// The ports.
    pub fn range(&self) -> Range<u16> {
        self.range.clone()
    }
}

/// Why there are no ports.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the variants are")]
pub enum PortsError {
    #[error(
        "{count} ports do not fit into one reservation; ask for at most {}",
        Ports::MOST
    )]
    TooMany { count: u16 },
    #[error("no {count} free ports in a row between {FIRST} and {LAST}; stop a few sandboxes")]
    NoneFree { count: u16 },
}

/// Whether a server could listen on this loopback port now.
pub fn is_free(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    // macOS lets us bind the loopback address of a port that is taken on all addresses, so binding
    // alone does not tell.
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    TcpListener::bind(address).is_ok()
        && TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err_and(refused)
}

/// Ephemeral ports begin at 32768 on Linux and at 49152 on macOS.
const FIRST: u16 = 12_000;
const LAST: u16 = 32_000;
const BLOCK: u16 = 20;
const BLOCKS: u16 = (LAST - FIRST) / BLOCK;

#[cfg(test)]
mod tests {
    use super::*;

    /// The index of a block that was free a moment ago; a fixed one would be fought over by two
    /// runs of these tests.
    fn free_block(count: u16) -> u16 {
        let ports = Ports::reserve(count).unwrap();
        (ports.range().start - 1 - FIRST) / BLOCK
    }

    #[test]
    fn reservations_do_not_overlap() {
        let start = free_block(Ports::MOST);
        let one = Ports::reserve_from(start, Ports::MOST).unwrap();
        let two = Ports::reserve_from(start, Ports::MOST).unwrap();
        assert!(one.range().all(|port| !two.range().contains(&port)));
        assert_eq!(one.range().len(), usize::from(Ports::MOST));
    }

    #[test]
    fn a_freed_block_can_be_had_again() {
        let start = free_block(5);
        let range = Ports::reserve_from(start, 5).unwrap().range();
        assert_eq!(Ports::reserve_from(start, 5).unwrap().range(), range);
    }

    #[test]
    fn the_last_block_is_within_the_bounds_and_the_first_follows_it() {
        let start = BLOCKS - 1;
        let one = Ports::reserve_from(start, Ports::MOST).unwrap();
        let two = Ports::reserve_from(start, Ports::MOST).unwrap();
        assert!(
            one.range()
                .chain(two.range())
                .all(|port| (FIRST..LAST).contains(&port))
        );
    }

    #[test]
    fn a_block_with_an_occupied_port_is_skipped() {
        for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
            let start = free_block(3);
            let free = Ports::reserve_from(start, 3).unwrap().range();
            let _stranger = TcpListener::bind((address, free.start + 2)).unwrap();
            let other = Ports::reserve_from(start, 3).unwrap().range();
            assert_ne!(other, free);
            // A shorter reservation ends before the occupied port.
            assert_eq!(
                Ports::reserve_from(start, 2).unwrap().range().start,
                free.start
            );
        }
    }

    #[test]
    fn too_many_are_refused() {
        let error = Ports::reserve(Ports::MOST + 1).unwrap_err();
        assert!(matches!(error, PortsError::TooMany { .. }));
    }
}
