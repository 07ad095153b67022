"""Verdicts of a profile's records on the paper's claims.

With several seeds:

- *supported*: in every comparison the 95 % interval of the difference lies above the comparison's bound: 0 for an
  order, -0.5 points where the paper says that something is no gain or is best, 10 for "much";
- *contradicted*: in one comparison it lies below the bound, or, for an order, below half a point and half the paper's
  difference. Where a claim makes several, that interval is as much wider as keeps the chance of a single false alarm
  among them at that of one comparison, 2.5 % (Bonferroni);
- *not decided*: anything else.

With one seed the interval says nothing of other trainings, which scatter more than images do. So the same three are
then called *higher*, *lower* and *open*: of these trained networks, and no verdict on the claim.

Without records a claim is *missing*; where only some comparisons have them, the verdict is on those and says how many.
It is *not run* where the project has no data for it, and an *other question* where the profile compares something else.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from walkthrough.paper import tables
from walkthrough.paper.claims import load
from walkthrough.paper.comparisons import SLIGHT, Claim, Comparison
from walkthrough.profiles import Profile
from walkthrough.report.intervals import LEVEL, Estimate
from walkthrough.report.results import CellResults

SUPPORTED, CONTRADICTED, NOT_DECIDED = "supported", "contradicted", "not decided"
HIGHER, LOWER, OPEN = "higher", "lower", "open"
MISSING, NOT_RUN, OTHER_QUESTION = "missing", "not run", "other question"
VERDICTS = (SUPPORTED, CONTRADICTED, NOT_DECIDED, HIGHER, LOWER, OPEN, MISSING, NOT_RUN, OTHER_QUESTION)

FROM_SCRATCH = (
    "Trained from scratch, frozen batch norm is none at all, and the units of a ResNet, whose last batch norm starts "
    "at 0, stay identities: another question than the paper's, where ImageNet has taught it."
)


@dataclass(frozen=True)
class Verdict:
    """A claim under a profile: each comparison with its measured value, None where a record is missing."""

    claim: Claim
    measured: tuple[tuple[Comparison, Estimate | None], ...]
    asked: bool = True  # False where the profile compares something else than the paper

    @property
    def found(self) -> list[tuple[Comparison, Estimate]]:
        """The comparisons that have records."""
        return [(comparison, ours) for comparison, ours in self.measured if ours is not None]

    @property
    def complete(self) -> bool:
        """True where every comparison has records."""
        return len(self.found) == len(self.measured)

    @property
    def several_seeds(self) -> bool:
        """True where every comparison that has records has those of several seeds."""
        return bool(self.found) and all(len(ours.values) > 1 for _, ours in self.found)

    @property
    def verdict(self) -> str:
        """One of :data:`VERDICTS`, on the comparisons that have records."""
        if not any(comparison.is_run for comparison in self.claim.comparisons):
            return NOT_RUN
        if not self.asked:
            return OTHER_QUESTION
        if not self.found:
            return MISSING
        words = (SUPPORTED, CONTRADICTED, NOT_DECIDED) if self.several_seeds else (HIGHER, LOWER, OPEN)
        if all(ours.interval()[0] > comparison.bound for comparison, ours in self.found):
            return words[0]
        joint = 1 - (1 - LEVEL) / len(self.found)
        refuted = any(ours.interval(joint)[1] < comparison.refuted_below for comparison, ours in self.found)
        return words[1] if refuted else words[2]

    @property
    def weakest(self) -> tuple[Comparison, Estimate] | None:
        """The comparison that speaks least for the claim: its interval begins lowest, seen from its bound."""
        return min(self.found, key=lambda pair: pair[1].interval()[0] - pair[0].bound, default=None)

    @property
    def agree(self) -> tuple[int, int]:
        """With how many seeds, of how many, the weakest comparison is above its bound."""
        if self.weakest is None:
            return 0, 0
        comparison, ours = self.weakest
        return int((ours.values > comparison.bound).sum()), len(ours.values)

    @property
    def label(self) -> str:
        """The verdict as it is printed, such as ``supported in 1 of 2`` or ``this network: open (sees 1.3)``."""
        verdict = self.verdict
        if not self.found or verdict in (NOT_RUN, OTHER_QUESTION):
            return verdict
        _, ours = self.weakest or self.found[0]
        partly = "" if self.complete else f" in {len(self.found)} of {len(self.measured)}"
        if verdict in (SUPPORTED, HIGHER) and self.claim.slight and ours.value > SLIGHT:
            partly += ", not slightly"
        if verdict in (NOT_DECIDED, OPEN):
            partly += f" (sees {ours.detectable():.1f})"
        return f"{verdict}{partly}" if self.several_seeds else f"this network: {verdict}{partly}"

    def p_value(self) -> float:
        """P value of support: the largest of the comparisons', all of which have to hold."""
        return max(ours.p_value(comparison.bound) for comparison, ours in self.found)

    def summary(self) -> str:
        """The verdict, the claim and its weakest comparison in one line."""
        line = f"{self.label}: {self.claim.sentence}"
        if self.weakest is None:
            return line
        comparison, ours = self.weakest
        low, high = ours.interval()
        least = f"; the weakest of {len(self.measured)}" if len(self.measured) > 1 else ""
        bound = f"; bound {comparison.bound:+g}" if comparison.bound else ""
        paper = "" if np.isnan(comparison.paper) else f"paper {comparison.paper:+.2f}, "
        agree = "{} of {} seeds agree".format(*self.agree)
        return (
            f"{line} ({comparison.name}{least}{bound}: {paper}ours {ours.value:+.2f}, 95 % {low:+.2f} to {high:+.2f}"
            f"{f', {agree}' if self.several_seeds else ''})"
        )


def evaluate_claim(claim: Claim, results: CellResults) -> Verdict:
    """Verdict of the records on ``claim``."""
    measured = tuple((one, results.weighted_sum(one.terms)) for one in claim.comparisons)
    return Verdict(claim, measured, not any(_asks_otherwise(one, results) for one in claim.comparisons))


def evaluate_claims(profile: Profile, results: CellResults | None = None) -> list[Verdict]:
    """Verdicts on all claims under ``profile``, in the order of :func:`walkthrough.paper.claims.load`."""
    results = results or CellResults(profile)
    return [evaluate_claim(claim, results) for claim in load(profile.extra_data)]


def _asks_otherwise(comparison: Comparison, results: CellResults) -> bool:
    """True where the profile compares a network with itself, or batch norm from ImageNet with none at all."""
    frozen = any(cell.training.get("freeze_batch_norm") for _, cell in comparison.terms)
    return (frozen and results.profile.from_scratch) or results.is_one_network(comparison.terms)


def holm(found: list[Verdict]) -> tuple[int, int]:
    """Number of claims that are supported at a family-wise 5 % (Holm), and of claims that were decided on.

    The family are the counted claims that are measured in full with several seeds.
    """
    family = [one for one in found if one.claim.counted and one.complete and one.several_seeds and one.asked]
    p_values = sorted(one.p_value() for one in family)
    passed = [p <= (1 - LEVEL) / (len(family) - rank) for rank, p in enumerate(p_values)]
    return [*passed, False].index(False), len(family)


def paper_scatter() -> float:
    """Points by which two trainings of the paper have to differ to differ at 5 %: 0.80, from Table 11's six."""
    values = [cell.miou for cell in tables.load(11).cells]
    return float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) * np.sqrt(2))


def within_paper_scatter(comparison: Comparison) -> bool:
    """True where the paper's difference is smaller than its own scatter; a mean of several cells has less of it."""
    weights = np.linalg.norm([weight for weight, _ in comparison.terms]) / np.sqrt(2)
    return comparison.is_run and abs(comparison.paper) < paper_scatter() * weights
