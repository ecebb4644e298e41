//! Reuse of the octets ended transactions kept: size classes of powers of two, a bounded number of each.

/// Smallest and largest class, as exponents of two: 256 octets to 32 KiB. Larger buffers are not kept.
const SMALLEST: u32 = 8;
const LARGEST: u32 = 15;

/// Buffers waiting to be used again.
#[derive(Debug)]
pub(super) struct Buffers {
    classes: [Vec<Vec<u8>>; (LARGEST - SMALLEST + 1) as usize],
    /// Most buffers kept in each class.
    bound: usize,
    /// Buffers allocated because none was waiting.
    pub(super) made: u64,
}

impl Buffers {
    pub(super) fn new(bound: usize) -> Self {
        Self { classes: Default::default(), bound, made: 0 }
    }

    /// A buffer that holds `bytes`, at most half empty.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut buffer = self.take(bytes.len());
        buffer.extend_from_slice(bytes);
        buffer
    }

    /// An empty buffer with room for `len` octets.
    pub(super) fn take(&mut self, len: usize) -> Vec<u8> {
        let exponent = len.next_power_of_two().trailing_zeros().max(SMALLEST);
        if let Some(pooled) = self.classes.get_mut((exponent - SMALLEST) as usize).and_then(Vec::pop) {
            return pooled;
        }
        self.made += 1;
        Vec::with_capacity(if exponent <= LARGEST { 1 << exponent } else { len })
    }

    /// Takes a buffer back.
    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        let Some(exponent) = buffer.capacity().checked_ilog2() else { return };
        // By the capacity it surely has; whoever takes it from its class finds room without growing it.
        if let Some(class) = exponent.checked_sub(SMALLEST).and_then(|n| self.classes.get_mut(n as usize))
            && class.len() < self.bound
        {
            buffer.clear();
            class.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_in_their_class() {
        let mut buffers = Buffers::new(4);
        let large = buffers.copy(&[1; 3000]);
        let at = large.as_ptr();
        assert_eq!(large.capacity(), 4096);
        buffers.give(large);
        let small = buffers.copy(b"small");
        assert_ne!(small.as_ptr(), at, "a small message does not sit in a large buffer");
        let again = buffers.copy(&[2; 2049]);
        assert_eq!((again.as_ptr(), again.as_slice()), (at, &[2; 2049][..]));
    }

    #[test]
    fn the_pool_is_bounded() {
        let mut buffers = Buffers::new(2);
        for _ in 0..5 {
            buffers.give(Vec::with_capacity(512));
        }
        buffers.give(Vec::new());
        buffers.give(Vec::with_capacity(1 << 20));
        assert_eq!(buffers.classes.iter().map(Vec::len).sum::<usize>(), 2);
    }
}
