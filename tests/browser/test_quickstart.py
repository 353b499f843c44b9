"""The quickstart notebook in a real browser: keys move the explorer, questions are answered, a figure is saved."""

import shutil

import pytest

from tests.browser.jupyter import ROOT, jupyter_lab, overflowing, pictures, run_all, violations, voila, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NOTEBOOK = ROOT / "notebooks" / "01_quickstart.ipynb"
PANEL = ".xaibench-explorer"


def explorer(page):
    """The explorer, once it shows something and no cell runs any more."""
    panel = page.locator(PANEL)
    panel.locator(".xb-card img").first.wait_for(timeout=180_000)
    return panel


def keys_of(panel):
    return [alt.split(" for ")[-1].split(":")[0].removeprefix("The image ") for alt, _ in pictures(panel)]


def move_by_keyboard(panel):
    before = pictures(panel)
    handle = panel.locator(".noUi-handle").first
    handle.focus()
    handle.press("ArrowRight")
    wait_for(
        lambda: all(old != new for old, new in zip(before, pictures(panel))), "the pictures did not follow the key"
    )
    assert len(set(keys_of(panel))) == 1  # all of one image
    handle.press("ArrowLeft")
    wait_for(lambda: pictures(panel) == before, "the first image did not come back")
    for _ in range(10):
        handle.press("ArrowRight")
        handle.press("ArrowLeft")
    handle.press("ArrowRight")
    handle.press("ArrowRight")
    wait_for(lambda: " 3 of " in " ".join(panel.inner_text().split()), "keys in quick succession were lost")
    wait_for(lambda: len(set(keys_of(panel))) == 1, "pictures of two images stand side by side")


def ask_for_another_class(panel):
    contrast = panel.get_by_label("rather than")
    shown = panel.locator("figcaption").first.inner_text()
    for name in contrast.locator("option").all_inner_texts()[1:]:
        if name not in shown:
            break
    before = pictures(panel)
    contrast.select_option(label=name)
    caption = panel.locator("figcaption").first
    wait_for(lambda: f"rather than {name}" in caption.inner_text(), "the question was not answered")
    assert pictures(panel)[1:] != before[1:]
    assert pictures(panel)[0] == before[0]  # the input stays


def save(panel, path):
    panel.get_by_text("Keep this picture").click()
    field = panel.get_by_label("file", exact=True)
    field.fill(str(path))
    field.press("Enter")
    panel.get_by_role("button", name="save").click()
    wait_for(path.with_suffix(".json").is_file, "no figure was saved")
    assert path.with_suffix(".pdf").is_file()


def test_in_jupyterlab(page, tiny_run, tmp_path):
    shutil.copy(NOTEBOOK, tmp_path / "quickstart.ipynb")
    with jupyter_lab(tmp_path, tiny_run) as address:
        run_all(page, address, "quickstart.ipynb")
        panel = explorer(page)
        page.get_by_text("| Idle").wait_for(timeout=180_000)
        panel.scroll_into_view_if_needed()
        move_by_keyboard(panel)
        ask_for_another_class(panel)
        save(panel, tmp_path / "figures" / "mine")
        assert panel.locator(".xb-error").count() == 0
        panel.get_by_label("rather than").select_option(index=0)  # what all images are explained by
        panel.get_by_text("All images at a glance").click()
        panel.locator(".xb-dot").first.wait_for()
        page.keyboard.press("Control+b")  # the file browser goes
        for width in (1400, 700):
            page.set_viewport_size({"width": width, "height": 1100})
            panel.screenshot(path=tmp_path / f"light-{width}.png")
            assert overflowing(panel) == []
        page.get_by_role("menuitem", name="Settings", exact=True).click()
        page.get_by_text("Theme", exact=True).click()
        page.get_by_text("JupyterLab Dark", exact=True).click()
        page.locator("body[data-jp-theme-light=false]").wait_for(state="attached")
        panel.screenshot(path=tmp_path / "dark-700.png")


def test_in_voila_and_accessible(page, tiny_run, tmp_path):
    pytest.importorskip("voila", reason="voila is not installed")
    notebook = shutil.copy(NOTEBOOK, tmp_path / "quickstart.ipynb")
    with voila(tmp_path, tiny_run, notebook) as address:
        page.goto(address, timeout=180_000)
        panel = explorer(page)
        move_by_keyboard(panel)
        assert panel.locator(".xb-error").count() == 0
        assert violations(page, panel) == []
