// SPDX-License-Identifier: GPL-2.0

//! A folio is in one state at a time.

use hmm::DevPagemapOps;
use hmm::FreeFolio;
use kernel::prelude::*;

/// Puts a folio in use, twice.
pub fn init<T: DevPagemapOps>(folio: FreeFolio<'_, T>) {
    drop(folio.init());
    drop(folio.init()); //~ E0382
}

/// Uses a folio of which there are two halves now.
pub fn halve<T: DevPagemapOps>(folio: FreeFolio<'_, T>) -> Result {
    let halves = folio.halve()?;
    drop(folio); //~ E0382
    drop(halves);
    Ok(())
}

/// A free folio has no content.
pub fn fill<T: DevPagemapOps>(mut folio: FreeFolio<'_, T>) -> Result {
    folio.fill_zero() //~ E0599
}
