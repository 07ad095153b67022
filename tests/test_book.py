"""The book: built without a warning, whole without the network, and driven in a browser."""

import asyncio
import json
import re
import shutil
import subprocess
import time
from html import unescape
from pathlib import Path

import nbformat
import pytest

from walkthrough.notebooks.book import START, write_book
from walkthrough.profiles import load_profile
from walkthrough.report.tables import render

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))

pytest.importorskip("myst_nb", reason="the extra 'book' is not installed")


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """The folder of the pages, built as at the end of a walkthrough in which the notebooks came out as committed."""
    output = tmp_path_factory.mktemp("output")
    for name in NOTEBOOKS:
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", output)
    rows = "".join(f"| {name} | 1.0 | done |\n" for name in NOTEBOOKS)
    (output / "summary.md").write_text(f"| notebook | minutes | state |\n| --- | ---: | --- |\n{rows}")
    (output / "tables.md").write_text(render(1, load_profile("offline"), "markdown"))
    shutil.copy(ROOT / "docs" / "claims.png", output)
    (output / "book").mkdir()
    (output / "book" / "of_an_earlier_run.html").touch()
    assert write_book(output, NOTEBOOKS, tmp_path_factory.mktemp("aside")) == "", "a warning"
    return output / "book"


def test_start_page_has_notebooks_claims_and_tables(book):
    page = (book.parent / START).read_text()
    links = re.findall(r'<td><p><a [^>]*href="../notebooks/(\w+).html"><span[^>]*>([^<]*)</span></a></p></td>', page)
    assert [name for name, _ in links] == NOTEBOOKS and "3 · The cascade" in dict(links)["03_cascade"]
    assert re.search(r'<img alt="Each claim[^"]*" src="../_images/walkthrough.png"', page)
    assert (book / "_images" / "walkthrough.png").read_bytes() == (ROOT / "docs" / "claims.png").read_bytes()
    assert "<h2>Table 1. " in page and "<td><p>75.18</p></td>" in page
    assert not (book / "of_an_earlier_run.html").exists()


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


def test_lines_of_the_paper_lead_to_headings_and_to_the_api(book):
    page = (book / "docs" / "paper.html").read_text()
    assert 'href="../notebooks/03_cascade.html#multi-grid"' in page
    assert 'href="api/deeplabv3/model/atrous/index.html#deeplabv3.model.atrous.plan_rates"' in page
    assert 'href="../tests' not in page and " (tests/deeplabv3/" in page and "{py:obj}" not in page


PATIENCE_S = 300.0
"""Seconds that a browser on a busy machine may take for anything."""


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
        pages, end = [], time.monotonic() + PATIENCE_S
        while not pages:  # the browser answers before it has one
            assert time.monotonic() < end
            address = f"http://127.0.0.1:{port.read_text().split()[0]}/json"
            targets = await AsyncHTTPClient().fetch(address, connect_timeout=PATIENCE_S, request_timeout=PATIENCE_S)
            pages = [one for one in json.loads(targets.body) if one["type"] == "page"]
        (page, *_) = pages
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
            end = time.monotonic() + PATIENCE_S
            while not (value := (await call("Runtime.evaluate", expression=script)).get("result", {}).get("value")):
                assert time.monotonic() < end, script
                await asyncio.sleep(0.1)
            found.append(value)
        socket.close()
        return found


async def _until(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.1)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_reader_searches_switches_theme_and_turns_pages(book, tmp_path):
    start = (book.parent / START).as_uri()
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
        click = "setTimeout(() => document.querySelector('.right-next').click())"  # answered before the page goes
        titles = browser.visit(start, ready, click, "document.title.includes('Start here') && document.title")
        assert "Start here" in titles[-1]
