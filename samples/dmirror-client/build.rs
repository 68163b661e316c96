// SPDX-License-Identifier: GPL-2.0

//! Generates the Rust side of the ABI from `rust/uapi/dmirror.h`, so that no
//! number and no layout is written down twice.

use std::env;
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let crate_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let folder = crate_dir.join("../../rust/uapi");
    let header = folder.join("dmirror.h");
    let out = PathBuf::from(env::var("OUT_DIR")?).join("abi.rs");

    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", folder.display());

    bindgen::Builder::default()
        .header(header.display().to_string())
        .allowlist_type("dmirror_.*")
        .allowlist_var("DMIRROR_.*")
        .prepend_enum_name(false)
        .derive_default(true)
        .derive_eq(true)
        .generate()?
        .write_to_file(out)?;
    Ok(())
}
