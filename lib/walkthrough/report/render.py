"""A table with title and notes as text, Markdown, CSV, HTML and LaTeX."""

import html
from abc import ABC, abstractmethod

import pandas as pd


def markdown_rows(texts: pd.DataFrame) -> str:
    """A frame of texts as a Markdown table."""
    lines = [" | ".join(texts.columns), " | ".join("---" for _ in texts.columns)]
    lines += [" | ".join(map(str, row)) for row in texts.itertuples(index=False)]
    return "\n".join(f"| {line} |" for line in lines)


class Rendered(ABC):
    """Base class: a notebook shows it as HTML, a terminal as text."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Title above the table."""

    @property
    def caption(self) -> str:
        """Title in LaTeX, where a number and the notes do not belong to it."""
        return self.title

    @property
    @abstractmethod
    def label(self) -> str:
        """Label in LaTeX."""

    @abstractmethod
    def texts(self) -> pd.DataFrame:
        """The table as it is printed."""

    @abstractmethod
    def numbers(self) -> pd.DataFrame:
        """The table as it is written to a CSV file."""

    @abstractmethod
    def notes(self) -> list[str]:
        """Sentences below the table."""

    def __str__(self) -> str:
        return "\n".join([self.title, "", self.texts().to_string(index=False), "", *self.notes()]) + "\n"

    __repr__ = __str__

    def markdown(self) -> str:
        notes = "\n".join(f"- {note}" for note in self.notes()).replace("*", r"\*")
        return f"## {self.title}\n\n{markdown_rows(self.texts())}\n\n{notes}\n"

    def csv(self) -> str:
        return self.numbers().round(3).to_csv(index=False)

    def _repr_html_(self) -> str:
        notes = "".join(f"<p><small>{html.escape(note)}</small></p>" for note in self.notes())
        return f"<p><b>{self.title}</b></p>\n{self.texts().to_html(index=False, border=0)}\n{notes}\n"

    def latex(self) -> str:
        caption = self.caption.replace("&", r"\&").replace("%", r"\%").replace("_", r"\_")
        body = self.texts().rename(columns={" ": ""})
        return body.to_latex(index=False, escape=True, caption=caption, label=self.label)


FORMATS = {
    "text": Rendered.__str__,
    "markdown": Rendered.markdown,
    "csv": Rendered.csv,
    "html": Rendered._repr_html_,
    "latex": Rendered.latex,
}
