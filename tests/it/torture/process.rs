//! The processes of a run: applications that write, and the program that follows.
//! Dropping one kills it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::PATIENCE;

/// One application process: `examples/app.rs`.
pub(crate) struct App {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl App {
    pub(crate) fn start(database: &Path, log: &Path) -> Result<Self, String> {
        let program = program()?;
        let mut child = Command::new(&program)
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(append(log)?)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let output = child.stdout.take().expect("it is a pipe");
        let (send, answers) = channel();
        // A thread, so that an answer can be waited for with a deadline. It ends with the process.
        std::thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        let input = child.stdin.take();
        Ok(Self { child, input, answers })
    }

    /// Gives an order without waiting for the answer.
    pub(crate) fn order(&mut self, line: &str) -> Result<(), String> {
        let input = self.input.as_mut().expect("open until it leaves");
        writeln!(input, "{line}").map_err(|error| format!("the application is gone at {line:?}: {error}"))
    }

    /// Waits until the oldest order is carried out.
    pub(crate) fn answer(&mut self) -> Result<(), String> {
        match self.answers.recv_timeout(PATIENCE) {
            Ok(line) if line == "ok" => Ok(()),
            Ok(line) => Err(format!("the application {line}")),
            Err(error) => Err(format!("the application does not answer: {error}")),
        }
    }

    pub(crate) fn obey(&mut self, line: &str) -> Result<(), String> {
        self.order(line)?;
        self.answer()
    }

    /// It closes what it has open and exits.
    pub(crate) fn leave(mut self) -> Result<(), String> {
        self.input = None;
        let status = exited(&mut self.child, PATIENCE)?;
        if status.success() { Ok(()) } else { Err(format!("the application ended with {status}")) }
    }

    pub(crate) fn kill(&mut self) {
        end(&mut self.child);
    }

    pub(crate) fn stand_still(&self) {
        send(&self.child, Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        send(&self.child, Signal::CONT);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Cargo builds the examples whenever it builds these tests with nothing else selected.
fn program() -> Result<PathBuf, String> {
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = here.ancestors().nth(2).unwrap_or(Path::new(".")).join("examples/app");
    match program.exists() {
        true => Ok(program),
        false => Err(format!("{} is missing: `cargo build --example app` makes it", program.display())),
    }
}

/// Who follows the databases.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    Brooklet(PathBuf),
    Litestream(PathBuf),
}

impl Program {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Brooklet(path) | Self::Litestream(path) => path,
        }
    }

    pub(crate) fn is_litestream(&self) -> bool {
        matches!(self, Self::Litestream(_))
    }
}

/// The program that follows, running or not.
pub(crate) struct Follower {
    program: Program,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    told_to_stop: bool,
}

/// How a follower that was asked to stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Everything is on the replica.
    Well,
    /// The signal came before it was ready to handle one.
    TooEarly,
}

impl Follower {
    pub(crate) fn new(program: Program, config: PathBuf, log: PathBuf) -> Self {
        Self { program, config, log, child: None, told_to_stop: false }
    }

    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn start(&mut self) -> Result<(), String> {
        if self.child.is_none() {
            let child = self.command("replicate").spawn();
            self.told_to_stop = false;
            self.child = Some(child.map_err(|error| format!("cannot start {:?}: {error}", self.program))?);
        }
        Ok(())
    }

    /// Waits until it has taken up this many databases since it was started.
    pub(crate) fn attached(&mut self, databases: usize, since: u64) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let new = log.get(usize::try_from(since).unwrap_or(0)..).unwrap_or_default();
            if new.matches("initialized db").count() >= databases {
                return Ok(());
            }
            let Some(child) = &mut self.child else { return Err("it is not running".to_owned()) };
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("the follower ended by itself with {status}"));
            }
            if Instant::now() > deadline {
                return Err("the databases were not taken up in time".to_owned());
            }
            std::thread::sleep(TICK);
        }
    }

    pub(crate) fn log_length(&self) -> u64 {
        std::fs::metadata(&self.log).map_or(0, |meta| meta.len())
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            end(&mut child);
        }
    }

    pub(crate) fn stand_still(&self) {
        self.child.iter().for_each(|child| send(child, Signal::STOP));
    }

    pub(crate) fn go_on(&self) {
        self.child.iter().for_each(|child| send(child, Signal::CONT));
    }

    /// SIGTERM, without waiting.
    pub(crate) fn tell_to_stop(&mut self) {
        // A second signal would mean: at once.
        if let Some(child) = self.child.as_ref().filter(|_| !self.told_to_stop) {
            send(child, Signal::TERM);
            self.told_to_stop = true;
        }
    }

    /// SIGTERM, and wait.
    pub(crate) fn stop(&mut self) -> Result<Stopped, String> {
        use std::os::unix::process::ExitStatusExt;
        self.tell_to_stop();
        let Some(mut child) = self.child.take() else { return Ok(Stopped::Well) };
        let status = exited(&mut child, PATIENCE);
        let status = status.inspect_err(|_| end(&mut child))?;
        match (status.success(), status.signal()) {
            (true, _) => Ok(Stopped::Well),
            (false, Some(15)) => Ok(Stopped::TooEarly),
            _ => Err(format!("the follower was told to stop and ended with {status}")),
        }
    }

    /// Replicates what there is and ends.
    pub(crate) fn once(&mut self) -> Result<(), String> {
        let mut child = self.command("replicate").arg("-once").spawn().map_err(|error| error.to_string())?;
        let status = exited(&mut child, PATIENCE).inspect_err(|_| end(&mut child))?;
        if status.success() { Ok(()) } else { Err(format!("replicate -once ended with {status}")) }
    }

    /// Restores a database. `Err` with what the program said if it did not.
    pub(crate) fn restore(&self, database: &Path, to: &Path, txid: Option<&str>) -> Result<(), String> {
        let mut command = Command::new(self.program.path());
        command.arg("restore").arg("-config").arg(&self.config).arg("-o").arg(to);
        if let Some(txid) = txid {
            command.args(["-txid", txid]);
        }
        let output = command.arg(database).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("restore failed: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.program.path());
        command.arg(name).arg("-config").arg(&self.config).stdin(Stdio::null());
        let log = || append(&self.log).map_or_else(|_| Stdio::null(), Stdio::from);
        command.stdout(log()).stderr(log());
        command
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.kill();
    }
}

const TICK: Duration = Duration::from_millis(2);

fn append(path: &Path) -> Result<File, String> {
    File::options().create(true).append(true).open(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn exited(child: &mut Child, patience: Duration) -> Result<ExitStatus, String> {
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(TICK),
            Ok(None) => return Err(format!("process {} does not end", child.id())),
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn send(child: &Child, signal: Signal) {
    // It fails only if the child has ended, which those find out who wait for it.
    let _ = kill_process(Pid::from_child(child), signal);
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
