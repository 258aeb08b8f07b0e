"""Where and on how much a command runs, as words of it: `--jobs 8 --launcher slurm --slurm …` shares
work out over jobs; `--num-gpus 8 --partition gpu …` are the words of the released trainer for what
the recipe calls `launch.*`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.settings import LaunchConfig


def add_workers(parser: Any, *, default: int | None = None, of: str = "") -> None:
    """`--workers`. parser: or a group of one. default: None is one for every core. of: whose
    processes, where that is not plain."""
    usual = "by default one for every core" if default is None else f"by default {default}"
    parser.add_argument(
        "--workers", type=_workers, default=default, metavar="N", help=f"processes{of}; {usual}"
    )


def _workers(word: str) -> int:
    if word.isdecimal() and int(word) > 0:
        return int(word)
    raise argparse.ArgumentTypeError(f"found {word}, expected 1 or more")


def add_job_options(parser: Any, what: str) -> None:
    """What may stand on the command line. parser: or a group of one. what: is shared out, in the
    plural."""
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help=f"share the {what} out over N jobs (1)"
    )
    parser.add_argument(
        "--launcher",
        choices=("inline", "local", "slurm"),
        help="inline: in this process; local: in processes of their own; slurm: as one array "
        "(inline; with several jobs local)",
    )
    parser.add_argument(
        "--slurm",
        nargs="*",
        default=[],
        metavar="key=value",
        help="for slurm: partition=…, account=…, …",
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


TRAINER = {
    "num_gpus": ("tasks_per_node", "gpus_per_node"),
    "num_nodes": ("nodes",),
    "partition": ("partition",),
    "qos": ("qos",),
    "account": ("account",),
    "use_cluster": ("launcher",),
}
"""The keys of `launch` that an option of the released trainer sets."""


def add_trainer_options(parser: argparse.ArgumentParser) -> None:
    """The options by which the released trainer is told where to run."""
    group = parser.add_argument_group(
        "where it runs, in the words of SAM 2's own trainer", "by default, what the recipe says"
    )
    group.add_argument(
        "--use-cluster",
        type=int,
        choices=(0, 1),
        help="1: launch.launcher=slurm, 0: launch.launcher=local",
    )
    group.add_argument(
        "--num-gpus",
        type=int,
        metavar="N",
        help="GPUs of a node: launch.tasks_per_node=N and, with SLURM, launch.gpus_per_node=N",
    )
    group.add_argument("--num-nodes", type=int, metavar="N", help="launch.nodes=N")
    for name in ("partition", "qos", "account"):
        group.add_argument(f"--{name}", metavar="NAME", help=f"launch.{name}=NAME")


def trainer_settings(arguments: argparse.Namespace, words: Sequence[str]) -> list[str]:
    """Those options as settings of the recipe. Raises ConfigError where one of `words`, the settings
    given beside them, says the same thing."""
    taken = {word.partition("=")[0] for word in words}
    found = []
    for option, keys in TRAINER.items():
        value = getattr(arguments, option, None)
        if value is None:
            continue
        for key in keys:
            if f"launch.{key}" in taken:
                name = option.replace("_", "-")
                raise ConfigError(f"--{name} and launch.{key}=… are the same; give one of them")
            text = ("local", "slurm")[value] if option == "use_cluster" else value
            found.append(f"launch.{key}={text}")
    return found
