// SPDX-License-Identifier: GPL-2.0

//! What subcommands need, checked before they begin.

use anyhow::Result;
use anyhow::bail;
use dmirror_client::Module;
use dmirror_client::node::Node;
use dmirror_run::help::LOAD;

/// Fails in words unless a module that offers the device files is loaded.
pub fn module() -> Result<Module> {
    match Module::loaded() {
        Some(module) => Ok(module),
        None => bail!("the module dmirror is not loaded. {LOAD}"),
    }
}

/// The device file of a number; fails in words unless it is there.
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

/// Fails in words unless this project's module is loaded: the kernel's own offers the same device
/// files and no more.
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
