//! A stream cut at places the input names gives the same frames as in one piece, and each message parses as the framer saw it.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use vesperd::sip::stream::{Frame, StreamFramer};
use vesperd::sip::{Framing, Index, Limits, Unusable, parse};

fuzz_target!(|input: &[u8]| {
    // The size of the pieces last, so that the torture messages are seeds as they are.
    let Some((stream, cuts)) = input.split_last_chunk::<2>() else { return };
    let limits = Limits { head: 2_000, message: 3_000, ..Limits::default() };
    let pieces = stream.chunks(1 + usize::from(cuts[0])).flat_map(|piece| piece.chunks(1 + usize::from(cuts[1])));
    let in_pieces = frames(pieces, &limits);
    // Where the header block is over its limit, the framer may give up at different places.
    if !in_pieces.iter().any(|frame| frame.starts_with(b"broken")) {
        assert_eq!(in_pieces, frames([stream], &limits));
    }
});

#[allow(clippy::disallowed_methods)] // the framer only compares times
fn frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limits: &Limits) -> Vec<Vec<u8>> {
    let (mut framer, now) = (StreamFramer::new(), Instant::now());
    let mut seen = Vec::new();
    for piece in pieces {
        framer.push(piece, now);
        loop {
            match framer.next(limits) {
                Ok(None) => break,
                Ok(Some(Frame::Ping | Frame::Pong)) => seen.push(b"ping".to_vec()),
                Ok(Some(Frame::Message(range))) => {
                    let message = &framer.bytes()[range];
                    check(message, limits);
                    seen.push(message.to_vec());
                }
                Ok(Some(Frame::Broken(range))) => {
                    let _ = parse(&framer.bytes()[range.clone()], &mut Index::new(), Framing::Stream, limits);
                    seen.push([b"broken", &framer.bytes()[range]].concat());
                }
                Err(error) => {
                    seen.push([b"broken", error.to_string().as_bytes()].concat());
                    return seen;
                }
            }
        }
    }
    seen
}

/// The parser must end the message where the framer did.
fn check(bytes: &[u8], limits: &Limits) {
    let mut index = Index::new();
    match parse(bytes, &mut index, Framing::Stream, limits) {
        Ok(message) => assert_eq!(message.bytes().len(), bytes.len()),
        // Dropped, but its end was known.
        Err(reason) => assert!(reason == Unusable::Via || reason.is_framed(), "framed but {reason}"),
    }
}
