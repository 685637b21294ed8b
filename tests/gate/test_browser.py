"""The page in a real Chromium, network off, on a phone and on a desktop: clicked through, not only opened."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lieaudit_client.formats import html
from lieaudit_client.formats.outcome import Outcome

pytestmark = pytest.mark.browser
SCREENS = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "tablet": {"viewport": {"width": 820, "height": 1100}},
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
        self.context = browser.new_context(**SCREENS[screen], color_scheme=scheme, reduced_motion="reduce")
        self.context.set_offline(True)
        self.width = SCREENS[screen]["viewport"]["width"]
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

    def shown(self, group: str) -> list[str]:
        """Return the panels of a group that are visible."""
        return [p.get_attribute("data-name") for p in self.page.locator(f"[data-group='{group}']:visible").all()]

    def tip(self, mark: Any) -> str:
        """Return what is said beside the pointer on a mark."""
        mark.scroll_into_view_if_needed()
        self.page.wait_for_timeout(200)  # what is said goes where the page is scrolled
        mark.hover(force=True)
        return self.page.locator(".tip:visible").inner_text()

    def fits(self) -> bool:
        """Whether nothing makes the page wider than the screen; a phone's window would grow with it."""
        return self.page.evaluate("document.documentElement.scrollWidth") <= self.width

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
    assert opened.fits()

    # every tab of every group shows its own panel
    for group in ("scatter", "pictures", "layers"):
        tabs = page.locator(f"[data-tabs='{group}'] button")
        for index in range(tabs.count()):
            tabs.nth(index).click()
            name = tabs.nth(index).get_attribute("data-show")
            assert tabs.nth(index).get_attribute("aria-selected") == "true"
            assert opened.shown(group) == [name]
            if group == "pictures":
                shown = page.locator(f"[data-group='{group}']:visible")
                sizes = shown.locator("img").evaluate_all("es => es.map(e => [e.complete, e.naturalWidth])")
                assert sizes == [[True, 32]] * 10
    assert opened.fits()
    page.locator("[data-tabs='layers'] button").first.focus()
    page.keyboard.press("ArrowRight")
    assert opened.shown("layers") == ["scale"], "the keyboard goes through the tabs"

    # points tell which image they are
    page.locator("[data-tabs='scatter'] button").first.click()
    assert opened.tip(page.locator("[data-group='scatter']:visible circle").first).startswith("image ")
    assert opened.tip(page.locator("#generators .track .mark").first).startswith("translation x, candidate: LEE ")

    # the tree opens and closes
    page.locator("[data-tabs='layers'] button").first.click()
    tree = page.locator("[data-group='layers']:visible")
    closed = tree.locator(".leaf:visible").count()
    tree.locator("[data-open='true']").click()
    assert tree.locator(".leaf:visible").count() == 49 > closed
    zeros = tree.locator(".tree .zero:visible").evaluate_all("es => es.map(e => e.getBoundingClientRect().left)")
    assert max(zeros) - min(zeros) < 0.5, "one zero line, however deep the row"
    tree.locator("[data-open='false']").click()
    assert tree.locator(".leaf:visible").count() == 2, "only the leaves at the top"

    # dark, and back
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    point = page.evaluate("getComputedStyle(document.querySelector('.plot circle.point')).fill")
    assert point == "rgb(255, 154, 90)", "charts follow the theme"
    page.locator("#theme").click()
    opened.close()


@pytest.mark.parametrize("screen", SCREENS)
def test_every_column_can_be_reached(browser: Any, outcome: Outcome, tmp_path: Path, screen: str) -> None:
    """At 1280 nothing scrolls; on narrower screens a table says that it does, and is reached by the keyboard."""
    path = tmp_path / "gate.html"
    path.write_text(html.render(outcome.candidate, outcome.baseline, outcome.decision), encoding="utf-8")
    opened = Page(browser, path, screen)
    scripts = {
        "wide": "es => es.filter(e => e.scrollWidth > e.clientWidth + 1).length",
        "said": "es => es.filter(e => getComputedStyle(e, '::before').content.includes('scroll sideways')).length",
        "focusable": "es => es.filter(e => e.tabIndex === 0).length",
    }
    tables = opened.page.locator(".scroll:visible")
    found = {name: tables.evaluate_all(script) for name, script in scripts.items()}
    assert found["wide"] == found["said"]
    assert found["focusable"] == tables.count()
    assert (found["wide"] == 0) == (screen == "desktop")
    widest = tables.filter(has=opened.page.locator("th", has_text="error bar")).first
    widest.focus()
    for _ in range(40):
        opened.page.keyboard.press("ArrowRight")
    opened.page.wait_for_timeout(300)
    last = widest.locator("tbody tr").first.locator("td").last
    edge = "e => e.getBoundingClientRect().right <= window.innerWidth"
    assert last.evaluate(edge), "the status is on the screen"
    first = widest.locator("tbody tr").first.locator("td").first
    assert first.evaluate("e => e.getBoundingClientRect().left >= 0"), "and the generator still beside it"
    opened.close()


def test_on_paper_every_generator_is_there_with_its_name(browser: Any, outcome: Outcome, tmp_path: Path) -> None:
    path = tmp_path / "gate.html"
    path.write_text(html.render(outcome.candidate, outcome.baseline, outcome.decision), encoding="utf-8")
    opened = Page(browser, path, "desktop", "dark")
    page = opened.page
    page.evaluate("""() => window.addEventListener('beforeprint', () => {
        window.closed = document.querySelectorAll('details:not([open])').length;
        window.printed = document.documentElement.dataset.theme;
    })""")
    paper = page.pdf(format="A4")
    assert paper.startswith(b"%PDF")
    assert page.evaluate("[window.closed, window.printed]") == [0, "light"], "nothing is folded, and paper is light"
    assert page.evaluate("document.documentElement.dataset.theme") == "dark", "the screen is as it was"
    page.emulate_media(media="print")
    assert page.locator("nav, .tabs, #theme, .noprint").evaluate_all("es => es.every(e => !e.offsetParent)")
    assert page.locator("#rules .rule").count() == len(outcome.decision.rules)
    for group, names in (
        ("scatter", list(outcome.candidate.spec.generators)),
        ("pictures", ["rotation", "scale"]),
        ("layers", ["rotation", "scale"]),
    ):
        assert opened.shown(group) == names
        headings = page.locator(f"[data-group='{group}'] > h3:visible").all_inner_texts()
        assert headings == [name.replace("_", " ") for name in names]
    opened.close()


def test_the_page_follows_a_dark_system_and_works_without_javascript(
    browser: Any, outcome: Outcome, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(html.render(outcome.candidate), encoding="utf-8")
    dark = Page(browser, path, "desktop", "dark")
    assert dark.page.evaluate("document.documentElement.dataset.theme") == "dark"
    dark.close()
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("#generators table").is_visible()
    assert page.locator("#images .plot").count() == len(outcome.candidate.results), "a drawing per generator"
    assert page.locator("#images .plot:visible").count() == len(outcome.candidate.results)
    assert page.locator("[data-group='layers']:visible").count() == 2, "no panel is behind a tab"
    context.close()


@pytest.mark.parametrize("screen", SCREENS)
def test_the_page_of_many_models(browser: Any, outcome: Outcome, tmp_path: Path, screen: str) -> None:
    assert outcome.baseline is not None
    path = tmp_path / "compare.html"
    path.write_text(html.render_comparison([("v8", outcome.candidate), ("v7", outcome.baseline)]), encoding="utf-8")
    opened = Page(browser, path, screen)
    assert opened.page.locator("#accuracy .plot:visible").count() == len(outcome.candidate.results)
    assert ": top-1 90.0 %, LEE " in opened.tip(opened.page.locator("#accuracy .plot circle").first)
    assert opened.fits()
    opened.close()


@pytest.fixture(scope="module")
def axe(npm_file: Callable[[str, str], bytes]) -> str:
    """The script of axe-core, which knows the rules of accessibility."""
    return npm_file("axe-core@4.10.3", "package/axe.min.js").decode()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("kind", ["gate", "report", "compare"])
def test_axe_finds_nothing(
    browser: Any, outcome: Outcome, tmp_path: Path, axe: str, kind: str, screen: str, scheme: str
) -> None:
    assert outcome.baseline is not None
    path = tmp_path / f"{kind}.html"
    made = {
        "gate": lambda: html.render(outcome.candidate, outcome.baseline, outcome.decision, promote="champion"),
        "report": lambda: html.render(outcome.candidate),
        "compare": lambda: html.render_comparison([("v8", outcome.candidate), ("v7", outcome.baseline)]),
    }
    path.write_text(made[kind](), encoding="utf-8")
    opened = Page(browser, path, screen, scheme)
    opened.page.evaluate(axe)
    assert opened.fits()
    found = opened.page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.help, v.nodes.map(n => n.html)]))")
    assert found == []
    opened.close()
