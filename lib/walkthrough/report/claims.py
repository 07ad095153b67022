"""The claims page: the paper's claims, its differences, ours with their intervals, and the verdicts."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deeplabv3.errors import UserError
from deeplabv3.files import write_atomically
from walkthrough.paper.comparisons import DELTA, MUCH
from walkthrough.profiles import Profile, load_profile, profile_names
from walkthrough.records import catalogue
from walkthrough.records.naming import SHIPPED, reading
from walkthrough.report import verdicts
from walkthrough.report.intervals import POWER, prediction
from walkthrough.report.render import Rendered
from walkthrough.report.results import CellResults
from walkthrough.report.verdicts import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from walkthrough.figures.forest import ForestRow


@dataclass(frozen=True, repr=False)
class ClaimsView(Rendered):
    """Every claim under one profile.

    A claim that makes several comparisons is shown by its weakest one; the CSV has them all.
    """

    profile: Profile
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...] = ()  # of lists too small for their intervals
    others: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)
    """With one seed: differences of the other seeds that ship ``(seeds,)``, by claim and comparison."""

    @property
    def title(self) -> str:
        seeds = f"seed {self.profile.seed}" if self.profile.seeds == 1 else f"{self.profile.seeds} seeds"
        return f"The paper's claims, profile {self.profile.name}, {seeds}"

    @property
    def label(self) -> str:
        return "tab:claims"

    def counts(self) -> dict[str, int]:
        """Number of counted claims with each verdict; of those that are measured in part apart."""
        counted = [verdict for verdict in self.verdicts if verdict.claim.counted]
        partly = [one for one in counted if one.found and not one.complete and one.asked]
        found = [verdict.verdict for verdict in counted if verdict not in partly]
        counts = {verdict: found.count(verdict) for verdict in verdicts.VERDICTS if verdict in found}
        return counts | ({"measured in part": len(partly)} if partly else {})

    def summary(self) -> str:
        """The same as a sentence."""
        counts, seeds = self.counts(), ", with one seed, which decides none" if self.profile.seeds == 1 else ""
        verdict_texts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        return f"Of {sum(counts.values())} claims{seeds}: {verdict_texts}."

    def notes(self) -> list[str]:
        several = any(verdict.several_seeds for verdict in self.verdicts)
        notes = [self.summary(), _RULE if several else _RULE_OF_ONE_SEED, _MARKS, *self.warnings]
        if several:
            passed, family = verdicts.holm(list(self.verdicts))
            notes.insert(1, f"{passed} of {family} measured claims are supported at a family-wise 5 %, too (Holm).")
        if any(len(values) > 1 for values in self.others.values()):
            notes.append(_RULE_OF_OTHERS)
        if uncounted := sum(not verdict.claim.counted for verdict in self.verdicts):
            notes.append(f"The last {uncounted} rows are not counted: the paper does not say them, or less strictly.")
        if self.profile.from_scratch:
            notes.append(verdicts.FROM_SCRATCH)
        return notes

    def texts(self) -> pd.DataFrame:
        """One row a claim; the columns of agreeing and of other seeds only where there are such."""
        texts = pd.DataFrame([claim_texts(verdict, self.others) for verdict in self.verdicts])
        return texts.drop(columns=[name for name in ("seeds agree", "other seeds") if not texts[name].any()])

    def numbers(self) -> pd.DataFrame:
        """One row a comparison; NaN where there is no record."""
        rows = []
        for verdict in self.verdicts:
            for comparison, ours in verdict.measured:
                low, high = ours.interval() if ours else (float("nan"),) * 2
                others = self.others.get((verdict.claim.name, comparison.name), np.empty(0))
                others_low, others_high = prediction(others)
                rows.append(
                    {
                        "claim": verdict.claim.name,
                        "verdict": verdict.label,
                        "comparison": comparison.name,
                        "paper": comparison.paper,
                        "within_paper_scatter": verdicts.within_paper_scatter(comparison),
                        "bound": comparison.bound,
                        "refuted_below": comparison.refuted_below,
                        "ours": ours.value if ours else float("nan"),
                        "low": low,
                        "high": high,
                        "detectable": ours.detectable() if ours else float("nan"),
                        "seeds": len(ours.values) if ours else 0,
                        "agree": int((ours.values > comparison.bound).sum()) if ours else 0,
                        "other_seeds": len(others),
                        "other_seeds_low": others_low,
                        "other_seeds_high": others_high,
                        "profile": self.profile.name,
                    }
                )
        return pd.DataFrame(rows)

    def figure(self) -> "Figure":
        """Forest plot of the counted claims."""
        from walkthrough.figures.forest import forest

        rows = [forest_row(verdict) for verdict in self.verdicts if verdict.claim.counted]
        return forest(rows, f"{self.title}. {self.summary()}")


_RULE = (
    "Differences in points of mIoU in the direction of the claim, ours with the 95 % interval of what chance does "
    "through images and seeds. Supported: it lies above the bound in every comparison that the claim makes; "
    "contradicted: in one, at a level that allows for their number, it lies below the bound, or, for an order, below "
    f"{DELTA} and half the paper's difference. The bound is 0, -{DELTA} where the paper sees no gain or a best, "
    f'{MUCH:.0f} for "much". The comparison that speaks least for the claim is shown, and the seeds that agree with '
    f'it; "sees" is the difference that such an interval finds with a chance of {POWER:.0%}.'
)

_RULE_OF_ONE_SEED = (
    "Differences in points of mIoU in the direction of the claim, ours with the 95 % interval of what chance does "
    "through the images. One seed, so no verdict on a claim: trainings scatter more than images do, and another seed "
    "may turn it round. Of these trained networks: higher, if in every comparison the interval lies above the bound "
    f'(0, -{DELTA} where the paper sees no gain or a best, {MUCH:.0f} for "much"); lower, if in one it lies below; '
    "else open."
)

_RULE_OF_OTHERS = (
    "Other seeds: the mean of those that ship, and the interval that one more seed lies in with a chance of 95 %. "
    '"Outside": this seed does not, as one comparison in twenty does by chance.'
)

_MARKS = (
    "* within the paper's own scatter: one of the claim's differences is so small in the paper that two of its own "
    f"trainings could have it by chance ({verdicts.paper_scatter():.2f} points, from Table 11). Not to decide such a "
    "claim is no failure."
)


def claim_texts(verdict: Verdict, others: Mapping[tuple[str, str], np.ndarray]) -> dict[str, str]:
    """The claim's row of the page: its weakest comparison. ``others`` as in :class:`ClaimsView`."""
    claim = verdict.claim
    texts = {"claim": claim.sentence, "section": claim.section, "table": ", ".join(map(str, claim.tables))}
    texts |= dict.fromkeys(("compared", "paper", "ours", "seeds agree", "other seeds"), "")
    if claim.comparisons:
        comparison, ours = verdict.weakest or (claim.comparisons[0], None)
        several = f" (of {len(claim.comparisons)})" if len(claim.comparisons) > 1 else ""
        scatter = "*" if any(map(verdicts.within_paper_scatter, claim.comparisons)) else ""
        texts["compared"] = comparison.name + several
        texts["paper"] = "" if np.isnan(comparison.paper) else f"{comparison.paper:+.2f}{scatter}"
        if ours:
            texts["ours"] = "{:+.2f} ({:+.2f} to {:+.2f})".format(ours.value, *ours.interval())
            values = others.get((claim.name, comparison.name), np.empty(0))
            low, high = prediction(values)
            if np.isfinite(low):
                inside = "inside" if low <= ours.value <= high else "outside"
                texts["other seeds"] = f"{values.mean():+.2f} ({low:+.2f} to {high:+.2f}): {inside}"
        if verdict.several_seeds:
            texts["seeds agree"] = "{} of {}".format(*verdict.agree)
    return texts | {"verdict": verdict.label}


def forest_row(verdict: Verdict) -> "ForestRow":
    """The claim's line in a forest plot: its weakest comparison."""
    from walkthrough.figures.forest import ForestRow

    claim = verdict.claim
    numbers = ", ".join(map(str, claim.tables))
    place = f"Table{'s' if len(claim.tables) > 1 else ''} {numbers}" if claim.tables else "no table"
    if not claim.comparisons:
        return ForestRow(claim.name, place, float("nan"), None, verdict.verdict, verdict.label)
    comparison, ours = verdict.weakest or (claim.comparisons[0], None)
    values = (ours.value, *ours.interval()) if ours else None
    return ForestRow(claim.name, place, comparison.paper, values, verdict.verdict, verdict.label, comparison.bound)


def claims_view(profile: Profile, results: CellResults | None = None) -> ClaimsView:
    """Every claim under ``profile``."""
    results = results or CellResults(profile)
    found = tuple(verdicts.evaluate_claims(profile, results))
    others = _other_seeds(profile, found) if profile.seeds == 1 else {}
    return ClaimsView(profile, found, tuple(results.warnings), others)


def _other_seeds(profile: Profile, found: Sequence[Verdict]) -> dict[tuple[str, str], np.ndarray]:
    """Differences of the seeds that ship, but for the profile's own, by claim and comparison."""
    with reading(SHIPPED):
        seeds = catalogue.recorded_seeds(profile.name) - {profile.seed}
        by_seed = [CellResults(replace(profile, seed=seed)) for seed in sorted(seeds)]
        differences = {
            (verdict.claim.name, comparison.name): [results.difference(comparison.terms) for results in by_seed]
            for verdict in found
            for comparison, ours in verdict.measured
            if ours
        }
    return {name: np.array([value for value in values if value is not None]) for name, values in differences.items()}


def figure_format(path: Path) -> str:
    """The file's ending, ``png``, ``svg`` or ``pdf``; another is a :class:`UserError`."""
    form = path.suffix.lstrip(".").lower()
    if form not in ("png", "svg", "pdf"):
        raise UserError(f"--figure {path} should end in .png, .svg or .pdf.")
    return form


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a forest plot; the file's ending is its format."""
    form = figure_format(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=130)
    write_atomically(path, buffer.getvalue())


def write_claims(profile: Profile, output: Path) -> None:
    """Write the claims of ``profile`` and of every other profile with records into ``output``.

    The files are ``claims.md``, a ``claims_PROFILE.csv`` each, and ``claims.png`` of ``profile``.
    """
    others = [_view_of_records(name) for name in recorded_profiles() if name != profile.name]
    views = [claims_view(profile), *(view for view in others if view)]
    write_atomically(output / "claims.md", "\n".join(view.markdown() for view in views))
    for view in views:
        write_atomically(output / f"claims_{view.profile.name}.csv", view.csv())
    save_figure(views[0].figure(), output / "claims.png")


def recorded_profiles() -> list[str]:
    """Profiles of the project with records of several seeds, since one decides no claim; smoke's are of tests."""
    return [name for name in profile_names() if name != "smoke" and len(catalogue.recorded_seeds(name)) > 1]


def _view_of_records(name: str) -> ClaimsView | None:
    """The claims of another profile; None where its records say nothing on any claim, or cannot be read."""
    try:
        view = claims_view(load_profile(name))
    except UserError:  # such as records of images that are not at hand and disagree on which they were
        return None
    return view if any(verdict.found for verdict in view.verdicts) else None
