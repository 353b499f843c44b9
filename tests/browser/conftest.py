import pytest

from tests.browser.jupyter import CHROMIUM


@pytest.fixture(scope="module")
def chromium():
    """Chromium without a window. Playwright keeps an event loop running in this thread: it stops with the module."""
    if CHROMIUM is None:
        pytest.skip("no chromium found: install it to drive notebooks in a browser")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(chromium, tmp_path):
    """A window of 1400 x 1100; its last state is kept as page.png in the test's folder."""
    one = chromium.new_page(viewport={"width": 1400, "height": 1100}, bypass_csp=True)
    yield one
    one.screenshot(path=tmp_path / "page.png")
    one.close()
