//! How often what was measured was at most this or that large.

/// Counts of measurements up to each of `BOUNDS` bounds, and of those above.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Histogram<const BOUNDS: usize> {
    bounds: &'static [u64; BOUNDS],
    counts: [u64; BOUNDS],
    above: u64,
    sum: u64,
}

impl<const BOUNDS: usize> Histogram<BOUNDS> {
    /// Nothing measured yet; the bounds ascend.
    pub(crate) fn new(bounds: &'static [u64; BOUNDS]) -> Self {
        Self { bounds, counts: [0; BOUNDS], above: 0, sum: 0 }
    }

    /// Counts a measurement.
    pub(crate) fn measure(&mut self, value: u64) {
        self.sum = self.sum.saturating_add(value);
        let place = self.bounds.partition_point(|bound| *bound < value);
        match self.counts.get_mut(place) {
            Some(count) => *count += 1,
            None => self.above += 1,
        }
    }

    /// Adds what another one with the same bounds has measured.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, other)| *own += other);
        self.above += other.above;
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// Each bound with the number of measurements up to it.
    pub(crate) fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        self.bounds.iter().zip(&self.counts).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((*bound, *sum))
        })
    }

    /// The number of all measurements.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.above
    }

    /// The sum of all measurements.
    pub(crate) fn sum(&self) -> u64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_counted_at_their_bound_and_above() {
        let mut histogram = Histogram::new(&[1, 5, 10]);
        for value in [0, 1, 2, 5, 6, 10, 11, u64::MAX] {
            histogram.measure(value);
        }
        let mut both = histogram;
        both.merge(&histogram);
        assert_eq!(histogram.cumulative().collect::<Vec<_>>(), [(1, 2), (5, 4), (10, 6)]);
        assert_eq!((histogram.count(), histogram.sum()), (8, u64::MAX));
        assert_eq!((both.count(), both.cumulative().last()), (16, Some((10, 12))));
    }
}
