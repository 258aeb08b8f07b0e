"""The words of `predict`: what may stand on its command line, and what they ask for."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.jobs import add_job_options, add_workers
from pipeline.errors import ConfigError, DataError
from stages.prediction.spec import LAYOUTS, Everything, PredictSpec, Prompt

EXAMPLES = """examples:
  a picture: the object under a click, but not what is under the second
    sam2-pipeline predict cat.jpg --checkpoint sam2.pt --point 210,350 --point 400,60,0 --out cat
  everything in the pictures of a folder, as SA-1B's json
    sam2-pipeline predict photos --checkpoint sam2.pt --everything --out found
  a video: two objects, followed to the end
    sam2-pipeline predict dog.mp4 --checkpoint sam2.pt --box 300,80,640,700 \\
        --object 2 --frame 40 --point 120,90 --out dog
  all videos of DAVIS from their first masks, then their score
    sam2-pipeline predict /data/DAVIS --checkpoint sam2.pt --split ImageSets/2017/val.txt --out davis
    sam2-pipeline evaluate --predictions davis/masks --truth /data/DAVIS/Annotations/480p
  MOSE val on 8 GPUs of a cluster, packed for its server
    sam2-pipeline predict /data/MOSE/valid --checkpoint runs:/3f0c…/checkpoints/model.pt \\
        --jobs 8 --launcher slurm --slurm partition=gpu gpus_per_node=1 --zip mose --out mose
  the third eighth of SA-V val, in a job of an array of your own
    sam2-pipeline predict /data/sav_val --checkpoint sam2.pt --shard 3/8 --out sav

--object and --frame hold for the prompts that follow them. The same command again goes on where it
stopped. docs/predict.md tells more."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What may stand on the command line."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a picture, a video, a folder of frames, or a data set in the layout of DAVIS, MOSE, "
        "LVOS, YouTube-VOS or SA-V",
    )
    parser.add_argument(
        "--checkpoint", required=True, help="weights: a file, URL, runs:/… or models:/…"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--preset", help="the size the weights must have; found out by itself")
    parser.add_argument("--image-size", type=int, metavar="N", help="the network's input side")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; default: a GPU where there is one")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the runs folder (runs)")
    _add_prompts(parser.add_argument_group("what to look for, in pictures and videos"))
    _add_everything(parser.add_argument_group("everything in pictures"))
    _add_sets(parser.add_argument_group("data sets"))
    _add_results(parser.add_argument_group("results"))
    add_job_options(parser.add_argument_group("jobs"), "pictures or videos")


def spec_of(arguments: argparse.Namespace) -> PredictSpec:
    """The words of the command as a spec. Raises ConfigError."""
    prompts = _prompts(arguments.said or [])
    if arguments.prompts:
        from stages.prediction.prompts import read_prompts

        prompts += read_prompts(arguments.prompts)
    looks = ("points_per_side", "predicted_iou", "stability", "crop_layers")
    given = {n: v for n in looks if (v := getattr(arguments, n)) is not None}
    if given and not arguments.everything:
        raise ConfigError(f"--{next(iter(given)).replace('_', '-')} belongs to --everything")
    return PredictSpec(
        source=str(Path(arguments.source).expanduser()),
        out=str(arguments.out),
        checkpoint="",
        preset=arguments.preset,
        image_size=arguments.image_size,
        device=arguments.device,
        prompts=prompts,
        everything=Everything(**given) if arguments.everything else None,
        images=arguments.images,
        backwards=arguments.backwards,
        layouts=tuple(dict.fromkeys(arguments.format or ())),
        masks=arguments.masks,
        overlay=arguments.overlay,
        late_objects=arguments.late_objects,
        score_threshold=arguments.score_threshold,
        split=arguments.split,
        names=tuple(arguments.video or ()),
        shard=arguments.shard,
        workers=arguments.workers,
        again=arguments.again,
    )


class _Said(argparse.Action):
    """Keeps prompts, and what they are about, in the order of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        word = (option_string or "").lstrip("-")
        namespace.said = [*(namespace.said or []), (word, values)]


def _add_prompts(group: Any) -> None:
    said = {"action": _Said, "dest": "said", "default": None}
    group.add_argument(
        "--point", metavar="X,Y[,0|1]", help="a click on the object, or with ,0 beside it", **said
    )
    group.add_argument("--box", metavar="X0,Y0,X1,Y1", help="a box around the object", **said)
    group.add_argument(
        "--mask",
        metavar="FILE",
        help="a PNG: 0 is background; one other value, or a number for each object",
        **said,
    )
    group.add_argument("--object", metavar="N", help="the next prompts are of object N (1)", **said)
    group.add_argument("--frame", metavar="N", help="… and on frame N, from 0 (0)", **said)
    group.add_argument("--prompts", type=Path, metavar="FILE", help="prompts in a json file")
    group.add_argument("--images", action="store_true", help="a folder holds pictures, not frames")
    group.add_argument("--backwards", action="store_true", help="follow objects back in time too")


def _add_everything(group: Any) -> None:
    group.add_argument(
        "--everything", action="store_true", help="find all objects; without prompts"
    )
    group.add_argument("--points-per-side", type=int, metavar="N", help="… from N x N points (32)")
    group.add_argument(
        "--predicted-iou", type=float, metavar="X", help="… rated at least X by the network (0.8)"
    )
    group.add_argument(
        "--stability",
        type=float,
        metavar="X",
        help="… and hardly changed by another threshold (0.95)",
    )
    group.add_argument(
        "--crop-layers",
        type=int,
        metavar="N",
        help="… also in crops, 2 x 2 (1), 4 x 4 (2), … (0)",
    )


def _add_sets(group: Any) -> None:
    group.add_argument("--split", metavar="FILE", help="text file with one video a line")
    group.add_argument("--video", action="append", metavar="NAME", help="only this one; repeat")
    group.add_argument(
        "--late-objects",
        action=argparse.BooleanOptionalAction,
        help="show objects where they first appear, not only on the first annotated frame (as "
        "YouTube-VOS, LVOS and SA-V want; default: SA-V)",
    )
    group.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="part I of N, from 1"
    )
    group.add_argument(
        "--score",
        action="store_true",
        help="J&F against the data set's own masks, when all is done",
    )
    group.add_argument(
        "--zip",
        choices=("mose", "youtube-vos"),
        help="also one file for the server of MOSE (and DAVIS test-dev) or YouTube-VOS",
    )


def _add_results(group: Any) -> None:
    group.add_argument(
        "--format",
        action="append",
        choices=LAYOUTS,
        help="palette: a picture a frame, pixels are object numbers; objects: a 0/1 picture for "
        "each; rle: json. Repeat for several; default: palette, SA-V objects, --everything rle",
    )
    group.add_argument(
        "--masks", action=argparse.BooleanOptionalAction, default=True, help="without: only draw"
    )
    group.add_argument(
        "--overlay",
        action=argparse.BooleanOptionalAction,
        help="draw the masks into pictures or an mp4 (default: except for data sets)",
    )
    group.add_argument(
        "--score-threshold", type=float, default=0.0, metavar="X", help="logit of a mask's edge (0)"
    )
    add_workers(group, default=1)
    group.add_argument("--again", action="store_true", help="make anew what is finished")


def _prompts(said: Sequence[tuple[str, str]]) -> tuple[Prompt, ...]:
    """Prompts from words in order; --object and --frame are about those that follow."""
    prompts: list[Prompt] = []
    about: dict[str, int] = {}
    loose = ""
    for option, words in said:
        if option in ("object", "frame"):
            about[option] = int(_numbers(option, words, (1,))[0])
            loose = f"--{option} {words}"
            continue
        loose = ""
        values: dict[str, Any] = {}
        if option == "point":
            x, y, *label = _numbers(option, words, (2, 3))
            values = {"points": ((x, y),), "labels": tuple(int(each) for each in label)}
        elif option == "box":
            values = {"box": _numbers(option, words, (4,))}
        else:
            values = {"mask": _mask(words)}
        try:
            prompts.append(Prompt(**about, **values))  # type: ignore[arg-type]
        except ConfigError as error:
            raise ConfigError(f"--{option} {words}: {error}") from error
    if loose:
        raise ConfigError(f"{loose} stands after the last prompt; put it before those it is about")
    return tuple(prompts)


def _numbers(option: str, words: str, counts: Sequence[int]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(word) for word in words.split(","))
    except ValueError:
        numbers = ()
    whole = option not in ("object", "frame") or all(n.is_integer() for n in numbers)
    if len(numbers) not in counts or not whole:
        expected = {"point": "x,y or x,y,0", "box": "x0,y0,x1,y1"}.get(option, "a whole number")
        raise ConfigError(f"--{option} {words}: expected {expected}")
    return numbers


def _mask(words: str) -> str:
    path = Path(words).expanduser()
    if not path.is_file():
        raise DataError(f"--mask {path}: there is no such file")
    return str(path)


def _shard(words: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", words)
    if not found:
        raise argparse.ArgumentTypeError(f"found {words!r}, expected I/N, as 3/8")
    return int(found[1]), int(found[2])
