"""``python -m deeplabv3`` is the command ``deeplabv3``: torchrun starts modules."""

from deeplabv3.cli import script

script()
