// SPDX-License-Identifier: GPL-2.0

//! The costs of operations in a simulation: orders of magnitude, chosen, not measured.

/// An operation that takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// An engine posts missed pages, and is told to continue.
    DeviceFault,
    /// A CPU faults and returns.
    CpuFault,
    /// A pass over pages to move.
    Pass,
    /// A page that moves.
    Move,
    /// A page that the device maps where it is.
    Map,
    /// The device accesses a page of system memory.
    BusPage,
    /// The device accesses a word of system memory, and waits for it.
    BusWord,
    /// The device accesses a page of its own memory.
    LocalPage,
    /// The device accesses a word of its own memory, and waits for it.
    LocalWord,
    /// A CPU accesses a page.
    CpuPage,
    /// A CPU accesses a word, and waits for it.
    CpuWord,
}

/// A cost, its nanoseconds, its description, and the source of the number.
pub type Entry = (Cost, u64, &'static str, &'static str);

/// All costs, in the order of the enum. The numbers for dmirror come from
/// `Documentation/performance.md`, at three instructions per nanosecond.
pub const COSTS: [Entry; 11] = [
    (
        Cost::DeviceFault,
        20_000,
        "round trip of a device fault",
        "drivers detect thrashing by 3 faults in 500 µs",
    ),
    (
        Cost::CpuFault,
        2_000,
        "fault of a CPU, without the pages",
        "dmirror: cost of a single page minus cost of one page of many, 5.7 k instructions",
    ),
    (
        Cost::Pass,
        3_000,
        "pass over pages that are to move",
        "dmirror: cost of a single page minus cost of one page of many, 9.8 k instructions",
    ),
    (
        Cost::Move,
        2_000,
        "moving a page of 4 KiB, either way",
        "dmirror: 5.6 k to 6.0 k instructions",
    ),
    (
        Cost::Map,
        200,
        "mapping a page where it is",
        "dmirror: READ cold minus READ warm, 0.5 k instructions",
    ),
    (
        Cost::BusPage,
        330,
        "a page over the bus",
        "12 GB/s, PCIe 3.0 with 16 lanes",
    ),
    (
        Cost::BusWord,
        1_000,
        "a word over the bus",
        "a round trip of PCIe",
    ),
    (
        Cost::LocalPage,
        10,
        "a page of the device's memory",
        "400 GB/s, a mid-range GPU",
    ),
    (
        Cost::LocalWord,
        400,
        "a word of the device's memory",
        "latency of a GPU's memory",
    ),
    (
        Cost::CpuPage,
        200,
        "a page of the system, by a CPU",
        "20 GB/s",
    ),
    (
        Cost::CpuWord,
        100,
        "a word of the system, by a CPU",
        "latency of DRAM",
    ),
];

impl Cost {
    /// Returns the nanoseconds.
    pub fn ns(self) -> u64 {
        let (_, ns, ..) = COSTS[self as usize];
        ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_in_the_order_of_the_enum() {
        for (nth, (cost, ns, ..)) in COSTS.into_iter().enumerate() {
            assert_eq!(cost as usize, nth);
            assert_eq!(cost.ns(), ns);
        }
    }

    #[test]
    fn moving_a_page_pays_if_it_is_used_often() {
        assert!(Cost::Move.ns() > Cost::BusPage.ns() - Cost::LocalPage.ns());
        assert!(Cost::Move.ns() < 20 * (Cost::BusPage.ns() - Cost::LocalPage.ns()));
    }
}
