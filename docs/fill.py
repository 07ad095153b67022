"""Fill README.md and docs/*.md with what the records hold: ``make readme``.

A block stands between ``<!-- fill: NAME -->`` and ``<!-- end -->`` and is written anew by the function of that name,
from the records that ship with the project, the benchmarks in ``data/records/bench``, the settings' definitions and the
lines of the paper in ``data/paper/lines.yaml``.
The model card and the image ``docs/output_stride.png`` follow the network that comes with the library.

``--check`` writes nothing: it names the files that are not up to date, and ends with exit code 1 if there are any.
"""

import math
import re
import sys
import tempfile
from collections.abc import Callable
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from unittest.mock import patch

import fill_lines
from fill_pages import (
    HOME,
    PICTURE,
    bench,
    bench_evaluate,
    bench_model,
    bench_pipeline,
    bench_train,
    count,
    finetuning,
    picture,
    picture_is_current,
    settings,
    table,
)
from matplotlib.figure import Figure

from deeplabv3.errors import UserError
from deeplabv3.files import write_atomically
from walkthrough import paths
from walkthrough.experiments.shown import PRETRAINED
from walkthrough.paper import tables
from walkthrough.paper.claims import load
from walkthrough.profiles import Profile, load_profile
from walkthrough.records import catalogue, compare
from walkthrough.records.naming import SHIPPED, SOURCE
from walkthrough.records.run import Run
from walkthrough.report import intervals, verdicts
from walkthrough.report.claims import ClaimsView, save_figure
from walkthrough.report.model_card import model_card
from walkthrough.report.overview import Overview
from walkthrough.report.render import markdown_rows
from walkthrough.report.results import CellResults
from walkthrough.report.tables import TableView, frame, is_half_measured

BLOCK = re.compile(r"(<!-- fill: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
CARD, RESULTS, CLAIMS = (HOME / "docs" / name for name in ("model_card.md", "results.md", "claims.png"))
PROFILES = ("offline", "animals", "mobile_gpu", "voc")
FIRST = PROFILES[0]
"""Profiles whose records may ship; the claims of the first come first."""

BEST_ROWS = (
    ("no atrous convolution: output stride 256 (Table 1)", 1, {"output_stride": "256"}),
    ("trained and evaluated at output stride 8 (Table 1)", 1, {"output_stride": "8"}),
    ("best cascade: block7, multi-grid (1,2,1) (Table 4)", 4, {"output_stride": "16"}),
    ("best ASPP: multi-grid (1,2,4), image pooling (Table 6)", 6, {"output_stride": "16"}),
    ("+ output stride 8 at inference", 6, {"output_stride": "8"}),
    ("+ six scales", 6, {"multi_scale": "yes"}),
    ("+ flip", 6, {"flip": "yes"}),
)
"""README's rows: a text, and the table and the keys of the cell."""


def shipped(name: str) -> Profile | None:
    """The profile with as many seeds as its shipped records have; None without any."""
    seeds = catalogue.recorded_seeds(name)
    return load_profile(name, {"seeds": max(seeds) + 1}) if seeds else None


@cache
def results_of(name: str) -> CellResults | None:
    profile = shipped(name)
    return CellResults(profile) if profile else None


def with_interval(name: str, number: int, keys: dict[str, str]) -> str:
    """MIoU of a cell as ``66.2 (63.2 to 69.2)``; empty without a record."""
    results = results_of(name)
    found = results.estimate(tables.load(number).cell(**keys)) if results else None
    return "{:.1f} ({:.1f} to {:.1f})".format(found.value, *found.interval()) if found else ""


def seeds_text(profile: Profile) -> str:
    return "one seed" if profile.seeds == 1 else f"{profile.seeds} seeds"


# --- README.md


def best() -> str:
    """The paper's best rows beside ours, and how many claims have which verdict."""
    columns = {"offline": "synthetic images, {}", "animals": "real images (VOC animals), {}"}
    found = {name: profile for name in columns if (profile := shipped(name))}
    header = ["mIoU (95 %)", "paper, VOC", *(columns[name].format(seeds_text(one)) for name, one in found.items())]
    rows = []
    for text, number, keys in BEST_ROWS:
        ours = [with_interval(name, number, keys) or "–" for name in found]
        rows.append([text, f"{tables.load(number).cell(**keys).miou:.2f}", *ours])
    return f"{table(header, rows)}\n\n{_counts()}"


def _counts() -> str:
    """How many claims have which verdict, in a sentence."""
    profile = shipped(FIRST)
    if profile is None:
        return (
            "No records of the synthetic images ship yet; `make walkthrough` makes those of one seed. One seed decides "
            f"none of [the paper's {sum(claim.counted for claim in load())} claims](docs/results.md#claims)."
        )
    real = view_of("animals").counts() if shipped("animals") else {}
    decided = [f"{real[word]} {word}" for word in verdicts.VERDICTS[:3] if word in real]
    on_real = f" On real images: {', '.join(decided)}." if decided else ""
    return f"{view_of(profile.name).summary()}{on_real} [Every claim, and why](docs/results.md#claims)."


@cache
def view_of(name: str) -> ClaimsView:
    results = results_of(name)
    assert results is not None
    found = tuple(verdicts.evaluate_claims(results.profile, results))
    return ClaimsView(results.profile, found, tuple(results.warnings))


def rungs() -> str:
    """The three budgets: command, time, and the number to expect."""
    expected = _expected(FIRST) or "no number yet; Table 1 falls from stride 8 to 64"
    rows = [["a laptop: synthetic images", "`make walkthrough`", minutes("make walkthrough"), expected]]
    budgets = {
        "mobile": "a CPU: VOC's animals",
        "mobile_gpu": "a GPU: VOC's animals",
        "voc": "a GPU: VOC, the paper's way",
    }
    for name, what in budgets.items():
        if name != "mobile_gpu" or shipped(name):
            expected = _expected(name) or f"the paper's {tables.load(6).cells[0].miou}"
            rows.append([what, f"`deeplabv3 train --profile {name}`", _time(name), expected])
    return table(["on", "command", "time", "mIoU to expect (ASPP, output stride 16)"], rows)


def _expected(name: str) -> str:
    """MIoU of the ASPP network at output stride 16, with the interval of one further seed where several ship."""
    results = results_of(name)
    found = results.estimate(tables.load(6).cells[0]) if results else None
    if found is None or len(found.values) < 2:
        return with_interval(name, 6, {"output_stride": "16"})
    return "{:.1f}; one seed {:.1f} to {:.1f}".format(found.value, *intervals.prediction(found.values))


def _time(name: str) -> str:
    """Time of the training of a profile's own network."""
    results = results_of(name)
    record = _own_run(results).training_record() if results else None
    if record is None:
        return "hours; not run here yet"
    device = record["device"] if "CPU" not in record["device"] else count(record["threads"], "core")
    return f"{compare.duration(record['seconds'])}, {device}"


def _own_run(results: CellResults) -> Run:
    """The run of a profile with its own settings."""
    return results.jobs(tables.load(6).cells[0])[0][0]


def minutes(command: str) -> str:
    values = bench("commands-cpu")
    (row,) = [row for row in values["rows"] if row["command"] == command]
    return f"{math.ceil(row['seconds'] / 60)} min, {count(values['machine']['threads'], 'core')}"


def commands() -> str:
    """The two commands with their minutes."""
    texts = {
        "make walkthrough": "notebooks, 11 trainings, a book; other table rows are stored",
        "make test": "ruff, mypy, pytest, nbval",
    }
    lines = [f"{command:17} # {minutes(command)}: {text}" for command, text in texts.items()]
    return "\n".join(["```bash", *lines, "```"])


# --- docs/results.md


def claims() -> str:
    """Every claim with its verdict, of each profile that has records; of others than the first those measured."""
    found = [name for name in PROFILES if shipped(name)]
    parts = [] if FIRST in found else [f"No records of the profile `{FIRST}` ship yet: `make walkthrough`."]
    for name in found:
        view = view_of(name)
        texts = view.texts()
        parts += (
            [f"![Each claim: the paper's difference, ours, and the verdict]({CLAIMS.name})"] if name == FIRST else []
        )
        texts["claim"] = [
            f"**{one.claim.name}**: {text}" for one, text in zip(view.verdicts, texts["claim"], strict=True)
        ]
        measured = [bool(verdict.found) or name == FIRST for verdict in view.verdicts]
        parts.append(f"**{view.title}.** {' '.join(view.notes())}")
        parts.append(markdown_rows(texts[measured].drop(columns="section")) if any(measured) else "")
    return "\n\n".join(filter(None, parts))


def claims_figure() -> Figure:
    """The claims of the first profile, and below each what the others have measured."""
    return Overview(tuple(view_of(name) for name in PROFILES if shipped(name)), ()).figure()


def measured_tables() -> str:
    """The tables of which at least half the cells are measured, of each profile that has records."""
    parts = []
    for name in PROFILES:
        results = results_of(name)
        for number in tables.NUMBERS if results else ():
            assert results is not None
            one = tables.load(number)
            values = frame(one, results.profile, results)
            if is_half_measured(one, results.profile, values):
                view = TableView(one, results.profile, values, ())
                parts.append(f"### {view.title}\n\n{markdown_rows(view.texts())}\n\n{' '.join(view.notes())}")
    return "\n\n".join(parts)


def runs() -> str:
    """Every shipped run on real images: its time, in what it differs from the profile, and its IoU by strategy."""
    results = results_of("mobile")
    if results is None:
        return "No records of the profile `mobile` ship yet."
    profile, own = results.profile, _own_run(results)
    names = list(profile.data.class_map().values())
    usual = compare.settings_of(catalogue.RunRecord(own.name, None, {"settings": own.identity}, ()))
    recipes, rows = [], []
    for record in sorted(catalogue.run_records("mobile"), key=_best_miou, reverse=True):
        name, values = f"`{record.name.rpartition('-')[2]}`", record.values
        changed = compare.differences(usual, compare.settings_of(record))
        words = [f"{setting.rpartition('.')[2]} {_value(value)}" for setting, _, value in changed]
        time = f"{compare.duration(values['seconds'])} on {count(values['threads'], 'core')}"
        recipes.append(f"- {name}, {time}: {'; '.join(words) or 'the settings of the profile'}")
        labeled = compare.by_label(record.usable, profile)
        for label, evaluation in sorted(labeled, key=lambda pair: pair[1].values["miou"]):
            values = evaluation.values
            rows.append([name, label, f"**{values['miou']:.1f}**", *(f"{values['class_iou'][k]:.1f}" for k in names)])
            name = ""
    header = ["run", "evaluation", "mIoU", *(name.replace("background", "backgr.") for name in names)]
    return "\n".join([*recipes, "", table(header, rows)])


def _best_miou(record: catalogue.RunRecord) -> float:
    return max((evaluation.values["miou"] for evaluation in record.usable), default=0.0)


def pairs() -> str:
    """Differences of shipped runs on real images that differ in one setting alone, with paired intervals."""
    rows = []
    records = [record for record in catalogue.run_records("mobile") if record.usable]
    for first, second in combinations(records, 2):
        changed = compare.differences(compare.settings_of(first), compare.settings_of(second))
        shared = compare.comparable(first, second)
        if len(changed) != 1 or changed[0][0] in ("training.iterations", "seed") or not shared:
            continue
        (name, before, after), (one, other) = changed[0], shared[0]
        old, new = (intervals.bootstrap(evaluation.confusions()) for evaluation in (one, other))
        found = intervals.weighted_sum([(1, new), (-1, old)])
        if found.value < 0:
            before, after, found = after, before, intervals.weighted_sum([(1, old), (-1, new)])
        steps = first.values["settings"]["training"]["iterations"]
        gain = "{:+.1f} ({:+.1f} to {:+.1f})".format(found.value, *found.interval())
        rows.append([f"`{name}`", _value(after), _value(before), f"{steps:,}", gain])
    return table(["setting", "this", "rather than", "steps", "gain in mIoU (95 %)"], rows)


def _value(value: object) -> str:
    return ", ".join(map(_value, value)) if isinstance(value, list) else str(value).removesuffix(".0")


# --- docs/paper.md


def paper_counts() -> str:
    """How many lines of the paper are explained, implemented, proven, measured and open."""
    return f"[The paper, line by line](docs/paper.md) has {fill_lines.counts()}."


def paper_lines() -> str:
    """The same, and every line with its anchors and the verdicts of the first profile."""
    found = view_of(FIRST).verdicts if shipped(FIRST) else ()
    return f"{fill_lines.counts()}.\n\n{fill_lines.sections({one.claim.name: one.verdict for one in found})}"


FILLERS: dict[str, Callable[[], str]] = {
    one.__name__: one
    for one in (
        best, rungs, commands, claims, measured_tables, runs, pairs, paper_counts, paper_lines,
        bench_model, bench_train, bench_evaluate, bench_pipeline, finetuning, settings,
    )
}  # fmt: skip


def filled(path: Path) -> str:
    """The text of a page with its blocks written anew."""
    text = path.read_text(encoding="utf-8")
    if path == CARD:
        return model_card(load_profile("mobile"), PRETRAINED)
    for name in (found[2] for found in BLOCK.finditer(text)):
        if name not in FILLERS:
            raise UserError(f"{path} has a block {name!r}; known are {', '.join(FILLERS)}.")
    return BLOCK.sub(lambda found: f"{found[1]}{FILLERS[found[2]]()}\n{found[3]}", text)


def main(arguments: list[str]) -> int:
    """Write what is not up to date, or with ``--check`` name it."""
    check = "--check" in arguments
    with (
        tempfile.TemporaryDirectory() as empty,
        paths.environment({SOURCE: SHIPPED, "DEEPLABV3_WORKSPACE": empty, "DEEPLABV3_DATA": empty}),
        # Without images every cell looks at all records, which nobody changes meanwhile.
        patch.object(catalogue, "run_records", cache(catalogue.run_records)),
    ):
        pages = {path: filled(path) for path in (HOME / "README.md", *sorted((HOME / "docs").glob("*.md")))}
        writers: dict[Path, Callable[[], None]] = {
            path: partial(write_atomically, path, text)
            for path, text in pages.items()
            if path.read_text(encoding="utf-8") != text
        }
        if shipped(FIRST) and (RESULTS in writers or not CLAIMS.is_file()):
            writers[CLAIMS] = lambda: save_figure(claims_figure(), CLAIMS)
        if not picture_is_current():
            writers[PICTURE] = picture
        for path, write in writers.items():
            print(f"{'not up to date' if check else 'written'}: {path.relative_to(HOME)}")
            if not check:
                write()
    return int(check and bool(writers))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
