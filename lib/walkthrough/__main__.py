"""``python -m walkthrough`` is the command ``deeplabv3``; torchrun starts modules."""

from walkthrough.cli import script

script()
