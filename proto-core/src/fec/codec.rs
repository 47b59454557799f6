//! The arithmetic: parity from source symbols, lost source symbols from parity.
//!
//! The code is the one of `reed-solomon-simd` (Reed-Solomon over GF(2^16), systematic). Its encoder
//! is used as it is. Its decoder has a fixed cost of hundreds of microseconds however small the
//! block, so few losses are solved for here: re-encode with the lost shards zeroed; what that differs
//! by from the parity received is a linear combination of the lost shards alone; solve. The
//! coefficients come out of the encoder too, by feeding it unit vectors.

use reed_solomon_simd::engine::tables::{self, ExpLog};
use reed_solomon_simd::engine::{DefaultEngine, Engine, GF_MODULUS, GfElement};
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use super::{MAX_K, MAX_PARITY, SHARD_PREFIX};

/// Up to this many lost shards are solved for directly, beyond that by the crate's decoder.
///
/// Measured at 128+64 and 1232 bytes: 168 µs for 32 losses, growing with the square; the decoder
/// takes 390 µs for any number, so they would meet near 50. 32 is also what the unit vectors can have
/// in one chunk.
const MAX_SOLVED: usize = 32;

/// Bytes of a chunk of the crate's engine: 32 low bytes, then 32 high bytes of 32 field elements.
const CHUNK: usize = 64;

/// How many recovery shards the code of a block has: a power of two, 1 to [`MAX_PARITY`].
///
/// `reed-solomon-simd`'s shards depend on the recovery count rounded up to a power of two; any prefix
/// of them may be sent. 1 is plain XOR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Generator(u8);

impl Generator {
    /// One recovery shard: the XOR of all shards.
    pub(crate) const XOR: Self = Self(0);

    /// The greatest [`log2`](Self::log2).
    pub(crate) const MAX_LOG2: u8 = 6;

    /// From the logarithm that the wire carries; `None` above [`MAX_LOG2`](Self::MAX_LOG2).
    pub(crate) fn from_log2(log2: u8) -> Option<Self> {
        (log2 <= Self::MAX_LOG2).then_some(Self(log2))
    }

    /// The smallest with at least `parity` recovery shards (the greatest, if none has).
    pub(crate) fn for_parity(parity: usize) -> Self {
        let log2 = parity.clamp(1, MAX_PARITY).next_power_of_two().trailing_zeros();
        Self(log2 as u8)
    }

    /// Logarithm of the recovery count, `0..=MAX_LOG2`.
    pub(crate) fn log2(self) -> u8 {
        self.0
    }

    /// The recovery count, `1..=MAX_PARITY`.
    pub(crate) fn recovery_count(self) -> usize {
        1 << self.0
    }
}

/// What encoder and decoder must agree on about a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockShape {
    k: usize,
    generator: Generator,
    shard_len: usize,
}

impl BlockShape {
    /// `None` unless `k` is `1..=MAX_K` and `shard_len` even and at least 2.
    pub(crate) fn new(k: usize, generator: Generator, shard_len: usize) -> Option<Self> {
        let valid =
            (1..=MAX_K).contains(&k) && shard_len >= SHARD_PREFIX && shard_len.is_multiple_of(2);
        valid.then_some(Self { k, generator, shard_len })
    }

    /// Source symbols.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Bytes of each shard.
    pub(crate) fn shard_len(&self) -> usize {
        self.shard_len
    }
}

/// The block cannot be computed: too few or contradictory shards, or one longer than the shape says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these shards do not make a block")]
pub(crate) struct Uncodable;

impl From<reed_solomon_simd::Error> for Uncodable {
    fn from(_: reed_solomon_simd::Error) -> Self {
        Self
    }
}

/// Encoder and decoder with their scratch memory. One per node, reused for every block; once blocks
/// of the greatest size went through, nothing is allocated any more.
pub(crate) struct Codec {
    encoder: ReedSolomonEncoder,
    decoder: ReedSolomonDecoder,
    engine: DefaultEngine,
    tables: &'static ExpLog,
    /// A shard being padded.
    padded: Vec<u8>,
    /// Indices of the lost source shards of the block in hand, ascending.
    lost: Vec<usize>,
    /// Recovery indices of the parity used for it.
    used: Vec<usize>,
    /// One row per parity used, one column per lost shard.
    matrix: Vec<GfElement>,
    /// One row of chunks per parity used; the right side of the system, then its solution.
    rows: Vec<[u8; CHUNK]>,
    /// A row times a factor.
    product: Vec<[u8; CHUNK]>,
    /// The recovered shards, in the order of `lost`.
    recovered: Vec<u8>,
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec").finish_non_exhaustive()
    }
}

/// The lost shards of a block, as [`Codec::recover`] found them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recovered<'c> {
    lost: &'c [usize],
    bytes: &'c [u8],
    shard_len: usize,
}

impl<'c> Recovered<'c> {
    /// Index within the block and whole shard (length ‖ content ‖ zeros), ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &'c [u8])> + use<'c> {
        self.lost.iter().copied().zip(self.bytes.chunks_exact(self.shard_len))
    }
}

impl Codec {
    /// Allocates for shards of up to `max_shard` bytes and fills the library's tables (8 MiB once per
    /// process), so that the first block does not pay for either.
    #[must_use]
    pub(crate) fn new(max_shard: usize) -> Self {
        let max_shard = max_shard.next_multiple_of(2).max(SHARD_PREFIX);
        let chunks = MAX_SOLVED * max_shard.div_ceil(CHUNK);
        let supported = "counts and an even length are within the library's documented limits";
        let mut codec = Self {
            encoder: ReedSolomonEncoder::new(MAX_K, MAX_PARITY, max_shard).expect(supported),
            decoder: ReedSolomonDecoder::new(MAX_K, MAX_PARITY, max_shard).expect(supported),
            engine: DefaultEngine::new(),
            tables: tables::get_exp_log(),
            padded: Vec::with_capacity(max_shard),
            lost: Vec::with_capacity(MAX_K),
            used: Vec::with_capacity(MAX_PARITY),
            matrix: Vec::with_capacity(MAX_SOLVED * MAX_SOLVED),
            rows: Vec::with_capacity(chunks),
            product: Vec::with_capacity(max_shard.div_ceil(CHUNK)),
            recovered: Vec::with_capacity(MAX_PARITY * max_shard),
        };
        // One decoding fills the table that only the decoder uses.
        codec.lost.push(0);
        let shape = BlockShape { k: 2, generator: Generator(1), shard_len: 2 };
        let parity = [(0, [0, 0].as_slice())];
        let warm = codec.decode(shape, |i| (i == 1).then_some([].as_slice()), parity.into_iter());
        debug_assert!(warm.is_ok());
        codec
    }

    /// Appends recovery shards `0..parity` of the block to `out`, each `shape.shard_len()` long.
    ///
    /// `source(i)` is shard `i` of `0..k` without its padding: length ‖ content.
    ///
    /// # Errors
    /// [`Uncodable`], and `out` as it was, if a source is missing or longer than the shape's shards,
    /// or the generator has fewer than `parity` recovery shards.
    pub(crate) fn encode<'a>(
        &mut self,
        shape: BlockShape,
        source: impl Fn(usize) -> Option<&'a [u8]>,
        parity: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Uncodable> {
        let BlockShape { k, generator, shard_len } = shape;
        if parity > generator.recovery_count() {
            return Err(Uncodable);
        }
        let before = out.len();
        if k == 1 || generator == Generator::XOR {
            // Every recovery shard of a single shard is a copy of it.
            for _ in 0..parity {
                let start = out.len();
                out.resize(start + shard_len, 0);
                for i in 0..k {
                    let shard = source(i).filter(|shard| shard.len() <= shard_len);
                    let Some(shard) = shard else {
                        out.truncate(before);
                        return Err(Uncodable);
                    };
                    xor(out.get_mut(start..).unwrap_or_default(), shard);
                }
            }
            return Ok(());
        }
        self.encoder.reset(k, generator.recovery_count(), shard_len)?;
        for i in 0..k {
            let shard = source(i).ok_or(Uncodable)?;
            self.encoder.add_original_shard(pad(shard, shard_len, &mut self.padded)?)?;
        }
        let result = self.encoder.encode()?;
        for shard in result.recovery_iter().take(parity) {
            out.extend_from_slice(shard);
        }
        Ok(())
    }

    /// Computes the source shards for which `source` has nothing.
    ///
    /// `source(i)` is as for [`encode`](Self::encode); `parity` yields recovery index and shard. Only
    /// as much parity as there are lost shards is used.
    ///
    /// # Errors
    /// [`Uncodable`] if the parity does not suffice, repeats or exceeds an index of the generator, or
    /// a shard has the wrong length. Wrong bytes in the shards are not found out here: what comes out
    /// of them must be checked.
    pub(crate) fn recover<'a, 'c>(
        &'c mut self,
        shape: BlockShape,
        source: impl Fn(usize) -> Option<&'a [u8]>,
        parity: impl Iterator<Item = (usize, &'a [u8])> + Clone,
    ) -> Result<Recovered<'c>, Uncodable> {
        let BlockShape { k, generator, shard_len } = shape;
        self.lost.clear();
        self.lost.extend((0..k).filter(|&i| source(i).is_none()));
        self.used.clear();
        self.recovered.clear();
        let n = self.lost.len();
        let parity = parity.take(n);
        for (index, shard) in parity.clone() {
            let repeated = self.used.contains(&index);
            if repeated || index >= generator.recovery_count() || shard.len() != shard_len {
                return Err(Uncodable);
            }
            self.used.push(index);
        }
        if self.used.len() < n {
            return Err(Uncodable);
        }
        if n == 0 {
            // Nothing is lost.
        } else if k == 1 || generator == Generator::XOR {
            self.unxor(shape, source, parity)?;
        } else if n <= MAX_SOLVED {
            self.solve(shape, source, parity)?;
        } else {
            self.decode(shape, source, parity)?;
        }
        Ok(Recovered { lost: &self.lost, bytes: &self.recovered, shard_len })
    }

    /// The one lost shard is the parity less all others.
    fn unxor<'a>(
        &mut self,
        shape: BlockShape,
        source: impl Fn(usize) -> Option<&'a [u8]>,
        mut parity: impl Iterator<Item = (usize, &'a [u8])>,
    ) -> Result<(), Uncodable> {
        let (_, shard) = parity.next().ok_or(Uncodable)?;
        self.recovered.extend_from_slice(shard);
        for shard in (0..shape.k).filter_map(source) {
            if shard.len() > shape.shard_len {
                return Err(Uncodable);
            }
            xor(&mut self.recovered, shard);
        }
        Ok(())
    }

    /// Few losses: by elimination.
    fn solve<'a>(
        &mut self,
        shape: BlockShape,
        source: impl Fn(usize) -> Option<&'a [u8]>,
        parity: impl Iterator<Item = (usize, &'a [u8])>,
    ) -> Result<(), Uncodable> {
        let BlockShape { k, generator, shard_len } = shape;
        let chunks = shard_len.div_ceil(CHUNK);
        self.coefficients(k, generator)?;

        // Right side: parity received less what the shards at hand contribute to it.
        self.encoder.reset(k, generator.recovery_count(), shard_len)?;
        for i in 0..k {
            let shard = source(i).unwrap_or_default();
            self.encoder.add_original_shard(pad(shard, shard_len, &mut self.padded)?)?;
        }
        let known = self.encoder.encode()?;
        self.rows.clear();
        self.rows.resize(self.lost.len() * chunks, [0; CHUNK]);
        self.product.clear();
        self.product.resize(chunks, [0; CHUNK]);
        for (row, (index, shard)) in self.rows.chunks_exact_mut(chunks).zip(parity) {
            to_chunks(shard, row);
            to_chunks(known.recovery(index).ok_or(Uncodable)?, &mut self.product);
            xor_chunks(row, &self.product);
        }
        drop(known);

        self.eliminate(chunks)?;
        self.recovered.resize(self.lost.len() * shard_len, 0);
        let shards = self.recovered.chunks_exact_mut(shard_len);
        for (shard, row) in shards.zip(self.rows.chunks_exact(chunks)) {
            from_chunks(row, shard);
        }
        Ok(())
    }

    /// Fills `matrix`: by how much each lost shard enters each parity shard used.
    ///
    /// The code works on each column of field elements by itself. So the n-th lost shard becomes the
    /// unit vector with its 1 in column n, all others zero, and recovery shard j then reads row j.
    /// That costs a fraction of a microsecond, less than a cache of matrices would.
    fn coefficients(&mut self, k: usize, generator: Generator) -> Result<(), Uncodable> {
        self.encoder.reset(k, generator.recovery_count(), CHUNK)?;
        let mut column = 0;
        for i in 0..k {
            let mut shard = [0; CHUNK];
            if self.lost.get(column) == Some(&i) {
                // The low byte of that element.
                *shard.get_mut(column).ok_or(Uncodable)? = 1;
                column += 1;
            }
            self.encoder.add_original_shard(shard)?;
        }
        let result = self.encoder.encode()?;
        self.matrix.clear();
        for &index in &self.used {
            let row = result.recovery(index).ok_or(Uncodable)?;
            let (low, high) = row.split_at(CHUNK / 2);
            let elements = low.iter().zip(high).map(|(&l, &h)| GfElement::from_le_bytes([l, h]));
            self.matrix.extend(elements.take(column));
        }
        Ok(())
    }

    /// Gaussian elimination of `matrix`, with `rows` as the right side; leaves the solution in `rows`.
    ///
    /// Every square part of this code's matrix is regular, so no pivot is ever zero and no rows need
    /// to be exchanged.
    fn eliminate(&mut self, chunks: usize) -> Result<(), Uncodable> {
        let n = self.lost.len();
        let ExpLog { exp, log } = self.tables;
        let log_of = |x: GfElement| log.get(usize::from(x)).copied().unwrap_or(0);
        let inverse = |x: GfElement| GF_MODULUS - log_of(x);

        for p in 0..n {
            let (above, below) = self.matrix.split_at_mut((p + 1) * n);
            let pivot_row = above.get(p * n + p..).ok_or(Uncodable)?;
            let Some((&pivot, pivot_rest)) = pivot_row.split_first().filter(|(p, _)| **p != 0)
            else {
                return Err(Uncodable);
            };
            let (known, open) = self.rows.split_at_mut((p + 1) * chunks);
            let pivot_chunks = known.get(p * chunks..).ok_or(Uncodable)?;
            let targets = below.chunks_exact_mut(n).zip(open.chunks_exact_mut(chunks));
            for (matrix_row, row) in targets {
                let Some((head, rest)) = matrix_row.get_mut(p..).and_then(<[_]>::split_first_mut)
                else {
                    return Err(Uncodable);
                };
                if *head == 0 {
                    continue;
                }
                let factor = log_of(tables::mul(*head, inverse(pivot), exp, log));
                *head = 0;
                for (x, &y) in rest.iter_mut().zip(pivot_rest) {
                    *x ^= tables::mul(y, factor, exp, log);
                }
                add_product(&self.engine, row, pivot_chunks, factor, &mut self.product);
            }
        }

        for p in (0..n).rev() {
            let (above, this) = self.rows.split_at_mut(p * chunks);
            let solution = this.get_mut(..chunks).ok_or(Uncodable)?;
            let pivot = self.matrix.get(p * n + p).copied().ok_or(Uncodable)?;
            self.engine.mul(solution, inverse(pivot));
            for (matrix_row, row) in self.matrix.chunks_exact(n).zip(above.chunks_exact_mut(chunks))
            {
                match matrix_row.get(p).copied() {
                    None | Some(0) => {}
                    Some(x) => {
                        add_product(&self.engine, row, solution, log_of(x), &mut self.product);
                    }
                }
            }
        }
        Ok(())
    }

    /// Many losses: by the crate's decoder.
    fn decode<'a>(
        &mut self,
        shape: BlockShape,
        source: impl Fn(usize) -> Option<&'a [u8]>,
        parity: impl Iterator<Item = (usize, &'a [u8])>,
    ) -> Result<(), Uncodable> {
        let BlockShape { k, generator, shard_len } = shape;
        self.decoder.reset(k, generator.recovery_count(), shard_len)?;
        for i in 0..k {
            if let Some(shard) = source(i) {
                let shard = pad(shard, shard_len, &mut self.padded)?;
                self.decoder.add_original_shard(i, shard)?;
            }
        }
        for (index, shard) in parity {
            self.decoder.add_recovery_shard(index, shard)?;
        }
        let result = self.decoder.decode()?;
        for &i in &self.lost {
            self.recovered.extend_from_slice(result.restored_original(i).ok_or(Uncodable)?);
        }
        Ok(())
    }
}

/// `shard` with zeros up to `len`; it is copied only if it needs any.
fn pad<'a>(shard: &'a [u8], len: usize, padded: &'a mut Vec<u8>) -> Result<&'a [u8], Uncodable> {
    if shard.len() > len {
        return Err(Uncodable);
    }
    if shard.len() == len {
        return Ok(shard);
    }
    padded.clear();
    padded.extend_from_slice(shard);
    padded.resize(len, 0);
    Ok(padded)
}

/// `x ^= y`, as far as `y` goes.
fn xor(x: &mut [u8], y: &[u8]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x ^= y;
    }
}

fn xor_chunks(x: &mut [[u8; CHUNK]], y: &[[u8; CHUNK]]) {
    xor(x.as_flattened_mut(), y.as_flattened());
}

/// `x ^= y * factor`, the factor given by its logarithm.
fn add_product(
    engine: &impl Engine,
    x: &mut [[u8; CHUNK]],
    y: &[[u8; CHUNK]],
    log_factor: GfElement,
    product: &mut Vec<[u8; CHUNK]>,
) {
    product.clear();
    product.extend_from_slice(y);
    engine.mul(product, log_factor);
    xor_chunks(x, product);
}

/// A shard in the engine's layout. A tail of 2t bytes stands for t elements: its first half are their
/// low bytes, its second half their high bytes (`Shards::insert` of the crate).
fn to_chunks(shard: &[u8], chunks: &mut [[u8; CHUNK]]) {
    let (whole, tail) = shard.as_chunks::<CHUNK>();
    for (to, from) in chunks.iter_mut().zip(whole) {
        *to = *from;
    }
    if let Some(last) = chunks.get_mut(whole.len()) {
        let (low, high) = tail.split_at(tail.len() / 2);
        let (to_low, to_high) = last.split_at_mut(CHUNK / 2);
        to_low.iter_mut().zip(low).for_each(|(to, from)| *to = *from);
        to_high.iter_mut().zip(high).for_each(|(to, from)| *to = *from);
    }
}

/// The other way round.
fn from_chunks(chunks: &[[u8; CHUNK]], shard: &mut [u8]) {
    let (whole, tail) = shard.as_chunks_mut::<CHUNK>();
    for (to, from) in whole.iter_mut().zip(chunks) {
        *to = *from;
    }
    if let Some(last) = chunks.get(whole.len()) {
        let (to_low, to_high) = tail.split_at_mut(tail.len() / 2);
        let (low, high) = last.split_at(CHUNK / 2);
        to_low.iter_mut().zip(low).for_each(|(to, from)| *to = *from);
        to_high.iter_mut().zip(high).for_each(|(to, from)| *to = *from);
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
