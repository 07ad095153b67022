"""Settings of the book: the notebooks, the pages of docs/, the API. Nothing comes from the network.

``make book`` reads the checkout itself, ``deeplabv3 walkthrough`` a copy that has its executed notebooks and a page
``docs/walkthrough.md`` on the run. Links between files lead to pages.
"""

import json
import re
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
project, version, author = "DeepLabv3, walked through", about["version"], "its contributors"
repository = about.get("urls", {}).get("Repository", "")

extensions = ["myst_nb", "sphinx.ext.napoleon", "autoapi.extension", "mathml"]
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "data/README.md", "docs/**", "notebooks/*.ipynb"]
exclude_patterns = ["docs/book"]
suppress_warnings = ["mystnb.unknown_mime_type"]  # of widgets, beside which a figure stands

nb_execution_mode, nb_merge_streams, nb_ipywidgets_js = "off", True, {}
myst_enable_extensions, myst_heading_anchors = ["dollarmath"], 3

autoapi_dirs, autoapi_root, autoapi_add_toctree_entry = [str(ROOT / "lib" / "deeplabv3")], "docs/api", False
autoapi_options = ["members", "show-inheritance", "show-module-summary"]

html_theme, html_title, html_math_renderer = "sphinx_book_theme", project, "mathml"
html_extra_path, html_static_path, html_css_files = ["index.html"], ["static"], ["book.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {"use_download_button": False, "home_page_in_toc": True, "navbar_persistent": []}
if repository:
    launch = {"colab_url": "https://colab.research.google.com", "binderhub_url": "https://mybinder.org"}
    html_theme_options |= {"repository_url": repository, "use_repository_button": True, "use_issues_button": True}
    html_theme_options |= {"launch_buttons": launch, "path_to_docs": "."}


def prepare_notebook(app, name, source):
    """Give figures the alternative texts of their cells, and leave out the cell of the parameters."""
    if not name.startswith("notebooks/"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        if alt := cell["metadata"].get("alt"):
            cell["metadata"]["mystnb"] = {"image": {"alt": alt}}
        if "parameters" in cell["metadata"].get("tags", []):
            cell["metadata"]["tags"].append("remove-cell")
    source[0] = json.dumps(notebook)


CODE = re.compile(r"\[([^\]]+)\]\(\.\./(lib|tests)/([\w/]+)\.\w+\)")


def link_to_api(app, name, source):
    """Let links of docs/ to the library's files lead to the API, and leave out those to code that has no page."""

    def replaced(found):
        text, folder = found[1].strip("`"), f"{found[2]}/{found[3]}".rpartition("/")[0]
        if folder.startswith("lib/deeplabv3"):
            return f"{{py:obj}}`{text} <{folder.removeprefix('lib/').replace('/', '.')}.{text}>`"
        return f"{found[1]} ({found[0].rpartition('../')[2]}"  # the address ends the link with a bracket

    if name.startswith("docs/"):
        source[0] = CODE.sub(replaced, source[0])


def setup(app):
    app.connect("source-read", prepare_notebook)
    app.connect("source-read", link_to_api)
