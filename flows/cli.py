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

from flows.compare_words import EXAMPLES as COMPARE_EXAMPLES
from flows.compare_words import add_options as add_compare
from flows.evaluate import EXAMPLES as EVALUATE_EXAMPLES
from flows.evaluate import add_options as add_evaluate
from flows.jobs import add_job_options, add_trainer_options
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
    "synth": """examples:
  sam2-pipeline synth --out world --seed 7 --images 200 --videos 40""",
    "extract-frames": """examples:
  sam2-pipeline extract-frames --videos /data/sav_train --out /data/sav_frames --every 4
  sam2-pipeline extract-frames --videos film.mov --out frames --fps 6 --short-side 480
  sam2-pipeline extract-frames --videos /data/sav_train --out /data/sav_frames \\
      --launcher slurm --jobs 32 --workers 8 --slurm partition=cpu

Run it again to go on: finished videos are checked and skipped. Exit code 2: some videos are broken;
the others are done, and OUT/extraction.json says which.""",
    "doctor": """examples:
  sam2-pipeline doctor recipe=smoke                     every data set of a recipe
  sam2-pipeline doctor data=davis root=/data/DAVIS      one of your own
  sam2-pipeline doctor data=coco root=/data/coco split=val2017 --quick --html

Exit code 0: healthy; 1: errors, each on a line (with --strict notes count too); 2: could not run.
Formats: sa1b, sav, sav_val, davis, coco, folder.""",
    "clips": """examples:
  sam2-pipeline clips video_train recipe=smoke
  sam2-pipeline clips finetune recipe=mose_finetune --ways --out ways.jpg
  sam2-pipeline clips finetune recipe=mose_finetune --step 5000 --rows 4""",
    "convert": """examples:
  sam2-pipeline convert coco /data/coco --split val2017 --to sa1b --out /data/val_sa1b
  sam2-pipeline convert yolo dataset/data.yaml --split train --to folder --flatten --out train
  sam2-pipeline convert labelme frames --videos --to davis --out mine
  sam2-pipeline convert masks /data/mine --to sav --out /data/mine_sav

Pictures: folder (palette) or sa1b (masks may overlap). Videos: davis (palette) or sav (may overlap).
The new folder appears when all of it is written; every malformed item has its line.""",
    "evaluate": EVALUATE_EXAMPLES,
    "compare": COMPARE_EXAMPLES,
    "predict": PREDICT_EXAMPLES,
    "speed": SPEED_EXAMPLES,
    "export": """examples:
  sam2-pipeline export runs:/3f0c…/checkpoints/model.pt --out sam2.pt
  sam2-pipeline export sam2.1_hiera_tiny.pt --out tiny.safetensors
  sam2-pipeline export runs/smoke/final.pt --out shards --format safetensors --shards

What is written is read back and compared before the command says so.""",
    "reap": """examples:
  sam2-pipeline reap                       jobs nobody waits for, and what else killed runs left
  sam2-pipeline reap runs/smoke --yes      end them, and remove the leftovers

Exit code 0: nothing is left; 1: something is. A run that lives, and its jobs, are left alone.""",
    "lineage": """examples:
  sam2-pipeline lineage models:/sam2-tiny@joint            what an alias of the registry stands on
  sam2-pipeline lineage runs/smoke/final.pt                a file, known by its content
  sam2-pipeline lineage runs/smoke --json""",
    "sync": """examples:
  sam2-pipeline sync                                       every run below runs/
  sam2-pipeline sync runs/smoke --tracking http://mlflow:5000

Exit code 1: some of it still waits. A run that is repeated sends what waits by itself.""",
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
    command = parser.choices[arguments.function.replace("_", "-")]
    known = [name[2:] for name in command._option_string_actions if name.startswith("--")]
    word = next((word[2:] for word in rest if word.startswith("--")), "").partition("=")[0]
    near = re.sub("'(.*?)'", r"--\1", did_you_mean(word, known)) if word else ""
    command.error(f"unrecognized arguments: {' '.join(rest)}{near if 'mean' in near else ''}")


class _Parser(argparse.ArgumentParser):
    """Misuse in one line, as everywhere else."""

    choices: Mapping[str, argparse.ArgumentParser] = {}
    """Of the main parser: what may come first."""

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '(.*?)'", message)
        if found and self.choices:
            message = f"there is no command {found[1]!r}{did_you_mean(found[1], self.choices)}"
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
    parser.choices = commands.choices
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
    _add_synth(command("synth", "draw a synthetic world in the formats of the real data sets"))
    _add_extract(command("extract-frames", "extract frames of videos, skipping what is there"))
    _add_doctor(
        command("doctor", "look for what is wrong with data sets, and draw a sheet of them")
    )
    _add_clips(command("clips", "draw what a training stage will see"))
    _add_convert(command("convert", "turn labels of other tools into a layout that training reads"))
    add_evaluate(command("evaluate", "measure a checkpoint, or a folder of predicted masks"))
    add_compare(command("compare", "results side by side, and how sure their difference is"))
    add_predict(command("predict", "masks for pictures, videos or a data set, with a checkpoint"))
    add_speed(command("speed", "time networks on this machine: frames a second, latency, memory"))
    _add_export(command("export", "write a checkpoint's weights so that other code loads them"))
    _add_lineage(command("lineage", "trace a checkpoint back to its stages, weights and data"))
    _add_sync(command("sync", "send what MLflow, and copy what mirrors, did not take"))


def _add_synth(synth: argparse.ArgumentParser) -> None:
    synth.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to make")
    synth.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another world for each (0)"
    )
    synth.add_argument(
        "--images", type=int, default=600, metavar="N", help="training pictures (600)"
    )
    synth.add_argument("--videos", type=int, default=120, metavar="N", help="training clips (120)")
    synth.add_argument(
        "--val-images", type=int, default=100, metavar="N", help="validation pictures (100)"
    )
    synth.add_argument(
        "--val-videos", type=int, default=16, metavar="N", help="validation clips (16)"
    )
    synth.add_argument(
        "--workers", type=int, metavar="N", help="processes; by default one for every core"
    )


def _add_extract(extract: argparse.ArgumentParser) -> None:
    extract.add_argument(
        "--videos", type=Path, required=True, metavar="PATH", help="a video, or a folder of them"
    )
    extract.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="gets a folder for every video"
    )
    which = extract.add_mutually_exclusive_group()
    which.add_argument(
        "--every", type=int, default=4, metavar="N", help="keep every Nth frame (4, as SA-V)"
    )
    which.add_argument(
        "--fps", type=float, metavar="F", help="or the frames on screen this often a second"
    )
    extract.add_argument(
        "--quality", type=int, default=95, metavar="N", help="of the JPEG files, 1 to 100 (95)"
    )
    size = extract.add_mutually_exclusive_group()
    size.add_argument("--short-side", type=int, metavar="N", help="shrink: shorter side N pixels")
    size.add_argument("--long-side", type=int, metavar="N", help="shrink: longer side N pixels")
    extract.add_argument(
        "--annotations",
        type=Path,
        metavar="DIR",
        help="SA-V json files to check frame counts (beside the videos)",
    )
    extract.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes of each job; by default one for every core",
    )
    add_job_options(extract, "videos")
    extract.add_argument(
        "--report", type=Path, metavar="FILE", help="the json report (OUT/extraction.json)"
    )


def _add_doctor(doctor: argparse.ArgumentParser) -> None:
    doctor.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="key=value",
        help="recipe=NAME (smoke) …, or data=FORMAT root=FOLDER …",
    )
    doctor.add_argument(
        "--out",
        type=Path,
        default=Path("runs/doctor"),
        metavar="DIR",
        help="for what it writes (runs/doctor)",
    )
    doctor.add_argument(
        "--quick",
        type=int,
        nargs="?",
        const=200,
        metavar="N",
        help="look at N items only (all; N: 200)",
    )
    doctor.add_argument(
        "--workers", type=int, metavar="N", help="processes; by default one for every core"
    )
    doctor.add_argument("--html", action="store_true", help="also write one page with everything")
    doctor.add_argument("--strict", action="store_true", help="notes, too, give exit code 1")


def _add_clips(clips: argparse.ArgumentParser) -> None:
    clips.add_argument("stage", metavar="STAGE", help="a training stage of the recipe")
    clips.add_argument("settings", nargs="*", metavar="key=value", help="recipe=NAME (smoke) …")
    clips.add_argument(
        "--step", type=int, default=0, metavar="N", help="whose samples are drawn (0)"
    )
    clips.add_argument(
        "--rows", type=int, default=8, metavar="N", help="samples of the step, at most (8)"
    )
    clips.add_argument(
        "--ways", action="store_true", help="the first sample under each change of the stage"
    )
    clips.add_argument(
        "--tile", type=int, default=128, metavar="N", help="height of a frame in pixels (128)"
    )
    clips.add_argument(
        "--out",
        type=Path,
        default=Path("clips.jpg"),
        metavar="FILE",
        help="the picture (clips.jpg)",
    )


def _add_convert(convert: argparse.ArgumentParser) -> None:
    convert.add_argument(
        "format",
        choices=("coco", "yolo", "labelme", "masks"),
        metavar="FROM",
        help="coco, yolo (segmentation), labelme or masks (folders of binary masks)",
    )
    convert.add_argument(
        "source", type=Path, metavar="SOURCE", help="the folder, or its json or yaml"
    )
    convert.add_argument(
        "--to", choices=("davis", "folder", "sav", "sa1b"), required=True, help="the new layout"
    )
    convert.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the folder to make"
    )
    convert.add_argument("--split", help="coco: part of the json's name; yolo: train, val or test")
    convert.add_argument("--videos", action="store_true", help="labelme: every folder is a video")
    convert.add_argument(
        "--flatten",
        action="store_true",
        help="in a palette, the smaller object is on top where masks overlap",
    )
    convert.add_argument("--skip-broken", action="store_true", help="leave malformed items out")
    convert.add_argument("--again", action="store_true", help="replace the folder if it is there")
    convert.add_argument(
        "--workers", type=int, metavar="N", help="processes; by default one for every core"
    )


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument(
        "checkpoint",
        metavar="SOURCE",
        help="weights or a training checkpoint: file, URL, runs:/… or models:/NAME@ALIAS",
    )
    export.add_argument("--out", required=True, metavar="FILE", help="file or URL to write")
    export.add_argument(
        "--format",
        choices=("pt", "safetensors"),
        help="pt: what Meta's build_sam2 loads; default: what FILE ends in, else pt",
    )
    export.add_argument(
        "--shards",
        action="store_true",
        help="make FILE a folder: encoder, decoder and memory apart, and an index of digests",
    )
    export.add_argument(
        "--image-size", type=int, metavar="N", help="input side to note in safetensors files"
    )
    export.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="the runs folder (runs)"
    )


def _add_lineage(lineage: argparse.ArgumentParser) -> None:
    lineage.add_argument(
        "reference",
        metavar="REF",
        help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/checkpoints/FILE, a file, or a "
        "run folder",
    )
    lineage.add_argument("--json", action="store_true", help="the tree as JSON")
    _add_store(lineage)


def _add_sync(sync: argparse.ArgumentParser) -> None:
    sync.add_argument("folders", nargs="*", type=Path, metavar="RUN", help="run folders (all)")
    _add_store(sync)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tracking", metavar="URI", help="the MLflow store; default: the runs'")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="the runs folder (runs)"
    )
