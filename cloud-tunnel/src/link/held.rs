//! Bytes of one stream that wait for their reader: taken out of HTTP/2 at once, small frames copied together.
//!
//! HTTP/2's library counts frames that nobody takes, and ends the whole connection when a stalled reader of short lines
//! lets them pile up. So they are taken; their credit is given back only when the reader took the bytes.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf as _, Bytes, BytesMut};

/// Frames below this size are copied together: a slice of few bytes would keep a whole read buffer alive.
const SMALL: usize = 8 * 1024;
/// How much is copied together at most.
const PIECE: usize = 16 * 1024;
/// How many pieces one write hands to the socket at most.
pub const SLICES: usize = 16;

/// A queue of bytes.
#[derive(Debug, Default)]
pub struct Held {
    pieces: VecDeque<Bytes>,
    /// The newest small frames.
    tail: BytesMut,
    length: usize,
}

impl Held {
    /// How many bytes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether none wait.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds a frame.
    pub fn push(&mut self, frame: Bytes) {
        self.length += frame.len();
        if frame.len() >= SMALL {
            self.close_tail();
            self.pieces.push_back(frame);
            return;
        }
        if self.tail.len() + frame.len() > PIECE {
            self.close_tail();
        }
        self.tail.extend_from_slice(&frame);
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }

    /// The oldest bytes, for one write.
    #[must_use]
    pub fn slices(&self) -> Vec<IoSlice<'_>> {
        let tail = (!self.tail.is_empty()).then(|| IoSlice::new(&self.tail));
        self.pieces.iter().map(|piece| IoSlice::new(piece)).chain(tail).take(SLICES).collect()
    }

    /// The oldest `count` bytes were taken.
    ///
    /// # Panics
    /// If there were fewer.
    pub fn taken(&mut self, mut count: usize) {
        self.length -= count;
        while count > 0 {
            let Some(first) = self.pieces.front_mut() else {
                self.tail.advance(count);
                break;
            };
            let part = count.min(first.len());
            first.advance(part);
            count -= part;
            if first.is_empty() {
                self.pieces.pop_front();
            }
        }
        if self.length == 0 {
            // An idle stream keeps no buffer.
            self.tail = BytesMut::new();
            self.pieces = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order_however_it_is_cut() {
        let (mut held, mut expected, mut read) = (Held::default(), Vec::new(), Vec::new());
        for number in 0..400_usize {
            let size = if number % 7 == 0 { 9000 } else { number * 13 % 300 };
            let frame: Vec<u8> =
                (0..size).map(|at| u8::try_from((at + number) % 251).expect("small")).collect();
            expected.extend_from_slice(&frame);
            held.push(Bytes::from(frame));
            if number % 3 == 0 {
                let count = (number * 37) % (held.len() + 1);
                let joined: Vec<u8> = held.slices().iter().flat_map(|slice| slice.to_vec()).collect();
                let count = count.min(joined.len());
                read.extend_from_slice(&joined[..count]);
                held.taken(count);
            }
        }
        while !held.is_empty() {
            let joined: Vec<u8> = held.slices().iter().flat_map(|slice| slice.to_vec()).collect();
            read.extend_from_slice(&joined);
            held.taken(joined.len());
        }
        assert_eq!(read, expected);
    }

    #[test]
    fn short_lines_are_kept_in_few_pieces() {
        let mut held = Held::default();
        for _ in 0..4096 {
            held.push(Bytes::from_static(&[b'x'; 64]));
        }
        assert_eq!(held.len(), 256 * 1024);
        assert!(held.pieces.len() <= 16, "{}", held.pieces.len());
    }
}
