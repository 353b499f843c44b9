"""Notebook servers for the tests, and what is done to a page in them."""

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

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = Path(os.environ.get("XAIBENCH_AXE", ROOT / "node_modules" / "axe-core" / "axe.min.js"))
PANEL = ".xaibench"
SERIOUS = ("serious", "critical")
PATIENCE = 180  # seconds, on a busy machine


def environment(folder, run):
    """Settings and data of Jupyter below `folder`; notebooks read the run."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return {
        **os.environ,
        "XAIBENCH_RUN": str(run),
        "XAIBENCH_FAST": "1",
        "OMP_NUM_THREADS": "1",
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }


@contextmanager
def serving(folder, run, *command):
    """A server that is started by `python -m COMMAND --port=N`; yields its address."""
    port = free_port()
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, f"--port={port}"],
            cwd=folder,
            env=environment(folder, run),
            stdout=output,
            stderr=output,
        )
        try:
            address = f"http://127.0.0.1:{port}/"
            wait_for(lambda: server.poll() is not None or answers(address), "the server did not start")
            if server.poll() is not None:
                pytest.fail(f"the server did not start:\n{log.read_text()[-2000:]}")
            yield address
        finally:
            server.terminate()
            server.wait(timeout=30)


def jupyter_lab(folder, run):
    """JupyterLab on `folder`."""
    options = ["--no-browser", "--ip=127.0.0.1", "--allow-root", "--IdentityProvider.token=", "--LabApp.news_url=None"]
    (folder / "home" / "config" / "labconfig").mkdir(parents=True, exist_ok=True)
    (folder / "home" / "config" / "labconfig" / "page_config.json").write_text(
        json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}})
    )
    settings = folder / "home" / "config" / "lab" / "user-settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))  # all cells are there
    return serving(folder, run, "jupyterlab", *options, f"--ServerApp.root_dir={folder}")


def voila(folder, run, notebook):
    """Voila, which shows a notebook as a page."""
    return serving(folder, run, "voila", str(notebook), "--no-browser", "--Voila.ip=127.0.0.1")


def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def wait_for(condition, what, seconds=PATIENCE):
    """Look again and again until `condition()` holds; no longer than `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def run_all(page, address, notebook):
    """Open a notebook in JupyterLab and run its cells."""
    page.goto(f"{address}lab/tree/{notebook}?reset")  # no tabs of before
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=1000 * PATIENCE)
    page.get_by_text("| Idle").wait_for(timeout=1000 * PATIENCE)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator("[data-command='runmenu:run-all']").click()


def wait_until_run(page):
    """Return when every cell has run, or one has failed; fail for a traceback or an error stream."""
    cells, failed = page.locator(".jp-CodeCell .jp-InputPrompt"), page.get_by_text("Traceback (most recent call last)")

    def over():
        return failed.count() or all(text.strip("[]: ").isdigit() for text in cells.all_inner_texts())

    wait_for(over, "not every cell was run")
    errors = page.locator("[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type$='.error']")
    assert [text for text in errors.all_inner_texts() if text.strip()] == []


def pictures(panel):
    """The panel's pictures: text -> data, in order."""
    return panel.locator("img").evaluate_all("all => all.map(one => [one.alt, one.src])")


def overflowing(panel):
    """What sticks out of a panel at its right."""
    return panel.evaluate(
        """panel => [...panel.querySelectorAll("*")].filter(one => one.checkVisibility()
            && getComputedStyle(one).position !== "absolute"
            && one.getBoundingClientRect().right > panel.getBoundingClientRect().right + 2)
            .map(one => one.outerHTML.slice(0, 120))"""
    )


def violations(page, panel):
    """Serious findings of axe-core on a panel; skips where there is none.

    The handles of ipywidgets' sliders have no name, which Python cannot give them: what they do, a field or a button
    does, too.
    """
    if not AXE.is_file():
        pytest.skip(f"no axe-core at {AXE}: give the path of axe.min.js in XAIBENCH_AXE")
    page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    found = panel.evaluate("panel => axe.run(panel)")["violations"]
    nodes = [(one["id"], node["html"][:200]) for one in found if one["impact"] in SERIOUS for node in one["nodes"]]
    return [(rule, html) for rule, html in nodes if "noUi-handle" not in html]
