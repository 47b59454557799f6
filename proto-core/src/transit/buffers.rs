//! Memory of frames: buffers in a few sizes, used again, so that a stream of frames allocates nothing.

/// Sizes of buffers. Frames of a full packet lose little in the last ones, and small frames take no large
/// ones: what is counted for a frame is what it takes.
const SIZES: [usize; 6] = [128, 256, 512, 1024, 1280, 1536];
/// The most bytes of buffers that are kept for later.
pub(super) const MAX_IDLE_BYTES: usize = 4 << 20;
/// What a waiting frame takes beside its buffer.
const ENTRY: u64 = 128;

/// Memory that a waiting frame of `len` bytes takes.
pub(super) fn cost(len: usize) -> u64 {
    let size = SIZES.into_iter().find(|size| len <= *size).unwrap_or(len);
    size as u64 + ENTRY
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    idle: [Vec<Vec<u8>>; SIZES.len()],
    idle_bytes: usize,
}

impl Buffers {
    /// A copy of `bytes`.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> Vec<u8> {
        let class = SIZES.iter().position(|size| bytes.len() <= *size);
        let idle = class.and_then(|class| self.idle.get_mut(class)).and_then(Vec::pop);
        let mut buf = match (idle, class.and_then(|class| SIZES.get(class))) {
            (Some(buf), _) => {
                self.idle_bytes -= buf.capacity();
                buf
            }
            (None, Some(size)) => Vec::with_capacity(*size),
            (None, None) => Vec::with_capacity(bytes.len()),
        };
        buf.extend_from_slice(bytes);
        buf
    }

    /// Takes a buffer back.
    pub(super) fn put_back(&mut self, mut buf: Vec<u8>) {
        buf.clear();
        let class = SIZES.iter().position(|size| buf.capacity() == *size);
        if let Some(idle) = class.and_then(|class| self.idle.get_mut(class))
            && self.idle_bytes + buf.capacity() <= MAX_IDLE_BYTES
        {
            self.idle_bytes += buf.capacity();
            idle.push(buf);
        }
    }

    /// Bytes of buffers that wait for use.
    pub(super) fn idle_bytes(&self) -> usize {
        self.idle_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{Buffers, MAX_IDLE_BYTES, cost};

    #[test]
    fn buffers_are_used_again_and_their_number_is_bounded() {
        let mut buffers = Buffers::default();
        for len in [0, 1, 128, 129, 1200, 1536, 1537, 9000] {
            let buf = buffers.copy(&vec![7; len]);
            assert!(buf.len() == len && buf.capacity() as u64 <= cost(len));
            let was = buf.as_ptr();
            buffers.put_back(buf);
            if len <= 1536 {
                let again = buffers.copy(&vec![8; len]);
                assert_eq!(again.as_ptr(), was);
            }
            assert_eq!(buffers.idle_bytes(), 0);
        }
        let many: Vec<_> = (0..10_000).map(|n| buffers.copy(&vec![0; n % 1500])).collect();
        for buf in many {
            buffers.put_back(buf);
        }
        assert!(
            buffers.idle_bytes() > MAX_IDLE_BYTES / 2 && buffers.idle_bytes() <= MAX_IDLE_BYTES
        );
    }
}
