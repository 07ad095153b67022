"""Check the output of the offline walkthrough: book, notebooks, full tables, and orders that must hold."""

import csv
import re
import sys
from pathlib import Path

import nbformat

output = Path(sys.argv[1])
sources = sorted(path.name for path in Path("notebooks").glob("[0-9]*.ipynb"))
problems = []

for name in sources:
    if not (output / "book/notebooks" / name).with_suffix(".html").is_file():
        problems.append(f"{name} has no page in the book")
    notebook = nbformat.read(output / name, as_version=4)
    outputs = [item for cell in notebook.cells for item in cell.get("outputs", [])]
    if not outputs or any(item.output_type == "error" for item in outputs):
        problems.append(f"{name} has no outputs, or an error among them")


TABLES = (1, 2, 3, 4, 5, 6, 8, 9, 10, 14)
NOT_RUN = {(6, "yes")}  # pre-training on COCO


def column(number: int) -> dict[tuple[str, ...], float]:
    with open(output / f"table_{number:02d}.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (number, row.get("coco")) not in NOT_RUN]
    keys = list(rows[0])[: list(rows[0]).index("paper")]
    return {tuple(row[key] for key in keys): float(row["ours"] or "nan") for row in rows}


for number in TABLES:
    values = column(number)
    print(f"Table {number}:", ", ".join(f"{' '.join(key)} {value:.2f}" for key, value in values.items()))
    if any(value != value for value in values.values()):
        problems.append(f"table {number} has missing cells")
strides = column(1)
if not strides[("8",)] > strides[("16",)] > strides[("32",)] > strides[("64",)]:
    problems.append("Table 1 does not fall from output stride 8 to 64")

with open(output / "claims_offline.csv", newline="") as file:
    verdicts = {row["claim"]: row["verdict"] for row in csv.DictReader(file)}
print("Claims:", ", ".join(f"{claim}: {verdict}" for claim, verdict in verdicts.items()))
missing = [claim for claim, verdict in verdicts.items() if "missing" in verdict]
if len(verdicts) < 30 or missing:
    problems.append(f"of {len(verdicts)} claims {len(missing)} have no records: {', '.join(missing)}")
decided = sum(verdict in ("supported", "contradicted") for verdict in verdicts.values())
if decided < 5:
    problems.append(f"the records that ship decide only {decided} claims")
start = (output / "book/docs/walkthrough.html").read_text()
for wanted in ('<img alt="Each claim[^>]*walkthrough.png', r"Reproduced \d+ of \d+ run"):
    if not re.search(wanted, start):
        problems.append(f"the book's start page has no {wanted}")

print(
    "\n".join(problems)
    or f"walkthrough: {len(sources)} notebooks, the book, {len(TABLES)} full tables and the claims are there"
)
sys.exit(bool(problems))
