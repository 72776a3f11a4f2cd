//! Names in a storage.
//!
//! A key is used byte for byte. Existing replicas have keys with a leading
//! slash, with doubled slashes and with a `.` segment, so none of these is
//! cleaned away here; a backend that cannot express them refuses them.

use std::fmt;

/// The name of an object, or of a folder of objects: segments between slashes.
/// Never has a `..` segment or a control character. The empty key is the folder
/// of everything.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// Why a text is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It would climb out of its folder.
    #[error("{0:?} is not a storage key: '..' segments are not allowed, write the path without them")]
    Climbs(String),
    /// It has a character that no storage shows faithfully.
    #[error("{0:?} is not a storage key: control characters are not allowed, remove them")]
    Control(String),
}

impl Key {
    /// The folder of everything.
    pub const ROOT: Self = Self(String::new());

    /// Takes the text as it is.
    pub fn new(text: impl Into<String>) -> Result<Self, KeyError> {
        let text = text.into();
        if text.chars().any(char::is_control) {
            return Err(KeyError::Control(text));
        }
        if text.split('/').any(|segment| segment == "..") {
            return Err(KeyError::Climbs(text));
        }
        Ok(Self(text))
    }

    /// A name in this folder.
    pub fn child(&self, name: &str) -> Result<Self, KeyError> {
        if self.0.is_empty() { Self::new(name) } else { Self::new(format!("{self}/{name}")) }
    }

    /// The text after the last slash.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// Whether this is in the folder `folder` or one of its subfolders.
    pub fn is_in(&self, folder: &Self) -> bool {
        folder.0.is_empty() || self.0.strip_prefix(&folder.0).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The text, byte for byte.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn keys_are_kept_byte_for_byte() {
        for text in ["", "a", "/0009", "./0009", "a/b//0009/x.ltx", "a/b/", "..a/b..", "ü/日"] {
            assert_eq!(key(text).as_str(), text);
        }
    }

    #[test]
    fn a_key_cannot_climb_or_hide_characters() {
        for text in ["..", "../a", "a/../b", "a/.."] {
            assert_eq!(Key::new(text), Err(KeyError::Climbs(text.into())));
        }
        for text in ["a\0b", "a\nb", "\u{7f}", "a\u{85}"] {
            assert_eq!(Key::new(text), Err(KeyError::Control(text.into())));
        }
    }

    #[test]
    fn a_folder_does_not_hold_what_only_begins_like_it() {
        assert!(key("ltx/1/a").is_in(&key("ltx/1")));
        assert!(key("ltx/1/2/a").is_in(&key("ltx/1")));
        assert!(!key("ltx/10/a").is_in(&key("ltx/1")));
        assert!(!key("ltx/1").is_in(&key("ltx/1")));
        assert!(key("anything").is_in(&Key::ROOT));
        assert!(key("a/b//0009").is_in(&key("a/b/")));
        assert!(!key("a/b/0009").is_in(&key("a/b/")));
    }

    #[test]
    fn children_and_names_fit_together() {
        assert_eq!(key("a/b").child("c").unwrap(), key("a/b/c"));
        assert_eq!(Key::ROOT.child("c").unwrap(), key("c"));
        assert!(key("a").child("..").is_err());
        assert_eq!(key("a/b/c").name(), "c");
        assert_eq!(key("c").name(), "c");
    }
}
