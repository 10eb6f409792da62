"""What holds for every live figure, whatever it shows: its class, its page, its controls."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from browser import Open, in_browser, kernel_shows, settle, with_kernel, write_page
from playwright.sync_api import Page
from test_book import PHONE_WIDTH
from traitlets import TraitError

from dpmpp_core.widgets import LiveFigure

Kind = type[LiveFigure]

KINDS: tuple[Kind, ...] = tuple(LiveFigure.__subclasses__())
SEVERAL = {"Compare"}  # labels of the controls that are no setting, but set several


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def site(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("site"), kind(), kind(name="second"))


def place(kind: Kind) -> str:
    return f"#live-{kind().name}"


def settings_of(page: Page, kind: Kind) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(
        "place => document.querySelector(place + ' > .live-root').figure.settings()", place(kind)
    )
    return found


def limits_of(figure: LiveFigure) -> dict[str, Any]:
    """The settings that a link carries, with what each may be."""
    limits: dict[str, Any] = figure.page_state()["offers"]["limits"]
    return limits


def other_values(kind: Kind) -> dict[str, Any]:
    """For every setting that a link carries, an allowed value that is not the default."""
    figure = kind()
    values = {}
    for name, limit in limits_of(figure).items():
        now = getattr(figure, name)
        if "names" in limit:
            values[name] = next(value for value in limit["names"] if value != now)
        elif limit["whole"]:
            values[name] = now + 1 if now < limit["high"] else now - 1
        else:
            values[name] = round(0.7 * now + 0.3 * limit["high"], 2)
    return values


def query(values: dict[str, Any]) -> str:
    return "&".join(f"{name}={value}" for name, value in values.items())


def words(page: Page, within: str) -> list[str]:
    """All that a figure says of its numbers, to those who see it and those who do not."""
    found: list[str] = page.locator(f"{within} :is(output, canvas)").evaluate_all(
        "all => all.map(e => e.getAttribute('aria-label') ?? e.textContent)"
    )
    return found


# --- the class


def test_a_value_out_of_range_is_refused_in_a_sentence(kind: Kind) -> None:
    figure = kind()
    for name, limit in limits_of(figure).items():
        before = getattr(figure, name)
        wrong = ["no such", None, True, float("nan")]
        if "low" in limit:
            wrong += [limit["low"] - 1, limit["high"] + 1]
        if limit.get("whole"):
            wrong += [limit["low"] + 0.5, float(limit["high"])]
        for value in wrong:
            with pytest.raises(TraitError, match=rf"^{name} must be [^\n]*, got ") as refusal:
                setattr(figure, name, value)
            assert str(refusal.value).endswith(f"got {value!r}")
            assert getattr(figure, name) == before
            with pytest.raises(TraitError, match=f"^{name} must be "):
                kind(**{name: value})
    with pytest.raises(TraitError, match=r"^name must be lower-case words .*, got 'No Name'$"):
        figure.name = "No Name"
    with pytest.raises(TypeError, match="has no setting 'etaa', but"):
        kind(etaa=1.0)


def test_the_html_holds_settings_and_a_described_picture(kind: Kind) -> None:
    figure = kind(**other_values(kind))
    bundle, _ = figure._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    html = bundle["text/html"]
    assert f'id="live-{figure.name}" data-module="{kind.module}"' in html
    state = json.loads(html.split('application/json">')[1].split("</script>")[0])
    assert {name: state[name] for name in other_values(kind)} == other_values(kind)
    assert not {"result", "trouble", "_esm", "device"} & set(state)
    assert len(html.split('alt="')[1].split('"')[0]) > 100
    picture = base64.b64decode(html.split("base64,")[1].split('"')[0])
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 40_000


def test_python_computes_when_a_view_is_shown_and_after_each_change(kind: Kind) -> None:
    figure: Any = kind()
    figure.set_state({"seed": 77, "steps": 5})
    assert figure.result is None
    figure._handle_custom_msg("shown", [])
    number = 1
    for name, value in other_values(kind).items():
        if figure.trait_metadata(name, "run"):
            setattr(figure, name, value)
            number += 1
            assert figure.result["settings"][name] == value
        else:  # a view's own matter
            setattr(figure, name, value)
        assert figure.result["number"] == number, name
    assert figure.trouble == ""


# --- the page


@in_browser
def test_it_mounts_over_http_and_from_the_disk_but_not_on_paper(
    visit: Open, kind: Kind, site: Path
) -> None:
    for page in (visit(), visit(url=(site / "page.html").as_uri())):
        assert not page.locator(f"{place(kind)} > img").is_visible()
        assert page.locator(f"{place(kind)} canvas").first.is_visible()
        labels = page.locator(f"{place(kind)} canvas").evaluate_all(
            "all => all.map(e => e.ariaLabel)"
        )
        assert all(any(c.isdigit() for c in label) for label in labels), labels
        page.emulate_media(media="print")
        assert page.locator(f"{place(kind)} > img").is_visible()
        assert not page.locator(f"{place(kind)} canvas").first.is_visible()


@in_browser
def test_each_control_is_one_setting_and_gives_what_python_says(visit: Open, kind: Kind) -> None:
    """The figure of the page, and beside it one that draws what Python computes."""
    page = visit(viewport={"width": 1280, "height": 3000})
    with_kernel(page, kind())
    assert page.evaluate("() => kernel.sent") == ["shown"]
    assert words(page, "#kernel") == words(page, place(kind))
    driven = set()
    rows = page.locator(f"{place(kind)} .live-row")
    for number in range(rows.count()):
        row = rows.nth(number)
        assert row.is_visible()
        before, said = settings_of(page, kind), words(page, place(kind))
        control = row.locator("input, select")
        assert control.evaluate("e => e.labels.length") == 1
        control.evaluate(
            """e => {
                const step = +e.step || (e.max - e.min) / 50; // of any number: "any"
                const near = +e.value + 7 * step;
                if (e.matches("select")) e.selectedIndex = (e.selectedIndex + 1) % e.length;
                else e.value = near > +e.max ? +e.value - 7 * step : near;
                e.dispatchEvent(new Event("input", { bubbles: true }));
                e.dispatchEvent(new Event("change", { bubbles: true }));
            }"""
        )
        settle(page)
        after = settings_of(page, kind)
        changed = [name for name in after if after[name] != before[name]]
        several = row.locator("label").inner_text() in SEVERAL
        assert (len(changed) > 1) if several else (len(changed) == 1), (number, changed)
        driven |= set(changed)
        kernel_shows(page, kind(**after, name="kernel"))
        assert words(page, place(kind)) == words(page, "#kernel"), changed
        assert words(page, place(kind)) != said, changed
    assert set(other_values(kind)) - driven <= {"sigma_min", "sigma_max"}


@in_browser
def test_a_link_carries_every_setting(visit: Open, kind: Kind) -> None:
    wanted = other_values(kind)
    page = visit(f"{place(kind)}?{query(wanted)}")
    assert not page.locator(f"{place(kind)} .live-note").is_visible()
    assert settings_of(page, kind) == wanted
    page.locator(place(kind)).get_by_role("button", name="Copy link").click()
    copied = page.locator(f"{place(kind)} textarea")
    copied.wait_for()
    assert copied.input_value() == page.url
    other = visit("#" + page.url.split("#")[1])
    assert settings_of(other, kind) == wanted


@in_browser
def test_a_bad_link_falls_back_to_the_defaults_and_says_so(visit: Open, kind: Kind) -> None:
    limits = limits_of(kind())
    good = {name: value for name, value in other_values(kind).items() if name == "schedule"}
    bad = {
        name: "%3Cscript%3E" if "names" in limit
        else limit["low"] + 0.5 if limit["whole"]
        else limit["high"] + 1
        for name, limit in limits.items()
        if name not in good
    }  # fmt: skip
    bad |= {name: "" for name in bad if name == "seed"}
    page = visit(f"{place(kind)}?{query(bad)}&colour=red&{query(good)}")
    defaults = {name: getattr(kind(), name) for name in limits}
    assert settings_of(page, kind) == {**defaults, **good}
    note = page.locator(f"{place(kind)} .live-note")
    assert note.is_visible()
    for name in bad:
        assert f"{name} = " in note.inner_text()
    assert "colour is no setting of this figure" in note.inner_text()
    page.locator(place(kind)).get_by_role("button", name="Reset").click()
    settle(page)
    assert not note.is_visible()
    assert settings_of(page, kind) == defaults
    # A better link, typed over it.
    page.evaluate("hash => { location.hash = hash }", f"{place(kind)}?{query(bad)}")
    note.wait_for()
    page.evaluate("hash => { location.hash = hash }", f"{place(kind)}?{query(good)}")
    note.wait_for(state="hidden")
    assert settings_of(page, kind) == {**defaults, **good}


@in_browser
def test_the_picture_can_be_saved(visit: Open, kind: Kind) -> None:
    page = visit()
    with page.expect_download() as download:
        page.locator(place(kind)).get_by_role("button", name="Save PNG").click()
    assert download.value.suggested_filename == f"{kind().name}.png"
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


@in_browser
def test_the_keyboard_alone_is_enough(visit: Open, kind: Kind) -> None:
    page = visit()
    inside = page.locator(f"{place(kind)} :is(input, select, button, canvas[tabindex])")
    wanted = inside.evaluate_all(
        "all => { window.all = all.filter(e => e.offsetParent); return window.all.length }"
    )
    for number in range(wanted):
        page.keyboard.press("Tab")
        assert page.evaluate("() => window.all.indexOf(document.activeElement)") == number
        style = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
        assert style == "solid", number


@in_browser
def test_axe_finds_nothing_and_the_picture_follows_the_theme(visit: Open, kind: Kind) -> None:
    page = visit(f"{place(kind)}?eta=9")  # with the note
    page.locator(place(kind)).get_by_role("button", name="Copy as Python").click()
    page.locator(f"{place(kind)} textarea").wait_for()
    page.evaluate(Path(AXE_FILE_PATH).read_text(encoding="utf-8"))
    for theme in ("dark", "light"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        settle(page)
        corners = page.locator(f"{place(kind)} canvas").evaluate_all(
            "all => all.map(e => [...e.getContext('2d').getImageData(2, e.height - 3, 1, 1).data])"
        )
        assert [sum(corner[:3]) > 600 for corner in corners] == [theme == "light"] * len(corners)
        violations = page.evaluate("async () => (await axe.run({preload: false})).violations")
        found = [f"{v['id']}: {n['html'][:120]}" for v in violations for n in v["nodes"]]
        assert found == [], theme


@in_browser
def test_on_a_phone_it_fits_and_is_sharp(visit: Open, kind: Kind) -> None:
    page = visit(
        viewport={"width": PHONE_WIDTH, "height": 800},
        device_scale_factor=2, has_touch=True, is_mobile=True,
    )  # fmt: skip
    assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE_WIDTH
    canvas = page.locator(f"{place(kind)} canvas").first
    # clientWidth is rounded to a whole pixel.
    assert abs(canvas.evaluate("e => e.width - 2 * e.clientWidth")) <= 1
    heights = page.locator(f"{place(kind)} button").evaluate_all(
        "buttons => buttons.map(button => button.clientHeight)"
    )
    assert min(heights) >= 40


@in_browser
def test_without_scripts_the_picture_is_shown(visit: Open, kind: Kind) -> None:
    page = visit(java_script_enabled=False)
    assert page.locator(f"{place(kind)} > img").is_visible()


@in_browser
def test_out_of_sight_nothing_is_drawn(visit: Open, kind: Kind) -> None:
    page = visit()
    assert page.locator("#live-second > div").count() == 0, "made although far below"
    count = f"() => document.querySelector('{place(kind)} > .live-root').figure.frames"
    before = page.evaluate(count)
    page.wait_for_timeout(200)
    assert page.evaluate(count) == before, "draws although nothing changed"
    page.evaluate("() => scrollTo(0, document.body.scrollHeight)")
    page.locator("#live-second.live").wait_for()
    slider = page.locator(f"{place(kind)} input[type=range]").first
    before = page.evaluate(count)
    slider.evaluate("e => { e.stepDown(3); e.dispatchEvent(new Event('input')) }")
    page.wait_for_timeout(200)
    assert page.evaluate(count) == before
    page.evaluate("() => scrollTo(0, 0)")
    page.wait_for_function(f"() => ({count})() > {before}")
