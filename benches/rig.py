"""What the measurements share: programs, databases, sidecars that are watched.

Always true: a process that is measured is a direct child and is waited for, so
its CPU time is exact; scratch files are in one temporary directory that is
removed at the end; a restored database is compared with its source before any
number about it is printed.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
MB = 1_000_000
TICK = os.sysconf("SC_CLK_TCK")


def programs():
    """Builds what is measured, or takes what the environment names."""
    brooklet, writer = os.environ.get("BROOKLET_BIN"), os.environ.get("WRITER_BIN")
    if not (brooklet and writer):
        subprocess.run(
            ["cargo", "build", "--quiet", "--locked", "--release", "--bin", "brooklet", "--example", "writer"],
            cwd=ROOT, check=True,
        )
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
        brooklet, writer = brooklet or target / "brooklet", writer or target / "examples" / "writer"
    return {"brooklet": str(brooklet), "writer": str(writer), "official": os.environ.get("LITESTREAM_BIN")}


def machine():
    """Where the numbers come from."""
    model = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
    memory = next(int(l.split()[1]) for l in open("/proc/meminfo") if l.startswith("MemTotal"))
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e6, 1),
        "load_before": os.getloadavg()[0],
    }


@contextlib.contextmanager
def scratch():
    """A directory for everything that is measured, gone afterwards."""
    parent = os.environ.get("BENCH_DIR")
    directory = pathlib.Path(tempfile.mkdtemp(prefix="brooklet-bench-", dir=parent))
    try:
        yield directory
    finally:
        for process in list(_running):
            process.kill()
            process.wait()
        shutil.rmtree(directory, ignore_errors=True)


_running = set()


def run_json(command):
    """Runs a program that prints one line of JSON."""
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def copy(source, target):
    """A fresh copy, on disk before anything is measured. A child process copies:
    opening and closing a database file would drop the locks of this process."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", source, target], check=True)
    subprocess.run(["sync", "-f", target.parent], check=True)


def remove(path):
    """Removes a file or a directory that may be there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def status_field(pid, name):
    try:
        found = re.search(rf"^{name}:\s+(\d+)", open(f"/proc/{pid}/status").read(), re.M)
        return int(found[1]) * 1024 if found else 0
    except OSError:
        return 0


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class LogSize:
    """The largest size that a WAL had while it was watched."""

    def __init__(self, database):
        self.path, self.peak = f"{database}-wal", 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self):
        while not self._stop.wait(0.01):
            with contextlib.suppress(OSError):
                self.peak = max(self.peak, os.stat(self.path).st_size)

    def end(self):
        self._stop.set()
        self._thread.join()
        return self.peak


class Measured:
    """A child process under observation: memory and input/output by sampling,
    CPU time exactly, from the system's account at its end."""

    def __init__(self, command, log):
        self.peak = 0
        self.io = {}
        self.log = log
        self.begun = time.monotonic()
        with open(log, "wb") as out:
            self.process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=out)
        self.pid = self.process.pid
        _running.add(self.process)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self):
        while not self._stop.wait(0.01):
            self.peak = max(self.peak, status_field(self.pid, "VmHWM"))
            with contextlib.suppress(OSError):
                lines = open(f"/proc/{self.pid}/io").read().split("\n")
                self.io = {k: int(v) for k, v in (l.split(": ") for l in lines if l)}

    def take_peak(self):
        """The peak since it was last taken."""
        taken = max(self.peak, status_field(self.pid, "VmHWM"))
        pathlib.Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # proc(5): resets the peak
        self.peak = 0
        return taken

    def wait(self, timeout=120):
        """Waits for the end; gives the seconds of CPU it used in all."""
        deadline = time.monotonic() + timeout
        while True:
            pid, code, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                self.process.kill()
                raise SystemExit(f"{self.process.args[0]} did not end within {timeout} s; see {self.log}")
            time.sleep(0.001)
        self.seconds = time.monotonic() - self.begun
        self.process.returncode = os.waitstatus_to_exitcode(code)
        _running.discard(self.process)
        self._stop.set()
        self._thread.join()
        if self.process.returncode != 0:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise SystemExit(f"{self.process.args[0]} failed with {self.process.returncode}:\n{tail}")
        return usage.ru_utime + usage.ru_stime


class Sidecar(Measured):
    """`replicate`, from the same configuration for either program."""

    def __init__(self, program, directory, database, options=None, logging=""):
        self.database = database
        self.replica = directory / "replica"
        self.config = directory / "sidecar.yml"
        # In JSON, which is YAML.
        entry = {"path": str(database), "replica": {"type": "file", "path": str(self.replica)}, **(options or {})}
        document = {"dbs": [entry]}
        if logging:
            document["logging"] = {"level": logging}
        self.config.write_text(json.dumps(document))
        self.program = program
        command = [program, "replicate", "-config", self.config]
        super().__init__(command, directory / "sidecar.log")

    def settle(self, timeout=120):
        """Waits until the base is on the replica and nothing goes on any more."""
        deadline = time.monotonic() + timeout
        cpu, calm = cpu_seconds(self.pid), 0
        while calm < 8:
            time.sleep(0.1)
            now = cpu_seconds(self.pid)
            # A sidecar that polls is never quite idle.
            calm = calm + 1 if now - cpu <= 0.02 and objects(self.replica) and not drafts(self.replica) else 0
            cpu = now
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.program} did not finish its first upload within {timeout} s; see {self.log}")

    def stop(self):
        """A graceful stop: returns when everything is replicated."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()


def objects(replica):
    """The files of a replica and their sizes."""
    found = {}
    for path in replica.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and not path.name.endswith(".tmp"):
                found[path] = path.stat().st_size
    return found


def drafts(replica):
    return any(p.name.endswith(".tmp") for p in replica.rglob("*"))


def checksum(database):
    """Two databases with the same answer hold the same rows."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA busy_timeout = 5000")
        return connection.execute(
            "SELECT count(*), max(id), total(number), sum(length(text)), total(unicode(text) * id), max(rowid) FROM events"
        ).fetchone()


def restore(program, config, database, target):
    """Restores and proves the result. Gives seconds, CPU seconds and peak memory."""
    command = [program, "restore", "-config", config, "-o", target, database]
    restoring = Measured(command, target.parent / "restore.log")
    cpu = restoring.wait()
    if checksum(target) != checksum(database):
        raise SystemExit(f"{program} restored another database: {checksum(target)} instead of {checksum(database)}")
    return {"seconds": restoring.seconds, "cpu_seconds": cpu, "peak_bytes": restoring.peak}


def timed_copy(source, target):
    """How long `cp` takes, the measure for a restore."""
    begun = time.monotonic()
    subprocess.run(["cp", source, target], check=True)
    seconds = time.monotonic() - begun
    remove(target)
    return seconds


def keep(name, result):
    """Writes the numbers where the documentation's tables come from."""
    directory = ROOT / "benches" / "results"
    directory.mkdir(exist_ok=True)
    path = directory / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nnumbers: {path}", file=sys.stderr)


def table(head, rows):
    """Prints a table whose columns line up."""
    rows = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for number, row in enumerate(rows):
        first, *rest = zip(row, widths)
        print("| " + " | ".join([first[0].ljust(first[1])] + [c.rjust(w) for c, w in rest]) + " |")
        if number == 0:
            print("|" + "|".join(["-" * (widths[0] + 2)] + ["-" * (w + 1) + ":" for w in widths[1:]]) + "|")


def verdict(name, value, limit, smaller=True, unit=""):
    """One line about one target; `None` when it was not measured."""
    if value is None:
        return None
    met = value <= limit if smaller else value >= limit
    sign = "<=" if smaller else ">="
    print(f"{'met   ' if met else 'MISSED'}  {name}: {value:.3g}{unit} (target {sign} {limit:g}{unit})")
    return {"name": name, "value": value, "limit": limit, "met": met}
