//! Which databases there are, and how they and their replicas are told apart.

use std::path::{Path, PathBuf};

use super::{environment, parsed};
use crate::config::{Backend, Config};

#[test]
fn databases_are_found_by_any_spelling_of_their_path() {
    let config = parsed("dbs: [{path: ~/a.db, replica: {path: r}}, {path: b.db, replica: {path: r2}}]");
    for path in ["~/a.db", "/home/ann/a.db", "/home/ann/../ann/a.db", "b.db", "./b.db", "/srv/b.db"] {
        assert!(config.database(Path::new(path), &environment()).is_ok(), "{path}");
    }
}

#[test]
fn one_broken_database_does_not_hide_another() {
    let config = parsed("dbs: [{path: /a, replica: {type: foo}}, {path: /b, replica: {path: r}}]");
    let find = |path: &str| config.database(Path::new(path), &environment()).map(|database| database.path.clone());
    assert_eq!(find("/b").unwrap(), Path::new("/b"));
    assert_eq!(find("/a").unwrap_err().to_string(), "unknown replica type in config: \"foo\"");
    assert_eq!(find("/c").unwrap_err().to_string(), "database not found in config: /c");
    assert!(config.databases().is_err());
}

#[test]
fn a_directory_stands_for_the_databases_in_it() {
    let dir = parsed("dbs: [{dir: ~/dbs, pattern: '*.db', watch: true, replica: {path: r}}]");
    assert_eq!(dir.directories()[0].dir, PathBuf::from("/home/ann/dbs"));
    assert!(dir.directories()[0].watch && !dir.directories()[0].recursive);
    assert!(dir.runnable().unwrap().is_empty());
    let one = dir.database(Path::new("~/dbs/a.db"), &environment()).unwrap();
    assert_eq!(one.replicas[0].backend, Backend::File { directories: vec!["/srv/r/a.db".into()] });
    assert!(dir.database(Path::new("~/dbs/a.sqlite"), &environment()).is_err());
}

#[test]
fn a_database_can_be_given_on_the_command_line() {
    let urls = ["file:///r1".to_owned(), "file:///r2".to_owned(), "s3://b".to_owned()];
    let config = Config::direct(Path::new("a.db"), &urls, &environment()).unwrap();
    let database = &config.databases().unwrap()[0];
    assert_eq!(database.path, Path::new("/srv/a.db"));
    let names: Vec<_> = database.replicas.iter().map(|replica| replica.name.as_str()).collect();
    assert_eq!(names, ["file", "file-2", "s3"]);
    let wrong = |url: &str| Config::direct(Path::new("a"), &[url.to_owned()], &environment()).unwrap_err().to_string();
    assert_eq!(wrong("s3"), "replica url scheme required: s3");
    assert_eq!(wrong("sqlite:///x.db"), "unknown replica type in config: \"sqlite\"");
}

#[test]
fn names_given_by_hand_are_kept() {
    let config =
        parsed("dbs: [{path: x, replicas: [{path: a}, {path: b, name: file}, {path: c}, {path: d, name: file-3}]}]");
    let names: Vec<_> = config.databases().unwrap()[0].replicas.iter().map(|replica| replica.name.as_str()).collect();
    assert_eq!(names, ["file-2", "file", "file-4", "file-3"]);
}
