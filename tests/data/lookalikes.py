"""Data sets of a few pixels in the published layouts, written by hand: not by the code that makes
worlds."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from pycocotools import mask as coco

H, W = 20, 30


def picture(seed: int, size: tuple[int, int] = (H, W)) -> np.ndarray:
    """Smooth enough to survive JPEG."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.stack([rows * 5 + seed, columns * 4, np.full(size, 40 * (seed % 5))], axis=-1).astype(
        np.uint8
    )


def box(top: int, left: int, height: int = 6, width: int = 8) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[top : top + height, left : left + width] = True
    return mask


EMPTY = np.zeros((H, W), bool)


def packed(mask: np.ndarray) -> dict:
    found = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": found["counts"].decode()}


def save(path: Path, pixels: np.ndarray, palette: list[int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    image.save(path, **({"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg") else {}))
    return path


def save_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def save_video(path: Path, frames: list[np.ndarray], rate: int = 24) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "8", "g": "6"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


SA1B_MASKS = {101: box(2, 3), 102: box(5, 6), 103: EMPTY}


def sa1b(root: Path, count: int = 3) -> Path:
    for number in range(1, count + 1):
        save(root / f"sa_{number}.jpg", picture(number))
        annotations = [
            {
                "id": i,
                "segmentation": packed(mask),
                "area": int(mask.sum()),
                "bbox": [0, 0, 1, 1],
                "predicted_iou": 0.9,
                "stability_score": 0.95,
                "crop_box": [0, 0, W, H],
                "point_coords": [[1.0, 1.0]],
            }
            for i, mask in SA1B_MASKS.items()
        ]
        image = {"image_id": number, "width": W, "height": H, "file_name": f"sa_{number}.jpg"}
        save_json(root / f"sa_{number}.json", {"image": image, "annotations": annotations})
    return root


def sa1b_tar(root: Path, source: Path) -> Path:
    root.mkdir(parents=True)
    with tarfile.open(root / "sa_000000.tar", "w") as tar:
        for path in sorted(source.iterdir()):
            tar.add(path, arcname=f"./{path.name}")
    return root


def sav_masks(position: int) -> list[np.ndarray]:
    """Object 0 moves, object 1 overlaps it, object 2 appears on the third annotated frame."""
    return [box(2, position), box(4, position + 2), box(10, 10) if position >= 2 else EMPTY]


def sav(root: Path, videos: int = 2, annotated: int = 6) -> Path:
    for number in range(1, videos + 1):
        name = f"sav_{number:06d}"
        frames = [picture(t) for t in range(annotated * 4)]
        save_video(root / "sav_000" / f"{name}.mp4", frames)
        rows = [[packed(mask) for mask in sav_masks(t)] for t in range(annotated)]
        rows[1][2] = None  # null, where other frames have an all-zero mask
        content = {
            "video_id": name,
            "video_frame_count": float(len(frames)),
            "video_height": float(H),
            "video_width": float(W),
            "masklet": rows,
            "masklet_id": [0, 1, 2],
            "masklet_first_appeared_frame": [0.0, 0.0, 2.0],
            "masklet_stability_score": [None] * 3,
        }
        save_json(root / "sav_000" / f"{name}_manual.json", content)
        auto = {**content, "masklet": [[packed(box(12, 1))] for _ in rows], "masklet_id": [0]}
        save_json(root / "sav_000" / f"{name}_auto.json", auto)
    return root


def sav_val(root: Path, frames: int = 9) -> Path:
    for t in range(frames):
        save(root / "JPEGImages_24fps" / "sav_000007" / f"{t:05d}.jpg", picture(t))
    for t in range(0, frames, 4):
        for i, mask in ((0, box(2, t)), (1, box(9, 9) if t else EMPTY)):
            path = root / "Annotations_6fps" / "sav_000007" / f"{i:03d}" / f"{t:05d}.png"
            save(path, (mask * 255).astype(np.uint8))
    (root / "Annotations_6fps" / "sav_000007" / "001" / "00008.png").unlink()
    (root / "sav_val.txt").write_text("sav_000007\n")
    return root


# Every object is drawn in (almost) the same colour: only the index tells them apart.
CLOSE_PALETTE = [0, 0, 0] + [128, 0, 0] * 3 + [0] * (3 * 252)


def davis(root: Path, inner: str = "480p", grey: bool = False, every: int = 1) -> Path:
    for t in range(6):
        save(root / "JPEGImages" / inner / "bear" / f"{t:05d}.jpg", picture(t))
        if t % every:
            continue
        labels = np.zeros((H, W), np.uint8)
        labels[box(2, t)] = 1
        if t >= 2:
            labels[box(10, 12)] = 3
        path = root / "Annotations" / inner / "bear" / f"{t:05d}.png"
        if grey:
            save(path, (labels == 1).astype(np.uint8) * 255)
        else:
            save(path, labels, CLOSE_PALETTE)
    return root


def coco_set(root: Path) -> Path:
    save(root / "val2017" / "000000000009.jpg", picture(1))
    save(root / "val2017" / "000000000010.jpg", picture(2))
    uncompressed = {"size": [H, W], "counts": [5 * H, 3 * H, (W - 8) * H]}
    square = [[4.0, 4.0, 12.0, 4.0, 12.0, 10.0, 4.0, 10.0]]
    annotations = [
        {"id": 7, "image_id": 9, "segmentation": square, "area": 48, "iscrowd": 0},
        {"id": 8, "image_id": 9, "segmentation": packed(box(2, 3)), "area": 48, "iscrowd": 0},
        {"id": 9, "image_id": 9, "segmentation": uncompressed, "area": 60, "iscrowd": 0},
        {"id": 10, "image_id": 9, "segmentation": uncompressed, "area": 60, "iscrowd": 1},
    ]
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "height": H, "width": W} for i in (9, 10)]
    content = {"images": images, "annotations": annotations, "categories": []}
    save_json(root / "annotations" / "instances_val2017.json", content)
    return root


def folder(root: Path) -> Path:
    save(root / "images" / "cat.JPG", picture(1))
    save(root / "images" / "unlabelled.png", picture(2))
    save(root / "masks" / "cat.png", box(3, 3).astype(np.uint8) * 2 + box(10, 10), CLOSE_PALETTE)
    return root
