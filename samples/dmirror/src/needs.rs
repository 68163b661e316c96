// SPDX-License-Identifier: GPL-2.0

//! The requirements of subcommands, checked before they begin.

use anyhow::Result;
use anyhow::bail;
use dmirror_client::Module;
use dmirror_client::node::Node;
use dmirror_run::help::LOAD;

/// Returns the module that provides the device files; fails with a hint if none is loaded.
pub fn module() -> Result<Module> {
    match Module::loaded() {
        Some(module) => Ok(module),
        None => bail!("the module dmirror is not loaded. {LOAD}"),
    }
}

/// Returns the device file with a number; fails with a hint if it does not exist.
pub fn device(number: u32) -> Result<Node> {
    let node = Node::of_number(number);
    let path = node.path();
    if !path.exists() {
        bail!(
            "there is no {}; dmirror info shows the devices",
            path.display()
        );
    }
    Ok(node)
}

/// Fails with a hint unless this project's module is loaded: the kernel's own module provides the
/// same device files and no more.
pub fn ours(what: &str) -> Result<()> {
    let module = self::module()?;
    if !module.is_ours() {
        bail!(
            "the devices here are those of {}, the kernel's own test module, which has no {what}. \
             Unload it, then load dmirror: both use the same device files.",
            module.name()
        );
    }
    Ok(())
}
