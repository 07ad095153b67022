"""Checks what the offline walkthrough has made: pages, notebooks, full tables, and the orders that must hold."""

import csv
import sys
from pathlib import Path

import nbformat

output = Path(sys.argv[1])
sources = sorted(path.name for path in Path("notebooks").glob("[0-9]*.ipynb"))
problems = []

for name in sources:
    if not (output / name).with_suffix(".html").is_file():
        problems.append(f"{name} has no page")
    notebook = nbformat.read(output / name, as_version=4)
    outputs = [item for cell in notebook.cells for item in cell.get("outputs", [])]
    if not outputs or any(item.output_type == "error" for item in outputs):
        problems.append(f"{name} has no outputs, or an error among them")


def column(number: int, *keys: str) -> dict[tuple[str, ...], float]:
    with open(output / f"table_{number:02d}.csv", newline="") as file:
        return {tuple(row[key] for key in keys): float(row["ours"] or "nan") for row in csv.DictReader(file)}


strides = column(1, "output stride")
depths = column(2, "network", "last block")
aspp = column(5, "multi grid", "rates", "image pooling")
protocol = column(8, "crop", "upsample logits", "fine tune batch norm")
batches = column(9, "batch")
trained = column(10, "training output stride", "output stride")
for number, values in ((1, strides), (2, depths), (5, aspp), (8, protocol), (9, batches), (10, trained)):
    print(f"Table {number}:", ", ".join(f"{' '.join(key)} {value:.2f}" for key, value in values.items()))
    if any(value != value for value in values.values()):
        problems.append(f"table {number} has missing cells")
if not strides[("8",)] > strides[("16",)] > strides[("32",)] > strides[("64",)]:
    problems.append("Table 1 does not fall from output stride 8 to 64")
if not aspp[("(1,2,4)", "(6,12,18)", "yes")] > aspp[("(1,2,4)", "(6,12,18)", "no")]:
    problems.append("Table 5: image pooling is not above the same network without")
if protocol[("513", "yes", "yes")] != max(protocol.values()):
    problems.append("Table 8: the paper's protocol is not the best row")
if not batches[("4",)] < batches[("16",)]:
    problems.append("Table 9: a batch of 16 is not above one of 4")

print("\n".join(problems) or f"walkthrough: {len(sources)} notebooks, their pages and six full tables are there")
sys.exit(bool(problems))
