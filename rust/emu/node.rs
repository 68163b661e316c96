// SPDX-License-Identifier: GPL-2.0

//! Nodes of a device page table, in kernel memory.

use core::ops::{Deref, DerefMut};

use kernel::{
    alloc::flags::{GFP_KERNEL_ACCOUNT, __GFP_NOWARN},
    prelude::*,
};

use crate::table::{Node, Place, Spares, MAX_SPARES};

/// A node of the page table.
pub(crate) struct NodeBox(KBox<Node<NodeBox>>);

impl NodeBox {
    pub(crate) fn new() -> Result<Self> {
        let places = pin_init::init_array_from_fn(|_| Place::Empty);
        let node = init!(Node { used: 0, places <- places });
        Ok(Self(KBox::init(node, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?))
    }
}

impl Deref for NodeBox {
    type Target = Node<NodeBox>;

    fn deref(&self) -> &Node<NodeBox> {
        &self.0
    }
}

impl DerefMut for NodeBox {
    fn deref_mut(&mut self) -> &mut Node<NodeBox> {
        &mut self.0
    }
}

impl Spares<NodeBox> {
    /// Allocates the maximum number of nodes that mapping the pages of one aligned run can need.
    pub(crate) fn new() -> Result<Self> {
        let mut this = Self::none();
        this.refill()?;
        Ok(this)
    }

    /// Returns an empty set, for [`refill`](Self::refill).
    pub(crate) fn none() -> Self {
        Self([const { None }; MAX_SPARES])
    }

    /// Allocates replacements for the nodes that were used. May sleep.
    pub(crate) fn refill(&mut self) -> Result {
        for spare in self.0.iter_mut().filter(|spare| spare.is_none()) {
            *spare = Some(NodeBox::new()?);
        }
        Ok(())
    }
}
