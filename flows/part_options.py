"""The options of the commands that do a part of a run alone: data, frames, weights, records."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.jobs import add_job_options, add_workers

EXAMPLES = {
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
    "export": """examples:
  sam2-pipeline export runs:/3f0c…/checkpoints/model.pt --out sam2.pt
  sam2-pipeline export sam2.1_hiera_tiny.pt --out tiny.safetensors
  sam2-pipeline export runs/smoke/final.pt --out shards --format safetensors --shards

What is written is read back and compared before the command says so.""",
    "lineage": """examples:
  sam2-pipeline lineage models:/sam2-tiny@joint            what an alias of the registry stands on
  sam2-pipeline lineage runs/smoke/final.pt                a file, known by its content
  sam2-pipeline lineage runs/smoke --json""",
    "sync": """examples:
  sam2-pipeline sync                                       every run below runs/
  sam2-pipeline sync runs/smoke --tracking http://mlflow:5000

Exit code 1: some of it still waits. A run that is repeated sends what waits by itself.""",
}


def add_synth(synth: argparse.ArgumentParser) -> None:
    """`synth`."""
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
    add_workers(synth)


def add_extract(extract: argparse.ArgumentParser) -> None:
    """`extract-frames`."""
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
    add_workers(extract, of=" of each job")
    add_job_options(extract, "videos")
    extract.add_argument(
        "--report", type=Path, metavar="FILE", help="the json report (OUT/extraction.json)"
    )


def add_doctor(doctor: argparse.ArgumentParser) -> None:
    """`doctor`."""
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
    add_workers(doctor)
    doctor.add_argument("--html", action="store_true", help="also write one page with everything")
    doctor.add_argument("--strict", action="store_true", help="notes, too, give exit code 1")


def add_clips(clips: argparse.ArgumentParser) -> None:
    """`clips`."""
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


def add_convert(convert: argparse.ArgumentParser) -> None:
    """`convert`."""
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
    add_workers(convert)


def add_export(export: argparse.ArgumentParser) -> None:
    """`export`."""
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


def add_lineage(lineage: argparse.ArgumentParser) -> None:
    """`lineage`."""
    lineage.add_argument(
        "reference",
        metavar="REF",
        help="models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/checkpoints/FILE, a file, or a "
        "run folder",
    )
    lineage.add_argument("--json", action="store_true", help="the tree as JSON")
    _add_store(lineage)


def add_sync(sync: argparse.ArgumentParser) -> None:
    """`sync`."""
    sync.add_argument("folders", nargs="*", type=Path, metavar="RUN", help="run folders (all)")
    _add_store(sync)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tracking", metavar="URI", help="the MLflow store; default: the runs'")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="the runs folder (runs)"
    )
