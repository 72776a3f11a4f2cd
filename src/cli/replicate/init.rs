//! The duties of a first process.
//!
//! In a container the program is often process 1, to which the kernel hands over
//! every orphan. Somebody must wait for them, or they stay as zombies until no
//! process can be started any more. The daemon cannot: libraries in it wait for
//! children of their own. So process 1 starts the same program once more, passes
//! every signal on to it, waits for whatever ends, and ends as it ends.

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, Signal as Number, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::error::CliError;

/// What is passed on.
const PASSED_ON: [Number; 7] =
    [Number::INT, Number::TERM, Number::QUIT, Number::HUP, Number::USR1, Number::USR2, Number::WINCH];

/// Returns at once unless this is process 1; there it returns only if the second
/// process could not be started.
pub(super) fn take_over_if_first() -> Result<(), CliError> {
    if std::process::id() != 1 {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::failed)?;
    match runtime.block_on(take_over()) {
        Ok(code) => std::process::exit(code),
        // Without its own executable (no /proc) it can still replicate.
        Err(error) => {
            tracing::warn!(error = %error, "process 1 cannot start the program again: orphaned processes are not waited for");
            Ok(())
        }
    }
}

async fn take_over() -> std::io::Result<i32> {
    let mut signals = Vec::new();
    for number in PASSED_ON {
        signals.push((number, signal(SignalKind::from_raw(number.as_raw()))?));
    }
    let mut ended = signal(SignalKind::child())?;
    let mut command = Command::new(std::env::current_exe()?);
    let mut words = std::env::args_os();
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    // In a group of its own, so that Ctrl-C in a terminal reaches it once: through us.
    let daemon = command.args(words).process_group(0).spawn()?;
    let daemon = Pid::from_child(&daemon);
    loop {
        // Before each wait: the signal for several ends comes once.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == daemon {
                return Ok(code_of(status));
            }
        }
        tokio::select! {
            _ = ended.recv() => {}
            number = any(&mut signals) => drop(kill_process(daemon, number)),
        }
    }
}

async fn any(signals: &mut [(Number, Signal)]) -> Number {
    let each = signals.iter_mut().map(|(number, signal)| {
        Box::pin(async move {
            signal.recv().await;
            *number
        })
    });
    futures::future::select_all(each).await.0
}

/// As a shell would tell it.
fn code_of(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    }
}
