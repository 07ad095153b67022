"""The book: built without a warning, whole without the network, and driven in a browser."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))

pytest.importorskip("myst_nb", reason="the extra 'book' is not installed")


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """The folder of the pages, built from a copy of what the book is made of."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("book")
    for name in ("docs", "notebooks", "lib/deeplabv3"):
        skip = shutil.ignore_patterns("api", "__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, source / name, ignore=skip)
    for name in (*map(str, ROOT.glob("*.md")), "pyproject.toml", "LICENSE", "CITATION.cff", "data/README.md"):
        target = source / Path(name).relative_to(ROOT) if Path(name).is_absolute() else source / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, target)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs/book"]
    command += ["-d", str(built / "trees"), ".", str(built / "html")]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return built / "html"


def test_no_page_loads_anything_from_outside(book):
    pages = [page for page in book.rglob("*.html") if "_static" not in page.parts]  # there is a template
    assert len(pages) > 50
    for page in pages:
        loads = r'<(?:script|img|iframe)[^>]*\ssrc="([^"]*)"|<link[^>]*\shref="([^"]*)"'
        loaded = re.findall(loads, page.read_text())
        for target in ("".join(pair) for pair in loaded):
            assert not re.match(r"(https?:)?//", target), (page, target)
            if not target.startswith("data:") and not target.startswith("#"):
                assert (page.parent / target.partition("?")[0].partition("#")[0]).exists(), (page, target)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_is_a_page_with_described_figures(book, name):
    page = (book / "notebooks" / f"{name}.html").read_text()
    source = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    figures = [
        cell for cell in source.cells if any("image/png" in out.get("data", {}) for out in cell.get("outputs", []))
    ]
    shown = [unescape(alt) for alt in re.findall(r'<img alt="([^"]*)"', page)]
    assert len(shown) >= len(figures) >= 2
    assert {cell.metadata.alt for cell in figures} <= {*shown}
    assert "profile = None" not in re.sub("<[^>]*>", "", page)
    assert "<math" in page or not any("$$" in cell.source for cell in source.cells)


def test_api_has_the_network_and_links_between_notebooks_work(book):
    api = (book / "docs/api/deeplabv3/model/deeplab/index.html").read_text()
    assert "set_output_stride" in api and "_refuse_one_value" not in api
    assert 'href="04_aspp.html"' in (book / "notebooks" / "03_cascade.html").read_text()
    assert "url=docs/index.html" in (book / "index.html").read_text()


class Browser:
    """A page in Chromium, without a network, driven by its debugging protocol."""

    def __init__(self, folder: Path):
        self._folder = folder
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        command += [f"--user-data-dir={folder}", "--host-resolver-rules=MAP * ~NOTFOUND", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()

    def visit(self, url: str, *scripts: str) -> list:
        """Open a page and return the value that each script has once it is not false any more."""
        return asyncio.run(self._visit(url, scripts))

    async def _visit(self, url, scripts):
        from tornado.httpclient import AsyncHTTPClient
        from tornado.websocket import websocket_connect

        port = self._folder / "DevToolsActivePort"
        await _until(lambda: port.is_file() and port.read_text())
        targets = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port.read_text().split()[0]}/json")
        page = next(one for one in json.loads(targets.body) if one["type"] == "page")
        socket, number = await websocket_connect(page["webSocketDebuggerUrl"]), 0

        async def call(method, **values):
            nonlocal number
            number += 1
            await socket.write_message(json.dumps({"id": number, "method": method, "params": values}))
            while (answer := json.loads(await socket.read_message())).get("id") != number:
                pass
            return answer.get("result", {})  # an error, while a page gives way to the next

        await call("Page.navigate", url=url)
        found = []
        for script in scripts:
            end = time.monotonic() + 60
            while not (value := (await call("Runtime.evaluate", expression=script)).get("result", {}).get("value")):
                assert time.monotonic() < end, script
                await asyncio.sleep(0.1)
            found.append(value)
        socket.close()
        return found


async def _until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.1)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_reader_searches_switches_theme_and_turns_pages(book, tmp_path):
    start = (book / "docs" / "index.html").as_uri()
    with Browser(tmp_path) as browser:
        search = (book / "search.html").as_uri() + "?q=multi-grid"
        (hits,) = browser.visit(search, "(n => n > 2 && n)(document.querySelectorAll('#search-results li a').length)")
        assert hits >= 3
        theme, changed = browser.visit(
            start,
            "document.readyState == 'complete' && document.documentElement.dataset.theme",
            "document.querySelector('.theme-switch-button').click(), document.documentElement.dataset.mode",
        )
        assert theme in ("light", "dark") and changed in ("light", "dark", "auto")
        ready = "document.readyState == 'complete' && document.querySelector('.next-page, .right-next') != null"
        click = "document.querySelector('.right-next').click() || true"
        titles = browser.visit(start, ready, click, "document.title.includes('Start here') && document.title")
        assert "Start here" in titles[-1]
