//! What the documents tell people to type works: every `sh` block of the README
//! and the guides is run, in order, in a fresh directory for each document.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Commands for the source tree, not for a shell somewhere: run by hand or by CI,
/// as each says.
const ELSEWHERE: &[&str] = &[
    "cargo run --release --example demo", // CI runs the example in its own step
    "cargo test",                         // this is it
    "cargo install --path .",             // needs a release build
];

/// Documents about developing brooklet: their commands need other programs, hours, or both.
const FOR_DEVELOPERS: &[&str] = &["docs/testing.md", "docs/performance.md"];

#[test]
fn commands_in_the_documents_work() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = vec![root.join("README.md")];
    documents.extend(std::fs::read_dir(root.join("docs")).unwrap().map(|e| e.unwrap().path()));
    let mut blocks = 0;
    for document in documents.iter().filter(|d| d.extension().is_some_and(|e| e == "md")) {
        let name = document.strip_prefix(root).unwrap().display().to_string();
        if FOR_DEVELOPERS.contains(&name.as_str()) {
            continue;
        }
        let dir = TempDir::new().unwrap();
        for block in shell_blocks(&std::fs::read_to_string(document).unwrap()) {
            if block.lines().all(|line| ELSEWHERE.contains(&line)) {
                continue;
            }
            run(&name, &block, dir.path());
            blocks += 1;
        }
    }
    assert!(blocks >= 2, "the blocks of the README were found");
}

fn shell_blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut current: Option<Vec<&str>> = None;
    for line in text.lines() {
        match (line, &mut current) {
            ("```sh", None) => current = Some(Vec::new()),
            ("```", Some(lines)) => {
                blocks.push(lines.join("\n"));
                current = None;
            }
            (line, Some(lines)) => lines.push(line),
            _ => {}
        }
    }
    blocks
}

fn run(document: &str, block: &str, dir: &Path) {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_brooklet"));
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let done = Command::new("sh").args(["-euc", block]).current_dir(dir).env("PATH", path).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{document}:\n{block}\n\n{said}");
}
