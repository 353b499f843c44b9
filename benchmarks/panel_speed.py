"""How fast is the explorer where people use it? Times from a key to the picture, in JupyterLab in Chromium.

    python benchmarks/panel_speed.py RUN

RUN          a run folder with many explained images (--set explain.images=1000)
opening      a fresh interpreter: import torch; then import xaibench, open the run and make its explorer
cached       from an arrow key on the image slider to the last changed picture, one key at a time
burst        30 keys as fast as they can be sent: until the last image is shown
uncached     from the choice of another class to hold the image against to the new pictures: both models are asked
memory       of the kernel, after 500 changes and after 50 times running the cell again
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import Locator, Page, sync_playwright

from tests.browser.jupyter import CHROMIUM, jupyter_lab, run_all, wait_for

OPENING = """
import resource, sys, time
start = time.perf_counter()
import torch
torch_done = time.perf_counter()
import xaibench as xb
explorer = xb.explore(sys.argv[1])
opened = time.perf_counter()
print(torch_done - start, opened - torch_done, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
WATCH = """panel => {
    const state = () => [...panel.querySelectorAll(".xb-card img")].map(one => one.src).join();
    let before = state();
    window.xbChanged = new Promise(resolve => {
        const look = () => {
            if (state() === before) return requestAnimationFrame(look);
            Promise.all([...panel.querySelectorAll(".xb-card img")].map(one => one.decode())).then(
                () => requestAnimationFrame(() => resolve(performance.now())));
        };
        look();
    });
    window.xbStart = performance.now();
}"""
FEWEST = 71  # 40 changes one by one, then a burst of 30
MEMORY = "import os, psutil; print('memory', psutil.Process(os.getpid()).memory_info().rss // 2**20)"


def notebook(run: Path) -> dict[str, object]:
    """Cells: the explorer; 500 changes; the memory of the kernel."""
    cells = [
        f"import xaibench as xb\nexplorer = xb.explore({str(run)!r})\nexplorer",
        MEMORY,
        "import asyncio\norder = explorer.order\nfor i in range(500):\n"
        "    explorer.image = order[(7 * i) % len(order)]\n"
        "    await asyncio.sleep(0.02)  # Jupyter drops more than 1000 messages a second\n" + MEMORY,
    ]
    return {
        "cells": [
            {"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": c, "outputs": [], "execution_count": None}
            for i, c in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def opening(run: Path) -> None:
    rows = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", OPENING, str(run)], capture_output=True, text=True, check=True)
        rows.append([float(value) for value in done.stdout.split()])
    torch, opened, peak = (statistics.median(values) for values in zip(*rows))
    print(f"opening   {opened:.2f} s after torch's import ({torch:.2f} s), peak memory {peak:.0f} MB (median of 3)")


def timed(page: Page, panel: Locator, act: object) -> float:
    """Milliseconds from `act()` to the new pictures, decoded and painted."""
    panel.evaluate(WATCH)
    act()  # type: ignore[operator]
    return float(page.evaluate("async () => (await window.xbChanged) - window.xbStart"))


def memory(page: Page, number: int) -> list[int]:
    """What the cells printed, once there are `number` lines."""
    lines = page.locator(".jp-OutputArea-output", has_text="memory")
    wait_for(lambda: lines.count() >= number, "the kernel did not answer", 600)
    return [int(text.split()[-1]) for text in lines.all_inner_texts()]


def in_browser(page: Page, address: str, images: int) -> None:
    run_all(page, address, "n.ipynb")
    panel = page.locator(".xaibench-explorer")
    panel.locator(".xb-card img").first.wait_for(timeout=180_000)
    first, later = memory(page, 2)
    print(f"memory    {first} MB, after 500 changes {later} MB")
    panel.scroll_into_view_if_needed()
    handle = panel.locator(".noUi-handle").first
    handle.focus()
    page.keyboard.press("Home")
    page.get_by_text("| Idle").wait_for(timeout=60_000)
    cached = [timed(page, panel, lambda: page.keyboard.press("ArrowRight")) for _ in range(40)][5:]
    worst = sorted(cached)[int(0.95 * len(cached))]
    print(f"cached    {statistics.median(cached):.0f} ms from key to picture, 95% within {worst:.0f} ms")
    start = time.perf_counter()
    for _ in range(30):
        page.keyboard.press("ArrowRight", delay=0)
    sent = time.perf_counter()
    wait_for(lambda: f"{min(71, images)} of {images}" in panel.inner_text(), "the burst did not settle")
    print(f"burst     30 keys in {sent - start:.2f} s, settled {time.perf_counter() - sent:.2f} s later")
    contrast, times = panel.get_by_label("rather than"), []
    for label in contrast.locator("option").all_inner_texts()[1:]:
        if label not in panel.locator(".xb-card figcaption").first.inner_text():
            times.append(timed(page, panel, lambda label=label: contrast.select_option(label=label)))
    print(f"uncached  {', '.join(f'{one:.0f}' for one in times)} ms for one image under all models on show")


def reruns(folder: Path, run: Path) -> None:
    """Memory of a kernel in which the cell runs 50 times, as a front end runs it: with the cell's id."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:

        def execute(code: str) -> str:
            message = client.session.msg(
                "execute_request", {"code": code, "silent": False, "store_history": True}, metadata={"cellId": "one"}
            )
            client.shell_channel.send(message)
            text = ""
            while True:
                answer = client.get_iopub_msg(timeout=120)
                if answer["parent_header"].get("msg_id") != message["header"]["msg_id"]:
                    continue
                text += answer["content"].get("text", "") if answer["msg_type"] == "stream" else ""
                if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                    return text

        cell = f"import xaibench as xb\nexplorer = xb.explore({str(run)!r})\nimport gc; gc.collect()\n"
        sizes = [int(execute(cell + MEMORY).split()[-1]) for _ in range(50)]
        print(f"reruns    {sizes[4]} MB after 5 runs of the cell, {sizes[-1]} MB after 50")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    options = parser.parse_args()
    run = options.run.absolute()
    from xaibench.run.folder import open_run

    images = len(open_run(run).images)
    if images < FEWEST:
        parser.error(
            f"{run} holds {images} explained images, of which {FEWEST} or more are moved through: make a larger run"
        )
    print(f"{run.name}: {images} images; {platform.processor() or platform.machine()}")
    opening(run)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as engine:
        folder = Path(name)
        (folder / "n.ipynb").write_text(json.dumps(notebook(run)))
        with jupyter_lab(folder, run) as address:
            browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            in_browser(browser.new_page(viewport={"width": 1400, "height": 1100}), address, images)
            browser.close()
        reruns(folder, run)


if __name__ == "__main__":
    main()
