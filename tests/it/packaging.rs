//! What people deploy: the image, the examples for Compose and Kubernetes, the
//! systemd unit, completion and the manual page. As far as it can be run without a
//! container engine and without a cluster, it is run.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brooklet::config::{Config, Environment};
use serde::Deserialize;
use serde_yaml::Value;

use crate::container::{Container, instructions, source};

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn documents(name: &str) -> Vec<Value> {
    let text = source(name);
    serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_sequence().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_step_of_the_image_finds_what_it_copies() {
    let (mut stages, mut context) = (Vec::new(), 0);
    for line in instructions() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["FROM", _, "AS", name] => stages.push(name.to_owned()),
            ["COPY", ref rest @ ..] => {
                let flag = |name: &str| rest.iter().find_map(|word| word.strip_prefix(name));
                match flag("--from=") {
                    Some(stage) => assert!(stages.contains(&stage.to_owned()), "{line}"),
                    None => context += 1,
                }
            }
            _ => {}
        }
    }
    assert_eq!((stages, context), (vec!["build".to_owned(), "shell".to_owned()], 1));
    // What is built needs every file that Cargo names, and the context holds no other.
    let kept: Vec<String> =
        source(".dockerignore").lines().filter_map(|l| l.strip_prefix('!').map(str::to_owned)).collect();
    for name in ["Cargo.toml", "Cargo.lock", "src", "README.md", "LICENSE", "etc/image-root", "benches/*.rs"] {
        assert!(kept.contains(&name.to_owned()), "{name}");
    }
    for name in kept.iter().filter(|name| !name.contains('*')) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(name).exists(), "{name}");
    }
    for path in source("Cargo.toml").lines().filter_map(|line| line.strip_prefix("path = ")) {
        let path = path.trim_matches('"');
        let fine = path.starts_with("src/") || path.starts_with("benches/") || path.starts_with("tests/");
        assert!(fine, "{path} is not in the context of the image");
    }
    // What a shell reads is at least its language.
    for line in instructions().iter().filter_map(|line| line.strip_prefix("RUN ")) {
        let script = line.split(' ').skip_while(|word| word.starts_with("--")).collect::<Vec<_>>().join(" ");
        assert!(Command::new("sh").args(["-nc", &script]).status().unwrap().success(), "{script}");
    }
}

#[test]
fn the_image_replicates_and_restores_as_its_own_user() {
    let Some(container) = Container::new() else { return };
    let version = format!("{}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(container.run(None, &["version"]), version);
    assert_eq!(container.run(Some("/usr/local/bin/litestream"), &["version"]), version);
    assert!(container.run(Some("litestream"), &["help"]).contains("\tlitestream <command> [arguments]"));
    container.sqlite3("data/app.db", "PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    container.run(None, &["replicate", "-once", "/data/app.db", "file:///backup/app"]);
    container.run(None, &["restore", "-o", "/data/new/restored.db", "file:///backup/app"]);
    assert_eq!(container.sqlite3("data/new/restored.db", "SELECT x FROM t"), "1\n");
    // Nothing else in the image than what is meant to be there.
    for name in ["man/man1/brooklet.1", "bash-completion/completions/brooklet", "doc/brooklet/LICENSE"] {
        let size = container.path(&format!("usr/local/share/{name}")).metadata().unwrap().len();
        assert!(size > 1000, "{name}");
    }
}

/// A sidecar that is stopped with the test.
struct Sidecar(Child);

impl Sidecar {
    fn start(container: &Container, arguments: &[&str]) -> Self {
        let mut command = container.command(None, arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn stop(mut self) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), rustix::process::Signal::TERM)
            .unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Plays the life of a deployment: a first boot, commits, a lost volume, a boot that restores.
fn live(config: &str, restore: &[String], replicate: &[String]) {
    let read = Config::parse(config, &Environment::default()).unwrap();
    assert_eq!(read.warnings, []);
    assert_eq!(read.runnable().unwrap().len(), 1);
    let Some(container) = Container::new() else { return };
    assert!(config.contains("url: s3://my-bucket/app"), "{config}");
    container.write("etc/litestream.yml", &config.replace("s3://my-bucket/app", "file:///backup/app"));
    let words = |of: &[String]| of.to_vec();
    let (restore, replicate) = (words(restore), words(replicate));
    let restore: Vec<&str> = restore.iter().map(String::as_str).collect();
    let replicate: Vec<&str> = replicate.iter().map(String::as_str).collect();
    container.run(None, &restore);
    assert!(!container.path("data/app.db").exists(), "a first boot begins with nothing");
    let sidecar = Sidecar::start(&container, &replicate);
    container.sqlite3("data/app.db", "PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    until("the replica begins", || container.path("backup/app/ltx").exists());
    container.sqlite3("data/app.db", "INSERT INTO t VALUES (2)");
    sidecar.stop();
    for entry in std::fs::read_dir(container.path("data")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    }
    container.run(None, &restore);
    assert_eq!(container.sqlite3("data/app.db", "SELECT x FROM t"), "1\n2\n");
    // A boot with the volume still there changes nothing.
    container.run(None, &restore);
    let sidecar = Sidecar::start(&container, &replicate);
    container.sqlite3("data/app.db", "INSERT INTO t VALUES (3)");
    sidecar.stop();
    container.run(None, &["restore", "-o", "/data/check.db", "file:///backup/app"]);
    assert_eq!(container.sqlite3("data/check.db", "SELECT x FROM t"), "1\n2\n3\n");
}

#[test]
fn the_compose_example_lives_through_a_lost_volume() {
    let file = documents("etc/compose.yml").remove(0);
    let services = &file["services"];
    for (name, service) in services.as_mapping().unwrap() {
        for on in service["depends_on"].as_mapping().into_iter().flatten() {
            assert!(services.get(on.0).is_some(), "{name:?} waits for {on:?}");
        }
        assert!(strings(&service["volumes"]).contains(&"data:/data".to_owned()), "{name:?}");
    }
    assert_eq!(services["brooklet"]["stop_grace_period"].as_str(), Some("40s"));
    assert_eq!(services["brooklet"]["read_only"].as_bool(), Some(true));
    assert!(file["volumes"].get("data").is_some());
    let config = file["configs"]["litestream"]["content"].as_str().unwrap();
    let command = |name: &str| strings(&services[name]["command"]);
    live(config, &command("restore"), &command("brooklet"));
}

#[test]
fn the_kubernetes_example_lives_through_a_lost_volume() {
    let documents = documents("etc/kubernetes.yml");
    let [config, set] = &documents[..] else { panic!("two objects") };
    assert_eq!((config["kind"].as_str(), set["kind"].as_str()), (Some("ConfigMap"), Some("StatefulSet")));
    assert_eq!(set["spec"]["replicas"].as_u64(), Some(1));
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(set["spec"]["selector"]["matchLabels"], set["spec"]["template"]["metadata"]["labels"]);
    let mut volumes: Vec<&str> = Vec::new();
    volumes.extend(pod["volumes"].as_sequence().unwrap().iter().map(|v| v["name"].as_str().unwrap()));
    let claims = set["spec"]["volumeClaimTemplates"].as_sequence().unwrap();
    volumes.extend(claims.iter().map(|v| v["metadata"]["name"].as_str().unwrap()));
    let containers = pod["initContainers"].as_sequence().unwrap();
    for container in containers.iter().chain(pod["containers"].as_sequence().unwrap()) {
        for mount in container["volumeMounts"].as_sequence().unwrap() {
            assert!(volumes.contains(&mount["name"].as_str().unwrap()), "{mount:?}");
        }
    }
    let [restore, sidecar] = &containers[..] else { panic!("two containers of ours") };
    assert_eq!(sidecar["restartPolicy"].as_str(), Some("Always"), "or the application would never start");
    assert_eq!(sidecar["securityContext"]["readOnlyRootFilesystem"].as_bool(), Some(true));
    assert_eq!(pod["securityContext"]["runAsUser"].as_u64(), Some(crate::container::NONROOT.into()));
    let text = config["data"]["litestream.yml"].as_str().unwrap();
    live(text, &strings(&restore["args"]), &strings(&sidecar["args"]));
}

#[test]
fn the_systemd_unit_is_in_order() {
    let unit = source("etc/brooklet.service");
    for line in ["Type=notify", "NotifyAccess=main", "WatchdogSec=60", "Restart=always"] {
        assert!(unit.lines().any(|l| l == line), "{line}");
    }
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: there is no systemd-analyze");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("brooklet.service");
    std::fs::write(&path, unit.replace("/usr/local/bin/brooklet", env!("CARGO_BIN_EXE_brooklet"))).unwrap();
    let done = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    // Complaints about other units of this machine name those.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("brooklet")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

fn brooklet(words: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_brooklet")).args(words).output().unwrap();
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn bash_completes_commands_flags_and_files() {
    let script = brooklet(&["completion", "bash"]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("some file.db"), "").unwrap();
    let complete = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let test = format!(
            "{script}\nCOMP_WORDS=(brooklet {}) COMP_CWORD={}; _brooklet; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.join(" "),
            words.len()
        );
        let done = Command::new("bash").args(["--norc", "-c", &test]).current_dir(dir.path()).output().unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(complete(&["rest"]), "restore");
    assert_eq!(complete(&["help", "replic"]), "replicate");
    assert_eq!(complete(&["replicate", "-exec"]), "-exec -exec-exit-code");
    assert_eq!(complete(&["restore", "-o", "so"]), "some file.db");
    assert_eq!(complete(&["databases", "-exec"]), "");
    let failed = Command::new(env!("CARGO_BIN_EXE_brooklet")).args(["completion", "csh"]).output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
}

/// What a shell prints for a script, each line's first word; `None` where there is no such shell.
fn shell(words: &[&str], script: &str) -> Option<Vec<String>> {
    let Ok(done) = Command::new(words[0]).args(&words[1..]).args(["-c", script]).output() else {
        eprintln!("skipped: there is no {}", words[0]);
        return None;
    };
    assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    let lines = String::from_utf8(done.stdout).unwrap();
    Some(lines.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

#[test]
fn fish_completes_commands_and_flags() {
    let script = brooklet(&["completion", "fish"]);
    for (line, expected) in [
        ("brooklet rest", vec!["restore"]),
        ("brooklet help replic", vec!["replicate"]),
        ("brooklet he", vec!["help"]),
        ("brooklet replicate -exec", vec!["-exec", "-exec-exit-code"]),
        ("brooklet databases -exec", vec![]),
    ] {
        let found = shell(&["fish", "--no-config"], &format!("{script}\ncomplete -C '{line}'"));
        assert!(found.as_ref().is_none_or(|found| *found == expected), "{line}: {found:?}");
    }
}

/// With stand-ins for what zsh itself completes with, which needs a terminal.
#[test]
fn zsh_completes_commands_and_flags() {
    let script = brooklet(&["completion", "zsh"]);
    let stand_ins =
        "compdef() { }; _describe() { print -l -- ${commands%%:*} }; _arguments() { print -l -- ${@%%\\[*} }";
    let complete = |words: &str, current: u32| {
        let test = format!("{stand_ins}\n{script}\nwords=({words}) CURRENT={current}; _brooklet");
        shell(&["zsh", "-f"], &test)
    };
    let Some(commands) = complete("brooklet re", 2) else { return };
    assert!(
        ["restore", "replicate", "help"].iter().all(|name| commands.iter().any(|found| found == name)),
        "{commands:?}"
    );
    assert_eq!(complete("brooklet help re", 3).unwrap(), commands);
    let flags = complete("brooklet replicate -ex", 3).unwrap();
    assert!(
        ["-exec", "-exec-exit-code", "-config"].iter().all(|name| flags.iter().any(|found| found == name)),
        "{flags:?}"
    );
    assert!(!complete("brooklet databases -ex", 3).unwrap().contains(&"-exec".to_owned()));
}

#[test]
fn the_manual_page_is_formatted_without_a_complaint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("brooklet.1");
    std::fs::write(&path, brooklet(&["man"])).unwrap();
    let mut command = Command::new("man");
    let Ok(done) = command.args(["--warnings", "-E", "UTF-8", "-l"]).arg(&path).env("MANPAGER", "cat").output() else {
        eprintln!("skipped: there is no man");
        return;
    };
    let (page, complaints) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && complaints.is_empty(), "{complaints}");
    for words in ["BROOKLET(1)", "SYNOPSIS", "-exec-exit-code", "EXIT STATUS"] {
        assert!(page.contains(words), "{words}: {page}");
    }
}
