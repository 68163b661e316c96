// SPDX-License-Identifier: GPL-2.0

//! NUMA policy and page moving, which know nothing of pages on a device.

use dmirror_client::nodes_of;

use crate::prelude::*;

cases! { "numa":
    asked = "move_pages asks where resident pages are, and leaves them there."
        => kept(half_there, asked),
    move_pages = "move_pages to a node leaves resident pages where they are, or brings them there, with their data."
        => kept(half_there, move_pages),
    bound = "mbind over resident pages keeps their data." => kept(half_there, bound),
}

const PAGES: usize = 32;

/// Creates memory whose first half is on the device.
fn half_there(device: &Device) -> Result<Memory> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(device, 0..PAGES / 2)?;
    Ok(memory)
}

/// Asks for the nodes of all pages, or for a move `to` a node; skips if the kernel has no NUMA.
fn nodes(memory: &Memory, to: Option<i32>) -> Result<Vec<i32>> {
    let answer = nodes_of(memory.region.range(), to);
    let nodes = skip_on(Errno::ENOSYS, "this kernel has no NUMA", answer)?;
    println!("nodes: {nodes:?}");
    Ok(nodes)
}

fn asked(_: &Device, memory: &Memory) -> Result<()> {
    let nodes = nodes(memory, None)?;
    let known = nodes[PAGES / 2..].iter().all(|node| *node >= 0);
    ensure!(known, "a page in system memory is on no node: {nodes:?}");
    memory.expect("after being asked for", 0..PAGES / 2, Where::Device)
}

fn move_pages(device: &Device, memory: &Memory) -> Result<()> {
    nodes(memory, Some(0))?;
    memory.intact()?;
    memory.out(device)
}

fn bound(device: &Device, memory: &Memory) -> Result<()> {
    match memory.region.bind(memory.all(), 0) {
        // EIO: some page is not on the node, and could not be moved there.
        Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => println!("mbind: {error}"),
        answer => skip_on(Errno::ENOSYS, "this kernel has no NUMA", answer)?,
    }
    memory.intact()?;
    memory.out_and_back(device)
}
