"""HTML pages of the executed notebooks, self-contained, with links to the previous and the next one, and an index."""

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from deeplabv3.files import write_atomically

TITLE = "DeepLabv3, walked through"

# The stock page loads require.js, MathJax and Mermaid from the network; ours use none of them. A figure's alternative
# text is in the metadata of its cell.
PAGE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js_requirejs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}<style>
main { max-width: 62rem; margin: 0 auto; }
nav { display: flex; gap: 2rem; padding: .6rem 1rem; font: 14px system-ui, sans-serif; border-block: 1px solid #ddd; }
nav a { color: #0b57a4; text-decoration: none; } nav > * { flex: 1; text-align: center; }
nav > :first-child { text-align: left; } nav > :last-child { text-align: right; }
math { font-family: "Latin Modern Math", "STIX Two Math", "Cambria Math", math; font-size: 1.12em; }
mtd { text-align: left; }
nav > :first-child a::before { content: "← "; } nav > :last-child a::after { content: " →"; }
</style>{%- endblock -%}
{%- block data_png scoped -%}
{%- set alt = 'alt="' ~ (cell.metadata.alt | escape_html) ~ '" ' if cell.metadata.alt else "" -%}
{{ super() | replace("<img ", "<img " ~ alt) }}
{%- endblock -%}
{%- block body_header -%}{{ super() }}{{ resources.bar }}{%- endblock -%}
{%- block body_footer -%}{{ resources.bar }}{{ super() }}{%- endblock -%}
"""

INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>%(title)s</title><style>
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #222; }
a { color: #0b57a4; text-decoration: none; } h1 { font-weight: 600; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid #e4e4e4; text-align: left; vertical-align: top; }
</style></head><body>
<h1>%(title)s</h1>
<table><tr><th>Notebook</th><th>Minutes</th><th>State</th></tr>
%(rows)s</table>
%(tables)s
</body></html>
"""


def write_pages(
    output: Path, folder: Path, sources: Mapping[str, NotebookNode], state: Mapping[str, dict], done: list[str]
) -> None:
    """Write a page for each notebook of ``done``, and ``index.html`` with all of them and the tables, into ``output``.

    ``state`` has the minutes and the state of every notebook of ``sources``, whose files are in ``folder``.
    """
    titles = {name: _title(name, source) for name, source in sources.items()}
    links = {name: f'<a href="{name}.html">{escape(titles[name])}</a>' for name in done}
    exporter = HTMLExporter(raw_template=PAGE, filters={"markdown2html": markdown_to_html})
    for place, name in enumerate(done):
        before, after = ("".join(links[other] for other in part) for part in (done[:place][-1:], done[place + 1 :][:1]))
        bar = f'<nav><span>{before}</span><a href="index.html">{TITLE}</a><span>{after}</span></nav>'
        about = {"metadata": {"name": titles[name], "path": str(folder)}, "bar": bar}
        page, _ = exporter.from_notebook_node(nbformat.read(output / f"{name}.ipynb", as_version=4), about)
        for other in done:
            page = re.sub(rf'href="{other}\.ipynb(#[^"]*)?"', rf'href="{other}.html\1"', page)
        write_atomically(output / f"{name}.html", page)
    for name in set(sources) - set(done):
        (output / f"{name}.html").unlink(missing_ok=True)  # an earlier run's, to which no link leads any more
    rows = ""
    for name, title in titles.items():
        cells = (links.get(name, escape(title)), f"{state[name]['minutes']:.1f}", state[name]["state"])
        rows += f"<tr><td>{'</td><td>'.join(cells)}</td></tr>\n"
    figure = '<p><img src="claims.png" alt="The paper\'s claims and their verdicts" style="max-width: 100%"></p>\n'
    parts = [figure if (output / "claims.png").is_file() else ""]
    names = ("reproduction", "claims", "tables")
    parts += [path.read_text("utf-8") for name in names if (path := output / f"{name}.html").is_file()]
    values = {"title": TITLE, "rows": rows, "tables": "\n".join(parts)}
    write_atomically(output / "index.html", INDEX % values)


class _Renderer(IPythonRenderer):
    """Formulas in MathML, which a browser draws without a script."""

    def block_math(self, body: str) -> str:
        return convert(body, display="block")

    def inline_math(self, body: str) -> str:
        return convert(body)


def markdown_to_html(source: str) -> str:
    """HTML of a Markdown cell."""
    return MarkdownWithMath(renderer=_Renderer(escape=False)).render(source)


def _title(name: str, notebook: NotebookNode) -> str:
    texts = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = re.search(r"^# +(.+)$", texts, re.MULTILINE)
    return found[1].strip() if found else name
