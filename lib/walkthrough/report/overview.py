"""The paper's claims under several profiles beside each other, in groups, with the tables that they are about."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from walkthrough.paper import tables as paper_tables
from walkthrough.paper.comparisons import Claim
from walkthrough.profiles import Profile, load_profile
from walkthrough.records import catalogue
from walkthrough.report import tables, verdicts
from walkthrough.report.claims import (
    ClaimsView,
    claim_texts,
    claims_view,
    forest_row,
    recorded_profiles,
)
from walkthrough.report.render import Rendered
from walkthrough.report.results import CellResults
from walkthrough.report.tables import TableView
from walkthrough.report.verdicts import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUPS = {
    "cascade": ("The cascade", (1, 2, 3)),
    "inference": ("Inference", (4, 6)),
    "ASPP": ("ASPP", (5,)),
    "DeepLabv2": ("DeepLabv2 and batch norm", (14,)),
    "training": ("Training", (8, 9, 10)),
    "not run": ("Not run here", (7, 11, 12, 13)),
}
"""Title and tables of each group of claims."""

SYNTHETIC = "offline"
"""The profile with synthetic images whose records ship."""


def group_of(claim: Claim) -> str:
    """Name of the claim's group in :data:`GROUPS`: that of the last table that it compares."""
    if not any(comparison.is_run for comparison in claim.comparisons):
        return "not run"
    return next(name for name, (_, numbers) in GROUPS.items() if claim.tables[-1] in numbers)


@dataclass(frozen=True, repr=False)
class GroupView(Rendered):
    """Claims of one group: for each profile that has records on it a row, which shows the weakest comparison.

    ``folded`` are the tables behind them, which a notebook hides until they are opened.
    """

    name: str
    views: tuple[ClaimsView, ...]
    folded: tuple[TableView, ...] = ()

    @property
    def title(self) -> str:
        return GROUPS[self.name][0]

    @property
    def label(self) -> str:
        return f"tab:claims-{self.name.replace(' ', '-')}"

    def _verdicts(self) -> Iterator[tuple[Claim, list[tuple[ClaimsView, Verdict]]]]:
        """Each claim with the views that have records on it, and their verdicts."""
        for found in zip(*(view.verdicts for view in self.views), strict=True):
            pairs = [(view, one) for view, one in zip(self.views, found, strict=True) if one.found]
            yield found[0].claim, pairs

    def texts(self) -> pd.DataFrame:
        rows = []
        for claim, pairs in self._verdicts():
            sentence = claim.sentence if claim.counted else f"{claim.sentence} (Not counted.)"
            if group_of(claim) == "not run":
                pairs = [(self.views[0], next(one for one in self.views[0].verdicts if one.claim == claim))]
            for number, (view, verdict) in enumerate(pairs):
                texts = claim_texts(verdict, {})
                images = "" if verdict.verdict == verdicts.NOT_RUN else images_of(view.profile)
                row = {"claim": "" if number else sentence, "compared": texts["compared"], "paper": texts["paper"]}
                row |= {"images": images, "ours (95 %)": texts["ours"], "seeds agree": texts["seeds agree"]}
                rows.append(row | {"verdict": texts["verdict"]})
        frame = pd.DataFrame(rows, columns=[*_COLUMNS])
        return frame.drop(columns=[name for name in _MAY_BE_EMPTY if not frame[name].any()])

    def numbers(self) -> pd.DataFrame:
        return pd.concat([view.numbers() for view in self.views], ignore_index=True)

    def notes(self) -> list[str]:
        without = [claim for claim, pairs in self._verdicts() if not pairs and group_of(claim) != "not run"]
        names = "; ".join(claim.name for claim in without)
        count = f"{len(without)} claim{'s have' if len(without) > 1 else ' has'}"
        return [f"{count} no record here: {names}."] if without else []

    def figure(self) -> "Figure":
        """Every comparison of the group: the paper's difference, and ours under the first profile."""
        from walkthrough.figures.charts import differences

        rows = {
            comparison.name: (comparison.paper, (ours.value, *ours.interval()) if ours else None)
            for verdict in self.views[0].verdicts
            for comparison, ours in verdict.measured
        }
        return differences(rows, f"{images_of(self.views[0].profile)}: difference, points of mIoU")

    def _repr_html_(self) -> str:
        # Tables without the lines on claims, which stand above; their titles say which profile.
        views = [replace(view, verdicts=()) for view in self.folded]
        opened = "".join(view._repr_html_() for view in views)
        numbers = ", ".join(dict.fromkeys(str(view.table.number) for view in views))
        plural = "s" if "," in numbers else ""
        summary = f"<details><summary>Table{plural} {escape(numbers)}, every cell</summary>{opened}</details>\n"
        return super()._repr_html_() + (summary if opened else "")


_COLUMNS = ("claim", "compared", "paper", "images", "ours (95 %)", "seeds agree", "verdict")
_MAY_BE_EMPTY = ("images", "ours (95 %)", "seeds agree")


@dataclass(frozen=True)
class Overview:
    """The claims under ``views``: synthetic images first, then real ones."""

    views: tuple[ClaimsView, ...]
    results: tuple[CellResults, ...]

    def group(self, name: str) -> GroupView:
        """The claims of a group of :data:`GROUPS`, and its tables."""
        views = tuple(
            replace(view, verdicts=tuple(one for one in view.verdicts if group_of(one.claim) == name))
            for view in self.views
        )
        return GroupView(name, views, tuple(self._tables(GROUPS[name][1])))

    def _tables(self, numbers: Sequence[int]) -> Iterator[TableView]:
        """The tables under each profile that has records for half of the cells; those that are not run once."""
        for number in numbers:
            is_run = any(cell.variant is not None for cell in paper_tables.load(number).cells)
            for results in self.results if is_run else self.results[:1]:
                found = tables.view(number, results.profile, results)
                if not is_run or tables.is_half_measured(found.table, found.profile, found.values):
                    yield found

    def summaries(self) -> list[str]:
        """For each profile its images, seeds and the number of claims with each verdict, as a sentence."""
        return [f"{images_of(view.profile)}, {_seeds(view.profile)}. {view.summary()}" for view in self.views]

    def figure(self) -> "Figure":
        """Forest plot of the counted claims; a claim that several profiles have records on has a line for each."""
        from walkthrough.figures.forest import forest

        rows = []
        for found in zip(*(view.verdicts for view in self.views), strict=True):
            shown = [(view, one) for view, one in zip(self.views, found, strict=True) if one.found]
            for number, (view, one) in enumerate(shown if found[0].claim.counted else ()):
                row = forest_row(one)
                if number:
                    row = replace(row, name="", place=images_of(view.profile), continues=True)
                elif view is not self.views[0]:
                    row = replace(row, place=f"{row.place}; {images_of(view.profile)}")
                rows.append(row)
        return forest(rows, "\n".join(self.summaries()))


def images_of(profile: Profile) -> str:
    """Kind of a profile's images, such as ``synthetic (offline)``."""
    return f"{'synthetic' if profile.data.kind == 'synthetic' else 'real'} ({profile.name})"


def _seeds(profile: Profile) -> str:
    return f"seed {profile.seed}" if profile.seeds == 1 else f"{profile.seeds} seeds"


def with_recorded_seeds(profile: Profile) -> Profile:
    """The profile with the seeds that it has records of, from its own on."""
    last = max(catalogue.recorded_seeds(profile.name), default=0)
    return replace(profile, seeds=max(1, last - profile.seed + 1))


def overview(profile: Profile) -> Overview:
    """The claims under ``profile``, with every seed that has records, and under the others that have any.

    Of the profiles with synthetic images there is one, ``profile`` itself or else :data:`SYNTHETIC`.
    """
    own_synthetic = profile.data.kind == "synthetic"
    others = [load_profile(name) for name in recorded_profiles() if name != profile.name]
    synthetic = [one for one in others if one.name == SYNTHETIC and not own_synthetic]
    real = [one for one in others if one.data.kind != "synthetic"]
    chosen = [profile, *real] if own_synthetic else [*synthetic, profile, *real]
    results = [CellResults(with_recorded_seeds(one)) for one in chosen]
    views = [claims_view(one.profile, one) for one in results]
    shown = [
        (view, one)
        for view, one in zip(views, results, strict=True)
        if one.profile.name == profile.name or any(verdict.found for verdict in view.verdicts)
    ]
    return Overview(tuple(view for view, _ in shown), tuple(one for _, one in shown))
