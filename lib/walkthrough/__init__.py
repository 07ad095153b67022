"""The study of DeepLabv3 (arXiv 1706.05587): the paper as data, records, tables, figures, notebooks, commands."""
