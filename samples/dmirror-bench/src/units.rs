// SPDX-License-Identifier: GPL-2.0

//! Numbers with units, for people.

const BYTES: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];

const SIZES: [(f64, &str); 3] = [
    (1073741824.0, " GiB"),
    (1048576.0, " MiB"),
    (1024.0, " KiB"),
];

const TIMES: [(f64, &str); 3] = [(1e9, " s"), (1e6, " ms"), (1e3, " µs")];

const COUNTS: [(f64, &str); 3] = [(1e9, " G"), (1e6, " M"), (1e3, " k")];

/// Formats a number of bytes in the largest unit of which it is a multiple.
pub fn bytes(bytes: u64) -> String {
    let unit = BYTES
        .into_iter()
        .find(|(unit, _)| bytes >= *unit && bytes % unit == 0);
    match unit {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} B"),
    }
}

/// Formats a number of bytes with three digits, in the largest unit that leaves a number of at
/// least 1.
pub fn size(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ => three_digits(bytes as f64, &SIZES, " B"),
    }
}

/// Formats nanoseconds with three digits, in the largest unit that leaves a number of at least 1.
pub fn time(ns: f64) -> String {
    three_digits(ns, &TIMES, " ns")
}

/// Formats a large number with three digits: in thousands, in millions, and so on.
pub fn count(number: f64) -> String {
    three_digits(number, &COUNTS, "")
}

fn three_digits(number: f64, units: &[(f64, &str)], smallest: &str) -> String {
    let unit = units.iter().find(|(unit, _)| number >= *unit);
    let (value, name) = unit.map_or((number, smallest), |(unit, name)| (number / unit, name));
    let decimals = match value {
        value if name.is_empty() || value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}{name}")
}

/// Removes the zeroes at the end of the fraction of a number that has a unit.
#[cfg(feature = "plot")]
pub fn shorten(text: &str) -> String {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => number,
    };
    format!("{number} {unit}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_largest_unit_that_divides_them() {
        assert_eq!(bytes(4096), "4 KiB");
        assert_eq!(bytes(64 << 20), "64 MiB");
        assert_eq!(bytes(1 << 30), "1 GiB");
        assert_eq!(bytes((1 << 20) + 4096), "1028 KiB");
        assert_eq!(bytes(100), "100 B");
    }

    #[test]
    fn sizes_keep_three_digits() {
        assert_eq!(size(0), "0");
        assert_eq!(size(4096), "4.00 KiB");
        assert_eq!(size((80 << 20) + 4096), "80.0 MiB");
        assert_eq!(size(150 << 30), "150 GiB");
    }

    #[test]
    fn times_keep_three_digits() {
        assert_eq!(time(7.0), "7.00 ns");
        assert_eq!(time(2_345.0), "2.35 µs");
        assert_eq!(time(153_300_000.0), "153 ms");
        assert_eq!(time(61_200_000_000.0), "61.2 s");
    }

    #[test]
    fn counts_keep_three_digits() {
        assert_eq!(count(950.0), "950");
        assert_eq!(count(9_523.0), "9.52 k");
        assert_eq!(count(19_500_000.0), "19.5 M");
    }

    #[cfg(feature = "plot")]
    #[test]
    fn short_numbers_have_no_zeroes_at_the_end() {
        assert_eq!(shorten("1.00 k"), "1 k");
        assert_eq!(shorten("2.50 ms"), "2.5 ms");
        assert_eq!(shorten("100 µs"), "100 µs");
        assert_eq!(shorten("0"), "0");
    }
}
