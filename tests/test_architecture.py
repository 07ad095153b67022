"""Structure of the project: requirements, directions of imports, and the form of the notebooks."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

HOME = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((HOME / "notebooks").glob("*.ipynb"))

# --- requirements

IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml"}
NEED_NOTEBOOKS = ("walkthrough.figures.", "walkthrough.notebooks.", "walkthrough.report.")
"""Modules that need the extra ``notebooks``: pandas, matplotlib, papermill …"""


def names(requirements: list[str]) -> set[str]:
    """Names of the required distributions."""
    return {re.split("[<>=~!]", line)[0].lower() for line in requirements}


def project() -> dict:
    return tomllib.loads((HOME / "pyproject.toml").read_text())["project"]


def test_environment_installs_what_notebooks_need():
    dependencies = yaml.safe_load((HOME / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    assert pip == ["--constraint constraints.txt", "--editable .[notebooks,book]"]
    assert f"python{project()['requires-python']}" in dependencies


def test_constraints_pin_every_requirement():
    extras = project()["optional-dependencies"]
    installed = ("notebooks", "book", "test", "export", "ray")
    required = names(sum((extras[name] for name in installed), project()["dependencies"]))
    assert len(required) > 20
    assert required <= names((HOME / "constraints.txt").read_text().splitlines()[1:])


def test_modules_import_only_required_packages():
    """Outside functions; except for the modules that need the extra ``notebooks``."""
    required = {IMPORT_NAMES.get(name, name) for name in names(project()["dependencies"])}
    for module, path in modules().items():
        body = ast.parse(path.read_text()).body
        found = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
        found |= {node.module for node in body if isinstance(node, ast.ImportFrom)}
        other = {name.split(".")[0] for name in found} - required - LAYERS.keys() - sys.stdlib_module_names
        assert not other or module.startswith(NEED_NOTEBOOKS), f"{module} imports {other}"


# --- imports


def drawn_layers() -> dict[str, list[set[str]]]:
    """The parts of both packages as docs/code.md draws them, from the bottom."""
    drawing = re.search(r"```text\n(.*?)```", (HOME / "docs" / "code.md").read_text(), re.DOTALL)
    blocks = (block.splitlines() for block in drawing[1].strip().split("\n\n"))
    return {package: [set(line.split()) for line in reversed(lines)] for package, *lines in blocks}


LAYERS = drawn_layers()
"""A part imports what stands below it, and itself."""

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
"""The first of a pair never imports the second, which stands below it or beside it."""


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
    assert lines <= 4250


def test_public_api():
    import deeplabv3

    assert set(deeplabv3.__all__) == {"DeepLabV3", "ModelConfig", "from_torchvision", "load_pretrained"}
    assert all(callable(getattr(deeplabv3, name)) for name in deeplabv3.__all__)


# --- notebooks


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def checked_cells(path: Path) -> list:
    return [cell for cell in code_cells(path) if "nbval-check-output" in cell.metadata.get("tags", [])]


def test_notebooks_are_numbered_in_order():
    names = [path.stem for path in NOTEBOOKS]
    assert [name[:2] for name in names] == [f"{number:02d}" for number in range(len(names))]
    assert len(names) >= 9
    assert sum(len(checked_cells(path)) for path in NOTEBOOKS) >= 15


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_checked_cells_have_outputs(path):
    """nbval skips a cell whose execution count is null."""
    for cell in checked_cells(path):
        assert cell.execution_count is not None, cell.source
        assert cell.outputs, cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_have_no_error_outputs(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_profile_is_the_only_parameter(path):
    cells = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    own = "\nfolder = None" if path.stem == "11_own_data" else ""
    assert [re.sub(" +#.*", "", cell.source.strip()) for cell in cells] == ["profile = None" + own]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_have_at_most_15_lines(path):
    """Imports, comments and empty lines do not count; longer code belongs in the library."""
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
def test_notebooks_have_no_machine_noise(path):
    notebook = nbformat.read(path, as_version=4)
    text = path.read_text()
    assert "/root/" not in text and "/home/" not in text and "/work/" not in text
    assert "papermill" not in notebook.metadata
    assert not any("execution" in cell.metadata or "papermill" in cell.metadata for cell in notebook.cells)
