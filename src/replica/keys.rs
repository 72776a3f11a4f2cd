//! Where segments are below a replica's root. Two layouts exist, and existing
//! data is only found if both are reproduced byte for byte.

use crate::ltx::Level;
use crate::storage::Key;

/// How a level's folder is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `<root>/ltx/9/`, joined as a path: no doubled slashes, no `.` segments.
    /// Every kind of storage but two.
    Decimal,
    /// `<root>/0009/`, with the root verbatim, even if it is empty, `.`, or ends
    /// with a slash: then keys begin `/0009/`, `./0009/`, `a/b//0009/`. S3 and OSS.
    Hex,
}

impl Layout {
    /// The folder of a level below `root`.
    pub(super) fn folder(self, root: &Key, level: Level) -> Key {
        match self {
            Self::Decimal => self.beside(root, &format!("ltx/{}", level.get())),
            Self::Hex => self.beside(root, &format!("{:04x}", level.get())),
        }
    }

    /// Another folder below `root`, joined in the same way.
    pub(super) fn beside(self, root: &Key, name: &str) -> Key {
        let text = match self {
            Self::Decimal => join(root.as_str(), name),
            Self::Hex => format!("{root}/{name}"),
        };
        Key::new(text).expect("a legal root with plain words behind it is legal")
    }
}

/// A folder of another kind below `root`, joined as a path in both layouts.
pub(super) fn beside_levels(root: &Key, name: &str) -> Key {
    Key::new(join(root.as_str(), name)).expect("a legal root with a plain name behind it is legal")
}

fn join(root: &str, name: &str) -> String {
    let mut path = String::from(if root.starts_with('/') { "/" } else { "" });
    for segment in root.split('/').filter(|segment| !matches!(*segment, "" | ".")) {
        path.push_str(segment);
        path.push('/');
    }
    path + name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(layout: Layout, root: &str, level: Level) -> String {
        layout.folder(&Key::new(root).unwrap(), level).to_string()
    }

    #[test]
    fn hex_keys_take_the_root_verbatim() {
        for (root, expected) in [
            ("a/b", "a/b/0009"),
            (".", "./0009"),
            ("", "/0009"),
            ("a/b/", "a/b//0009"),
            ("backups/app", "backups/app/0009"),
        ] {
            assert_eq!(folder(Layout::Hex, root, Level::SNAPSHOT), expected);
        }
        assert_eq!(folder(Layout::Hex, "x", Level::L0), "x/0000");
    }

    #[test]
    fn decimal_keys_are_joined_as_paths() {
        for (root, expected) in [
            ("a/b", "a/b/ltx/9"),
            (".", "ltx/9"),
            ("", "ltx/9"),
            ("a//b/", "a/b/ltx/9"),
            ("/srv/./x", "/srv/x/ltx/9"),
            ("/", "/ltx/9"),
        ] {
            assert_eq!(folder(Layout::Decimal, root, Level::SNAPSHOT), expected);
        }
        assert_eq!(folder(Layout::Decimal, "x", Level::L0), "x/ltx/0");
    }
}
