//! Another process at the database. SQLite's locks belong to processes, so what
//! a guard keeps out, and what it costs, shows only from outside. The process is
//! Python's own SQLite: older than ours, as applications are.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A connection in another process. Killed when dropped.
pub(crate) struct Elsewhere {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What a checkpoint in another process says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Frames in the log.
    pub(crate) log: i64,
    /// Of these, in the database.
    pub(crate) copied: i64,
}

/// What a writer that retries at once has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) commits: i64,
    /// Times it was refused for a while, however often it asked meanwhile.
    pub(crate) refusals: i64,
    /// Refusals because its snapshot was out of date (extended code 517).
    pub(crate) outdated: i64,
}

/// One line in, one line out. `!write MILLISECONDS PAUSE SQL;SQL;..` repeats a transaction until the time is over,
/// with pauses of up to so many milliseconds.
const PROGRAM: &str = r"
import random, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=float(sys.argv[2]), isolation_level=None)

def write(milliseconds, pause, statements):
    commits = refusals = outdated = 0
    refused = False
    until = time.monotonic() + milliseconds / 1000
    while time.monotonic() < until:
        try:
            for statement in statements:
                db.execute(statement).fetchall()
            commits, refused = commits + 1, False
            if pause > 0:
                time.sleep(random.random() * pause / 1000)
        except sqlite3.OperationalError as error:
            if db.in_transaction:
                db.execute('ROLLBACK')
            if error.sqlite_errorcode & 255 != 5:
                raise
            outdated += error.sqlite_errorcode == 517
            refusals += not refused
            refused = True
    return (commits, refusals, outdated)

for line in sys.stdin:
    try:
        if line.startswith('!write'):
            _, milliseconds, pause, sql = line.split(' ', 3)
            row = write(int(milliseconds), int(pause), [s for s in sql.split(';') if s.strip()])
        else:
            rows = db.execute(line).fetchall()
            row = [v for v in rows[0] if isinstance(v, int)] if rows else []
        print('ok', *row, flush=True)
    except sqlite3.Error as error:
        print('error', error, flush=True)
";

impl Elsewhere {
    /// Opens the database with this busy timeout.
    pub(crate) fn open(path: &Path, busy_timeout: Duration) -> Self {
        let mut process = Command::new("python3")
            .args(["-c", PROGRAM])
            .arg(path)
            .arg(busy_timeout.as_secs_f64().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 plays the application");
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut elsewhere = Self { process, input, output };
        // What it costs the application to be durable is not measured here.
        elsewhere.run("PRAGMA synchronous=OFF");
        elsewhere
    }

    /// Runs one statement and gives the numbers in its first row.
    pub(crate) fn run(&mut self, sql: &str) -> Vec<i64> {
        self.send(sql);
        self.answer(sql)
    }

    /// Repeats a transaction in the background; [`Elsewhere::written`] waits for the end.
    pub(crate) fn write_for(&mut self, span: Duration, statements: &[&str]) {
        self.write_at_times(span, Duration::ZERO, statements);
    }

    /// The same with pauses of up to `pause`.
    pub(crate) fn write_at_times(&mut self, span: Duration, pause: Duration, statements: &[&str]) {
        let mut line = format!("!write {} {} ", span.as_millis(), pause.as_millis());
        statements.iter().for_each(|s| write!(line, "{s};").unwrap());
        self.send(&line);
    }

    /// What became of [`Elsewhere::write_for`].
    pub(crate) fn written(&mut self) -> Written {
        match self.answer("the writer")[..] {
            [commits, refusals, outdated] => Written { commits, refusals, outdated },
            ref other => panic!("{other:?}"),
        }
    }

    /// Copies what can be copied, as the application's own checkpoints do.
    pub(crate) fn passive(&mut self) -> Copied {
        match self.run("PRAGMA wal_checkpoint(PASSIVE)")[..] {
            [_, log, copied] => Copied { log, copied },
            ref other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, line: &str) {
        assert!(!line.contains('\n'), "one line: {line}");
        writeln!(self.input, "{line}").unwrap();
        self.input.flush().unwrap();
    }

    fn answer(&mut self, what: &str) -> Vec<i64> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let numbers = line.trim_end().strip_prefix("ok").unwrap_or_else(|| panic!("{what}: {line:?}"));
        numbers.split_whitespace().map(|n| n.parse().unwrap()).collect()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One passive checkpoint by a process that comes and goes.
pub(crate) fn passive(path: &Path) -> Copied {
    Elsewhere::open(path, Duration::ZERO).passive()
}
