"""Verdicts of a profile's records on the paper's claims.

- *supported*: in every comparison the 95 % interval of the difference lies above 0;
- *contradicted*: in one comparison it lies below 0. Where a claim makes several, that interval is as much wider as
  keeps the chance of a single false alarm among them at that of one comparison, 2.5 % (Bonferroni);
- *not decided*: anything else;
- *missing*: no comparison has a record yet. Where only some have, the verdict is on those and says how many.
"""

from dataclasses import dataclass

from walkthrough.paper.claims import Claim, Comparison, load
from walkthrough.profiles import Profile
from walkthrough.report.intervals import LEVEL, Estimate
from walkthrough.report.results import CellResults

SUPPORTED, CONTRADICTED, NOT_DECIDED, MISSING = "supported", "contradicted", "not decided", "missing"
VERDICTS = (SUPPORTED, CONTRADICTED, NOT_DECIDED, MISSING)


@dataclass(frozen=True)
class Verdict:
    """A claim under a profile: each comparison with its measured value, None where a record is missing."""

    claim: Claim
    measured: tuple[tuple[Comparison, Estimate | None], ...]

    @property
    def found(self) -> list[tuple[Comparison, Estimate]]:
        """The comparisons that have records."""
        return [(comparison, ours) for comparison, ours in self.measured if ours is not None]

    @property
    def complete(self) -> bool:
        """True where every comparison has records."""
        return len(self.found) == len(self.measured)

    @property
    def verdict(self) -> str:
        """One of :data:`VERDICTS`, on the comparisons that have records."""
        results = [ours for _, ours in self.found]
        if not results:
            return MISSING
        if all(ours.interval()[0] > 0 for ours in results):
            return SUPPORTED
        joint = 1 - (1 - LEVEL) / len(results)
        return CONTRADICTED if any(ours.interval(joint)[1] < 0 for ours in results) else NOT_DECIDED

    @property
    def weakest(self) -> tuple[Comparison, Estimate] | None:
        """The comparison that speaks least for the claim: its interval begins lowest."""
        return min(self.found, key=lambda pair: pair[1].interval()[0], default=None)

    @property
    def label(self) -> str:
        """The verdict as it is printed, such as ``supported in 1 of 2``."""
        partly = "" if self.complete or not self.found else f" in {len(self.found)} of {len(self.measured)}"
        return self.verdict + partly

    def summary(self) -> str:
        """The verdict, the claim and its weakest comparison in one line."""
        line = f"{self.label}: {self.claim.sentence}"
        if self.weakest is None:
            return line
        comparison, ours = self.weakest
        low, high = ours.interval()
        least = f"; the least certain of {len(self.measured)}" if len(self.measured) > 1 else ""
        return (
            f"{line} ({comparison.name}{least}: paper {comparison.paper:+.2f}, ours {ours.value:+.2f}, "
            f"95 % {low:+.2f} to {high:+.2f})"
        )


def evaluate_claim(claim: Claim, results: CellResults) -> Verdict:
    """Verdict of the records on ``claim``."""
    return Verdict(claim, tuple((one, results.weighted_sum(one.terms)) for one in claim.comparisons))


def evaluate_claims(profile: Profile) -> list[Verdict]:
    """Verdicts on all claims under ``profile``, in the paper's order."""
    results = CellResults(profile)
    return [evaluate_claim(claim, results) for claim in load()]
