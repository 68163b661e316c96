// SPDX-License-Identifier: GPL-2.0

//! Pages that the device has exclusive access to.

use std::ops::Range;

use dmirror_client::Place;

use crate::prelude::*;

/// Makes pages exclusive. Checks the count and each byte, and that the device and the CPU's page
/// table show the pages as exclusive.
pub fn take(device: &Device, memory: &Memory, pages: Range<usize>) -> Result<()> {
    let range = memory.region.part(pages.clone());
    let mut view = vec![0xa5; pages.len() * page_size()];
    let counts = device.exclusive(range, &mut view)?;
    equal("pages made exclusive", counts.pages, range.pages())?;
    memory
        .data()
        .check_bytes(&view, pages.start)
        .context("the device's view of exclusive pages")?;
    held(device, memory, pages)
}

/// Checks that each of the pages is exclusive.
pub fn held(device: &Device, memory: &Memory, pages: Range<usize>) -> Result<()> {
    for page in pages.clone() {
        let exclusive = device.is_exclusive(memory.region.part(page..page + 1))?;
        ensure!(exclusive, "page {page} is not exclusive");
    }
    let survey = Survey::of(memory.region.part(pages.clone()))?;
    if survey.frames_shown() {
        let held = survey.count(|place| *place == Place::Held);
        equal("pages that no CPU can reach", held, pages.len())?;
    }
    Ok(())
}

/// Checks that no page is exclusive.
pub fn free(device: &Device, memory: &Memory, pages: Range<usize>) -> Result<()> {
    let exclusive = device.is_exclusive(memory.region.part(pages.clone()))?;
    ensure!(!exclusive, "some page of {pages:?} is exclusive");
    Ok(())
}
