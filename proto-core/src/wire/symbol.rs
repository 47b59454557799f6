//! The content of a symbol: any number of flow frames (see `flow`) and link-state frames (see
//! `linkstate`). Which it is, the first byte tells.

use std::collections::VecDeque;

use super::flow::{self, Body, Head};
use super::linkstate::{self, Fragment};
use super::{Malformed, Reader};

/// What one frame says.
#[derive(Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one frame; a box would be an allocation per packet"
)]
pub(crate) enum Content<'a> {
    Flow(Head, Body<'a>),
    LinkState(Fragment<'a>),
}

/// One frame of a symbol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SymbolFrame<'a> {
    pub content: Content<'a>,
    /// The frame as it stands there.
    pub raw: &'a [u8],
}

/// Reads the next frame of a symbol; `None` at the end.
pub(crate) fn read<'a>(r: &mut Reader<'a>) -> Result<Option<SymbolFrame<'a>>, Malformed> {
    let whole = r.rest;
    let content = if whole.first() == Some(&linkstate::KIND) {
        Content::LinkState(linkstate::read(r)?)
    } else {
        match flow::read(r)? {
            Some((head, body)) => Content::Flow(head, body),
            None => return Ok(None),
        }
    };
    let raw = whole.get(..whole.len() - r.rest.len()).unwrap_or_default();
    Ok(Some(SymbolFrame { content, raw }))
}

/// Cuts the frames of one symbol into contents of at most `max` bytes, in their order. Data frames are
/// split; the others are at most 1,000 bytes long, and `max` is more.
///
/// # Errors
/// [`Malformed`]; what stands before the bad frame has been cut.
pub(crate) fn cut(
    content: &[u8],
    max: usize,
    pieces: &mut VecDeque<Vec<u8>>,
) -> Result<(), Malformed> {
    let mut reader = Reader::new(content);
    let mut piece = Vec::with_capacity(max);
    while let Some(read) = read(&mut reader)? {
        let frame = read.raw;
        if piece.len() + frame.len() <= max {
            piece.extend_from_slice(frame);
            continue;
        }
        let Content::Flow(head, Body::Data { mut offset, fin, open, mut data }) = read.content
        else {
            pieces.push_back(std::mem::replace(&mut piece, Vec::with_capacity(max)));
            piece.extend_from_slice(frame);
            continue;
        };
        loop {
            // Nothing is put where not even one byte would fit.
            let overhead = flow::data_overhead(&head.key, offset, open);
            let room = max.saturating_sub(piece.len() + overhead);
            if room == 0 && !piece.is_empty() {
                pieces.push_back(std::mem::replace(&mut piece, Vec::with_capacity(max)));
                continue;
            }
            let (now, later) = data.split_at(room.max(1).min(data.len()));
            let is_last = later.is_empty();
            flow::put_data_header(&mut piece, &head, offset, fin && is_last, open, now.len());
            piece.extend_from_slice(now);
            if is_last {
                break;
            }
            offset += now.len() as u64;
            data = later;
        }
    }
    if !piece.is_empty() {
        pieces.push_back(piece);
    }
    Ok(())
}
