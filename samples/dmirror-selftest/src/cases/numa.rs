// SPDX-License-Identifier: GPL-2.0

//! NUMA policy and page moving, which know nothing of pages on a device.

use dmirror_client::nodes_of;

use crate::prelude::*;

cases! { "numa":
    asked = "move_pages asks where resident pages are, and leaves them there.",
    move_pages = "move_pages to a node leaves resident pages where they are, or brings them there, with their data.",
    bound = "mbind over resident pages keeps their data.",
}

const PAGES: usize = 32;

/// Asks for nodes, or skips where the kernel has no NUMA.
fn nodes(memory: &Memory, to: Option<i32>) -> Result<Vec<i32>> {
    match nodes_of(memory.region.range(), to) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOSYS as i32) => {
            skip("this kernel has no NUMA")
        }
        answer => Ok(answer?),
    }
}

fn asked(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    let nodes = nodes(&memory, None)?;
    println!("nodes: {nodes:?}");
    ensure!(
        nodes[PAGES / 2..].iter().all(|node| *node >= 0),
        "a page in system memory is on no node: {nodes:?}"
    );
    memory.expect("after being asked for", 0..PAGES / 2, Where::Device)?;
    memory.verify(memory.all())
}

fn move_pages(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    let nodes = nodes(&memory, Some(0))?;
    println!("nodes: {nodes:?}");
    memory.verify(memory.all())?;
    memory.move_out(&device, memory.all())?;
    memory.verify(memory.all())
}

fn bound(device: Device) -> Result<()> {
    let memory = Memory::new(PAGES)?;
    memory.move_out(&device, 0..PAGES / 2)?;
    match memory.region.bind(memory.all(), 0) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOSYS as i32) => {
            return skip("this kernel has no NUMA");
        }
        // EIO: some page is not on the node, and could not be moved there.
        Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => {
            println!("mbind: {error}");
        }
        answer => answer?,
    }
    memory.verify(memory.all())?;
    memory.move_out(&device, memory.all())?;
    memory.move_back(&device, memory.all(), PAGES)?;
    memory.verify(memory.all())
}
