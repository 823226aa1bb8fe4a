//! Returns the memory of a table or a queue that has had many more entries.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash};

use indexmap::{IndexMap, IndexSet};

/// A collection that keeps the memory of its removed entries.
pub(crate) trait Collection {
    fn len(&self) -> usize;
    fn capacity(&self) -> usize;
    fn shrink_to(&mut self, capacity: usize);
}

/// Shrinks a collection that has memory for more than eight times its entries. It is called after a
/// removal.
///
/// A small collection keeps its memory. One that is shrunk keeps memory for twice its entries, so the
/// average cost of a removal stays constant.
pub(crate) fn shrink(collection: &mut impl Collection) {
    let (len, capacity) = (collection.len(), collection.capacity());
    if capacity > 64 && len * 8 < capacity {
        collection.shrink_to(len * 2);
    }
}

/// Returns whether a collection has no more memory than one that is shrunk after each removal.
#[cfg(test)]
pub(crate) fn is_shrunk(collection: &impl Collection) -> bool {
    let (len, capacity) = (collection.len(), collection.capacity());
    capacity <= 64 || capacity <= len * 8
}

macro_rules! impl_collection {
    ($([$($params:tt)*] $type:ty;)*) => {$(
        impl<$($params)*> Collection for $type {
            fn len(&self) -> usize {
                self.len()
            }

            fn capacity(&self) -> usize {
                self.capacity()
            }

            fn shrink_to(&mut self, capacity: usize) {
                self.shrink_to(capacity);
            }
        }
    )*};
}

impl_collection! {
    [K: Eq + Hash, V, S: BuildHasher] HashMap<K, V, S>;
    [K: Eq + Hash, V, S: BuildHasher] IndexMap<K, V, S>;
    [T: Eq + Hash, S: BuildHasher] HashSet<T, S>;
    [T: Eq + Hash, S: BuildHasher] IndexSet<T, S>;
    [T] VecDeque<T>;
    [T] Vec<T>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_has_had_many_entries_returns_their_memory() {
        let mut table: HashMap<_, _> = (0..10_000).map(|n| (n, n)).collect();
        for n in 0..10_000 {
            table.remove(&n);
            shrink(&mut table);
            assert!(is_shrunk(&table), "{}: {}", table.len(), table.capacity());
        }
        assert!(table.is_empty());
    }

    #[test]
    fn a_small_table_keeps_its_memory() {
        let mut table: HashMap<_, _> = (0..40).map(|n| (n, n)).collect();
        for n in 0..40 {
            table.remove(&n);
            shrink(&mut table);
        }
        assert!(table.capacity() > 0);
    }

    #[test]
    fn a_queue_returns_the_memory_of_its_former_entries() {
        let mut queue: VecDeque<_> = (0..10_000).collect();
        while queue.pop_front().is_some() {
            shrink(&mut queue);
        }
        assert!(is_shrunk(&queue), "{}", queue.capacity());
    }
}
