"""The quickstart notebook in a real browser: the panel appears, and the slider changes its pictures."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "01_quickstart.ipynb"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PANEL = ".xaibench-explorer"


@contextmanager
def jupyter_lab(folder, run):
    """JupyterLab on a free port of localhost, with settings and data below `folder`; yields its address."""
    home = folder / "home"
    environment = {
        **os.environ,
        "XAIBENCH_RUN": str(run),
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    home.mkdir()
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--ip=127.0.0.1",
        "--port=0",
        "--allow-root",
    ]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None"]
    log = folder / "lab.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        try:
            yield _address(home / "runtime", server, log)
        finally:
            server.terminate()
            server.wait(timeout=30)


def _address(runtime, server, log):
    for _ in range(240):
        if server.poll() is not None:
            break
        for file in runtime.glob("jpserver-*.json"):
            address = json.loads(file.read_text())["url"]
            try:
                with urllib.request.urlopen(f"{address}api", timeout=5):
                    return address
            except OSError:
                pass
        time.sleep(0.25)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def pictures(page):
    """The pictures on show, as their bytes."""
    script = """images => Promise.all(images.map(async image => {
        const data = await (await fetch(image.src)).arrayBuffer();
        return Array.from(new Uint8Array(data)).join(",");
    }))"""
    return page.locator(f"{PANEL} img").evaluate_all(script)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the panel did not follow"
        time.sleep(0.1)


def settled(page):
    """Whether no cell is running any more and the pictures have come to rest."""
    before = pictures(page)
    time.sleep(1)
    return len(before) >= 3 and pictures(page) == before and page.get_by_text("| Idle").is_visible()


def move_the_slider(page, screenshot):
    panel = page.locator(PANEL)
    panel.wait_for(timeout=120_000)
    panel.scroll_into_view_if_needed()
    wait_for(lambda: settled(page))
    before, text = pictures(page), panel.inner_text()

    handle = panel.locator(".noUi-handle")
    handle.focus()
    handle.press("ArrowRight")
    wait_for(lambda: pictures(page) != before and panel.inner_text() != text)
    wait_for(lambda: all(old != new for old, new in zip(before, pictures(page), strict=True)))

    handle.press("ArrowLeft")
    wait_for(lambda: pictures(page) == before)
    panel.screenshot(path=screenshot)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium found: install it to drive the notebook in a browser")
def test_the_slider_changes_the_pictures(tiny_run, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    shutil.copy(NOTEBOOK, tmp_path / "quickstart.ipynb")
    with jupyter_lab(tmp_path, tiny_run) as address, playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1100})
        try:
            page.goto(f"{address}lab/tree/quickstart.ipynb")
            page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
            page.get_by_text("| Idle").wait_for(timeout=60_000)
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.locator("[data-command='runmenu:run-all']").click()
            move_the_slider(page, tmp_path / "explorer.png")
        finally:
            page.screenshot(path=tmp_path / "page.png")
            browser.close()
    assert (tmp_path / "explorer.png").stat().st_size > 10_000
