//! Reading a stream in order, however many holes losses leave in it.
//!
//! quinn puts a stream in order itself, but ends the connection when more than 1024 pieces of it wait for what is missing
//! (`MAX_CHUNKS` in its `assembler.rs`): a bound on what a malicious sender can cost. A window of 12 MB, one round trip of
//! 100 ms at 1 Gbit/s, is 8,700 packets, and a queue that overflows drops every other one. So bulk data is taken from
//! quinn as it comes and put in order here, with a bound in bytes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Buf, Bytes};
use quinn::{ReadError, RecvStream, VarInt};

use super::window::Reading;

/// Bytes that may wait for what is missing before them. What is lost comes again after a round trip or two, so this is
/// what arrives meanwhile: 1 Gbit/s over 100 ms, two and a half times. Beyond it a stream is read slowly until the hole
/// closes; more memory would let it go on at full rate through longer ones.
const HELD_MAX: usize = 32 * 1024 * 1024;

/// Pieces that may wait likewise; a sender that has more of them makes them small on purpose, for each costs an allocation and a
/// place in a map, some 100 bytes, besides its own. Full packets are more than [`HELD_MAX`] before they are as many.
const PIECES_MAX: usize = 32 * 1024;

/// Application error code for a stream in too many pieces.
pub(crate) const CODE_IN_PIECES: VarInt = VarInt::from_u32(19);

/// Time between two pieces beyond that. quinn hands out the first of what it has, so the missing one comes as the next.
const SLOW: Duration = Duration::from_millis(5);

/// A stream from the other side, read in order.
#[derive(Debug)]
pub struct InOrder {
    stream: RecvStream,
    pieces: Pieces,
    reading: Reading,
}

impl InOrder {
    /// Of a stream from which nothing was read yet.
    pub(crate) fn new(stream: RecvStream, reading: Reading) -> Self {
        Self {
            stream,
            pieces: Pieces::default(),
            reading,
        }
    }

    /// Read some bytes, as many as are there and fit; `None` at the end. Safe to cancel.
    ///
    /// # Errors
    /// That the stream was reset or the connection ended; [`ReadError::ClosedStream`] for one in too many pieces, which is stopped.
    pub async fn read(&mut self, into: &mut [u8]) -> Result<Option<usize>, ReadError> {
        loop {
            let read = self.pieces.take(into);
            if read > 0 || into.is_empty() {
                return Ok(Some(read));
            }
            if self.pieces.held > HELD_MAX {
                tokio::time::sleep(SLOW).await;
            }
            match self.stream.read_chunk(usize::MAX, false).await? {
                Some(chunk) => {
                    self.reading.took(chunk.bytes.len());
                    self.pieces.add(chunk.offset, chunk.bytes);
                    if self.pieces.is_in_shreds() {
                        self.pieces = Pieces::default();
                        self.stop(CODE_IN_PIECES);
                        return Err(ReadError::ClosedStream);
                    }
                }
                None => return Ok(None),
            }
        }
    }

    /// Read no more, and tell the other side so with this application error code.
    pub fn stop(&mut self, code: VarInt) {
        // Fails only on a stream that has ended.
        let _ = self.stream.stop(code);
    }
}

/// Pieces of a stream, and how far it was read.
#[derive(Debug, Default)]
struct Pieces {
    /// What comes next, piece after piece: nearly all of a stream never gets anywhere else.
    ready: VecDeque<Bytes>,
    /// Where that ends.
    end: u64,
    /// Copies, by their place in the stream; none overlaps another, and all are behind `end`.
    waiting: BTreeMap<u64, Bytes>,
    /// Bytes in `ready` and `waiting`.
    held: usize,
}

impl Pieces {
    /// quinn hands out no byte twice.
    fn add(&mut self, offset: u64, bytes: Bytes) {
        self.held += bytes.len();
        if offset != self.end {
            // A copy: the original is a view of all that was received with it, up to 64 KiB, and would keep that for as long as it
            // waits. So what waits takes what `held` says.
            self.waiting.insert(offset, Bytes::copy_from_slice(&bytes));
            return;
        }
        self.append(bytes);
        while let Some(first) = self.waiting.first_entry()
            && *first.key() == self.end
        {
            let bytes = first.remove();
            self.append(bytes);
        }
    }

    /// Does more wait than a sender of whole packets would let wait?
    fn is_in_shreds(&self) -> bool {
        self.waiting.len() > PIECES_MAX
    }

    fn append(&mut self, bytes: Bytes) {
        self.end += bytes.len() as u64;
        self.ready.push_back(bytes);
    }

    /// What comes next, as far as it is there.
    fn take(&mut self, into: &mut [u8]) -> usize {
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty())
            && let Some(piece) = self.ready.front_mut()
        {
            let length = piece.len().min(rest.len());
            if let (Some(to), Some(from)) = (rest.get_mut(..length), piece.get(..length)) {
                to.copy_from_slice(from);
            }
            piece.advance(length);
            if piece.is_empty() {
                self.ready.pop_front();
            }
            self.held -= length;
            filled += length;
        }
        filled
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whole_packets_fill_the_memory_before_they_are_too_many_and_single_bytes_do_not() {
        let mut packets = Pieces::default();
        let packet = Bytes::from_static(&[0; 1_100]);
        for number in 1_u64.. {
            packets.add(number * 1_100, packet.clone());
            if packets.held > HELD_MAX {
                break;
            }
        }
        assert!(!packets.is_in_shreds());
        let mut shreds = Pieces::default();
        let mut number = 0_u64;
        while !shreds.is_in_shreds() {
            shreds.add(1 + 2 * number, packet.slice(..1));
            number += 1;
        }
        assert!(shreds.held < 40_000);
    }

    #[test]
    fn what_waits_keeps_nothing_else_of_what_was_received_with_it() {
        let mut pieces = Pieces::default();
        let batch = Bytes::from(vec![7; 65_000]);
        pieces.add(1, batch.slice(1..2));
        assert!(batch.is_unique(), "only the batch itself is left");
        // What comes in order is read at once and needs no copy.
        pieces.add(0, batch.slice(..1));
        assert!(!batch.is_unique());
        let mut into = [0; 9];
        assert_eq!((pieces.take(&mut into), into[..2] == [7, 7]), (2, true));
        assert!(batch.is_unique());
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_read_in_any_portions_give_the_stream(
            lengths in prop::collection::vec(1usize..50, 1..60),
            order in prop::collection::vec(any::<u32>(), 60),
            portions in prop::collection::vec(1usize..80, 1..10),
        ) {
            let stream: Vec<u8> = (0..lengths.iter().sum::<usize>()).map(|n| n.to_le_bytes()[0]).collect();
            let mut pieces: Vec<_> = lengths
                .iter()
                .scan(0, |at, length| {
                    let from = *at;
                    *at += length;
                    Some((from, from + length))
                })
                .zip(&order)
                .collect();
            pieces.sort_by_key(|(_, key)| **key);
            let (mut waiting, mut read) = (Pieces::default(), Vec::new());
            let mut portions = portions.iter().cycle();
            for ((from, to), _) in pieces {
                waiting.add(from as u64, Bytes::copy_from_slice(&stream[from..to]));
                loop {
                    let mut into = vec![0; *portions.next().unwrap()];
                    let taken = waiting.take(&mut into);
                    read.extend_from_slice(&into[..taken]);
                    prop_assert_eq!(&read[..], &stream[..read.len()]);
                    if taken == 0 {
                        break;
                    }
                }
            }
            prop_assert_eq!(read.len(), stream.len());
            prop_assert_eq!((waiting.held, waiting.waiting.len(), waiting.ready.len()), (0, 0, 0));
        }
    }
}
