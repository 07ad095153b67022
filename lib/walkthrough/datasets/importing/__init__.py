"""Import of other tools' exports into VOC's layout: one module a kind, which all hand an :class:`~.export.Export` on.

``export`` says what a kind hands over, ``drawing`` turns shapes into pixels, ``lists`` draws train and val, and
``writer`` writes images, labels, lists and a profile.
"""

from collections.abc import Callable

from walkthrough.datasets.importing import cityscapes, coco, cvat, labelme, masks, yolo
from walkthrough.datasets.importing.export import Export, Settings

KINDS: dict[str, Callable[[Settings], Export]] = {
    "masks": masks.read,
    "coco": coco.read,
    "labelme": labelme.read,
    "cvat": cvat.read,
    "cityscapes": cityscapes.read,
    "yolo-seg": yolo.read,
}
"""Kind to the function that reads such an export."""
