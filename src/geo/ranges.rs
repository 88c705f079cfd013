//! A value for each range of addresses, found by binary search.

use std::net::IpAddr;

/// Values for ranges of IPv4 and IPv6 addresses that do not overlap.
#[derive(Debug)]
pub struct Ranges<V> {
    /// Where each range begins, and the value up to the next one; `None` for a gap.
    v4: Vec<(u32, Option<V>)>,
    v6: Vec<(u128, Option<V>)>,
}

impl<V> Default for Ranges<V> {
    fn default() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }
}

impl<V: Copy + PartialEq> Ranges<V> {
    /// The value of the range that `address` is in.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<V> {
        match address.to_canonical() {
            IpAddr::V4(v4) => find(&self.v4, v4.to_bits()),
            IpAddr::V6(v6) => find(&self.v6, v6.to_bits()),
        }
    }

    /// Adds the network with this first address and prefix length. False if it begins before the end of one that was added earlier.
    pub fn push(&mut self, address: IpAddr, prefix_len: u8, value: V) -> bool {
        match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
                add(&mut self.v4, v4.to_bits(), v4.to_bits().checked_add(mask).and_then(|last| last.checked_add(1)), value)
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
                add(&mut self.v6, v6.to_bits(), v6.to_bits().checked_add(mask).and_then(|last| last.checked_add(1)), value)
            }
        }
    }

    /// Number of ranges, gaps included.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Gives back the memory that was only needed to grow.
    pub fn shrink(&mut self) {
        self.v4.shrink_to_fit();
        self.v6.shrink_to_fit();
    }
}

fn find<A: Ord, V: Copy>(ranges: &[(A, Option<V>)], address: A) -> Option<V> {
    let after = ranges.partition_point(|(start, _)| *start <= address);
    ranges.get(after.checked_sub(1)?)?.1
}

/// Adds a range that begins at `start` and ends before `end`, or with the last address of all.
fn add<A: Ord + Copy, V: Copy + PartialEq>(ranges: &mut Vec<(A, Option<V>)>, start: A, end: Option<A>, value: V) -> bool {
    match ranges.last().copied() {
        // The last range ends where this one begins.
        Some((last, None)) if last == start => {
            ranges.pop();
        }
        Some((_, Some(_))) => return false,
        Some((last, None)) if last > start => return false,
        _ => {}
    }
    if ranges.last().is_none_or(|(_, before)| *before != Some(value)) {
        ranges.push((start, Some(value)));
    }
    ranges.extend(end.map(|end| (end, None)));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::IpNet;
    use proptest::prelude::*;

    fn push(ranges: &mut Ranges<u32>, network: &str, value: u32) -> bool {
        let network: IpNet = network.parse().unwrap();
        ranges.push(network.network(), network.prefix_len(), value)
    }

    fn lookup(ranges: &Ranges<u32>, address: &str) -> Option<u32> {
        ranges.lookup(address.parse().unwrap())
    }

    #[test]
    fn neighbours_of_one_value_are_one_range_and_gaps_have_none() {
        let mut ranges = Ranges::default();
        for (network, value) in
            [("10.0.0.0/24", 1), ("10.0.1.0/24", 1), ("10.0.2.0/24", 2), ("255.255.255.255/32", 3), ("2001:db8::/32", 4)]
        {
            assert!(push(&mut ranges, network, value));
        }
        assert_eq!(ranges.len(), 6, "three ranges and a gap, one at the end, one and what is after it: {ranges:?}");
        let found = ["9.255.255.255", "10.0.0.0", "10.0.1.255", "10.0.2.0", "10.0.3.0", "255.255.255.254", "255.255.255.255"];
        assert_eq!(found.map(|address| lookup(&ranges, address)), [None, Some(1), Some(1), Some(2), None, None, Some(3)]);
        assert_eq!(["2001:db8::", "2001:db9::", "::ffff:10.0.0.7"].map(|address| lookup(&ranges, address)), [Some(4), None, Some(1)]);
    }

    #[test]
    fn networks_that_overlap_or_are_out_of_order_are_refused() {
        let mut ranges = Ranges::default();
        assert!(push(&mut ranges, "10.0.1.0/24", 1));
        assert!(!push(&mut ranges, "10.0.1.128/25", 2) && !push(&mut ranges, "10.0.0.0/24", 2) && !push(&mut ranges, "0.0.0.0/0", 2));
        let mut all = Ranges::default();
        assert!(push(&mut all, "0.0.0.0/0", 1) && !push(&mut all, "255.255.255.255/32", 2));
        assert!(push(&mut all, "::/0", 1) && !push(&mut all, "::/0", 2));
    }

    proptest! {
        /// The twin scans all networks.
        #[test]
        fn a_lookup_finds_what_a_scan_finds(networks in proptest::collection::btree_map(0_u8..=255, 0_u32..4, 0..40), probes in proptest::collection::vec(any::<u16>(), 1..60)) {
            let mut ranges = Ranges::default();
            let network = |third: u8| IpNet::new([255, 255, third, 0].into(), 24).unwrap();
            for (third, value) in &networks {
                prop_assert!(ranges.push(network(*third).network(), 24, *value));
            }
            for probe in probes {
                let [third, fourth] = probe.to_be_bytes();
                let address = IpAddr::from([255, 255, third, fourth]);
                let expected = networks.iter().find(|(third, _)| network(**third).contains(&address)).map(|(_, value)| *value);
                prop_assert_eq!(ranges.lookup(address), expected);
            }
        }
    }
}
