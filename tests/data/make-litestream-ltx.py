#!/usr/bin/env python3
"""Makes the LTX files under litestream-*/ with the official program.

    make-litestream-ltx.py path/to/litestream

Replicates a small database for each page size and keeps the replica as it is:
captured segments (level 0), merged ones (level 1) and snapshots (level 9), and
beside them size and CRC-32 of the database that the program itself restores
from it.
"""

import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zlib

CONFIG = """
levels:
  - interval: 1s
snapshot:
  interval: 2s
dbs:
  - path: {dir}/db
    monitor-interval: 50ms
    replica:
      type: file
      path: {dir}/replica
      sync-interval: 50ms
"""


def wait(what, condition):
    deadline = time.monotonic() + 30
    while not (found := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"gave up waiting for {what}")
        time.sleep(0.02)
    return found


def last_txid(replica, level):
    return max((p.name[17:33] for p in (replica / "ltx" / str(level)).glob("*.ltx")), default="")


def make(binary, page_size, target):
    with tempfile.TemporaryDirectory() as name:
        dir = pathlib.Path(name)
        (dir / "config.yml").write_text(CONFIG.format(dir=dir))
        replica = dir / "replica"
        conn = sqlite3.connect(dir / "db", timeout=10, isolation_level=None)
        conn.execute(f"PRAGMA page_size={page_size}")
        conn.execute("PRAGMA journal_mode=WAL")
        conn.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
        daemon = subprocess.Popen([binary, "replicate", "-config", dir / "config.yml"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            reached = wait("the first segment", lambda: last_txid(replica, 0))
            for step in range(6):
                conn.execute("BEGIN")
                for row in range(8):
                    conn.execute("INSERT INTO t(v) VALUES (?)", (f"step {step} row {row} " * (page_size // 32),))
                if step == 3:
                    conn.execute("DELETE FROM t WHERE id > 5")
                conn.execute("COMMIT")
                if step == 3:
                    conn.execute("VACUUM")
                if step == 4:
                    wait("a merge in between", lambda: last_txid(replica, 1) >= reached)
                before = reached
                reached = wait("the next segment", lambda: (now := last_txid(replica, 0)) > before and now)
            wait("the last merge", lambda: last_txid(replica, 1) >= reached)
            wait("the last snapshot", lambda: last_txid(replica, 9) >= reached)
        finally:
            daemon.send_signal(signal.SIGINT)
            daemon.wait(30)
        conn.close()
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        shutil.copytree(replica / "ltx", target / "ltx")
        subprocess.run([binary, "restore", "-o", dir / "restored", f"file://{replica}"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        restored = (dir / "restored").read_bytes()
        (target / "restored.txt").write_text(f"{len(restored)} bytes, CRC-32 {zlib.crc32(restored):08x}\n")


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    version = subprocess.check_output([binary, "version"], text=True).strip().lstrip("v")
    here = pathlib.Path(__file__).parent
    for page_size in (512, 4096, 65536):
        make(binary, page_size, here / f"litestream-{version}" / str(page_size))


main()
