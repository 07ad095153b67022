"""Miniature exports of each kind: the same five images with a square and a triangle, as each tool writes them."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

SIZE = (40, 24)  # width, height
NAMES = ("clip1_0001", "clip1_0002", "clip2_0001", "clip2_0002", "clip3_0001")
SQUARE = ((4, 4), (20, 4), (20, 18), (4, 18))
TRIANGLE = ((22, 3), (36, 3), (22, 17))


def write_images(folder: Path, suffix: str = ".jpg", names: tuple[str, ...] = NAMES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.full((SIZE[1], SIZE[0], 3), 100 + number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}{suffix}")


def expected(square: int = 1, triangle: int = 2) -> np.ndarray:
    """Label ``(H, W)`` of every image: by the definition, a pixel at a time."""
    label = np.zeros(SIZE[::-1], dtype=np.uint8)
    label[4:18, 4:20] = square
    for y in range(3, 17):
        for x in range(22, 36):
            if (x + 0.5 - 22) + (y + 0.5 - 3) < 14:  # the triangle's slanted edge
                label[y, x] = triangle
    return label


def flat(points) -> list[float]:
    return [float(number) for point in points for number in point]


def coco(root: Path, **changes) -> Path:
    write_images(root / "images")
    images = [
        {"id": i, "file_name": f"{name}.jpg", "width": SIZE[0], "height": SIZE[1]} for i, name in enumerate(NAMES)
    ]
    annotations = [
        {"id": 10 * i + j, "image_id": i, "category_id": category, "iscrowd": 0, "segmentation": [flat(points)]}
        for i in range(len(NAMES))
        for j, (category, points) in enumerate(((7, SQUARE), (9, TRIANGLE)))
    ]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 9, "name": "triangle"}, {"id": 7, "name": "square"}],
    }
    path = root / "instances.json"
    path.write_text(json.dumps(content | changes))
    return path


COCO_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "boat", "bird", "cat", "dog", "horse",
    "sheep", "cow", "bottle", "chair", "couch", "potted plant", "dining table", "tv", "zebra",
)  # fmt: skip
"""Those of COCO's 80 categories that VOC has, and one that it lacks."""


def voc_coco(root: Path, square: str = "couch") -> Path:
    """A large couch, or what ``square`` says, and a zebra in four images; a small airplane and a zebra in the last."""
    categories = [{"id": 3 * number + 1, "name": name} for number, name in enumerate(COCO_NAMES)]
    ids = {one["name"]: one["id"] for one in categories}
    objects = [(i, *pair) for i in range(len(NAMES) - 1) for pair in ((square, SQUARE), ("zebra", TRIANGLE))]
    objects += [(len(NAMES) - 1, "airplane", TRIANGLE), (len(NAMES) - 1, "zebra", SQUARE)]
    annotations = [
        {"id": n, "image_id": i, "category_id": ids[name], "iscrowd": 0, "segmentation": [flat(points)]}
        for n, (i, name, points) in enumerate(objects)
    ]
    return coco(root, categories=categories, annotations=annotations)


def labelme(root: Path) -> Path:
    write_images(root)
    for name in NAMES:
        shapes = [
            {"label": "square", "points": [SQUARE[0], SQUARE[2]], "shape_type": "rectangle"},
            {"label": "triangle", "points": TRIANGLE, "shape_type": "polygon"},
        ]
        record = {"shapes": shapes, "imagePath": f"{name}.jpg", "imageWidth": SIZE[0], "imageHeight": SIZE[1]}
        (root / f"{name}.json").write_text(json.dumps(record))
    return root


def cvat(root: Path) -> Path:
    write_images(root / "JPEGImages")
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nsquare:51,221,255::\ntriangle:250,50,83::\n"
    )
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("".join(f"{name}\n" for name in NAMES))
    colors = np.array([(0, 0, 0), (51, 221, 255), (250, 50, 83)], dtype=np.uint8)
    write_masks(root / "SegmentationClass", colors[expected()])
    return root


def cvat_xml(root: Path) -> Path:
    write_images(root / "images")

    def text(points) -> str:
        return ";".join(f"{x:.2f},{y:.2f}" for x, y in points)

    image = "".join(
        f'<image id="{number}" name="{name}.jpg" width="{SIZE[0]}" height="{SIZE[1]}">'
        f'<polygon label="triangle" points="{text(TRIANGLE)}" z_order="0"/>'
        f'<box label="square" xtl="4" ytl="4" xbr="20" ybr="18" z_order="0"/></image>'
        for number, name in enumerate(NAMES)
    )
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("square", "triangle"))
    (root / "annotations.xml").write_text(f"<annotations><meta><labels>{labels}</labels></meta>{image}</annotations>")
    return root


def yolo(root: Path) -> Path:
    write_images(root / "images" / "train", names=NAMES[:3])
    write_images(root / "images" / "val", names=NAMES[3:])
    lines = [
        " ".join(str(number) for number in (index, *(np.array(points) / SIZE).ravel().tolist()))
        for index, points in ((0, SQUARE), (1, TRIANGLE))
    ]
    for image in (root / "images").rglob("*.jpg"):
        path = root / "labels" / image.parent.name / f"{image.stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    values = {"path": str(root), "train": "images/train", "val": "images/val", "names": {0: "square", 1: "triangle"}}
    (root / "data.yaml").write_text(yaml.safe_dump(values))
    return root


def cityscapes(root: Path) -> Path:
    """Ids 7 (road), 26 (car) and 0 (unlabeled) in train and val; test has labels that are void throughout."""
    ids = np.array([7, 26, 0], dtype=np.uint8)[expected()]
    for split, names in (("train", NAMES[:3]), ("val", NAMES[3:4]), ("test", NAMES[4:])):
        write_images(root / "leftImg8bit" / split / "aachen", "_leftImg8bit.png", names)
        values = np.zeros_like(ids) if split == "test" else ids
        write_masks(root / "gtFine" / split / "aachen", values, names, "_gtFine_labelIds.png")
    return root


def coarse_cityscapes(root: Path) -> Path:
    """The same with two images in train_extra and coarse labels, those of train other than the fine ones."""
    cityscapes(root)
    names = ("extra_0001", "extra_0002")
    write_images(root / "leftImg8bit" / "train_extra" / "ulm", "_leftImg8bit.png", names)
    ids = np.array([7, 24, 0], dtype=np.uint8)[expected()]
    write_masks(root / "gtCoarse" / "train_extra" / "ulm", ids, names, "_gtCoarse_labelIds.png")
    write_masks(root / "gtCoarse" / "train" / "aachen", ids * 0, NAMES[:3], "_gtCoarse_labelIds.png")
    return root


def write_masks(folder: Path, mask: np.ndarray, names: tuple[str, ...] = NAMES, suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(mask).save(folder / f"{name}{suffix}")


def masks(root: Path, mask: np.ndarray, suffix: str = ".png") -> Path:
    write_images(root / "images")
    write_masks(root / "masks", mask, suffix=suffix)
    return root


def png_text(mask: np.ndarray) -> str:
    """A mask as labelme embeds it."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
