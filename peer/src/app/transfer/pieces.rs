//! A data stream taken apart: headers of pieces, and the bytes between them.
//!
//! Works on blocks of bytes however they were cut on the way, and knows nothing of files.

use knothole_proto::wire::codec::{self, LENGTH_PREFIX};

use super::messages::{PIECE_LEN_MAX, Piece};

/// Longest header of a piece in bytes, with its length in front; the longest that can be encoded has 61.
const HEADER_LEN_MAX: usize = 64;

/// Who gets what is in a stream.
pub(super) trait Sink {
    /// A piece begins.
    fn begin(&mut self, piece: &Piece) -> Result<(), &'static str>;

    /// Some of its bytes.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), &'static str>;

    /// All its bytes were there.
    fn end(&mut self) -> Result<(), &'static str>;
}

/// Takes a stream apart.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    header: Vec<u8>,
    /// Bytes of the current piece that are still to come; `None` between pieces.
    left: Option<usize>,
}

impl Pieces {
    /// The next bytes of the stream.
    ///
    /// # Errors
    /// A sentence, if they are not what a stream may hold; from the sink likewise.
    pub(super) fn feed(&mut self, mut block: &[u8], sink: &mut impl Sink) -> Result<(), &'static str> {
        loop {
            if let Some(left) = self.left {
                let (bytes, rest) = block.split_at(left.min(block.len()));
                if !bytes.is_empty() {
                    sink.bytes(bytes)?;
                }
                block = rest;
                if bytes.len() < left {
                    self.left = Some(left - bytes.len());
                    return Ok(());
                }
                self.left = None;
                sink.end()?;
            }
            let Some(piece) = self.header(&mut block)? else {
                return Ok(());
            };
            sink.begin(&piece)?;
            let length = if piece.zeros { 0 } else { piece.length };
            self.left = Some(usize::try_from(length).unwrap_or(0));
        }
    }

    /// The next header, if all of it is there.
    fn header(&mut self, block: &mut &[u8]) -> Result<Option<Piece>, &'static str> {
        loop {
            let wanted = match self.header.first_chunk::<LENGTH_PREFIX>() {
                None => LENGTH_PREFIX,
                Some(prefix) => match codec::announced_len(*prefix) {
                    Ok(length) if length + LENGTH_PREFIX <= HEADER_LEN_MAX => length + LENGTH_PREFIX,
                    _ => return Err("the header of a piece is too long"),
                },
            };
            let missing = wanted - self.header.len();
            let (bytes, rest) = block.split_at(missing.min(block.len()));
            self.header.extend_from_slice(bytes);
            *block = rest;
            if bytes.len() < missing {
                return Ok(None);
            }
            if wanted > LENGTH_PREFIX {
                break;
            }
        }
        let piece = self.header.get(LENGTH_PREFIX..).map(codec::decode::<Piece>);
        self.header.clear();
        match piece {
            Some(Ok(piece)) if piece.length <= PIECE_LEN_MAX => Ok(Some(piece)),
            _ => Err("the header of a piece is malformed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Default, Debug, PartialEq)]
    struct Seen(Vec<(Piece, Vec<u8>, bool)>);

    impl Sink for Seen {
        fn begin(&mut self, piece: &Piece) -> Result<(), &'static str> {
            self.0.push((*piece, Vec::new(), false));
            Ok(())
        }

        fn bytes(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
            self.0.last_mut().unwrap().1.extend_from_slice(bytes);
            Ok(())
        }

        fn end(&mut self) -> Result<(), &'static str> {
            self.0.last_mut().unwrap().2 = true;
            Ok(())
        }
    }

    fn piece(length: u32) -> Piece {
        Piece {
            index: 7,
            offset: 1 << 40,
            length,
            zeros: false,
            value: Some([3; 32]),
        }
    }

    fn stream(pieces: &[(Piece, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (piece, data) in pieces {
            bytes.extend(codec::encode_framed(piece).unwrap());
            bytes.extend(data);
        }
        bytes
    }

    proptest! {
        #[test]
        fn a_stream_says_the_same_however_it_is_cut(
            lengths in prop::collection::vec(0u32..200, 1..8),
            cuts in prop::collection::vec(1usize..90, 1..40),
        ) {
            let pieces: Vec<_> = lengths
                .iter()
                .map(|length| {
                    let zeros = length % 5 == 4;
                    let data = vec![9; if zeros { 0 } else { *length as usize }];
                    (Piece { zeros, ..piece(*length) }, data)
                })
                .collect();
            let bytes = stream(&pieces);
            let (mut seen, mut parser) = (Seen::default(), Pieces::default());
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                let (block, more) = rest.split_at((*cut).min(rest.len()));
                parser.feed(block, &mut seen).unwrap();
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
            let expected = pieces.into_iter().map(|(piece, data)| (piece, data, true)).collect();
            prop_assert_eq!(seen, Seen(expected));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            // Anything but a panic is right.
            let _ = Pieces::default().feed(&bytes, &mut Seen::default());
        }
    }

    #[test]
    fn the_longest_header_fits_and_longer_pieces_are_refused() {
        let longest = Piece {
            index: u32::MAX,
            offset: u64::MAX,
            length: u32::MAX,
            zeros: true,
            value: Some([255; 32]),
        };
        let bytes = codec::encode_framed(&longest).unwrap();
        assert!(bytes.len() <= HEADER_LEN_MAX, "{}", bytes.len());
        let mut parser = Pieces::default();
        let refused = parser.feed(&bytes, &mut Seen::default());
        assert_eq!(refused, Err("the header of a piece is malformed"));
        let refused = Pieces::default().feed(&[0, 0, 1, 0], &mut Seen::default());
        assert_eq!(refused, Err("the header of a piece is too long"));
    }
}
