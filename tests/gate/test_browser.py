"""The page in a real Chromium, network off, on a phone and on a desktop: clicked through, not only opened."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lieaudit_client.formats import html
from lieaudit_client.formats.outcome import Outcome

pytestmark = pytest.mark.browser
SCREENS = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SECONDS = 60_000.0
"""Longest wait, in ms; never what a test measures."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    if found is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


class Page:
    """A page that has been opened without a network, and what it complained about."""

    def __init__(self, browser: Any, path: Path, screen: str, scheme: str = "light") -> None:
        self.context = browser.new_context(**SCREENS[screen], color_scheme=scheme)
        self.context.set_offline(True)
        self.complaints: list[str] = []
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._request)
        self.page.set_default_timeout(SECONDS)
        self.page.goto(path.as_uri())
        self.page.wait_for_function("document.documentElement.dataset.ready")

    def _request(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.complaints.append(request.url)

    def drawn(self) -> list[str]:
        """Give the figures that are drawn and visible."""
        script = "es => es.filter(e => e.offsetParent && e.querySelector('.main-svg')).map(e => e.dataset.figure)"
        return self.page.locator("[data-figure]").evaluate_all(script)

    def fits(self) -> bool:
        """Whether nothing makes the page wider than the screen."""
        return self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    def close(self) -> None:
        self.context.close()
        assert self.complaints == []


@pytest.mark.parametrize("screen", SCREENS)
def test_the_verdict_page_is_clicked_through(browser: Any, outcome: Outcome, tmp_path: Path, screen: str) -> None:
    path = tmp_path / "gate.html"
    path.write_text(html.render(outcome.candidate, outcome.baseline, outcome.decision), encoding="utf-8")
    opened = Page(browser, path, screen)
    page = opened.page
    assert page.locator("#verdict .badge").inner_text().endswith("FAIL")
    assert page.evaluate("document.documentElement.dataset.ready") == "true"
    assert opened.drawn() == ["overview", "scatter-translation_x", "kind-rotation", "depth-rotation"]
    assert opened.fits()

    # every tab of every group shows its own panel, drawn
    for group in ("scatter", "pictures", "layers"):
        tabs = page.locator(f"[data-tabs='{group}'] button")
        for index in range(tabs.count()):
            tabs.nth(index).click()
            name = tabs.nth(index).get_attribute("data-show")
            assert tabs.nth(index).get_attribute("aria-selected") == "true"
            shown = page.locator(f"[data-group='{group}']:visible")
            assert [p.get_attribute("data-name") for p in shown.all()] == [name]
            if group == "scatter":
                assert f"scatter-{name}" in opened.drawn()
            if group == "pictures":
                sizes = shown.locator("img").evaluate_all("es => es.map(e => [e.complete, e.naturalWidth])")
                assert sizes == [[True, 32]] * 10
    assert opened.fits()

    # points tell which image they are
    page.locator("[data-tabs='scatter'] button").first.click()
    page.locator("[data-figure='scatter-translation_x']").scroll_into_view_if_needed()
    page.locator("[data-figure='scatter-translation_x'] .points path").first.hover(force=True)
    page.wait_for_selector(".hoverlayer .hovertext")
    assert "image" in page.locator(".hoverlayer .hovertext").first.text_content()

    # the tree opens and closes
    page.locator("[data-tabs='layers'] button").first.click()
    tree = page.locator("[data-group='layers']:visible")
    closed = tree.locator(".leaf:visible").count()
    tree.locator("[data-open='true']").click()
    assert tree.locator(".leaf:visible").count() == 49 > closed
    tree.locator("[data-open='false']").click()
    assert tree.locator(".leaf:visible").count() == 2, "only the leaves at the top"

    # dark, and back
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    text = page.evaluate("getComputedStyle(document.querySelector('[data-figure=overview] .xtick text')).fill")
    assert text == "rgb(230, 235, 241)", "charts follow the theme"
    page.locator("#theme").click()

    # paper: no buttons, no navigation, the numbers there
    page.emulate_media(media="print")
    assert page.locator("nav, .tabs, #theme").evaluate_all("es => es.every(e => !e.offsetParent)")
    assert page.locator("#rules .rule").count() == len(outcome.decision.rules)
    opened.close()


def test_the_page_follows_a_dark_system_and_works_without_javascript(
    browser: Any, outcome: Outcome, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(html.render(outcome.candidate), encoding="utf-8")
    dark = Page(browser, path, "desktop", "dark")
    assert dark.page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert "distribution" in dark.drawn()
    dark.close()
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("#generators table").is_visible()
    assert not page.locator(".chart").first.is_visible(), "no empty boxes"
    context.close()


@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_of_many_models(browser: Any, outcome: Outcome, tmp_path: Path, screen: str) -> None:
    assert outcome.baseline is not None
    path = tmp_path / "compare.html"
    path.write_text(html.render_comparison([("v8", outcome.candidate), ("v7", outcome.baseline)]), encoding="utf-8")
    opened = Page(browser, path, screen)
    opened.page.locator("[data-tabs='compare'] button", has_text="rotation").click()
    assert opened.drawn() == ["accuracy-rotation"]
    assert opened.fits()
    opened.close()
