// SPDX-License-Identifier: GPL-2.0

//! Numbers and causes in words.

/// Returns the reason for moves of pages in words, by the name of a cause in trace events and
/// statistics; `to_device` gives the direction. Returns an unknown name as it is.
pub fn cause(name: &str, to_device: bool) -> &str {
    match (name, to_device) {
        ("request", true) => "a program asked for it",
        ("request", false) => "a program asked for them back",
        ("device_fault", true) => "an engine missed them",
        ("device_fault", false) => "the device had to write to shared pages",
        ("cpu_fault", _) => "a CPU touched them",
        ("eviction", _) => "others needed the room",
        ("release", _) => "somebody released the device",
        ("unload", _) => "the module was unloaded",
        _ => name,
    }
}

/// Formats bytes in the largest unit that leaves a number of at least 1.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Formats a number of pages as bytes.
pub fn pages(number: u64) -> String {
    bytes(number * dmirror_client::page_size() as u64)
}

/// Formats a number with its noun: `1 page`, `2 pages`.
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Formats a value; an unknown one is a question mark.
pub fn or_unknown<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "?".to_owned(), show)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_a_unit_that_fits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(512 << 20), "512 MiB");
        assert_eq!(bytes(1536 << 10), "1.5 MiB");
        assert_eq!(bytes((1 << 30) - 4096), "1024 MiB");
        assert_eq!(pages(512), "2 MiB");
    }

    #[test]
    fn one_is_one() {
        assert_eq!(count(1, "page"), "1 page");
        assert_eq!(count(0, "page"), "0 pages");
    }

    #[test]
    fn a_cause_of_tomorrow_keeps_its_name() {
        assert_eq!(cause("cpu_fault", false), "a CPU touched them");
        assert_eq!(cause("sunshine", true), "sunshine");
    }
}
