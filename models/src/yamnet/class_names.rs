//! What YAMNet's scores are of: display names of the AudioSet ontology (Google, CC BY 4.0) in the
//! order of the network's outputs.

use std::sync::LazyLock;

static NAMES: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| include_str!("class_names.txt").lines().collect());

/// Name of the AudioSet class with that index, such as `Gunshot, gunfire` for 421.
#[must_use]
pub fn class_name(index: usize) -> Option<&'static str> {
    NAMES.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::{NAMES, class_name};
    use crate::yamnet::CLASSES;

    #[test]
    fn every_score_has_a_name_of_its_own() {
        assert_eq!(NAMES.len(), CLASSES);
        let mut sorted = NAMES.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), CLASSES);
        assert!(NAMES.iter().all(|name| !name.is_empty() && name.trim() == *name));
    }

    /// Landmarks along the list: a name lost or moved shifts those behind it.
    #[test]
    fn names_stand_where_the_network_has_them() {
        for (index, name) in [
            (0, "Speech"),
            (67, "Animal"),
            (294, "Vehicle"),
            (420, "Explosion"),
            (421, "Gunshot, gunfire"),
            (494, "Silence"),
            (514, "White noise"),
            (520, "Field recording"),
        ] {
            assert_eq!(class_name(index), Some(name));
        }
        assert_eq!(class_name(521), None);
    }
}
