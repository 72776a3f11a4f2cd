//! Paths as people write them in settings. Pure.
//!
//! `~` stands for the home directory, relative paths are relative to the working
//! directory, and the result is clean: two spellings of one path compare equal,
//! which is how a path on the command line is found in the config. Symbolic
//! links are left alone.

use std::path::{Component, Path, PathBuf};

use super::env::Environment;

/// Where the config is looked for if nobody says where it is.
const DEFAULT_CONFIG: &str = if cfg!(windows) { "C:\\Litestream\\litestream.yml" } else { "/etc/litestream.yml" };

/// The config file to read: the flag, else `LITESTREAM_CONFIG`, else the default.
pub fn config_path(flag: Option<&Path>, environment: &Environment) -> PathBuf {
    let path = flag.or_else(|| environment.get("LITESTREAM_CONFIG").map(Path::new));
    absolute(path.unwrap_or(Path::new(DEFAULT_CONFIG)), environment)
}

/// The path with `~` replaced, absolute and clean.
pub fn absolute(path: &Path, environment: &Environment) -> PathBuf {
    let path = match (path.strip_prefix("~"), &environment.home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    };
    clean(&environment.working_dir.join(path))
}

/// The path without `.`, `..` and doubled slashes, as far as the text alone
/// tells; `.` if nothing is left.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match (component, cleaned.components().next_back()) {
            (Component::CurDir, _) | (Component::ParentDir, Some(Component::RootDir)) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => {
                cleaned.pop();
            }
            _ => cleaned.push(component),
        }
    }
    if cleaned.as_os_str().is_empty() { PathBuf::from(".") } else { cleaned }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment { working_dir: "/srv/here".into(), home: Some("/home/ann".into()), ..Environment::default() }
    }

    #[test]
    fn paths_become_absolute_and_clean() {
        let cases = [
            ("/a/b", "/a/b"),
            ("/a/./b//c/", "/a/b/c"),
            ("/a/../../b", "/b"),
            ("b", "/srv/here/b"),
            ("../b", "/srv/b"),
            ("./b/../c", "/srv/here/c"),
            (".", "/srv/here"),
            ("~", "/home/ann"),
            ("~/x", "/home/ann/x"),
            ("~bob/x", "/srv/here/~bob/x"),
            ("/~/x", "/~/x"),
            ("a/~", "/srv/here/a/~"),
        ];
        for (path, expected) in cases {
            assert_eq!(absolute(Path::new(path), &environment()), PathBuf::from(expected), "{path}");
        }
        for (path, expected) in [("", "."), ("a/..", "."), ("../a", "../a"), ("/", "/"), ("/..", "/")] {
            assert_eq!(clean(Path::new(path)), PathBuf::from(expected), "{path}");
        }
        let homeless = Environment { home: None, ..environment() };
        assert_eq!(absolute(Path::new("~/x"), &homeless), PathBuf::from("/srv/here/~/x"));
    }

    #[test]
    fn the_flag_beats_the_variable_beats_the_default() {
        let mut env = environment();
        assert_eq!(config_path(None, &env), PathBuf::from(DEFAULT_CONFIG));
        env.variables.insert("LITESTREAM_CONFIG".into(), "~/l.yml".into());
        assert_eq!(config_path(None, &env), PathBuf::from("/home/ann/l.yml"));
        assert_eq!(config_path(Some(Path::new("c.yml")), &env), PathBuf::from("/srv/here/c.yml"));
        env.variables.insert("LITESTREAM_CONFIG".into(), String::new());
        assert_eq!(config_path(None, &env), PathBuf::from(DEFAULT_CONFIG));
    }
}
