"""The same small scene as other tools would label it: polygons whose pixels are known."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from tests.data import lookalikes as like

H, W = like.H, like.W
BOXES = {"cat": (4, 3, 12, 11), "dog": (16, 6, 26, 14)}
"""label -> x0, y0, x1, y1 in pixels, the last two excluded."""
MASKS = {label: like.box(y0, x0, y1 - y0, x1 - x0) for label, (x0, y0, x1, y1) in BOXES.items()}


def corners(label: str) -> list[float]:
    x0, y0, x1, y1 = BOXES[label]
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def coco(root: Path) -> Path:
    """Roboflow's way: one json beside the pictures; one object as polygon, one as run lengths."""
    for number in (1, 2):
        like.save(root / f"photo {number}.jpg", like.picture(number))
    rows = [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [corners("cat")], "area": 64},
        {
            "id": 2,
            "image_id": 1,
            "category_id": 2,
            "segmentation": like.packed(MASKS["dog"]),
            "area": 80,
            "iscrowd": 0,
        },
        {
            "id": 3,
            "image_id": 1,
            "category_id": 2,
            "segmentation": like.packed(like.box(0, 0)),
            "iscrowd": 1,
        },
    ]
    images = [{"id": n, "file_name": f"photo {n}.jpg", "height": H, "width": W} for n in (1, 2)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": rows, "categories": categories}
    like.save_json(root / "_annotations.coco.json", content)
    return root


def yolo(root: Path) -> Path:
    like.save(root / "train" / "images" / "photo 1.png", like.picture(1))
    like.save(root / "train" / "images" / "empty.jpg", like.picture(2))
    shares = {label: [x / (W, H)[i % 2] for i, x in enumerate(corners(label))] for label in BOXES}
    lines = [f"{n} " + " ".join(f"{x:.6f}" for x in shares[label]) for n, label in enumerate(BOXES)]
    labels = root / "train" / "labels" / "photo 1.txt"
    labels.parent.mkdir()
    labels.write_text("\n".join(lines) + "\n")
    (labels.parent / "empty.txt").write_text("")
    (root / "data.yaml").write_text("train: ../train/images\nnc: 2\nnames: ['cat', 'dog']\n")
    return root


def labelme(root: Path, name: str = "photo 1", seed: int = 1, group: int | None = None) -> Path:
    """The cat as a polygon, the dog as an embedded mask."""
    like.save(root / f"{name}.jpg", like.picture(seed))
    x0, y0, x1, y1 = BOXES["dog"]
    buffer = io.BytesIO()
    Image.fromarray(np.ones((y1 - y0, x1 - x0), bool)).save(buffer, "PNG")
    points = np.array(corners("cat")).reshape(-1, 2).tolist()
    shapes = [
        {"label": "cat", "points": points, "group_id": group, "shape_type": "polygon"},
        {
            "label": "dog",
            "points": [[x0, y0], [x1 - 1, y1 - 1]],
            "group_id": None,
            "shape_type": "mask",
            "mask": base64.b64encode(buffer.getvalue()).decode(),
        },
    ]
    content = {"imagePath": f"{name}.jpg", "imageHeight": H, "imageWidth": W, "shapes": shapes}
    like.save_json(root / f"{name}.json", content)
    return root


def masks(root: Path) -> Path:
    like.save(root / "images" / "photo 1.jpg", like.picture(1))
    for label, mask in MASKS.items():
        like.save(root / "masks" / "photo 1" / f"{label}.png", mask.astype(np.uint8) * 255)
    return root


def mask_video(root: Path, frames: int = 3) -> Path:
    """The dog is there from the second frame on, and overlaps the cat on the third."""
    for t in range(frames):
        like.save(root / "images" / "walk" / f"{5 * t:04d}.jpg", like.picture(t))
        like.save(root / "masks" / "walk" / "cat" / f"{5 * t:04d}.png", MASKS["cat"])
        if t:
            dog = np.roll(MASKS["dog"], -3 * (t - 1) * 2, axis=1)
            like.save(root / "masks" / "walk" / "dog" / f"{5 * t:04d}.png", dog)
    return root


def lying(path: Path) -> None:
    """Store the picture on its side, with the EXIF tag that turns it back."""
    picture = Image.open(path).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(path, exif=exif, quality=95)
