// SPDX-License-Identifier: GPL-2.0

//! Runs `dmirror-bench policy` as a user does.

use std::env;
use std::fs;
use std::process;
use std::process::Command;

use serde_json::Value;

/// Runs the program; returns its output, and whether it succeeded.
fn policy(arguments: &[&str]) -> (String, bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmirror-bench"));
    let output = command.arg("policy").args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (text, output.status.success())
}

fn json(arguments: &[&str]) -> Value {
    let (text, good) = policy(&[&["--quick", "--json", "-"], arguments].concat());
    assert!(good);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_quick_run_has_all_patterns_sizes_and_presets() {
    let all = json(&[]);
    assert_eq!(all["device_bytes"], 8 << 20);
    assert_eq!(all["costs"].as_array().map(Vec::len), Some(11));
    let rows = all["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 6 * 4 * 4);
    for row in rows {
        let of = |name: &str| row[name].as_u64().unwrap();
        let resident = of("out_bytes") - of("back_bytes") - of("evicted_bytes");
        assert!(resident <= 8 << 20, "{row}");
        assert_eq!(row["preset"] == "test_hmm", of("out_bytes") == 0, "{row}");
        assert!(of("time_ns") > 0);
    }
    assert_eq!(all, json(&[]), "the same seed");
}

#[test]
fn the_table_stands_with_its_costs_and_beside_the_file() {
    let file = env::temp_dir().join(format!("dmirror-bench-policy-{}.json", process::id()));
    let path = file.to_str().unwrap();
    let (text, good) = policy(&["--quick", "--patterns", "sweep", "--json", path]);
    let stored = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    assert!(good);
    for word in [
        "sweep",
        "125 %",
        "uvm",
        "lru",
        "computed, not measured",
        "20.0 µs",
    ] {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(!text.contains("random"), "{text}");
    let stored: Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored["rows"].as_array().map(Vec::len), Some(4 * 4));
}

#[test]
fn what_is_not_known_is_refused() {
    for wrong in [
        "--presets=amd",
        "--patterns=zigzag",
        "--evictions=mru",
        "--percents=0",
    ] {
        assert!(!policy(&[wrong]).1, "{wrong}");
    }
    assert!(!policy(&["--quick", "--size=8"]).1);
}
