#!/usr/bin/env python3
"""Makes the old backups under litestream-0.3.13/ with the official program.

    make-litestream-0.3.py path/to/litestream-0.3

Replicates a small database through two generations, several snapshots and
several logs, once as it is and once encrypted with age. `moments.txt` keeps
what file systems and version control do not: when each object was stored
("file", milliseconds), and what the program itself restores for moments in
between ("state": the moment, size and CRC-32 of what it restores, CRC-32 of the
rows that were in the source).
"""

import datetime
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zlib

# Made for this; it opens nothing else.
IDENTITY = "AGE-SECRET-KEY-1ZCRJL6XNTLZ6U3V3Z9WHPH6L0L8NUCTTZ7JCT42KR538HF6QZ5KQX44TQA"
RECIPIENT = "age1gypn09uk9gptdrx6vdmrc8agvplwyl8262yfd9ggnfm529cndg4qe94wtt"

CONFIG = """
dbs:
  - path: {dir}/db
    monitor-interval: 50ms
    min-checkpoint-page-count: 12
    replicas:
      - type: file
        path: {dir}/replica
        sync-interval: 50ms
        snapshot-interval: 1500ms
"""
AGE = """        age:
          identities: ["{identity}"]
          recipients: ["{recipient}"]
"""


def files(replica):
    found = {}
    for path in sorted(replica.glob("generations/*/*/*.lz4")):
        stat = path.stat()
        found[str(path.relative_to(replica))] = (stat.st_size, stat.st_mtime_ns)
    return found


def settle(replica, before):
    """Waits until something was stored, and then until nothing more is."""
    deadline = time.monotonic() + 30
    while (now := files(replica)) == before:
        if time.monotonic() > deadline:
            sys.exit("gave up waiting for an upload")
        time.sleep(0.02)
    while True:
        time.sleep(0.4)
        if (again := files(replica)) == now:
            return now
        now = again


def make(binary, page_size, config, target):
    with tempfile.TemporaryDirectory() as name:
        dir = pathlib.Path(name)
        (dir / "config.yml").write_text(config.format(dir=dir))
        replica = dir / "replica"
        conn = sqlite3.connect(dir / "db", timeout=10, isolation_level=None)
        conn.execute(f"PRAGMA page_size={page_size}")
        conn.execute("PRAGMA journal_mode=WAL")
        conn.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
        moments = []
        step = 0
        for life in range(2):
            before = files(replica)
            daemon = subprocess.Popen([binary, "replicate", "-config", dir / "config.yml"],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                for _ in range(5):
                    conn.execute("BEGIN")
                    for row in range(6):
                        text = f"step {step} row {row} " * (page_size // 24)
                        conn.execute("INSERT INTO t(v) VALUES (?)", (text,))
                    if step % 3 == 2:
                        conn.execute("DELETE FROM t WHERE id % 3 > 0")
                    conn.execute("COMMIT")
                    if step % 5 == 3:
                        conn.execute("VACUUM")
                    before = settle(replica, before)
                    rows = "".join(f"{id}|{v}\n" for id, v in conn.execute("SELECT id, v FROM t ORDER BY id"))
                    moments.append((time.time_ns() // 1_000_000, f"{zlib.crc32(rows.encode()):08x}"))
                    time.sleep(0.01)
                    step += 1
            finally:
                daemon.send_signal(signal.SIGINT)
                daemon.wait(30)
            # Without its memory it begins another generation.
            shutil.rmtree(dir / ".db-litestream")
        conn.close()
        lines = [f"file {mtime // 1_000_000} {name}" for name, (_, mtime) in files(replica).items()]
        for moment, rows in moments:
            when = datetime.datetime.fromtimestamp(moment / 1000, datetime.timezone.utc).isoformat()
            out = dir / "restored"
            done = subprocess.run([binary, "restore", "-config", dir / "config.yml", "-timestamp", when, "-o", out, dir / "db"],
                                  stdout=subprocess.DEVNULL)
            if done.returncode == 0:
                restored = out.read_bytes()
                lines.append(f"state {moment} {len(restored)} {zlib.crc32(restored):08x} {rows}")
            else:
                # It refuses moments after the last change of a generation.
                lines.append(f"state {moment} none none {rows}")
            for left in dir.glob("restored*"):
                left.unlink()
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(replica, target)
        (target / "moments.txt").write_text("\n".join(lines) + "\n")


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    here = pathlib.Path(__file__).parent / "litestream-0.3.13"
    make(binary, 512, CONFIG, here / "plain")
    make(binary, 4096, CONFIG + AGE.format(identity=IDENTITY, recipient=RECIPIENT), here / "age")


main()
