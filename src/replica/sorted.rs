//! A list in order, for what is nearly always added at its end: a few entries for
//! each of many thousands of databases, or many thousands for one.
//!
//! Always true: ascending by key, each key once, and no more room than half as
//! much again as is in use.

/// Values by their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sorted<K, V>(Vec<(K, V)>);

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord + Copy, V> Sorted<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.find(key).ok().map(|at| &self.0[at].1)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.find(key).ok().map(|at| &mut self.0[at].1)
    }

    /// Adds a value, or puts it in place of the one of that key.
    pub(super) fn insert(&mut self, key: K, value: V) {
        match self.find(&key) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => {
                insert(&mut self.0, at, (key, value));
            }
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Ok(at) = self.find(key) {
            self.0.remove(at);
        }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    fn find(&self, key: &K) -> Result<usize, usize> {
        match self.0.last() {
            Some((last, _)) if last < key => Err(self.0.len()),
            _ => self.0.binary_search_by_key(key, |(key, _)| *key),
        }
    }
}

/// Inserts without the room for four that a list begins with.
pub(super) fn insert<T>(list: &mut Vec<T>, at: usize, item: T) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 2).max(1));
    }
    list.insert(at, item);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Whatever is done to it, it is what the library's map is.
    #[test]
    fn it_is_a_map() {
        let (mut sorted, mut map) = (Sorted::default(), BTreeMap::new());
        let mut random = 1u32;
        for round in 0..5000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = (random >> 16) % 97;
            match random >> 29 {
                0 | 1 => {
                    sorted.remove(&key);
                    map.remove(&key);
                }
                2 => assert_eq!(
                    sorted.get_mut(&key).map(|v| std::mem::replace(v, round)),
                    map.get_mut(&key).map(|v| std::mem::replace(v, round))
                ),
                _ => {
                    sorted.insert(key, round);
                    map.insert(key, round);
                }
            }
            assert_eq!(sorted.get(&key), map.get(&key));
            assert!(sorted.values().eq(map.values()));
            assert!(sorted.0.capacity() <= (97 * 3 / 2));
        }
        assert!(map.len() > 10);
    }
}
