//! Returns the memory of a table that has had many more entries.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

/// Shrinks a table that has room for more than eight times its entries. It is called after a removal.
///
/// A small table keeps its room, and a table that is shrunk keeps room for twice its entries. So a
/// removal costs the same on average.
pub(crate) fn shrink<K: Eq + Hash, V, S: BuildHasher>(table: &mut HashMap<K, V, S>) {
    if table.capacity() > 64 && table.len() * 8 < table.capacity() {
        table.shrink_to(table.len() * 2);
    }
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
            let (len, room) = (table.len(), table.capacity());
            assert!(
                room >= len && (room <= 64 || room <= len * 8),
                "{len}: {room}"
            );
        }
        assert!(table.is_empty());
    }

    #[test]
    fn a_small_table_keeps_its_room() {
        let mut table: HashMap<_, _> = (0..40).map(|n| (n, n)).collect();
        for n in 0..40 {
            table.remove(&n);
            shrink(&mut table);
        }
        assert!(table.capacity() > 0);
    }
}
