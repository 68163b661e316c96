// SPDX-License-Identifier: GPL-2.0

//! Nodes that are counted while they exist, so that a lost one is found.

use std::cell::Cell;
use std::ops::Deref;
use std::ops::DerefMut;
use std::rc::Rc;

use crate::table::Node;
use crate::table::Place;
use crate::table::Spares;
use crate::table::Table;
use crate::table::FANOUT;
use crate::table::MAX_SPARES;

/// A node of a table under test.
pub(crate) struct Counted {
    node: Box<Node<Counted>>,
    live: Rc<Cell<usize>>,
}

impl Deref for Counted {
    type Target = Node<Counted>;

    fn deref(&self) -> &Self::Target {
        &self.node
    }
}

impl DerefMut for Counted {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.node
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.live.set(self.live.get() - 1);
    }
}

/// Creates nodes, and counts those that exist.
#[derive(Default)]
pub(crate) struct Nodes(Rc<Cell<usize>>);

impl Nodes {
    fn node(&self) -> Counted {
        self.0.set(self.0.get() + 1);
        Counted {
            node: Box::new(Node {
                used: 0,
                places: [const { Place::Empty }; FANOUT],
            }),
            live: Rc::clone(&self.0),
        }
    }

    pub(crate) fn table(&self) -> Table<Counted> {
        Table::new(self.node())
    }

    /// Creates `count` spares, in the last places, where there are often none.
    pub(crate) fn spares(&self, count: usize) -> Spares<Counted> {
        let mut spares = Spares([const { None }; MAX_SPARES]);
        for spare in spares.0.iter_mut().rev().take(count) {
            *spare = Some(self.node());
        }
        spares
    }

    /// Returns the number of nodes, in tables and as spares.
    pub(crate) fn live(&self) -> usize {
        self.0.get()
    }
}

/// Returns the number of spares left.
pub(crate) fn left(spares: &Spares<Counted>) -> usize {
    spares.0.iter().flatten().count()
}
