//! The continuity torture: applications and the program that follows them are
//! started, stopped and killed in random order, and after each round the replica
//! must restore to exactly what the source is.
//!
//! A seed names a script (see `script`). `BROOKLET_TORTURE_FIRST` and
//! `BROOKLET_TORTURE_SEEDS` choose others than the 60 of an ordinary run; a seed
//! that fails keeps its directory. docs/testing.md says more.

mod oracle;
mod process;
mod rng;
mod script;
mod stage;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::process::Program;
use self::rng::Rng;
use self::script::Script;
use self::stage::Stage;

/// Anything that has not happened after this long will not.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Test functions that share the seeds, so that they run side by side.
const LANES: u64 = 4;

#[test]
fn what_is_restored_is_the_source_1() {
    lane(0);
}

#[test]
fn what_is_restored_is_the_source_2() {
    lane(1);
}

#[test]
fn what_is_restored_is_the_source_3() {
    lane(2);
}

#[test]
fn what_is_restored_is_the_source_4() {
    lane(3);
}

/// The same scripts against the official program, by hand: they are worth
/// something only if they show what it loses.
#[test]
fn the_official_program_loses_commits_under_these_scripts() {
    let (Ok(_), Ok(path)) = (std::env::var("BROOKLET_TORTURE_LITESTREAM"), std::env::var("LITESTREAM_BIN")) else {
        eprintln!("skipped: BROOKLET_TORTURE_LITESTREAM and LITESTREAM_BIN are not both set");
        return;
    };
    let program = Program::Litestream(PathBuf::from(path));
    let (first, count) = chosen();
    let (next, diverged) = (AtomicU64::new(first), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    match run(seed, &program) {
                        Ok(()) => eprintln!("seed {seed}: the same"),
                        Err(failure) => {
                            diverged.fetch_add(1, Ordering::Relaxed);
                            eprintln!("seed {seed}: {}", failure.reason);
                        }
                    }
                }
            });
        }
    });
    let diverged = diverged.into_inner();
    eprintln!("{diverged} of {count} seeds diverged");
    assert!(diverged > 0);
}

/// F1 as it was first seen: 50 rows, a checkpoint and an update while the
/// follower is away.
#[test]
fn nothing_committed_during_an_absence_is_lost() {
    let program = Program::Brooklet(PathBuf::from(env!("CARGO_BIN_EXE_brooklet")));
    absence(&program).unwrap();
}

fn absence(program: &Program) -> Result<(), String> {
    let scratch = Scratch::new("absence")?;
    let script = Script::absence();
    play(&script, scratch.path(), program, 0)
}

fn lane(lane: u64) {
    let program = Program::Brooklet(PathBuf::from(env!("CARGO_BIN_EXE_brooklet")));
    let (first, count) = chosen();
    let mut failures = Vec::new();
    let mut done = 0u64;
    for seed in (first..first + count).filter(|seed| seed % LANES == lane) {
        if let Err(failure) = run(seed, &program) {
            let report = failure.report(seed);
            eprintln!("{report}");
            failures.push(report);
        }
        done += 1;
        if done.is_multiple_of(50) {
            eprintln!("lane {lane}: {done} seeds, {} failed", failures.len());
        }
    }
    assert!(failures.is_empty(), "{} of {done} seeds failed\n{}", failures.len(), failures.join("\n"));
}

/// Which seeds to run: first and number.
fn chosen() -> (u64, u64) {
    let number = |name: &str, default| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text:?}")),
        Err(_) => default,
    };
    (number("BROOKLET_TORTURE_FIRST", 1), number("BROOKLET_TORTURE_SEEDS", 60))
}

struct Failure {
    reason: String,
    kept: PathBuf,
}

impl Failure {
    fn report(&self, seed: u64) -> String {
        format!(
            "seed {seed}: {}\n  kept: {}\n  again: BROOKLET_TORTURE_FIRST={seed} BROOKLET_TORTURE_SEEDS=1 \
             cargo test --test it torture -- --nocapture",
            self.reason,
            self.kept.display(),
        )
    }
}

fn run(seed: u64, program: &Program) -> Result<(), Failure> {
    let failure = |reason, kept| Failure { reason, kept };
    let scratch = Scratch::new(&format!("seed-{seed}")).map_err(|reason| failure(reason, PathBuf::new()))?;
    let script = Script::new(seed, program.is_litestream());
    let played = play(&script, scratch.path(), program, seed);
    if let Ok(keep) = std::env::var("KEEPLOG") {
        std::fs::copy(scratch.path().join("follower.log"), format!("{keep}/{seed}.log")).unwrap();
    }
    played.map_err(|reason| {
        let _ = std::fs::write(scratch.path().join("script.txt"), format!("{script:#?}"));
        failure(reason, scratch.keep())
    })
}

fn play(script: &Script, dir: &Path, program: &Program, seed: u64) -> Result<(), String> {
    let mut stage = Stage::new(dir, program.clone(), script)?;
    for (number, round) in script.rounds.iter().enumerate() {
        stage.round(round).map_err(|reason| format!("round {}: {reason}", number + 1))?;
    }
    match program {
        Program::Brooklet(_) => stage.earlier_points(&mut Rng(seed)),
        Program::Litestream(_) => Ok(()),
    }
}

/// A directory that is removed unless it is kept.
struct Scratch(tempfile::TempDir);

impl Scratch {
    /// In memory where there is such a place: flushing real disks would be most of the time.
    fn new(name: &str) -> Result<Self, String> {
        let chosen = std::env::var_os("BROOKLET_TORTURE_DIR").map(PathBuf::from);
        let memory = || Some(PathBuf::from("/dev/shm")).filter(|path| path.is_dir());
        let parent = chosen.or_else(memory).unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new().prefix(&format!("brooklet-{name}-")).tempdir_in(parent);
        Ok(Self(dir.map_err(|error| error.to_string())?))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn keep(self) -> PathBuf {
        self.0.keep()
    }
}
