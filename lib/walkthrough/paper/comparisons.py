"""Parts of a claim: weighted sums of cells, each said to lie above a bound."""

from dataclasses import dataclass

from walkthrough.paper.tables import Cell

DELTA = 0.5
"""Points of mIoU that count as no difference: six trainings meant to be alike spread by 0.52 (Table 11)."""

MUCH = 10.0
"""Points of mIoU by which "much worse" is worse; where the paper says so, its differences are 22 to 55."""

SLIGHT = 2.0
"""Points of mIoU beyond which a drop is not "slight"; where the paper says so, its own is 0.12."""


@dataclass(frozen=True)
class Comparison:
    """A weighted sum of cells that is said to be above ``bound``; ``(1, a), (-1, b)``: ``a`` is better than ``b``.

    The bound is 0 for an order, ``MUCH`` for "much better", and ``-DELTA`` where the paper says that ``b`` is no gain
    over ``a``, or that ``a`` is best or does not drop: then ``b`` is to be better by less than that.
    """

    name: str
    terms: tuple[tuple[float, Cell], ...]
    bound: float = 0.0

    @property
    def paper(self) -> float:
        """The paper's value in points; NaN where it does not print every cell."""
        return sum(weight * cell.miou for weight, cell in self.terms)

    @property
    def refuted_below(self) -> float:
        """An interval that ends below this contradicts: the bound, and for an order min(DELTA, half the paper's)."""
        return min(DELTA, self.paper / 2) if self.bound == 0 and self.paper > 0 else self.bound

    @property
    def is_run(self) -> bool:
        """True where the project runs every cell."""
        return all(cell.variant is not None for _, cell in self.terms)


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper; it is in our words, in the paper's terms, unless it has quotation marks."""

    name: str
    sentence: str
    section: str  # of the paper
    tables: tuple[int, ...]  # with the cells that are compared
    comparisons: tuple[Comparison, ...]  # none where the paper gives no numbers
    slight: bool = False  # said to be a slight drop
    counted: bool = True  # not where the paper does not say it, or says less: such claims are shown below the others


def beats(name: str, better: Cell, worse: Cell) -> Comparison:
    """``better`` is above ``worse``."""
    return Comparison(name, ((1, better), (-1, worse)))


def no_gain(name: str, kept: Cell, changed: Cell) -> Comparison:
    """``changed`` is better than ``kept`` by less than ``DELTA``, or worse."""
    return Comparison(name, ((1, kept), (-1, changed)), -DELTA)


def steps(name: str, cells: list[tuple[str, Cell]]) -> tuple[Comparison, ...]:
    """Each of the named cells is above the one before it; ``name`` begins the comparisons' names."""
    pairs = zip(cells[1:], cells, strict=False)
    return tuple(beats(f"{name}{better} over {worse}", a, b) for (better, a), (worse, b) in pairs)
