"""The claims page: what the paper claims, its difference, ours with its interval, and the verdict."""

import html
import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from deeplabv3.errors import UserError
from deeplabv3.files import write_atomically, writing
from walkthrough.profiles import Profile, load_profile, profile_names
from walkthrough.records import catalogue
from walkthrough.report import verdicts
from walkthrough.report.tables import markdown_rows
from walkthrough.report.verdicts import Verdict


@dataclass(frozen=True)
class ClaimsView:
    """Every claim under one profile: a notebook shows it as HTML, a terminal as text.

    Of a claim that makes several comparisons the page shows the one that speaks least for it; the CSV has them all.
    """

    profile: Profile
    verdicts: tuple[Verdict, ...]

    @property
    def title(self) -> str:
        seeds = f"seed {self.profile.seed}" if self.profile.seeds == 1 else f"{self.profile.seeds} seeds"
        return f"The paper's claims, profile {self.profile.name}, {seeds}"

    def summary(self) -> str:
        """How many claims came out how."""
        words = [verdict.verdict for verdict in self.verdicts if verdict.complete or not verdict.found]
        counts = [f"{words.count(verdict)} {verdict}" for verdict in verdicts.VERDICTS if verdict in words]
        partly = sum(1 for verdict in self.verdicts if verdict.found and not verdict.complete)
        counts += [f"{partly} measured in part"] if partly else []
        seeds = ", with one seed" if self.profile.seeds == 1 else ""
        return f"Of {len(self.verdicts)} claims{seeds}: {', '.join(counts)}."

    def notes(self) -> list[str]:
        """How to read the verdicts."""
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

    def frame(self) -> pd.DataFrame:
        """One row a claim, as texts."""
        return pd.DataFrame([_texts(verdict) for verdict in self.verdicts])

    def comparisons(self) -> pd.DataFrame:
        """One row a comparison, as numbers; NaN where there is no record."""
        rows = []
        for verdict in self.verdicts:
            for comparison, ours in verdict.measured:
                low, high = ours.interval() if ours else (float("nan"),) * 2
                rows.append(
                    {
                        "claim": verdict.claim.name,
                        "verdict": verdict.words(),
                        "comparison": comparison.name,
                        "paper": comparison.paper,
                        "ours": ours.value if ours else float("nan"),
                        "low": low,
                        "high": high,
                        "seeds": len(ours.values) if ours else 0,
                    }
                )
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        return "\n".join([self.title, "", self.frame().to_string(index=False), "", *self.notes()]) + "\n"

    __repr__ = __str__

    def markdown(self) -> str:
        return f"**{self.title}**\n\n{markdown_rows(self.frame())}\n\n" + "\n\n".join(self.notes()) + "\n"

    def csv(self) -> str:
        buffer = io.StringIO()
        self.comparisons().assign(profile=self.profile.name).round(3).to_csv(buffer, index=False)
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        notes = "".join(f"<p><small>{html.escape(note)}</small></p>" for note in self.notes())
        return f"<p><b>{self.title}</b></p>\n{self.frame().to_html(index=False, border=0)}\n{notes}\n"

    def figure(self):
        """The page as a forest plot."""
        from walkthrough.figures import forest

        return forest.forest([_row(verdict) for verdict in self.verdicts], f"{self.title}. {self.summary()}")


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
        "verdict": verdict.words(),
    }


def _row(verdict: Verdict):
    from walkthrough.figures.forest import Row

    claim = verdict.claim
    comparison, ours = verdict.weakest or (claim.comparisons[0], None)
    low, high = ours.interval() if ours else (None, None)
    place = "Table " + ", ".join(map(str, claim.tables))
    value = ours.value if ours else None
    return Row(claim.name, place, comparison.paper, value, low, high, verdict.verdict, verdict.words())


def claims_view(profile: Profile) -> ClaimsView:
    """Every claim under ``profile``."""
    return ClaimsView(profile, tuple(verdicts.evaluate_claims(profile)))


FORMATS = {
    "text": ClaimsView.__str__,
    "markdown": ClaimsView.markdown,
    "csv": ClaimsView.csv,
    "html": ClaimsView._repr_html_,
}


def figure_format(path: Path) -> str:
    """``png``, ``svg`` or ``pdf``, as the file's ending says; another is a :class:`UserError`."""
    form = path.suffix.lstrip(".").lower()
    if form not in ("png", "svg", "pdf"):
        raise UserError(f"--figure {path} should end in .png, .svg or .pdf.")
    return form


def save_figure(view: ClaimsView, path: Path) -> None:
    """The page as a image; the file's ending says in which format."""
    form = figure_format(path)
    buffer = io.BytesIO()
    view.figure().savefig(buffer, format=form, dpi=130)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())


def write_claims(profile: Profile, output: Path) -> None:
    """Write the page of ``profile``, and below it that of every other profile that has records, into ``output``.

    ``claims.md``, ``claims.html``, a ``claims_PROFILE.csv`` each, and ``claims.png`` of ``profile``.
    """
    views = [claims_view(profile), *(view for name in recorded_profiles() if (view := _other(name, profile)))]
    for name, form in (("claims.md", "markdown"), ("claims.html", "html")):
        write_atomically(output / name, "\n".join(FORMATS[form](view) for view in views))
    for view in views:
        write_atomically(output / f"claims_{view.profile.name}.csv", view.csv())
    save_figure(views[0], output / "claims.png")


def recorded_profiles() -> list[str]:
    """The profiles of the project that have records of real images or were run here."""
    return [name for name in profile_names() if name != "smoke" and catalogue.all_records(name)]


def _other(name: str, profile: Profile) -> ClaimsView | None:
    """The page of another profile; None where its records say nothing on any claim, or cannot be read as they are."""
    if name == profile.name:
        return None
    try:
        view = claims_view(load_profile(name))
    except UserError:  # such as records of images that are not at hand and disagree on which they were
        return None
    return view if any(verdict.found for verdict in view.verdicts) else None
