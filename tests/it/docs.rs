//! What the documents tell people to type works: the `sh` blocks of the README and
//! of each guide are run, one after the other, in one shell and a fresh directory.
//!
//! Where a block speaks to a container engine, a cluster or a service manager, a
//! stand-in answers. That for `docker run` enters a folder with the files of the
//! image; the others look at the files they are given.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::container::Container;
use crate::patience::install_sqlite3;

/// Commands for the source tree, not for a shell somewhere: run by hand or by CI,
/// as each says.
const ELSEWHERE: &[&str] = &[
    "cargo run --release --example demo", // CI runs the example in its own step
    "cargo test",                         // this is it
    "cargo install --path .",             // needs a release build
];

/// Documents about developing brooklet: their commands need other programs, hours, or both.
const FOR_DEVELOPERS: &[&str] = &["docs/testing.md", "docs/performance.md"];

/// Documents that install into the system: they get one of their own to write to.
const FOR_THE_SYSTEM: &[&str] = &["docs/systemd.md"];

const STAND_INS: [(&str, &str); 4] = [
    (
        "docker",
        r#"case $1 in
            build) for last; do :; done; exec test -f "$last/Dockerfile" ;;
            compose) test "$2" = -f; exec test -f "$3" ;;
            run) shift ;;
            *) exit 1 ;;
        esac
        user=65532:65532 mounts=
        while :; do
            case $1 in
                --rm) shift ;;
                --user) user=$2; shift 2 ;;
                -v) mounts="$mounts $2"; shift 2 ;;
                -*) echo "no such option here: $1"; exit 1 ;;
                *) break ;;
            esac
        done
        test "$1" = brooklet; shift
        export user mounts
        exec unshare --mount sh -euc '
            for mount in $mounts; do
                inside=$IMAGE_ROOT${mount#*:}
                mkdir -p "$inside"; mount --bind "${mount%%:*}" "$inside"
            done
            exec chroot --userspec="$user" "$IMAGE_ROOT" /usr/local/bin/brooklet "$@"' sh "$@""#,
    ),
    (
        "kubectl",
        r#"case "$1 $2" in
            "create secret" | "scale statefulset" | "wait --for=delete") ;;
            "apply -f") test -f "$3" ;;
            *) exit 1 ;;
        esac"#,
    ),
    (
        "systemctl",
        r#"case "$*" in
            daemon-reload | "enable --now brooklet" | "restart brooklet" | "reload brooklet" | "status brooklet") ;;
            *) exit 1 ;;
        esac
        if command -v systemd-analyze > analyze; then
            systemd-analyze verify --man=no /etc/systemd/system/brooklet.service 2> analyze || true
            ! grep brooklet analyze
        fi"#,
    ),
    ("cargo", r#"test "$*" = "build --release""#),
];

/// One document takes no longer, in seconds.
const PATIENCE: &str = "300";

/// Runs before the commands of a document for the system: what they write to is a layer of their own.
const OWN_SYSTEM: &str = "for d in /etc/systemd/system /usr/local/bin /usr/local/share/man/man1 \
                          /usr/share/bash-completion/completions; do mkdir -p $d; mount -t tmpfs none $d; done\n";

#[test]
fn commands_in_the_documents_work() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = vec![root.join("README.md")];
    documents.extend(std::fs::read_dir(root.join("docs")).unwrap().map(|e| e.unwrap().path()));
    documents.sort();
    let container = Container::new();
    let mut blocks = 0;
    for document in documents.iter().filter(|d| d.extension().is_some_and(|e| e == "md")) {
        let name = document.strip_prefix(root).unwrap().display().to_string();
        if FOR_DEVELOPERS.contains(&name.as_str()) {
            continue;
        }
        let found = shell_blocks(&std::fs::read_to_string(document).unwrap());
        let found: Vec<_> = found.into_iter().filter(|b| !b.lines().all(|line| ELSEWHERE.contains(&line))).collect();
        let needs_root = FOR_THE_SYSTEM.contains(&name.as_str()) || found.iter().any(|b| b.contains("docker run"));
        if needs_root && container.is_none() {
            continue;
        }
        blocks += found.len();
        run(&name, &found, container.as_ref());
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

fn run(document: &str, blocks: &[String], container: Option<&Container>) {
    let (dir, programs) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for (name, script) in STAND_INS {
        let path = programs.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\nset -eu\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_brooklet"));
    for name in ["etc", "Dockerfile"] {
        symlink(source.join(name), dir.path().join(name)).unwrap();
    }
    std::fs::create_dir_all(dir.path().join("target/release")).unwrap();
    symlink(&binary, dir.path().join("target/release/brooklet")).unwrap();
    install_sqlite3(programs.path());
    let mut script = String::new();
    let mut command = Command::new("timeout");
    command.args([PATIENCE, "sh"]);
    if FOR_THE_SYSTEM.contains(&document) {
        script.push_str(OWN_SYSTEM);
        command = Command::new("timeout");
        command.args([PATIENCE, "unshare", "--mount", "sh"]);
    }
    blocks.iter().for_each(|block| script.push_str(&format!("{block}\n")));
    let path = [programs.path(), binary.parent().unwrap()].map(|p| p.display().to_string()).join(":");
    command.args(["-euxc", &script]).current_dir(dir.path()).stdin(Stdio::null());
    command.env("PATH", format!("{path}:{}", std::env::var("PATH").unwrap()));
    command.env("IMAGE_ROOT", container.map_or(PathBuf::new(), |c| c.path("")));
    // What a document starts in the background ends with it, also if something fails before that.
    let child = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let group = rustix::process::Pid::from_child(&child);
    let done = child.wait_with_output();
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    let done = done.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{document}:\n{said}");
}
