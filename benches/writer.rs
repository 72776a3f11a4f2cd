//! The application in the benchmarks: makes a database and writes to it, with
//! the time of every commit.
//!
//! ```text
//! writer make PATH --mb 450            a database of that size, in WAL mode
//! writer write PATH --seconds 20       commits of 20 rows, at full speed or --rate per second,
//!                                      with --readers transactions held for --hold-ms
//! writer burst PATH --mb 300           one transaction of that size
//! ```
//!
//! The result is one line of JSON on standard output. Rows look like what
//! applications keep: text with numbers in it, which compresses to about half.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Statement, params};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Bytes of text in a row.
const ROW: usize = 200;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(job), Some(path)) = (arguments.next(), arguments.next()) else {
        return Err("usage: writer make|write|burst PATH [--OPTION NUMBER]...".into());
    };
    let options = Options::parse(arguments)?;
    let path = Path::new(&path);
    let result = match job.as_str() {
        "make" => make(path, &options)?,
        "write" => write(path, &options)?,
        "burst" => burst(path, &options)?,
        other => return Err(format!("unknown job {other}").into()),
    };
    println!("{result}");
    Ok(())
}

/// Every option is a number.
struct Options {
    megabytes: u64,
    seconds: u64,
    /// Rows changed by a commit, and how many of them are updates of old rows.
    rows: u64,
    updates: u64,
    /// Commits per second; 0 = as fast as possible.
    rate: u64,
    readers: u64,
    hold: Duration,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let hold = Duration::from_millis(1500);
        let mut options = Self { megabytes: 450, seconds: 10, rows: 20, updates: 5, rate: 0, readers: 0, hold };
        while let Some(name) = arguments.next() {
            let value: u64 = arguments.next().ok_or(format!("{name} needs a number"))?.parse()?;
            match name.as_str() {
                "--mb" => options.megabytes = value,
                "--seconds" => options.seconds = value,
                "--rows" => options.rows = value,
                "--updates" => options.updates = value,
                "--rate" => options.rate = value,
                "--readers" => options.readers = value,
                "--hold-ms" => options.hold = Duration::from_millis(value),
                other => return Err(format!("unknown option {other}").into()),
            }
        }
        Ok(options)
    }
}

fn open(path: &Path) -> Result<Connection> {
    let database = Connection::open(path)?;
    database.busy_timeout(Duration::from_secs(5))?;
    database.execute_batch("PRAGMA synchronous = NORMAL")?;
    Ok(database)
}

fn make(path: &Path, options: &Options) -> Result<Value> {
    let database = Connection::open(path)?;
    database.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
         CREATE TABLE events(id INTEGER PRIMARY KEY, number INTEGER, text TEXT)",
    )?;
    let rows = options.megabytes * 1_000_000 / (ROW as u64 + 24);
    database.execute_batch("BEGIN")?;
    insert(&mut database.prepare(INSERT)?, &mut Text::new(1), rows)?;
    database.execute_batch("COMMIT")?;
    database.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    Ok(json!({ "rows": rows, "bytes": std::fs::metadata(path)?.len() }))
}

const INSERT: &str = "INSERT INTO events(number, text) VALUES (?, ?)";

fn insert(statement: &mut Statement<'_>, text: &mut Text, rows: u64) -> Result<()> {
    for _ in 0..rows {
        statement.execute(params![text.number().cast_signed(), text.row()])?;
    }
    Ok(())
}

fn write(path: &Path, options: &Options) -> Result<Value> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..options.readers {
            let (stop, wait) = (&stop, options.hold / 3 * u32::try_from(reader)?);
            scope.spawn(move || {
                std::thread::sleep(wait);
                read(path, options.hold, stop)
            });
        }
        let written = commits(path, options);
        stop.store(true, Ordering::Relaxed);
        written
    })
}

/// Read transactions of different lengths up to `hold`, one after the other.
fn read(path: &Path, hold: Duration, stop: &AtomicBool) -> Result<()> {
    let database = open(path)?;
    let mut text = Text::new(7);
    while !stop.load(Ordering::Relaxed) {
        database.execute_batch("BEGIN")?;
        database.query_row("SELECT max(id) FROM events", [], |row| row.get::<_, i64>(0))?;
        let until = Instant::now() + hold.mul_f64(0.5 + 0.5 * text.fraction());
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        database.execute_batch("COMMIT")?;
    }
    Ok(())
}

fn commits(path: &Path, options: &Options) -> Result<Value> {
    let database = open(path)?;
    let old_rows: i64 = database.query_row("SELECT max(id) FROM events", [], |row| row.get(0))?;
    let mut text = Text::new(3);
    let mut took: Vec<Duration> = Vec::new();
    let mut begin = database.prepare("BEGIN IMMEDIATE")?;
    let mut commit = database.prepare("COMMIT")?;
    let mut add = database.prepare(INSERT)?;
    let mut change = database.prepare("UPDATE events SET text = ? WHERE id = ?")?;
    let begun = Instant::now();
    let end = begun + Duration::from_secs(options.seconds);
    let pause = if options.rate > 0 { Duration::from_secs(1) / u32::try_from(options.rate)? } else { Duration::ZERO };
    let mut next = begun;
    while Instant::now() < end {
        if options.rate > 0 {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            next += pause;
        }
        let start = Instant::now();
        begin.execute([])?;
        insert(&mut add, &mut text, options.rows.saturating_sub(options.updates))?;
        for _ in 0..options.updates.min(options.rows) {
            let id = text.below(old_rows.unsigned_abs()) + 1;
            change.execute(params![text.row(), id.cast_signed()])?;
        }
        commit.execute([])?;
        took.push(start.elapsed());
    }
    let ended = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    let seconds = begun.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |share: f64| took.get(index(took.len(), share)).map_or(0.0, |t| t.as_secs_f64() * 1000.0);
    drop((begin, commit, add, change));
    // Closing would checkpoint the log; the process just ends, as most applications do.
    std::mem::forget(database);
    Ok(json!({
        "commits": took.len(),
        "seconds": seconds,
        "ended": ended,
        "per_second": took.len() as f64 / seconds,
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "p999_ms": at(0.999),
        "longest_ms": at(1.0),
    }))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into a list is neither")]
fn index(length: usize, share: f64) -> usize {
    ((length as f64 * share).ceil() as usize).clamp(1, length.max(1)) - 1
}

fn burst(path: &Path, options: &Options) -> Result<Value> {
    let database = open(path)?;
    let begun = Instant::now();
    let rows = options.megabytes * 1_000_000 / (ROW as u64 + 24);
    database.execute_batch("BEGIN IMMEDIATE")?;
    insert(&mut database.prepare(INSERT)?, &mut Text::new(5), rows)?;
    database.execute_batch("COMMIT")?;
    let seconds = begun.elapsed().as_secs_f64();
    std::mem::forget(database);
    Ok(json!({ "rows": rows, "seconds": seconds }))
}

/// Text from a small random number generator (xorshift64*).
struct Text {
    state: u64,
    row: String,
}

impl Text {
    fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), row: String::with_capacity(ROW + 64) }
    }

    fn number(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    fn fraction(&mut self) -> f64 {
        self.below(1 << 20) as f64 / f64::from(1 << 20)
    }

    fn row(&mut self) -> &str {
        let (a, b, c) = (self.number(), self.number(), self.number());
        self.row.clear();
        let row = &mut self.row;
        write!(
            row,
            r#"{{"user":"{a:016x}","action":"{}","path":"/items/{b:016x}/details","agent":"Mozilla/5.0 (X11; Linux x86_64)","session":"{c:016x}{a:x}","status":200,"referrer":"https://example.org/list""#,
            ["view", "edit", "buy", "leave"][(a % 4) as usize],
        )
        .expect("a string takes everything");
        while row.len() < ROW - 1 {
            row.push(' ');
        }
        row.truncate(ROW - 1);
        row.push('}');
        row
    }
}
