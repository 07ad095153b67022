"""README and docs: short, filled from the records, with commands that exist and links that lead somewhere."""

import argparse
import importlib
import json
import re
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from walkthrough.cli import COMMANDS
from walkthrough.paper import tables
from walkthrough.profiles import load_profile
from walkthrough.records.cells import cell_jobs
from walkthrough.records.naming import LOCAL, SOURCE

HOME = Path(__file__).resolve().parents[1]
DOCS = sorted(path for path in (HOME / "docs").glob("*.md") if path.stem != "index")  # the book's, with Sphinx's links
PAGES = [HOME / "README.md", HOME / "CONTRIBUTING.md", HOME / "CHANGELOG.md", HOME / "data" / "README.md", *DOCS]
OTHER_COMMANDS = ("source .venv/bin/activate", ".venv/bin/pip install -e ")
"""Programs that pages may tell a reader to call besides our own commands."""


@pytest.fixture
def fill(monkeypatch):
    """The script ``docs/fill.py`` with nothing remembered of earlier records."""
    monkeypatch.syspath_prepend(str(HOME / "docs"))
    module = importlib.import_module("fill")
    for remembered in (module.results_of, module.view_of):
        remembered.cache_clear()
    yield module
    for remembered in (module.results_of, module.view_of):
        remembered.cache_clear()


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    """The parser of ``deeplabv3``."""
    built = argparse.ArgumentParser(prog="deeplabv3", exit_on_error=False)
    subparsers = built.add_subparsers(required=True)
    for name in COMMANDS:
        importlib.import_module(f"walkthrough.commands.{name}").add(subparsers)
    return built


# --- README


def test_readme_is_short():
    assert (HOME / "README.md").stat().st_size <= 7168


def test_readme_python_runs():
    (source,) = re.findall(r"```python\n(.*?)```", (HOME / "README.md").read_text(), re.DOTALL)
    assert len(list(filter(None, source.splitlines()))) == 5
    values: dict = {}
    exec(source.replace("513", "33").replace("resnet101", "small_resnet20"), values)
    assert values["logits"].shape == (1, 21, 33, 33) and "cat" in values["classes"].values()


def test_pages_are_filled_from_the_records(fill, capsys):
    assert fill.main(["--check"]) == 0, capsys.readouterr().out


def test_stale_page_is_named_and_left(fill, tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "README.md"
    page.write_text("# A title\n\n<!-- fill: bench_train -->\nold\n<!-- end -->\n\nThe end.\n")
    monkeypatch.setattr(fill, "HOME", tmp_path)
    assert fill.main(["--check"]) == 1
    assert "not up to date: README.md" in capsys.readouterr().out and "old" in page.read_text()
    assert fill.main([]) == 0
    text = page.read_text()
    assert "old" not in text and "| + bfloat16 |" in text
    assert text.startswith("# A title\n\n<!-- fill: bench_train -->\n| ")
    assert text.endswith("|\n<!-- end -->\n\nThe end.\n")
    assert fill.main(["--check"]) == 0


def write_offline_records(seeds: int) -> None:
    """Records of two cells with some seeds: of 20 images, 4 and then 16 are right."""
    profile = replace(load_profile("offline"), seeds=seeds)
    one = tables.load(1)
    for cell, right in ((one.cell(output_stride="256"), 4), (one.cell(output_stride="8"), 16)):
        counts = np.zeros((20, 11, 11), dtype=np.int64)
        counts[:right, 1, 1], counts[right:, 1, 2] = 1, 1
        for run, settings in cell_jobs(cell, profile):
            run.write_training_record(60.0)
            run.write_evaluation_record(settings, run.evaluation_values(settings, counts, 1.0), counts)


def test_synthetic_column_follows_the_records(fill, monkeypatch, workspace):
    monkeypatch.setenv(SOURCE, LOCAL)
    assert "synthetic images," not in fill.best() and "No records of the synthetic images ship yet" in fill.best()
    write_offline_records(seeds=2)
    fill.results_of.cache_clear()
    text = fill.best()
    assert "| mIoU (95 %) | paper, VOC | synthetic images, 2 seeds |" in text
    assert "| trained and evaluated at output stride 8 (Table 1) | 75.18 | 40.0 (" in text
    assert "| + flip | 79.77 | – |" in text
    assert re.search(r"Of 34 claims: .*\d+ missing.*1 measured in part", text)
    assert not (workspace / "synthetic").exists(), "no image is drawn for it"


def test_unknown_block_is_refused(fill, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- fill: nothing -->\n<!-- end -->\n")
    with pytest.raises(fill.UserError, match="block 'nothing'"):
        fill.filled(page)


def test_settings_page_has_every_comment(fill):
    text = fill.settings()
    assert "| `power` | `0.9` | of the poly schedule |" in text
    assert "| `void` | `255` | label value" in text and "`null` | its gradient is clipped" in text
    assert "or another of float32, tf32, bfloat16. Not from the paper" in text
    assert "| `atrous_rates` | `(6, 12, 18)` |" in text and "| `backbones` | needed |" in text


# --- links


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    words = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return words.strip().replace(" ", "-")


def anchors(path: Path) -> set[str]:
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(HOME).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {target}"


def test_every_page_is_linked_from_readme():
    text = (HOME / "README.md").read_text()
    assert [page.name for page in DOCS if f"(docs/{page.name})" not in text] == []


# --- commands


def commands(page: Path) -> list[str]:
    """The lines of a page's bash blocks without their comments."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    lines = (shlex.join(shlex.split(line, comments=True)) for block in blocks for line in block.splitlines())
    return [line for line in lines if line]


@pytest.mark.parametrize("page", [HOME / "README.md", *DOCS], ids=lambda path: path.name)
def test_commands_of_pages_parse(page, parser):
    targets = re.findall(r"^([a-z-]+):", (HOME / "Makefile").read_text(), re.MULTILINE)
    for line in commands(page):
        words = shlex.split(line)
        if words[0] == "torchrun":
            words = ["deeplabv3", *words[words.index("walkthrough") + 1 :]]
        if words[0] == "deeplabv3":
            parser.parse_args(words[1:])
        elif words[0] == "make":
            assert words[1] in targets, line
        else:
            assert line.startswith(OTHER_COMMANDS), line


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(HOME).as_posix())
def test_commands_in_sentences_exist(page):
    known = {name.replace("test_set", "predict-test") for name in COMMANDS}
    assert set(re.findall(r"`deeplabv3 ([a-z-]+)", page.read_text())) <= known


def test_first_screen_has_both_commands():
    text = (HOME / "README.md").read_text()
    assert text.index("make walkthrough") < text.index("make test") < text.index("## ") < 2000


# --- citation and changes


def test_version_is_the_same_everywhere():
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((HOME / "CITATION.cff").read_text())
    assert citation["version"] == project["version"] and citation["license"] == project["license"]
    assert re.findall(r"^## (\S+)", (HOME / "CHANGELOG.md").read_text(), re.MULTILINE)[0] == project["version"]
    assert citation.get("repository-code") == project.get("urls", {}).get("Repository")


def test_paper_is_cited_as_the_paper():
    citation = yaml.safe_load((HOME / "CITATION.cff").read_text())
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Chen", "Papandreou", "Schroff", "Adam"]
    assert "1706.05587" in paper["url"] and not any("family-names" in author for author in citation["authors"])


def test_issue_template_asks_for_info():
    template = yaml.safe_load((HOME / ".github" / "ISSUE_TEMPLATE" / "problem.yml").read_text())
    labels = [part["attributes"]["label"] for part in template["body"]]
    assert "Output of `deeplabv3 info`" in labels


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(HOME).as_posix())
def test_pages_name_no_folder_of_one_machine(page):
    assert not re.search(r"/(root|home|work)/", page.read_text())


def test_workflows_and_containers_run_what_exists():
    targets = re.findall(r"^([\w./-]+):", (HOME / "Makefile").read_text(), re.MULTILINE)
    workflows = [yaml.safe_load(path.read_text()) for path in (HOME / ".github" / "workflows").glob("*.yml")]
    steps = [
        step["run"] for flow in workflows for job in flow["jobs"].values() for step in job["steps"] if "run" in step
    ]
    steps.append(json.loads((HOME / ".devcontainer" / "devcontainer.json").read_text())["postCreateCommand"])
    made = [word for step in steps for word in re.findall(r"^make (\S+)", step)]
    assert len(made) >= 2 and all(name in targets or f"{name} " in (HOME / "Makefile").read_text() for name in made)
    assert "bash .ci/run" in steps
    folders = [word for step in steps for word in step.split() if word.startswith("tests/")]
    assert folders and all((HOME / folder).is_dir() for folder in folders)
