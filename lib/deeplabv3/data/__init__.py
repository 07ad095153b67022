"""Images and labels: reading, drawing, cropping.

A data set of your own needs no code here: a profile with ``data: {kind: voc, root: ..., classes: ...}``
(docs/own-data.md).
"""
