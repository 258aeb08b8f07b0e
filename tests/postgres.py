"""A Postgres server of its own in a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ACCOUNT = "postgres"
"""Postgres refuses to run as root; this account of Debian's package is used then."""


def why_no_postgres() -> str:
    """Why there can be none here; empty where there can."""
    return "" if _programs() else "no Postgres here: apt-get install postgresql"


@contextmanager
def postgres_server(port: int, user: str, password: str) -> Iterator[None]:
    """A server on 127.0.0.1 with one database of its user's name, as its official image makes it."""
    programs = _programs()
    assert programs is not None
    account = ACCOUNT if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    word = folder / "password"
    word.write_text(password)
    if account:
        for path in (folder, word):
            shutil.chown(path, account, account)
    try:
        create = [programs / "initdb", "-D", folder / "data", "-U", user, "--pwfile", word]
        create += ["--auth", "scram-sha-256", "--no-sync", "--encoding", "UTF8"]
        subprocess.run(create, user=account, cwd="/", check=True, capture_output=True)
        serve = [programs / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port)]
        serve += ["-k", folder, "-c", "fsync=off"]
        with open(folder / "log", "wb") as log:
            server = subprocess.Popen(serve, user=account, cwd="/", stdout=log, stderr=log)
        try:
            environment = {**os.environ, "PGPASSWORD": password}
            make = [programs / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", user, user]
            until = time.monotonic() + 60
            while subprocess.run(
                make, env=environment, capture_output=True, check=False
            ).returncode:
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until, "Postgres does not answer"
                time.sleep(0.1)
            yield
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shutil.rmtree(folder)


def _programs() -> Path | None:
    """The folder of initdb and its like; Debian keeps it off the PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    names = ("initdb", "postgres", "createdb")
    return next((one for one in folders if all((one / name).exists() for name in names)), None)
