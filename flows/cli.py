"""`sam2-pipeline`: the command line.

Settings are words of the form key=value, as in the recipe files. Everything a person can get wrong
ends in one line and exit code 2; heavy libraries are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import errno
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from flows import part_options
from flows.compare_words import EXAMPLES as COMPARE_EXAMPLES
from flows.compare_words import add_options as add_compare
from flows.evaluate import EXAMPLES as EVALUATE_EXAMPLES
from flows.evaluate import add_options as add_evaluate
from flows.jobs import add_trainer_options
from flows.predict_words import EXAMPLES as PREDICT_EXAMPLES
from flows.predict_words import add_options as add_predict
from flows.speed import EXAMPLES as SPEED_EXAMPLES
from flows.speed import add_options as add_speed
from pipeline.cli import run_cli
from pipeline.config import did_you_mean
from pipeline.errors import ConfigError, StorageError

MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""What a disk may answer that is for its owner to mend, not a defect of ours."""

EXAMPLES = {
    **part_options.EXAMPLES,
    "run": """examples:
  sam2-pipeline run                                  the small model on the synthetic world
  sam2-pipeline run recipe=small --seed 1            longer, another world and another start
  sam2-pipeline run recipe=smoke stages.video_train.steps=2000 run_name=longer
  sam2-pipeline run recipe=smoke start_at=joint_train
  sam2-pipeline run recipe=finetune datasets.train.root=/data/DAVIS checkpoint=runs/smoke/final.pt
  sam2-pipeline run recipe=three_stage --use-cluster 1 --partition gpu --num-nodes 4 --num-gpus 8

The same command continues a run that was stopped; stages that are done are not repeated.""",
    "stage": """examples:
  sam2-pipeline stage image_pretrain recipe=smoke
  sam2-pipeline stage video_train.evaluate recipe=smoke
  sam2-pipeline stage video_train recipe=smoke checkpoint=image_model.pt""",
    "plan": """examples:
  sam2-pipeline plan                                        the recipe smoke
  sam2-pipeline plan recipe=three_stage
  sam2-pipeline plan recipe=mose_finetune --memory 24       how each stage fits into 24 GiB""",
    "evaluate": EVALUATE_EXAMPLES,
    "compare": COMPARE_EXAMPLES,
    "predict": PREDICT_EXAMPLES,
    "speed": SPEED_EXAMPLES,
    "reap": """examples:
  sam2-pipeline reap                       jobs nobody waits for, and what else killed runs left
  sam2-pipeline reap runs/smoke --yes      end them, and remove the leftovers

Exit code 0: nothing is left; 1: something is. A run that lives, and its jobs, are left alone.""",
    "up": "The ports can also be set with SAM2_PREFECT_PORT, SAM2_MLFLOW_PORT and "
    "SAM2_TENSORBOARD_PORT.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sam2-pipeline` with `argv` (by default the process's) and return its exit code.

    0 done, 2 something to mend (one line says what), 130 Ctrl-C, 143 terminated.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return run_cli(lambda: _call(words))


def _call(words: list[str]) -> int:
    parser = _parser()
    try:
        arguments, rest = parser.parse_known_args(words)
    except SystemExit as end:  # --help has been printed
        return int(end.code or 0)
    if any(word.startswith("-") for word in rest) or (rest and not hasattr(arguments, "settings")):
        _refuse(parser, arguments, rest)
    if rest:  # settings that follow an option
        arguments.settings = [*arguments.settings, *rest]
    from flows import commands

    try:
        return int(getattr(commands, arguments.function)(arguments))
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise StorageError(f"{error.strerror}{where}; free space or mend permissions") from error


def _refuse(parser: _Parser, arguments: argparse.Namespace, rest: list[str]) -> NoReturn:
    """Say which words mean nothing to the command, and which option the first may have meant."""
    command = parser.commands[arguments.function.replace("_", "-")]
    known = [name[2:] for name in command._option_string_actions if name.startswith("--")]
    word = next((word[2:] for word in rest if word.startswith("--")), "").partition("=")[0]
    near = re.sub("'(.*?)'", r"--\1", did_you_mean(word, known)) if word else ""
    command.error(f"unrecognized arguments: {' '.join(rest)}{near if 'mean' in near else ''}")


class _Parser(argparse.ArgumentParser):
    """Misuse in one line, as everywhere else."""

    commands: Mapping[str, argparse.ArgumentParser] = {}
    """Of the main parser: what may come first."""

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '(.*?)'", message)
        if found and self.commands:
            message = f"there is no command {found[1]!r}{did_you_mean(found[1], self.commands)}"
        if message.endswith("expected one argument"):
            message += "; one that begins with - is given as --option=-5,0"
        raise ConfigError(f"{message} (see `{self.prog} --help`)")


def _parser() -> _Parser:
    parser = _Parser(
        prog="sam2-pipeline",
        description="Train SAM 2: images, then video, then both, evaluated after each.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, help_text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            epilog=EXAMPLES.get(name),
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(function=name.replace("-", "_"))
        return made

    run = command("run", "run a recipe from data to report, or continue it")
    stage = command("stage", "run or continue one stage of a recipe")
    stage.add_argument("name", metavar="NAME", help="the stage's name in the recipe")
    plan = command("plan", "list the stages of a recipe: what is done, what would run")
    plan.add_argument(
        "--memory", type=_gib, metavar="GIB", help="also fit each training stage into such a GPU"
    )
    for made in (run, stage, plan):
        _add_settings(made)
        add_trainer_options(made)
    command("recipes", "list the recipes")
    _add_parts(command)
    up = command("up", "start Prefect with all deployments, MLflow and TensorBoard on this machine")
    up.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="the runs folder (runs)"
    )
    for name, usual in (("prefect", 4200), ("mlflow", 5050), ("tensorboard", 6006)):
        up.add_argument(f"--{name}-port", type=int, metavar="PORT", help=f"({usual})")
    command("down", "stop what `up` started")
    command("status", "show what `up` started")
    _add_reap(command("reap", "list what killed runs left behind, and end it"))
    parser.commands = commands.choices
    return parser


def _add_reap(reap: argparse.ArgumentParser) -> None:
    reap.add_argument(
        "runs",
        nargs="?",
        type=Path,
        default=Path("runs"),
        metavar="RUNS",
        help="the runs folder, or one run of it (runs)",
    )
    reap.add_argument("--yes", action="store_true", help="end all of it; otherwise only list")
    reap.add_argument("--json", action="store_true", help="the list as JSON")


def _gib(word: str) -> float:
    try:
        if 0 < (size := float(word)) < float("inf"):
            return size
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"found {word}, expected more than 0, as --memory 24")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="key=value",
        help="recipe=NAME (smoke), start_at=STAGE, stop_after=STAGE, checkpoint=FILE|URL|runs:/…, "
        "run_name=NAME, or any key of the recipe",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of all randomness; same as seed=N (0)"
    )


def _add_parts(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """The parts of a run that are useful alone."""
    part_options.add_synth(
        command("synth", "draw a synthetic world in the formats of the real data sets")
    )
    part_options.add_extract(
        command("extract-frames", "extract frames of videos, skipping what is there")
    )
    part_options.add_doctor(
        command("doctor", "look for what is wrong with data sets, and draw a sheet of them")
    )
    part_options.add_clips(command("clips", "draw what a training stage will see"))
    part_options.add_convert(
        command("convert", "turn labels of other tools into a layout that training reads")
    )
    add_evaluate(command("evaluate", "measure a checkpoint, or a folder of predicted masks"))
    add_compare(command("compare", "results side by side, and how sure their difference is"))
    add_predict(command("predict", "masks for pictures, videos or a data set, with a checkpoint"))
    add_speed(command("speed", "time networks on this machine: frames a second, latency, memory"))
    part_options.add_export(
        command("export", "write a checkpoint's weights so that other code loads them")
    )
    part_options.add_lineage(
        command("lineage", "trace a checkpoint back to its stages, weights and data")
    )
    part_options.add_sync(command("sync", "send what MLflow, and copy what mirrors, did not take"))
