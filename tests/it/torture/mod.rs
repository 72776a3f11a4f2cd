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
use self::stage::{Stage, Trouble};

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

/// F1 as it was first seen: 50 rows, a checkpoint and an update while the
/// follower is away.
#[test]
fn nothing_committed_during_an_absence_is_lost() {
    let scratch = Scratch::new("absence").unwrap();
    play(&Script::absence(), scratch.path(), &brooklet(), 0).unwrap();
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
    let scratch = Scratch::new("absence").unwrap();
    let absence = play(&Script::absence(), scratch.path(), &program, 0).map(drop);
    eprintln!("the short absence: {absence:?}");
    let (first, count) = chosen();
    let (next, diverged, stuck) = (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        for seed in std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed)).take_while(|s| *s < first + count) {
            let Err(failure) = run(seed, &program, &mut Seen::default()) else { continue };
            let counter = if matches!(failure.trouble, Trouble::Diverged(_)) { &diverged } else { &stuck };
            counter.fetch_add(1, Ordering::Relaxed);
            eprintln!("seed {seed}: {}", failure.trouble);
            let _ = std::fs::remove_dir_all(failure.kept);
        }
    };
    std::thread::scope(|scope| (0..LANES).for_each(|_| drop(scope.spawn(work))));
    let (diverged, stuck) = (diverged.into_inner(), stuck.into_inner());
    eprintln!("of {count} seeds {diverged} diverged and {stuck} got stuck");
    assert!(diverged > 0);
}

fn brooklet() -> Program {
    Program::Brooklet(PathBuf::from(env!("CARGO_BIN_EXE_brooklet")))
}

fn lane(lane: u64) {
    let program = brooklet();
    let (first, count) = chosen();
    let (mut failures, mut seen) = (Vec::new(), Seen::default());
    let mut done = 0u64;
    for seed in (first..first + count).filter(|seed| seed % LANES == lane) {
        if let Err(failure) = run(seed, &program, &mut seen) {
            let report = failure.report(seed);
            eprintln!("{report}");
            failures.push(report);
        }
        done += 1;
        if done.is_multiple_of(100) {
            eprintln!("lane {lane}: {done} seeds, {} failed", failures.len());
        }
    }
    eprintln!("lane {lane}: {done} seeds, {} failed; {seen:?}", failures.len());
    assert!(failures.is_empty(), "{} of {done} seeds failed\n{}", failures.len(), failures.join("\n"));
    if done >= 10 {
        seen.assert_everything_was_met();
    }
}

/// What the followers met, from their logs: a torture that no longer reaches
/// what it is about must not stay green.
#[derive(Debug, Default)]
struct Seen {
    starts: usize,
    barriers: usize,
    uploads: usize,
    comparisons: usize,
    restarts_while_reading: usize,
}

impl Seen {
    fn add(&mut self, stage: &Stage) {
        let [starts, barriers, uploads, comparisons, restarts_while_reading] = stage.said([
            "initialized db",
            "barrier released",
            "ltx file uploaded",
            "continued by comparing",
            "restarted while it was being read",
        ]);
        self.starts += starts;
        self.barriers += barriers;
        self.uploads += uploads;
        self.comparisons += comparisons;
        self.restarts_while_reading += restarts_while_reading;
    }

    fn assert_everything_was_met(&self) {
        // Restarts in the middle of a read are too rare to be sure of in a few seeds.
        let often = [self.starts, self.barriers, self.uploads, self.comparisons];
        assert!(often.iter().all(|count| *count > 0), "{self:?}");
    }
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
    trouble: Trouble,
    kept: PathBuf,
}

impl Failure {
    fn report(&self, seed: u64) -> String {
        format!(
            "seed {seed}: {}\n  kept: {}\n  again: BROOKLET_TORTURE_FIRST={seed} BROOKLET_TORTURE_SEEDS=1 \
             cargo test torture -- --nocapture",
            self.trouble,
            self.kept.display(),
        )
    }
}

fn run(seed: u64, program: &Program, seen: &mut Seen) -> Result<(), Failure> {
    let failure = |trouble, kept| Failure { trouble, kept };
    let scratch = Scratch::new(&format!("seed-{seed}"));
    let scratch = scratch.map_err(|reason| failure(Trouble::Stuck(reason), PathBuf::new()))?;
    let script = Script::new(seed, program.is_litestream());
    match play(&script, scratch.path(), program, seed) {
        Ok(stage) => {
            seen.add(&stage);
            Ok(())
        }
        Err(trouble) => {
            let _ = std::fs::write(scratch.path().join("script.txt"), format!("{script:#?}"));
            Err(failure(trouble, scratch.keep()))
        }
    }
}

fn play(script: &Script, dir: &Path, program: &Program, seed: u64) -> Result<Stage, Trouble> {
    let mut stage = Stage::new(dir, program.clone(), script).map_err(Trouble::Stuck)?;
    script.rounds.iter().try_for_each(|round| stage.round(round))?;
    if !program.is_litestream() {
        stage.earlier_points(&mut Rng(seed), script.is_monotonic())?;
    }
    Ok(stage)
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
