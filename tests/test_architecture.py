"""What holds the project together: requirements, directions of imports, and the form of the notebooks."""

import ast
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

HOME = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((HOME / "notebooks").glob("*.ipynb"))

# --- requirements


def requirements(lines: list[str]) -> dict[str, str]:
    """Name to version specifier; ``-e .`` and the like are left out."""
    found = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[\w,]+\])?\s*([<>=!~].*)?", line.strip())
        if match and not line.startswith("-"):
            found[match[1].lower().replace("_", "-")] = (match[2] or "").replace(" ", "")
    return found


def test_pyproject_and_environment_require_the_same():
    project = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((HOME / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in environment if isinstance(entry, dict)]
    extras = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]
    needed, known = requirements(project["dependencies"]), requirements(project["dependencies"] + extras)
    listed = requirements(pip)
    assert len(needed) > 10
    assert {name: listed.get(name) for name in needed} == needed
    assert listed == {name: known.get(name) for name in listed}
    python = requirements([entry for entry in environment if isinstance(entry, str)])["python"]
    lowest = project["requires-python"].removeprefix(">=")
    assert tuple(map(int, re.findall(r"\d+", python)[:2])) >= tuple(map(int, lowest.split(".")))


# --- imports

LAYERS = {
    "deeplabv3": (
        {"errors"},
        {"files", "signals", "config", "distributed"},
        {"model", "data"},
        {"training", "evaluation"},
    ),
    "walkthrough": (
        {"paths"},
        {"profiles", "paper", "figures"},
        {"records", "bench"},
        {"report", "experiments"},
        {"notebooks"},
        {"commands"},
        {"cli"},
        {"__main__"},
    ),
}
"""The parts of both packages, from the bottom: a part imports what stands below it, and itself."""

WALLS = (
    ("deeplabv3.model", "deeplabv3.data"),
    ("deeplabv3.data", "deeplabv3.model"),
    ("deeplabv3.training", "deeplabv3.evaluation"),
    ("deeplabv3.evaluation", "deeplabv3.training"),
    ("walkthrough.paper", "deeplabv3.model"),
    ("walkthrough.paper", "deeplabv3.data"),
    ("walkthrough.paper", "deeplabv3.training"),
    ("walkthrough.paper", "deeplabv3.evaluation"),
    ("walkthrough.paper", "walkthrough.profiles"),
    ("walkthrough.records", "deeplabv3.training"),
    ("walkthrough.report", "walkthrough.experiments"),
    ("walkthrough.figures", "walkthrough.profiles"),
    ("walkthrough.figures", "walkthrough.paper"),
    ("walkthrough.figures", "deeplabv3.data"),
    ("walkthrough.figures", "deeplabv3.training"),
    ("walkthrough.figures", "deeplabv3.evaluation"),
)
"""The first of a pair never imports the second."""


def modules() -> dict[str, Path]:
    """The modules of both packages by their dotted names."""
    found = {}
    for path in (HOME / "lib").rglob("*.py"):
        parts = path.relative_to(HOME / "lib").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of both packages that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                found.add(below if below in known else node.module)
    return {name for name in found if name.split(".")[0] in LAYERS}


def part(module: str) -> str:
    """``deeplabv3.model`` of ``deeplabv3.model.atrous``."""
    return ".".join(module.split(".")[:2])


def crossings(edges: set[tuple[str, str]]) -> list[str]:
    """Imports that a wall forbids, each as a sentence."""
    level = {
        f"{package}.{name}": number
        for package, layers in LAYERS.items()
        for number, layer in enumerate(layers)
        for name in layer
    }
    found = []
    for module, target in sorted(edges):
        own, other = part(module), part(target)
        if own in LAYERS:  # a package's public API
            continue
        upward = own.split(".")[0] == other.split(".")[0] and level.get(other, 99) > level[own]
        beside = own != other and level.get(other) == level[own] and own.startswith("deeplabv3.")
        library_imports_study = own.startswith("deeplabv3") and other.startswith("walkthrough")
        if (
            other in LAYERS
            or upward
            or library_imports_study
            or (own, other) in WALLS
            or (beside and (own, other) != ("deeplabv3.distributed", "deeplabv3.config"))
        ):
            found.append(f"{module} imports {target}")
    return found


def edges() -> set[tuple[str, str]]:
    known = modules()
    return {(module, target) for module, path in known.items() for target in imports(path, known)}


def test_every_module_has_a_layer():
    named = {f"{package}.{name}" for package, layers in LAYERS.items() for layer in layers for name in layer}
    assert {part(module) for module in modules()} - LAYERS.keys() == named


def test_imports_respect_the_walls():
    found = edges()
    assert len(found) > 100
    assert crossings(found) == []


@pytest.mark.parametrize(
    ("module", "target"),
    [
        *WALLS,
        ("deeplabv3.model.atrous", "walkthrough.paths"),
        ("deeplabv3.errors", "deeplabv3.files"),
        ("deeplabv3.config", "deeplabv3.model.atrous"),
        ("deeplabv3.data.voc", "deeplabv3.training.step"),
        ("walkthrough.paths", "walkthrough.profiles"),
        ("walkthrough.profiles", "walkthrough.records.run"),
        ("walkthrough.paper.tables", "walkthrough.records.cells"),
        ("walkthrough.records.run", "walkthrough.experiments.task"),
        ("walkthrough.experiments.run", "walkthrough.notebooks.run"),
        ("walkthrough.notebooks.run", "walkthrough.commands.options"),
        ("walkthrough.commands.options", "walkthrough.cli"),
    ],
)
def test_a_crossed_wall_is_found(module, target):
    assert crossings({(module, target)}) == [f"{module} imports {target}"]


def test_imports_have_no_cycle():
    known = modules()
    graph = {module: imports(path, known) & known.keys() for module, path in known.items()}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " → ".join((*way, module))
        if module not in done:
            for target in graph[module]:
                visit(target, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_library_is_small():
    lines = sum(len(path.read_text().splitlines()) for path in (HOME / "lib" / "deeplabv3").rglob("*.py"))
    assert lines <= 4000


def test_public_api():
    import deeplabv3

    assert set(deeplabv3.__all__) == {"DeepLabV3", "ModelConfig", "from_torchvision"}
    assert all(callable(getattr(deeplabv3, name)) for name in deeplabv3.__all__)


# --- notebooks


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def checked_cells(path: Path) -> list:
    return [cell for cell in code_cells(path) if "nbval-check-output" in cell.metadata.get("tags", [])]


def test_the_notebooks_are_there_in_order():
    names = [path.stem for path in NOTEBOOKS]
    assert [name[:2] for name in names] == [f"{number:02d}" for number in range(len(names))]
    assert len(names) >= 9
    assert sum(len(checked_cells(path)) for path in NOTEBOOKS) >= 15


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_checked_cells_have_something_to_check(path):
    """nbval compares nothing in a cell whose execution count is null."""
    for cell in checked_cells(path):
        assert cell.execution_count is not None, cell.source
        assert cell.outputs, cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_ends_in_an_error(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_profile_is_the_only_parameter(path):
    cells = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert [cell.source.strip() for cell in cells] == ["profile = None"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_cell_has_at_most_15_lines_of_logic(path):
    """Imports, comments and empty lines are no logic; what is longer belongs in the library."""
    for cell in code_cells(path):
        imported = {
            line
            for node in ast.parse(cell.source).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for line in range(node.lineno, node.end_lineno + 1)
        }
        lines = [
            line
            for number, line in enumerate(cell.source.splitlines(), start=1)
            if line.strip() and not line.strip().startswith("#") and number not in imported
        ]
        assert len(lines) <= 15, cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_carry_no_machine_noise(path):
    notebook = nbformat.read(path, as_version=4)
    text = path.read_text()
    assert "/root/" not in text and "/home/" not in text and "/work/" not in text
    assert "papermill" not in notebook.metadata
    assert not any("execution" in cell.metadata or "papermill" in cell.metadata for cell in notebook.cells)
