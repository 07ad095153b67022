"""Lists of an import: the export's own, or drawn at random by a seed, with the images of a group on one side."""

import hashlib
import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from deeplabv3.errors import UserError, require
from walkthrough.datasets.importing.export import COARSE, Item

TRAINVAL_COARSE = "trainval_coarse"
"""List of ``trainval`` and the images with coarse labels."""


@dataclass(frozen=True)
class Split:
    """How ``train`` and ``val`` are drawn."""

    val_share: float | None = None  # None: the export's own lists, or 0.2 where it has none
    seed: int = 0
    group_by: str | None = None  # "folder", or a regular expression: what it finds in a name is the group's

    def __post_init__(self):
        share = self.val_share
        require(share is None or 0 < share < 1, "--val-share", share, "a number between 0 and 1")
        require(self.seed >= 0, "--seed", self.seed, "a whole number of at least 0")

    def options(self) -> str:
        """The options of the command line that give these lists."""
        given = {"--val-share": self.val_share, "--seed": self.seed or None, "--group-by": self.group_by}
        return shlex.join(str(part) for pair in given.items() if pair[1] is not None for part in pair)


def draw(items: Sequence[Item], split: Split) -> tuple[dict[str, list[str]], str]:
    """Names of each list, and a sentence on where the lists come from."""
    own = defaultdict(list)
    for item in items:
        own[item.split].append(item.name)
    if split.val_share is None and split.group_by is None and own["train"] and own["val"]:
        unlisted = "" if not own[None] else f"; {len(own[None]):,} images of no list are in train"
        lists = {"train": own["train"] + own[None], "val": own["val"], "test": own["test"]}
        text = f"lists as in the export{unlisted}"
    else:
        test = own["test"] if split.val_share is None else []
        names = [item.name for item in items if item.name not in {*test, *own[COARSE]}]
        train, val, text = _drawn(names, split)
        lists = {"train": train, "val": val, "test": test}
    lists["trainval"] = lists["train"] + lists["val"]
    lists[TRAINVAL_COARSE] = lists["trainval"] + own[COARSE] if own[COARSE] else []
    return {name: sorted(names) for name, names in lists.items() if names}, text


def _drawn(names: Sequence[str], split: Split) -> tuple[list[str], list[str], str]:
    """Names for ``train``, for ``val``, and the sentence on them."""
    groups = defaultdict(list)
    for name in names:
        groups[_group(name, split.group_by)].append(name)
    if len(groups) < 2:
        what = "image" if split.group_by is None else f"group by --group-by {split.group_by!r}"
        raise UserError(f"there is one {what} to draw train and val from, and two are needed; add images.")
    # A hash in place of a shuffle: a new image leaves the others in their lists.
    order = sorted(groups, key=lambda group: hashlib.sha256(f"{split.seed} {group}".encode()).digest())
    share = 0.2 if split.val_share is None else split.val_share
    wanted, val = share * len(names), list(groups[order[0]])
    for group in order[1:-1]:  # one stays for train
        if abs(len(val) + len(groups[group]) - wanted) < abs(len(val) - wanted):
            val += groups[group]
    in_val = set(val)
    by = "" if split.group_by is None else f" in {len(groups):,} groups"
    train = [name for name in names if name not in in_val]
    return train, val, f"lists drawn with seed {split.seed}{by}, {100 * len(val) / len(names):.0f} % in val"


def _group(name: str, group_by: str | None) -> str:
    """The group of a name: a name of its own without a rule."""
    if group_by is None:
        return name
    if group_by == "folder":
        return name.rpartition("/")[0]
    try:
        found = re.search(group_by, name)
    except re.error as error:
        raise UserError(f"--group-by {group_by!r} is no regular expression ({error}); correct it.") from error
    if found is None:
        raise UserError(
            f"--group-by {group_by!r} finds nothing in image name {name!r}; choose one that fits all names."
        )
    return found[1] if found.re.groups else found[0]
