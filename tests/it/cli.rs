//! The binary as a user meets it: exit codes, channels, messages, spellings.
//! Where the official program is at hand, both must say the same.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// How a program ended and what it said.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// A directory to work in and a clean environment.
struct Scratch {
    dir: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Scratch {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        // Temporary directories may lie behind a symbolic link.
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(words).current_dir(self.path("")).env_clear().env("HOME", self.path("home"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn run_as(&self, name: &str, words: &[&str]) -> Ended {
        let mut command = self.command(Path::new(env!("CARGO_BIN_EXE_brooklet")), words);
        ended(command.arg0(name))
    }

    fn run(&self, words: &[&str]) -> Ended {
        self.run_as("brooklet", words)
    }
}

fn ended(command: &mut Command) -> Ended {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn official(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: {variable} is not set");
    }
    path
}

const DATABASE: &str = "dbs:\n  - path: app.db\n    replica: {path: backup}\n";

#[test]
fn help_goes_to_stdout_and_only_asked_for_help_succeeds() {
    let scratch = Scratch::new();
    for word in ["help", "-h", "-help", "--help"] {
        let ended = scratch.run(&[word]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{word}");
        assert!(ended.stdout.contains("\tbrooklet <command> [arguments]\n"), "{word}: {}", ended.stdout);
    }
    for words in [&[][..], &["-x"], &["--version"]] {
        let ended = scratch.run(words);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), ""), "{words:?}");
        assert!(ended.stdout.contains("The commands are:"));
    }
    for command in [
        "audit",
        "completion",
        "databases",
        "doctor",
        "drill",
        "generations",
        "info",
        "ltx",
        "man",
        "pin",
        "prune",
        "replicate",
        "restore",
        "snapshots",
        "verify",
        "version",
        "wal",
    ] {
        for flag in ["-h", "-help", "--help"] {
            let ended = scratch.run(&[command, flag]);
            assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{command} {flag}");
            assert!(ended.stdout.contains(&format!("\tbrooklet {command} [arguments]")), "{command} {flag}");
        }
    }
}

#[test]
fn failures_are_on_stderr_alone() {
    let scratch = Scratch::new();
    let config = scratch.write("l.yml", DATABASE);
    let missing = scratch.path("missing.yml");
    let missing = missing.to_str().unwrap();
    let cases: &[(&[&str], String)] = &[
        (&["foo"], "Error: brooklet foo: unknown command\n".into()),
        (
            &["restore"],
            "Error: database path or replica URL required\n\
             Try: brooklet restore -o /path/to/db s3://bucket/prefix\n"
                .into(),
        ),
        (
            &["restore", "s3://b/p"],
            "Error: -o is required when restoring from a replica URL\n\
             Try: brooklet restore -o /path/to/db s3://b/p\n"
                .into(),
        ),
        (&["restore", "a", "b"], "Error: too many arguments\n".into()),
        (&["ltx"], "Error: database path or replica URL required\nTry: brooklet ltx /path/to/db\n".into()),
        (&["databases", "x"], "Error: too many arguments\n".into()),
        (&["databases", "-config", missing], format!("Error: config file not found: {missing}\n")),
        (&["replicate", "app.db"], "Error: must specify at least one replica URL for app.db\n".into()),
        (
            &["replicate", "-config", &config, "app.db", "file:///x"],
            "Error: cannot specify a replica URL and the -config flag\n".into(),
        ),
        (
            &["replicate", "app.db", "file:///x", "-exec", "y"],
            "Error: flag \"-exec\" must be positioned before DB_PATH and REPLICA_URL arguments\n".into(),
        ),
        (&["replicate", "-once", "-exec", "y"], "Error: cannot specify -once flag with -exec\n".into()),
        (&["replicate", "-force-snapshot"], "Error: cannot specify -force-snapshot flag without -once\n".into()),
    ];
    for (words, stderr) in cases {
        let expected = Ended { code: Some(1), stdout: String::new(), stderr: stderr.clone() };
        assert_eq!(scratch.run(words), expected, "{words:?}");
    }
}

#[test]
fn flags_that_cannot_be_read_are_told_twice_with_help_between() {
    let scratch = Scratch::new();
    let cases: &[(&[&str], &str)] = &[
        (&["restore", "-bogus"], "flag provided but not defined: -bogus"),
        (&["restore", "-o"], "flag needs an argument: -o"),
        (&["restore", "---x"], "bad flag syntax: ---x"),
        (&["restore", "-parallelism", "x", "a"], "invalid value \"x\" for flag -parallelism: parse error"),
        (&["restore", "-json=maybe", "a"], "invalid boolean value \"maybe\" for -json: parse error"),
        (&["ltx", "-level", "12", "a"], "invalid value \"12\" for flag -level: level must be between 0 and 9"),
    ];
    for (words, reason) in cases {
        let ended = scratch.run(words);
        assert_eq!((ended.code, ended.stderr), (Some(1), format!("{reason}\nError: {reason}\n")), "{words:?}");
        assert!(ended.stdout.contains("Arguments:"), "{words:?}");
    }
}

#[test]
fn the_config_is_found_by_every_spelling() {
    let scratch = Scratch::new();
    let config = scratch.write("l.yml", DATABASE);
    let joined = [format!("-config={config}"), format!("--config={config}")];
    let expected = format!(
        "path{:1$}  replica\n{2}  file\n",
        "",
        scratch.path("app.db").as_os_str().len() - 4,
        scratch.path("app.db").display()
    );
    let spellings: &[&[&str]] =
        &[&["-config", &config], &["--config", &config], &[&joined[0]], &[&joined[1]], &["-config", "l.yml"]];
    for words in spellings {
        let words: Vec<&str> = ["databases"].iter().chain(*words).copied().collect();
        let expected = Ended { code: Some(0), stdout: expected.clone(), stderr: String::new() };
        assert_eq!(scratch.run(&words), expected, "{words:?}");
    }
    let by_variable = scratch.with("LITESTREAM_CONFIG", &config);
    assert_eq!(by_variable.run(&["databases"]).stdout, expected);
    assert_eq!(by_variable.run(&["databases", "-config", "nowhere.yml"]).code, Some(1), "the flag is stronger");
}

#[test]
fn variables_are_replaced_before_the_file_is_read() {
    let text = "dbs:\n  - path: $A/app.db$UNSET${ALSO_UNSET}\n    replica: {${KEY} backup}\n";
    let scratch = Scratch::new().with("A", "/data").with("KEY", "path:");
    let config = scratch.write("l.yml", text);
    let ended = scratch.run(&["databases", "-config", &config]);
    assert_eq!(ended.stdout, "path          replica\n/data/app.db  file\n", "{}", ended.stderr);
    let literal = scratch.run(&["databases", "-no-expand-env", "-config", &config]);
    assert_eq!(literal.code, Some(1));
}

#[test]
fn json_output_is_one_value() {
    let scratch = Scratch::new();
    let both = scratch.write("l.yml", "dbs:\n  - path: /a\n    replicas: [{path: x}, {url: 's3://b/p'}]\n");
    let ended = scratch.run(&["databases", "-json", "-config", &both]);
    assert_eq!(ended.stdout, "[\n  {\n    \"path\": \"/a\",\n    \"replica\": \"file,s3\"\n  }\n]\n");
    let empty = scratch.write("empty.yml", "");
    assert_eq!(scratch.run(&["databases", "-json", "-config", &empty]).stdout, "[]\n");
    assert_eq!(scratch.run(&["databases", "-config", &empty]).stdout, "path  replica\n");
    // Warnings do not get between.
    let odd = scratch.write("odd.yml", "adr: 1\ndbs: []\n");
    let ended = scratch.run(&["databases", "-json", "-config", &odd]);
    assert_eq!(ended.stdout, "[]\n");
    assert_eq!(ended.stderr, "Warning: unknown key \"adr\" (line 1) is ignored: did you mean \"addr\"?\n");
}

#[test]
fn wrong_types_are_reported_together_with_their_lines() {
    let scratch = Scratch::new();
    let config = scratch.write("l.yml", "exec: [a, b]\nretention: 24h\ndbs:\n  - path: x\n    busy-timeout: soon\n");
    let ended = scratch.run(&["databases", "-config", &config]);
    let expected = "Error: yaml: unmarshal errors:\n\
                    \x20 line 1: cannot unmarshal !!seq into string (key \"exec\")\n\
                    \x20 line 2: cannot unmarshal !!str `24h` into map (key \"retention\")\n\
                    \x20 line 5: cannot unmarshal !!str `soon` into time.Duration (key \"dbs[0].busy-timeout\")\n";
    assert_eq!(ended, Ended { code: Some(1), stdout: String::new(), stderr: expected.to_owned() });
}

#[test]
fn configs_of_both_generations_load() {
    let scratch = Scratch::new();
    let old = "access-key-id: a\ndbs:\n  - path: /a.db\n    replicas:\n      - name: here\n        path: /r\n        \
               retention: 72h\n        snapshot-interval: 1h\n  - path: /b.db\n    replicas: [{url: 'gcs://b/p'}]\n";
    let new = "addr: ':9090'\nsnapshot: {interval: 1h}\nlevels: [{interval: 30s}]\ndbs:\n  - path: /a.db\n    \
               replica: {type: file, path: /r, auto-recover: true}\n  - path: /b.db\n    replica: {url: 'gs://b/p'}\n";
    for text in [old, new] {
        let config = scratch.write("l.yml", text);
        let expected = "path   replica\n/a.db  file\n/b.db  gs\n".to_owned();
        let expected = Ended { code: Some(0), stdout: expected, stderr: String::new() };
        assert_eq!(scratch.run(&["databases", "-config", &config]), expected);
    }
}

#[test]
fn the_version_is_one_word() {
    let scratch = Scratch::new();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(scratch.run(&["version"]).stdout, format!("{version}\n"));
    let verbose = scratch.run(&["version", "-verbose"]).stdout;
    assert!(verbose.starts_with(&format!("Version:     {version}\n")), "{verbose}");
    assert!(verbose.lines().any(|line| line.starts_with("OS/Arch:     linux/") || !cfg!(target_os = "linux")));
}

#[test]
fn messages_carry_the_name_the_program_was_called_by() {
    let scratch = Scratch::new();
    for name in ["litestream", "/usr/local/bin/litestream"] {
        assert_eq!(scratch.run_as(name, &["foo"]).stderr, "Error: litestream foo: unknown command\n");
    }
    assert!(scratch.run_as("litestream", &["help"]).stdout.contains("\tlitestream <command> [arguments]\n"));
}

#[test]
fn the_old_name_of_ltx_still_works_and_says_so() {
    let ended = Scratch::new().run(&["wal", "-h"]);
    assert_eq!(ended.code, Some(0));
    assert!(ended.stdout.contains("deprecated") && ended.stdout.contains("ltx"), "{}", ended.stdout);
    assert!(ended.stdout.contains("-level LEVEL"));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let scratch = Scratch::new();
    // More output than a pipe holds, so that the program is still writing when we leave.
    let databases: String =
        (0..5000).map(|n| format!("  - {{path: /data/{n}/app.db, replica: {{path: /r/{n}}}}}\n")).collect();
    let config = scratch.write("l.yml", &format!("dbs:\n{databases}"));
    let mut command = scratch.command(Path::new(env!("CARGO_BIN_EXE_brooklet")), &["databases", "-config", &config]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}

/// Everything where we promise to behave alike. `CONFIG` stands for a config
/// with one database, `EMPTY` for one without.
const ALIKE: &[&[&str]] = &[
    &["foo"],
    &["restore"],
    &["restore", "a", "b"],
    &["restore", "db", "-o", "x"],
    &["restore", "file:///nowhere"],
    &["restore", "-o", "x", "-config", "CONFIG", "file:///nowhere"],
    &["restore", "-integrity-check", "maybe", "-o", "x", "file:///nowhere"],
    &["ltx"],
    &["ltx", "a", "b"],
    &["databases", "x"],
    &["databases", "-config", "CONFIG"],
    &["databases", "-config", "CONFIG", "-json"],
    &["databases", "-config", "EMPTY"],
    &["databases", "-config", "EMPTY", "-json"],
    &["replicate", "db"],
    &["replicate", "db", "file:///a", "-exec", "x"],
    &["replicate", "-config", "CONFIG", "db", "file:///a"],
];

#[test]
fn says_what_the_official_program_says() {
    let Some(official) = official("LITESTREAM_BIN") else { return };
    let scratch = Scratch::new();
    let config = scratch.write("config.yml", "dbs: [{path: /data/app.db, replica: {path: backup}}]");
    let empty = scratch.write("empty.yml", "# nothing\n");
    for words in ALIKE {
        let words: Vec<&str> = words
            .iter()
            .map(|word| match *word {
                "CONFIG" => config.as_str(),
                "EMPTY" => empty.as_str(),
                word => word,
            })
            .collect();
        let mut theirs = ended(scratch.command(&official, &words).arg0("litestream"));
        // One of their messages has a no-break space where nobody would type one.
        theirs.stderr = theirs.stderr.replace('\u{a0}', " ");
        assert_eq!(scratch.run_as("litestream", &words), theirs, "{words:?}");
    }
    // Here we know more ways to say it, and add them.
    let words = ["restore", "-timestamp", "yesterday", "-o", "x", "file:///nowhere"];
    let mut theirs = ended(scratch.command(&official, &words).arg0("litestream"));
    theirs.stderr = theirs.stderr.replace('\u{a0}', " ");
    let ours = scratch.run_as("litestream", &words);
    assert_eq!((ours.code, &ours.stdout), (theirs.code, &theirs.stdout));
    assert!(ours.stderr.starts_with(theirs.stderr.trim_end()), "{ours:?}");
    // Of these the reasons are the same, the help text is our own.
    for words in [
        &["restore", "-bogus"][..],
        &["restore", "-o"],
        &["restore", "---x"],
        &["restore", "-parallelism", "x", "a"],
        &["restore", "-parallelism", "99999999999999999999", "a"],
        &["restore", "-follow-interval", "5", "a"],
        &["restore", "-json=maybe", "a"],
        &["restore", "-txid", "zz", "a"],
        &["ltx", "-level", "12", "a"],
        &["ltx", "-level", "x", "a"],
    ] {
        let theirs = ended(scratch.command(&official, words).arg0("litestream"));
        let ours = scratch.run_as("litestream", words);
        assert_eq!((ours.code, ours.stderr), (theirs.code, theirs.stderr), "{words:?}");
    }
}

/// The rest of a config with one database, and its mistake.
#[test]
fn refuses_configs_with_the_words_of_the_official_program() {
    let Some(official) = official("LITESTREAM_BIN") else { return };
    let scratch = Scratch::new();
    let replicas = [
        "type: foo",
        "url: 'foo://z'",
        "path: 's3://foo/z'",
        "{url: 'file:///a', path: b}",
        "type: file",
        "{type: s3, path: b}",
        "url: 's3:///h'",
        "{url: 's3://b/c', bucket: d}",
        "{url: 's3://b/c', path: d}",
        "url: b/c",
        "url: 's3://h/%zz'",
        "url: 's3://h:x/x'",
        "{url: 'sftp://u@h/c', host: d}",
        "{type: sftp, path: b}",
        "{type: sftp, host: h}",
        "url: 'sftp://h/x'",
        "{url: 'webdav://h/c', webdav-url: d}",
        "type: webdav",
        "url: 'nats://h/'",
        "{type: nats, bucket: b, client-cert: c}",
        "{url: 'gs://b', bucket: d}",
        "type: abs",
        "type: oss",
        "{path: b, sync-interval: 0s}",
    ];
    let whole = [
        "dbs: [{path: x}]",
        "dbs: [{path: x, replica: {path: y}, replicas: [{path: z}]}]",
        "dbs: [{replica: {path: b}}]",
        "dbs: [{path: a, dir: b, replica: {path: b}}]",
        "dbs: [{dir: b, replica: {path: b}}]",
        "dbs: [{path: b, watch: true, replica: {path: b}}]",
        "dbs: [{path: b, meta-dir: c, replica: {path: b}}]",
        "dbs: [{dir: b, pattern: x, meta-dir: c, meta-path: d, replica: {path: b}}]",
        "dbs: [{path: x, replicas: [{path: b, sync-interval: -1s}]}]",
        "snapshot: {interval: 0s}",
        "snapshot: {retention: -1h}",
        "l0-retention: -1s",
        "l0-retention-check-interval: 0s",
        "shutdown-sync-timeout: -1s",
        "shutdown-sync-interval: 0s",
        "heartbeat-url: ftp://x",
        "levels: [{interval: 0s}]",
        "<<: 5",
    ];
    let of_replicas = replicas.map(|replica| format!("dbs:\n  - path: x\n    replica:\n      {replica}\n"));
    for text in of_replicas.into_iter().chain(whole.map(str::to_owned)) {
        let config = scratch.write("l.yml", &text);
        let words = ["databases", "-config", &config];
        let theirs = ended(scratch.command(&official, &words).arg0("litestream"));
        assert_eq!(theirs.code, Some(1), "{text}");
        assert_eq!(scratch.run_as("litestream", &words), theirs, "{text}");
    }
    // Of type errors the lines and the beginnings are the same.
    let text = "dbs:\n  - path: [x]\n    min-checkpoint-page-count: abc\n    busy-timeout: xyz\n    \
                restore-if-db-not-exists: \"yes\"\n    replica: {force-path-style: maybe, root-cas: 5}\n\
                exec: [a]\nlogging: a long text here\nsocket: {permissions: \"0600\"}\n";
    let config = scratch.write("l.yml", text);
    let words = ["databases", "-config", &config];
    let beginnings = |ended: Ended| {
        let lines = ended.stderr.lines().map(|line| line.split(" into ").next().unwrap_or_default().to_owned());
        (ended.code, lines.collect::<Vec<_>>())
    };
    let theirs = beginnings(ended(scratch.command(&official, &words).arg0("litestream")));
    assert_eq!(theirs.1.len(), 10, "{theirs:?}");
    assert_eq!(beginnings(scratch.run_as("litestream", &words)), theirs);
}

#[test]
fn lists_the_databases_the_official_program_lists() {
    let Some(official) = official("LITESTREAM_BIN") else { return };
    let scratch = Scratch::new().with("V", "x: y").with("DIR", "/data");
    let configs = [
        DATABASE,
        "dbs: [{path: ~/a.db, replica: {path: b}}]",
        "dbs: [{path: /a/./b/../c.db, replica: {url: 's3://b/p'}}]",
        "dbs: [{path: 'sqlite:///data/a.db', replica: {path: b}}, {path: 'sqlite3://b.db', replica: {path: c}}]",
        "dbs: [{path: 0600, replica: {path: 5}}]",
        "dbs: [{path: ${DIR}/a.db$UNSET, replica: {path: $$1$DIR}}] # ${V}",
        "a: &r {path: b}\ndbs: [{path: x, replica: *r}, {path: y, replica: {<<: *r, type: file}}]",
        "dbs: [{path: x, path: y, replica: {path: b}}]",
        "dbs: [{path: x, replica: {path: b, force-path-style: yes, part-size: 5MB, max-reconnects: 0x5}}]",
        "dbs: [{path: x, checkpoint-interval: 1.5, truncate-page-n: 1_000, replica: {path: b}}]",
        "dbs:\n  - path: x\n    replica: {path: b}\n---\nnot: [valid",
        "\u{feff}dbs: [{path: x, replicas: [{path: b}]}]",
        "dbs:\n  - path: >-\n      /folded\n    replica:\n      path: \"q\\x41\"\n",
    ];
    for text in configs {
        let config = scratch.write("l.yml", text);
        let words = ["databases", "-config", &config];
        let theirs = ended(scratch.command(&official, &words).arg0("litestream"));
        let ours = scratch.run_as("litestream", &words);
        assert_eq!((ours.code, ours.stdout), (theirs.code, theirs.stdout), "{text}\n{}{}", ours.stderr, theirs.stderr);
    }
}
