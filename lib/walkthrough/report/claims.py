"""The claims page: the paper's claims, its differences, ours with their intervals, and the verdicts."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from deeplabv3.errors import UserError
from deeplabv3.files import write_atomically
from walkthrough.profiles import Profile, load_profile, profile_names
from walkthrough.records import catalogue
from walkthrough.report import verdicts
from walkthrough.report.render import FORMATS, Rendered
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

    @property
    def title(self) -> str:
        seeds = f"seed {self.profile.seed}" if self.profile.seeds == 1 else f"{self.profile.seeds} seeds"
        return f"The paper's claims, profile {self.profile.name}, {seeds}"

    @property
    def label(self) -> str:
        return "tab:claims"

    def summary(self) -> str:
        """Number of claims with each verdict, as a sentence."""
        found = [verdict.verdict for verdict in self.verdicts if verdict.complete or not verdict.found]
        counts = [f"{found.count(verdict)} {verdict}" for verdict in verdicts.VERDICTS if verdict in found]
        partly = sum(1 for verdict in self.verdicts if verdict.found and not verdict.complete)
        counts += [f"{partly} measured in part"] if partly else []
        seeds = ", with one seed" if self.profile.seeds == 1 else ""
        return f"Of {len(self.verdicts)} claims{seeds}: {', '.join(counts)}."

    def notes(self) -> list[str]:
        if self.profile.seeds > 1:
            chance = "the images and the seeds"
        else:
            chance = "the images. One seed: a verdict is on these trained networks, and others may turn it round"
        notes = [
            self.summary(),
            f"Differences in points of mIoU, ours with the 95 % interval of what chance does through {chance}. "
            "Supported: it lies above 0 in every comparison that the claim makes; contradicted: below 0 in one. The "
            "comparison that speaks least for the claim is shown.",
        ]
        if not (self.profile.model.backbone_weights or self.profile.model.init_from):
            notes.append("Trained from scratch, batch norm that is not fine-tuned is none at all.")
        return notes

    def texts(self) -> pd.DataFrame:
        """One row a claim."""
        return pd.DataFrame([_texts(verdict) for verdict in self.verdicts])

    def numbers(self) -> pd.DataFrame:
        """One row a comparison; NaN where there is no record."""
        rows = []
        for verdict in self.verdicts:
            for comparison, ours in verdict.measured:
                low, high = ours.interval() if ours else (float("nan"),) * 2
                rows.append(
                    {
                        "claim": verdict.claim.name,
                        "verdict": verdict.label,
                        "comparison": comparison.name,
                        "paper": comparison.paper,
                        "ours": ours.value if ours else float("nan"),
                        "low": low,
                        "high": high,
                        "seeds": len(ours.values) if ours else 0,
                        "profile": self.profile.name,
                    }
                )
        return pd.DataFrame(rows)

    def figure(self) -> "Figure":
        """Forest plot of the claims."""
        from walkthrough.figures.forest import forest

        return forest([_forest_row(verdict) for verdict in self.verdicts], f"{self.title}. {self.summary()}")


def _texts(verdict: Verdict) -> dict[str, str]:
    claim = verdict.claim
    comparison, ours = verdict.weakest or (claim.comparisons[0], None)
    several = f" (of {len(claim.comparisons)})" if len(claim.comparisons) > 1 else ""
    low, high = ours.interval() if ours else (0.0, 0.0)
    return {
        "claim": claim.sentence,
        "section": claim.section,
        "table": ", ".join(map(str, claim.tables)),
        "compared": comparison.name + several,
        "paper": f"{comparison.paper:+.2f}",
        "ours": f"{ours.value:+.2f} ({low:+.2f} to {high:+.2f})" if ours else "",
        "verdict": verdict.label,
    }


def _forest_row(verdict: Verdict) -> "ForestRow":
    from walkthrough.figures.forest import ForestRow

    claim = verdict.claim
    comparison, ours = verdict.weakest or (claim.comparisons[0], None)
    place = "Table " + ", ".join(map(str, claim.tables))
    values = (ours.value, *ours.interval()) if ours else None
    return ForestRow(claim.name, place, comparison.paper, values, verdict.verdict, verdict.label)


def claims_view(profile: Profile) -> ClaimsView:
    """Every claim under ``profile``."""
    return ClaimsView(profile, tuple(verdicts.evaluate_claims(profile)))


def figure_format(path: Path) -> str:
    """The file's ending, ``png``, ``svg`` or ``pdf``; another is a :class:`UserError`."""
    form = path.suffix.lstrip(".").lower()
    if form not in ("png", "svg", "pdf"):
        raise UserError(f"--figure {path} should end in .png, .svg or .pdf.")
    return form


def save_figure(view: ClaimsView, path: Path) -> None:
    """Write the forest plot of ``view``; the file's ending is its format."""
    form = figure_format(path)
    buffer = io.BytesIO()
    view.figure().savefig(buffer, format=form, dpi=130)
    write_atomically(path, buffer.getvalue())


def write_claims(profile: Profile, output: Path) -> None:
    """Write the claims of ``profile`` and of every other profile with records into ``output``.

    The files are ``claims.md``, ``claims.html``, a ``claims_PROFILE.csv`` each, and ``claims.png`` of ``profile``.
    """
    others = [_view_of_records(name) for name in recorded_profiles() if name != profile.name]
    views = [claims_view(profile), *(view for view in others if view)]
    for name, form in (("claims.md", "markdown"), ("claims.html", "html")):
        write_atomically(output / name, "\n".join(FORMATS[form](view) for view in views))
    for view in views:
        write_atomically(output / f"claims_{view.profile.name}.csv", view.csv())
    save_figure(views[0], output / "claims.png")


def recorded_profiles() -> list[str]:
    """Profiles of the project that have records, those of tests (smoke) left out."""
    return [name for name in profile_names() if name != "smoke" and catalogue.all_records(name)]


def _view_of_records(name: str) -> ClaimsView | None:
    """The claims of another profile; None where its records say nothing on any claim, or cannot be read."""
    try:
        view = claims_view(load_profile(name))
    except UserError:  # such as records of images that are not at hand and disagree on which they were
        return None
    return view if any(verdict.found for verdict in view.verdicts) else None
