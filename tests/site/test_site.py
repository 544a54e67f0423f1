"""The built book in a browser: every page, light on a desktop and dark on a phone; a few in the other two looks.

Needs Chromium, playwright and axe-playwright-python; where one is absent the whole file is one visible skip.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml
from browser import AXE, FOLD_CODE, VARIANTS, axe_source, find_chromium, opened, settle, visit_pages

absent = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]
if find_chromium() is None:
    absent.append("Chromium")
if absent:
    pytest.skip(f"the site is not looked at in a browser: {', '.join(absent)} not installed", allow_module_level=True)

ROOT = Path(__file__).parents[2]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
DOCUMENTS = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
CHAPTERS = [document for document in DOCUMENTS if (ROOT / f"{document}.ipynb").exists()]
INTERACTIVE = [c for c in CHAPTERS if "data-metabook-interactive=" in (ROOT / f"{c}.ipynb").read_text(encoding="utf-8")]
# Colours depend on the scheme and the layout on the width, so two looks show each of both on every page.
# Tests of one look go to one process, which walks through the site in it once.
LOOKS = ("light-desktop", "dark-phone")
look = pytest.mark.parametrize("variant", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in LOOKS])
KINDS = [f"{name}.html" for name in (TOC["root"], CHAPTERS[0], "book/speed", "api/metabook/learner/index")]


def assert_none(visits: list, kind: str) -> None:
    """Fail with one line per fault, the page first."""
    faults = [f"{visit.page}: {fault}" for visit in visits for fault in getattr(visit, kind)]
    assert not faults, "\n" + "\n".join(faults)


@look
def test_no_request_leaves_the_site(visits, variant):
    assert_none(visits(variant), "requests")


@look
def test_console_is_silent(visits, variant):
    assert_none(visits(variant), "console")


@look
def test_all_mathematics_is_typeset(visits, variant):
    assert_none(visits(variant), "maths")


@look
def test_nothing_overflows(visits, variant):
    assert_none(visits(variant), "overflow")


@look
def test_everything_stands_on_the_ground_of_its_look(visits, variant):
    assert_none(visits(variant), "grounds")


@look
def test_axe_finds_no_serious_issue(visits, variant):
    assert_none(visits(variant), "access")


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - set(LOOKS)))
def test_a_page_of_each_kind_is_well_in_the_other_looks(browser, address, variant):
    visits = visit_pages(browser, variant, address, KINDS)
    assert len(visits) == len(KINDS)
    for kind in ("requests", "console", "maths", "overflow", "grounds", "access"):
        assert_none(visits, kind)


@pytest.mark.xdist_group("light-desktop")
def test_every_document_was_visited(visits):
    seen = {visit.page for visit in visits("light-desktop")}
    assert {f"{document}.html" for document in DOCUMENTS} <= seen
    assert len(CHAPTERS) >= 3 and any(page.startswith("api/metabook/") for page in seen)


def test_axe_still_sees_a_faint_word_among_folded_code(browser, address):
    words = "".join(f'<span class="k" style="color: {c}">word</span> ' for c in ("#000", "#000"))
    faint = '<span class="s" style="color: #eee">word</span> ' * 2
    with opened(browser, "light-desktop", address) as (tab, _):
        tab.goto(f"{address}{TOC['root']}.html")
        tab.evaluate(f"() => document.querySelector('article').innerHTML = `<pre>{words}{faint}</pre>`")
        tab.evaluate(FOLD_CODE)
        assert tab.locator("article pre span").count() == 2
        tab.evaluate(axe_source())
        assert any("color-contrast" in fault for fault in tab.evaluate(AXE))


def test_root_address_opens_the_first_page(browser, address):
    with opened(browser, "light-desktop", address) as (tab, _):
        tab.goto(address)
        tab.wait_for_url(f"{address}{TOC['root']}.html")
        assert tab.locator("article h1").count() == 1


@look
def test_search_finds_a_term(browser, address, variant):
    with opened(browser, variant, address) as (tab, visit):
        tab.goto(f"{address}search.html?q=prototype")
        tab.wait_for_selector("#search-results ul.search li a", timeout=10_000)
        found = [link.get_attribute("href") for link in tab.locator("#search-results ul.search li a").all()]
        assert "metric/prototypical_networks" in found[0], f"the chapter does not come first: {found[:5]}"
        assert not visit.requests and not visit.console


@look
def test_interactive_figures_move(browser, address, variant):
    """Each control of each interactive figure, moved as a reader would, changes what the figure draws."""
    figures = 0
    with opened(browser, variant, address) as (tab, visit):
        for document in INTERACTIVE:
            tab.goto(f"{address}{document}.html")
            settle(tab)
            for figure in tab.locator("[data-metabook-interactive]").all():
                figures += 1
                controls = figure.locator(CONTROLS).all()
                assert controls, f"{document}: an interactive figure without a control"
                for control in (one for one in controls if one.is_visible()):
                    assert moves(tab, figure, control), (
                        f"{document}: {control.evaluate('e => e.outerHTML')[:200]} is dead"
                    )
        assert not visit.console
    assert figures >= len(INTERACTIVE) > 3


CONTROLS = "input[type=range], select, button, [role=slider]"
DRAWING = "e => [...e.querySelectorAll('svg')].map(s => s.outerHTML).join('')"


def moves(tab, figure, control) -> bool:
    """Use one control, by the keyboard and then by the mouse, and tell whether the drawing changed."""
    before = figure.evaluate(DRAWING)
    control.scroll_into_view_if_needed()
    for key in ("ArrowRight", "ArrowLeft", "ArrowLeft"):  # a slider may stand at either end
        control.focus()
        tab.keyboard.press(key)
        if figure.evaluate(DRAWING) != before:
            return True
    if control.evaluate("e => e.localName === 'button'"):
        control.click()
        tab.wait_for_timeout(700)  # a button may start a film
    return figure.evaluate(DRAWING) != before


def test_points_can_be_dragged(browser, address):
    """What is offered for dragging follows the mouse."""
    with opened(browser, "light-desktop", address) as (tab, _):
        for document in INTERACTIVE:
            tab.goto(f"{address}{document}.html")
            for figure in tab.locator("[data-metabook-interactive]:has(.mb-handle)").all():
                handle = figure.locator(".mb-handle:visible").first
                handle.scroll_into_view_if_needed()
                before, box = figure.evaluate(DRAWING), handle.bounding_box()
                x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
                tab.mouse.move(x, y)
                tab.mouse.down()
                tab.mouse.move(x + 40, y + 25, steps=4)
                tab.mouse.up()
                assert figure.evaluate(DRAWING) != before, f"{document}: a point does not follow the mouse"
