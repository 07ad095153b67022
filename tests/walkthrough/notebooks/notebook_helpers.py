"""Small notebooks and their walkthrough; the code of the project's own notebooks."""

import ast
import json

import nbformat
from conftest import give_own_ports
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from torch import nn

from walkthrough import paths
from walkthrough.notebooks import run as module
from walkthrough.notebooks.run import walkthrough
from walkthrough.report import claims as page
from walkthrough.report import tables as report

NAMES = ["00_first", "01_second", "02_third"]


def write_notebook(folder, name, *sources, parameters="profile = None\nsteps = 1", tags=("parameters",), alt=""):
    """A notebook that notes its execution in ``log.txt`` beside its folder, and then executes ``sources``.

    The last of them has the alternative text ``alt``.
    """
    note = f"with open('../log.txt', 'a') as log:\n    print({name!r}, file=log)"
    cells = [new_markdown_cell(f"# About {name}")]
    cells += [new_code_cell(parameters, metadata={"tags": list(tags)} if tags else {}), new_code_cell(note)]
    cells += [new_code_cell(source) for source in sources]
    cells[-1].metadata.update({"alt": alt} if alt else {})
    folder.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")


def write_notebooks(folder):
    """Three notebooks; the second shows each kind of output, and noise."""
    write_notebook(folder, "00_first")
    write_notebook(
        folder, "01_second", "import sys\nprint('seen')\nprint('no' + 'ise', file=sys.stderr)\nprint('too')", "6 * 7"
    )
    draw = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    write_notebook(folder, "02_third", draw, draw, alt="A line & more")


def executed(root):
    """The notebooks that noted their execution since the last call."""
    log = root / "log.txt"
    names = log.read_text().split() if log.is_file() else []
    log.unlink(missing_ok=True)
    return names


def run(root, **options):
    """The walkthrough from ``root/notebooks`` to ``root/output``."""
    options = {"profile": "smoke", "only": [], "output": root / "output", "fresh": False, "parameters": {}, **options}
    return walkthrough(notebooks=root / "notebooks", **options)


def load(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def state(output):
    return {name: entry["state"] for name, entry in json.loads((output / "state.json").read_text()).items()}


def write_claims(profile, output):
    (output / "claims.md").write_text(f"claims of {profile.name}")


def write_tables(profile, output):
    (output / "tables.md").write_text(f"tables of {profile.name}")


def end_in_book(output, executed):
    print(f"{output}: book of {', '.join(executed)}")


def isolate(patch, library):
    """Tables, library and book of our own: these tests are about none, and others may be at work on them."""
    library.mkdir()
    (library / "model.py").write_text("one")
    patch.setattr(module, "PACKAGES", (library,))
    patch.setattr(module, "end_in_book", end_in_book)
    patch.setattr(module, "shares_of_cores", lambda profile: [set()])  # one at a time, in this process
    patch.setattr(report, "write_tables", write_tables)
    patch.setattr(page, "write_claims", write_claims)
    patch.delenv("DEEPLABV3_PROFILE", raising=False)
    give_own_ports(patch)


# --- the project's notebooks

START, ATROUS, OUTPUT_STRIDE = "00_start_here", "01_atrous_convolution", "02_output_stride"
CASCADE, ASPP = "03_cascade", "04_aspp"
INFERENCE, PREDICTIONS = "07_inference", "08_predictions"
RESULTS, BEYOND = "09_results", "10_beyond"
DATA, TRAINING = "05_voc", "06_training"
OWN_DATA = "11_own_data"


def cells(name: str, kind: str = "code") -> list:
    notebook = nbformat.read(paths.home() / "notebooks" / f"{name}.ipynb", as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def definitions(name: str) -> dict:
    """Imports, functions, classes and constants (in capitals) of a notebook; nothing else of it is executed."""
    body = [node for cell in cells(name) for node in ast.parse(cell.source).body if is_definition(node)]
    found: dict = {}
    exec(compile(ast.Module(body, []), f"{name}.ipynb", "exec"), found)
    return found


def is_definition(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return all(name.id.isupper() for name in ast.walk(node.targets[0]) if isinstance(name, ast.Name))
    return isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)


def with_random_norms(network: nn.Module) -> nn.Module:
    """The network for evaluation, its batch norms with weights and statistics that are not 1 and 0."""
    for layer in network.eval().modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight.data, layer.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
            for values in (layer.bias.data, layer.running_mean):
                nn.init.normal_(values)
    return network
