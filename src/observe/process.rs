//! What the operating system says about this process, under the names that
//! Prometheus' own libraries use.

/// Numbers about this process; those that cannot be told are absent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<f64>,
    pub(super) open_files: Option<f64>,
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
pub(super) fn now() -> Process {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program stands in parentheses and may hold anything.
    let fields: Vec<u64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
        .unwrap_or_default();
    let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
    Process {
        // Fields 14 and 15 of proc(5), user and system; the first here is field 3.
        cpu_seconds: fields.get(11).zip(fields.get(12)).map(|(user, system)| (user + system) as f64 / ticks),
        resident_bytes: fields.get(21).map(|pages| (pages * rustix::param::page_size() as u64) as f64),
        open_files: std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_some_of_everything() {
        let process = super::now();
        assert!(process.resident_bytes.unwrap() > 1e6, "{process:?}");
        assert!(process.open_files.unwrap() >= 3.0, "{process:?}");
        assert!(process.cpu_seconds.is_some(), "{process:?}");
    }
}
