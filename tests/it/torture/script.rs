//! What happens in a seed: a list of rounds, each a list of actions and a way to
//! make sure that the replica has everything. Made from the seed alone, so that
//! it can be printed; what it meets is up to the processes.

use std::time::Duration;

use super::rng::Rng;

/// Everything that is drawn from a seed.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) databases: Vec<u64>,
    pub(crate) settings: Settings,
    pub(crate) rounds: Vec<Round>,
}

/// Numbers in the configuration file. Small ones make checkpoints, batches and
/// uploads happen often in a second's run.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) min_checkpoint_pages: u64,
    pub(crate) truncate_pages: i64,
    pub(crate) max_sync_bytes: u64,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) monitor_interval: Duration,
    pub(crate) sync_interval: Duration,
}

#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) actions: Vec<Action>,
    pub(crate) confirm: Confirm,
}

/// How to get to the point at which the replica must have everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirm {
    /// The running follower arrives there by itself.
    Live,
    /// It is told to stop and ends well.
    Stop,
    /// It is not running, and `replicate -once` ends well.
    Once,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// One more application process opens this database.
    Join(usize),
    /// One closes it and exits.
    Leave(usize),
    /// All leave.
    LeaveAll(usize),
    /// Every application works; meanwhile things happen, each so long after the one before.
    Burst { operations: u64, seed: u64, incidents: Vec<(Duration, Incident)> },
    /// Starts the follower; `attached` waits until it has taken up the databases.
    Start { attached: bool },
    /// SIGTERM.
    Stop,
    /// SIGKILL.
    Kill,
    /// Frames are appended, a checkpoint copies them, and a short new run
    /// overwrites the beginning of the log.
    Tail { database: usize, inserts: u64, mode: &'static str, updates: u64 },
    /// A large transaction goes to the end of a captured log and is checkpointed
    /// while the follower is away. It comes back, and about when it reads that part of the log (by itself, or because it
    /// is told to stop), the next commits restart it.
    Race { database: usize, rows: u64, after: Duration, stop: bool },
    /// The follower comes while the last applications go.
    Pass { database: usize, after: Duration },
    /// A writer dies between the two copies of the header in the wal-index: whoever
    /// comes next has to rebuild it.
    Tear(usize),
    /// An application keeps a read transaction.
    Hold(usize),
    /// An application keeps a write transaction with uncommitted frames in the log.
    Hang { database: usize, seed: u64 },
    /// It lets go of both.
    Release(usize),
    /// WAL mode is left and entered again; refused while somebody follows.
    Convert { database: usize, seed: u64 },
    /// The file is put back to an older state of itself. Only while nobody follows.
    PutBack(usize),
    /// File and log are put back together, as when a machine loses its last
    /// seconds. Only while nobody follows.
    Revert(usize),
    /// The follower's local state is lost.
    Forget(usize),
}

/// What happens during a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incident {
    Start,
    Stop,
    Kill,
    KillApp(usize),
    /// The follower's process stands still for a while, wherever it is.
    Freeze(Duration),
    /// The same for an application.
    FreezeApp(usize, Duration),
}

const MODES: [&str; 4] = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"];

impl Script {
    /// `only_ordinary` leaves out what goes beyond an application at work: files
    /// put back, local state lost.
    pub(crate) fn new(seed: u64, only_ordinary: bool) -> Self {
        let mut rng = Rng(seed);
        let databases = (0..1 + u64::from(rng.percent(25))).map(|_| rng.next()).collect::<Vec<_>>();
        let settings = Settings::draw(&mut rng);
        let mut writer = Writer { rng, databases: databases.len(), only_ordinary, up: false };
        let count = 2 + writer.rng.below(2);
        let rounds = (0..count).map(|_| writer.round()).collect();
        Self { databases, settings, rounds }
    }

    /// Whether the database only ever goes forward.
    pub(crate) fn is_monotonic(&self) -> bool {
        let back = |action: &Action| matches!(action, Action::PutBack(_) | Action::Revert(_));
        !self.rounds.iter().flat_map(|round| &round.actions).any(back)
    }

    /// One short absence during which an application appends, checkpoints and
    /// begins the log anew.
    pub(crate) fn absence() -> Self {
        let tail = Action::Tail { database: 0, inserts: 50, mode: "PASSIVE", updates: 1 };
        let actions = vec![Action::Start { attached: true }, Action::Stop, tail];
        let rounds = vec![Round { actions, confirm: Confirm::Live }];
        Self { databases: vec![1], settings: Settings::draw(&mut Rng(1)), rounds }
    }
}

impl Settings {
    fn draw(rng: &mut Rng) -> Self {
        let ms = Duration::from_millis;
        Self {
            min_checkpoint_pages: rng.pick(&[1, 5, 20, 20, 100, 1000]),
            truncate_pages: rng.pick(&[-1, 60, 300, 121_359]),
            max_sync_bytes: rng.pick(&[1, 6000, 50_000, 67_108_864]),
            checkpoint_interval: rng.pick(&[ms(100), ms(500), ms(60_000)]),
            monitor_interval: rng.pick(&[ms(5), ms(30), ms(100)]),
            sync_interval: rng.pick(&[ms(5), ms(40), ms(150)]),
        }
    }
}

struct Writer {
    rng: Rng,
    databases: usize,
    only_ordinary: bool,
    up: bool,
}

impl Writer {
    fn round(&mut self) -> Round {
        let mut actions = Vec::new();
        for _ in 0..3 + self.rng.below(6) {
            let action = if self.up { self.followed() } else { self.unfollowed() };
            match action {
                Action::Start { .. } | Action::Pass { .. } => self.up = true,
                Action::Race { stop, .. } => self.up = !stop,
                Action::Stop | Action::Kill => self.up = false,
                _ => {}
            }
            actions.push(action);
        }
        let confirm = self.rng.pick(&[Confirm::Live, Confirm::Stop, Confirm::Once]);
        self.up = confirm == Confirm::Live;
        Round { actions, confirm }
    }

    fn followed(&mut self) -> Action {
        let database = self.database();
        match self.rng.below(100) {
            0..46 => self.burst(),
            46..58 => Action::Stop,
            58..70 => Action::Kill,
            _ => self.either(database),
        }
    }

    fn unfollowed(&mut self) -> Action {
        let database = self.database();
        match self.rng.below(100) {
            0..20 => self.burst(),
            20..42 => Action::Tail {
                database,
                inserts: 1 + self.rng.below(60),
                mode: self.rng.pick(&MODES),
                updates: 1 + self.rng.below(3),
            },
            42..46 => self.race(database, 60, false),
            46..50 => self.race(database, 4, true),
            50..53 => Action::Pass { database, after: self.milliseconds(30) },
            53..72 => Action::Start { attached: self.rng.percent(70) },
            72..76 => Action::LeaveAll(database),
            76..78 if !self.only_ordinary => Action::PutBack(database),
            78..80 if !self.only_ordinary => Action::Forget(database),
            80..82 if !self.only_ordinary => Action::Revert(database),
            _ => self.either(database),
        }
    }

    fn either(&mut self, database: usize) -> Action {
        match self.rng.below(14) {
            0..3 => Action::Join(database),
            3..5 => Action::Leave(database),
            5..7 => Action::Hold(database),
            7 => Action::Hang { database, seed: self.rng.next() },
            8..10 => Action::Release(database),
            10 => Action::Tear(database),
            11 => Action::Convert { database, seed: self.rng.next() },
            _ => Action::Burst { operations: 1 + self.rng.below(6), seed: self.rng.next(), incidents: Vec::new() },
        }
    }

    fn burst(&mut self) -> Action {
        let count = self.rng.pick(&[0, 0, 1, 1, 1, 2, 3]);
        let incidents = (0..count).map(|_| (self.milliseconds(50), self.incident())).collect();
        Action::Burst { operations: 5 + self.rng.below(40), seed: self.rng.next(), incidents }
    }

    fn incident(&mut self) -> Incident {
        let (database, pause) = (self.database(), self.milliseconds(40));
        let of_applications = [Incident::KillApp(database), Incident::FreezeApp(database, pause)];
        match (self.rng.below(7), self.up) {
            (0, _) => self.rng.pick(&of_applications),
            (1..3, true) => Incident::Freeze(pause),
            (3..6, true) => {
                self.up = false;
                Incident::Kill
            }
            (_, true) => {
                self.up = false;
                Incident::Stop
            }
            (_, false) => {
                self.up = true;
                Incident::Start
            }
        }
    }

    fn race(&mut self, database: usize, within: u64, stop: bool) -> Action {
        Action::Race { database, rows: 50 + self.rng.below(500), after: self.milliseconds(within), stop }
    }

    fn database(&mut self) -> usize {
        usize::try_from(self.rng.below(self.databases as u64)).expect("one or two")
    }

    fn milliseconds(&mut self, limit: u64) -> Duration {
        // Half of them very soon.
        let micros = if self.rng.percent(50) { limit * 125 } else { limit * 1000 };
        Duration::from_micros(self.rng.below(micros))
    }
}
