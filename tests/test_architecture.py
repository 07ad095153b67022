"""What holds the project together: requirements, directions of imports, and the form of the notebooks."""

import ast
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

HOME = Path(__file__).resolve().parents[1]
LIBRARY = HOME / "lib" / "deeplabv3"
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

LAYERS = (
    {"errors", "paths"},
    {"model", "data", "plots", "diagrams", "panels", "forest", "widgets"},
    {"training", "evaluation"},
    {"profiles"},
    {"paper"},
    {"pages", "bench"},
    {"cli", "commands", "walkthrough", "__main__"},
)
STRANGERS = {("model", "data"), ("data", "model")} | {
    (figures, other) for figures in ("plots", "diagrams", "panels", "forest") for other in ("model", "data")
}
"""model knows no data set, data no model, figures neither."""


def modules() -> dict[str, Path]:
    """``deeplabv3.…`` to its file."""
    found = {}
    for path in LIBRARY.rglob("*.py"):
        parts = path.relative_to(LIBRARY.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the library that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                found.add(below if below in known else node.module)
    return {name for name in found if name.split(".")[0] == "deeplabv3"}


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def test_imports_point_one_way():
    known = modules()
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    assert {room(module) for module in known} - {None} <= level.keys(), "a new room needs a layer"
    edges = {(module, target) for module, path in known.items() for target in imports(path, known)}
    assert len(edges) > 30
    for module, target in edges:
        if room(module) is None:  # the package's face
            continue
        own, other = room(module), room(target)
        assert other is not None, f"{module} imports the package's face"
        assert level[own] >= level[other], f"{module} imports {target}"
        assert (own, other) not in STRANGERS, f"{module} imports {target}"


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


def test_the_face_of_the_package():
    import deeplabv3

    assert set(deeplabv3.__all__) == {"DeepLabV3", "ModelConfig", "from_torchvision", "load_profile"}
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
