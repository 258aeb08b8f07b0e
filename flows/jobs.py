"""Sharing work out over jobs, as words of a command: `--jobs 8 --launcher slurm --slurm …`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.settings import LaunchConfig


def add_job_options(parser: Any, what: str) -> None:
    """What may stand on the command line. parser: or a group of one. what: is shared out, in the
    plural."""
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help=f"share the {what} (1)")
    parser.add_argument(
        "--launcher", choices=("inline", "local", "slurm"), help="where the jobs run (inline)"
    )
    parser.add_argument(
        "--slurm", nargs="*", default=[], metavar="key=value", help="partition=…, account=… …"
    )


def launch_config(arguments: argparse.Namespace, threads: int | None = None) -> LaunchConfig | None:
    """How the jobs are started; None for the work of this process. Raises ConfigError.

    threads: of each job; None leaves it what a job has.
    """
    from pipeline.config import parse
    from pipeline.settings import LaunchConfig

    if arguments.jobs < 1:
        raise ConfigError(f"--jobs {arguments.jobs}: expected 1 or more")
    launcher = arguments.launcher or ("local" if arguments.jobs > 1 else "inline")
    if launcher == "inline":
        if arguments.jobs > 1 or arguments.slurm:
            raise ConfigError("--jobs and --slurm share work out; add --launcher local or slurm")
        return None
    if arguments.slurm and launcher != "slurm":
        raise ConfigError("--slurm key=value belongs to --launcher slurm")
    values: dict[str, Any] = {"launcher": launcher, "threads": threads}
    for word in arguments.slurm:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"--slurm {word!r}: expected key=value, as partition=cpu")
        values[key] = int(value) if value.isdecimal() else value
    return parse(LaunchConfig, values, where="--slurm")
