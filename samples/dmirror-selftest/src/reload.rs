// SPDX-License-Identifier: GPL-2.0

//! Unloading the module under test, and loading it again whatever happens.

use anyhow::{Context as _, Result, ensure};
use dmirror_client::Module;
use dmirror_client::module::Loader;

use crate::check::{needs_ours, skip};
use crate::context::Context;
use crate::inject;

/// A module that is unloaded, and loaded again on drop.
pub struct Unloaded<'a> {
    module: &'a Module,
    loader: &'a Loader,
}

impl<'a> Unloaded<'a> {
    /// Unloads the module.
    pub fn new(module: &'a Module, loader: &'a Loader) -> Result<Self> {
        module
            .unload()
            .with_context(|| format!("cannot unload {}", module.name()))?;
        ensure!(
            !module.is_loaded(),
            "{} is still in /sys/module",
            module.name()
        );
        Ok(Self { module, loader })
    }

    /// Loads the module again, as it was.
    pub fn load_again(self) -> Result<()> {
        let module = self.module;
        drop(self);
        ensure!(module.is_loaded(), "{} was not loaded again", module.name());
        Ok(())
    }
}

impl Drop for Unloaded<'_> {
    fn drop(&mut self) {
        if !self.module.is_loaded() {
            if let Err(error) = self.loader.load(self.module, &[]) {
                println!("cannot load {} again: {error}", self.module.name());
            }
            inject::restore_window();
        }
    }
}

/// Loads the module with devices of `bytes` bytes each, runs `body`, and loads the module again as
/// it was. Skips if that is not possible.
pub fn with_capacity(
    context: &Context,
    bytes: u64,
    body: impl FnOnce() -> Result<()>,
) -> Result<()> {
    needs_ours("a capacity to be chosen")?;
    with_parameters(context, &[&format!("capacity={bytes}")], body)
}

/// Loads the module with `parameters` alone, runs `body`, and loads the module again as it was.
/// Skips if that is not possible.
pub fn with_parameters(
    context: &Context,
    parameters: &[&str],
    body: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (module, loader) = context.module()?;
    let unloaded = Unloaded::new(&module, loader)?;
    if loader.load(&module, parameters).is_err() {
        unloaded.load_again()?;
        return skip(format!("the module does not load with {parameters:?}"));
    }
    let result = body();
    module
        .unload()
        .context("cannot unload the module with other parameters")?;
    unloaded.load_again()?;
    result
}
