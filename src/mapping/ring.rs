//! The hash ring: `director_consistent_hashing = yes`, and the only strategy of
//! Dovecot 2.3.

/// One point of a ring before it is sorted: where it stands and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) hash: u32,
    pub(super) owner: u32,
}

/// Points sorted by hash. A user belongs to the owner of the first point at or
/// after the user's hash, and past the last point to that of the first.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    /// The distinct hashes, ascending.
    hashes: Vec<u32>,
    /// Beside each hash: who owns the gap before it, and who owns the hash.
    owners: Vec<Owners>,
    /// For each value of a hash's leading bits, the first of `hashes` that is
    /// not below all hashes with these bits; one entry more at the end.
    index: Vec<u32>,
    /// How far a hash is shifted to leave its leading bits.
    shift: u32,
}

#[derive(Clone, Copy, Debug)]
struct Owners {
    gap: u32,
    /// Differs from `gap` where several points share the hash. There the
    /// Director takes whichever its binary search meets first.
    exact: u32,
}

impl Ring {
    /// A ring of points. Those that share a hash must be given in the Director's
    /// order of their hosts: IPv4 before IPv6, then by address bytes.
    pub(super) fn new(mut points: Vec<Point>) -> Ring {
        points.sort_by_key(|point| point.hash);
        let mut hashes = Vec::with_capacity(points.len());
        let mut owners = Vec::with_capacity(points.len());
        for tied in points.chunk_by(|a, b| a.hash == b.hash) {
            let [first, rest @ ..] = tied else { continue };
            let exact = if rest.is_empty() {
                first.owner
            } else {
                owner_met_by_binary_search(&points, first.hash).unwrap_or(first.owner)
            };
            hashes.push(first.hash);
            owners.push(Owners {
                gap: first.owner,
                exact,
            });
        }
        let (index, shift) = index_leading_bits(&hashes);
        Ring {
            hashes,
            owners,
            index,
            shift,
        }
    }

    /// The owner of a hash; `None` on a ring without points.
    pub(super) fn owner(&self, hash: u32) -> Option<u32> {
        let bits = usize::try_from(hash.checked_shr(self.shift).unwrap_or(0)).ok()?;
        let from = usize::try_from(*self.index.get(bits)?).ok()?;
        let to = usize::try_from(*self.index.get(bits + 1)?).ok()?;
        let skipped = self.hashes.get(from..to)?.partition_point(|&point| point < hash);
        let position = from + skipped;
        match self.hashes.get(position) {
            Some(&point) if point == hash => Some(self.owners.get(position)?.exact),
            Some(_) => Some(self.owners.get(position)?.gap),
            None => Some(self.owners.first()?.gap),
        }
    }
}

/// About one slot a point: a lookup then compares one or two points.
fn index_leading_bits(hashes: &[u32]) -> (Vec<u32>, u32) {
    let bits = hashes.len().next_power_of_two().trailing_zeros();
    let shift = 32 - bits;
    let slots = 1u64 << bits;
    let index = (0..=slots)
        .map(|slot| {
            let below = hashes.partition_point(|&hash| u64::from(hash) < slot << shift);
            u32::try_from(below).unwrap_or(u32::MAX)
        })
        .collect();
    (index, shift)
}

/// The Director's `(left + right) / 2` search, which stops at the first equal
/// point that it meets.
fn owner_met_by_binary_search(points: &[Point], hash: u32) -> Option<u32> {
    let (mut left, mut right) = (0, points.len());
    while left < right {
        let middle = (left + right) / 2;
        let point = points.get(middle)?;
        match point.hash.cmp(&hash) {
            std::cmp::Ordering::Less => left = middle + 1,
            std::cmp::Ordering::Greater => right = middle,
            std::cmp::Ordering::Equal => return Some(point.owner),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring(points: &[(u32, u32)]) -> Ring {
        Ring::new(
            points
                .iter()
                .map(|&(hash, owner)| Point { hash, owner })
                .collect(),
        )
    }

    /// The Director's lookup, step by step as its source has it.
    fn director(points: &[(u32, u32)], hash: u32) -> Option<u32> {
        let mut sorted = points.to_vec();
        sorted.sort_by_key(|point| point.0);
        let (mut left, mut right, mut idx) = (0, sorted.len(), 0);
        while left < right {
            idx = (left + right) / 2;
            match hash.cmp(&sorted[idx].0) {
                std::cmp::Ordering::Greater => left = idx + 1,
                std::cmp::Ordering::Less => right = idx,
                std::cmp::Ordering::Equal => return Some(sorted[idx].1),
            }
        }
        if left > idx {
            idx += 1;
        }
        if idx == sorted.len() {
            idx = 0;
        }
        sorted.get(idx).map(|point| point.1)
    }

    #[test]
    fn empty_ring_has_no_owner() {
        assert_eq!(ring(&[]).owner(0), None);
        assert_eq!(ring(&[]).owner(u32::MAX), None);
    }

    #[test]
    fn wraps_around() {
        let ring = ring(&[(10, 0), (20, 1)]);
        for (hash, owner) in [(0, 0), (10, 0), (11, 1), (20, 1), (21, 0), (u32::MAX, 0)] {
            assert_eq!(ring.owner(hash), Some(owner), "{hash}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_search_of_the_director(
            points in prop::collection::vec(
                (prop_oneof![0u32..40, any::<u32>(), (u32::MAX - 20)..=u32::MAX], 0u32..9),
                0..80,
            ),
            probes in prop::collection::vec(any::<u32>(), 0..40),
        ) {
            let ring = ring(&points);
            let around = points.iter().flat_map(|point| {
                [point.0.wrapping_sub(1), point.0, point.0.wrapping_add(1)]
            });
            for hash in around.chain(probes).chain([0, u32::MAX]) {
                prop_assert_eq!(ring.owner(hash), director(&points, hash), "{}", hash);
            }
        }
    }
}
