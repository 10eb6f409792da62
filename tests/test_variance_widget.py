"""The variance explorer: its exact law, and in a browser against Python, number by number."""

from __future__ import annotations

import base64
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from axe_playwright_python.base import AXE_FILE_PATH
from browser import Open, in_browser, run_js, settle
from playwright.sync_api import Page
from test_book import PHONE_WIDTH
from traitlets import TraitError

import dpmpp_core as dp
from dpmpp_core.moments import gaussian_moments
from dpmpp_core.widgets import LiveFigure, VarianceExplorer
from dpmpp_core.widgets.line_target import LINE_TARGETS, smoothed
from dpmpp_core.widgets.modules import module_source
from dpmpp_core.widgets.variance import SOLVERS

# --- the exact law


def spread_of(
    steps: int, mean: float = 0.0, variance: float = 1.0, **settings: Any
) -> tuple[float, float]:
    mesh = dp.Mesh.from_sigmas(dp.schedule.karras(steps, 0.0292, 14.6146))
    law = gaussian_moments(mesh, **settings, mean=mean, variance=variance)
    return float(law.mean[-1]), float(law.variance[-1]) ** 0.5


@pytest.mark.parametrize(
    ("solver_type", "spreads"),
    [("midpoint", (1.102, 1.032, 1.007)), ("heun", (1.276, 1.063, 1.013))],
)
def test_the_final_spread_of_a_gaussian_is_the_known_one(solver_type: str, spreads: Any) -> None:
    for steps, spread in zip((10, 20, 40), spreads, strict=True):
        assert spread_of(steps, solver_type=solver_type)[1] == pytest.approx(spread, abs=5e-4)
        figure = VarianceExplorer(steps=steps, solver_type=solver_type)
        assert figure.law(figure.solver_type).spread[-1] == pytest.approx(spread, abs=5e-4)


def test_without_noise_the_spread_is_seven_hundredths() -> None:
    assert spread_of(20, s_noise=0.0)[1] == pytest.approx(0.0683, abs=5e-4)


def test_the_ensemble_agrees_with_the_exact_law_within_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A Gaussian split in two equal parts counts as a mixture, and is sampled."""
    parts = torch.zeros(2, 1, dtype=torch.float64)
    twice = dp.GaussianMixture(parts, torch.ones(2, dtype=torch.float64))
    monkeypatch.setitem(LINE_TARGETS, "mixture", LINE_TARGETS["gaussian"]._replace(mixture=twice))
    exact = VarianceExplorer(steps=12).law("heun")
    sampled = VarianceExplorer(steps=12, target="mixture").law("heun")
    assert sampled.error[-1] == pytest.approx(sampled.spread[-1] / math.sqrt(8000), rel=0.1)
    for found, error, true in zip(sampled.spread, sampled.error, exact.spread, strict=True):
        assert abs(found - true) < 4 * error
    # The density of 4000 particles, smoothed a little.
    assert np.abs(np.subtract(sampled.density, exact.density)).max() < 0.05


def test_the_ensemble_starts_at_the_exact_marginal_and_ends_close_to_it() -> None:
    law = VarianceExplorer(target="mixture", steps=40).law("midpoint")
    assert abs(law.spread[0] - 1) < 4 * law.error[0]
    assert law.spread[-1] == pytest.approx(1.0, abs=0.05)


def test_the_smoothed_density_has_the_mass_and_the_place_of_the_sample() -> None:
    target = LINE_TARGETS["mixture"]
    x = np.array([0.0, 0.501, 0.502, 99.0])
    density, gap = smoothed(x, target, 0.05), target.grid[1] - target.grid[0]
    assert density.sum() * gap == pytest.approx(0.75, abs=1e-6)
    assert (density @ target.grid) * gap == pytest.approx(1.003 / 4, abs=1e-6)


# --- the class


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("eta", 2.5, "eta must be a number from 0 to 2, got 2.5"),
        ("s_noise", 0.4, "s_noise must be a number from 0.5 to 1.5, got 0.4"),
        ("steps", 1, "steps must be an integer from 2 to 100, got 1"),
        ("particles", 99, "particles must be an integer from 100 to 10000, got 99"),
        ("target", "triangle", "target must be 'gaussian', 'mixture' or 'rare', got 'triangle'"),
        ("solver_type", "euler", "solver_type must be 'midpoint' or 'heun', got 'euler'"),
        ("device", "abacus", "device must be one that torch can use here, got 'abacus'"),
    ],
)
def test_a_bad_value_is_refused_in_a_sentence(setting: str, value: Any, sentence: str) -> None:
    figure = VarianceExplorer()
    before = getattr(figure, setting)
    with pytest.raises(TraitError) as refusal:
        setattr(figure, setting, value)
    assert str(refusal.value) == sentence
    assert getattr(figure, setting) == before


@pytest.mark.parametrize("target", sorted(LINE_TARGETS))
def test_the_html_holds_settings_and_a_described_picture(target: str) -> None:
    html = VarianceExplorer(eta=0.3, target=target, particles=200).page_html()
    assert 'id="live-variance" data-module="variance"' in html
    state = json.loads(html.split('application/json">')[1].split("</script>")[0])
    assert (state["eta"], state["steps"], state["target"]) == (0.3, 20, target)
    assert not {"result", "_esm", "device"} & set(state)
    words = html.split('alt="')[1].split('"')[0]
    assert "eta 0.3" in words
    assert ("±" in words) == (target != "gaussian")
    picture = base64.b64decode(html.split("base64,")[1].split('"')[0])
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 40_000


def test_nothing_is_computed_before_a_view_is_shown() -> None:
    figure = VarianceExplorer()
    figure.eta = 0.5
    assert figure.result is None
    figure._handle_custom_msg("shown", [])
    first = figure.result
    assert first["laws"]["heun"]["spread"] == figure.law("heun").spread
    assert first["settings"]["eta"] == 0.5
    json.dumps(first)  # it travels as it is
    figure.steps = 10
    assert figure.result["number"] == first["number"] + 1
    figure.solver_type = "heun"  # a view's own matter: both laws are there
    assert figure.result["number"] == first["number"] + 1


# --- the page's numbers


def random_settings(number: int) -> dict[str, Any]:
    chance = random.Random(number)
    return {
        "target": ["mixture", "gaussian", "rare", "gaussian"][number % 4],
        "eta": chance.choice([0.0, 1.0, round(chance.uniform(0.0, 2.0), 2)]),
        "s_noise": chance.choice([1.0, round(chance.uniform(0.5, 1.5), 2)]),
        "steps": chance.choice([2, 3, 10, 20, chance.randint(2, 100)]),
        "schedule": chance.choice(["karras", "exponential", "kl_optimal"]),
        "sigma_min": chance.choice([0.0292, chance.uniform(1e-3, 0.5)]),
        "sigma_max": chance.choice([14.6146, chance.uniform(1.01, 100.0)]),
        "seed": chance.randrange(2**32),
        "particles": chance.choice([300, 1000]),
    }


@pytest.mark.browser
def test_the_page_computes_the_laws_that_python_computes() -> None:
    all_settings = [random_settings(number) for number in range(20)]
    found = run_js(
        "({runs}, [all, { targets, ...rest }]) =>"
        " all.map(s => runs.laws(s, { ...targets[s.target], ...rest }))",
        [all_settings, VarianceExplorer().page_state()["offers"]],
        {"runs": module_source("runs.js")},
    )
    widest = 0.0
    for settings, laws in zip(all_settings, found, strict=True):
        figure = VarianceExplorer(**settings)
        for solver_type in SOLVERS:
            for part, values in figure.law(solver_type)._asdict().items():
                scale = np.maximum(1.0, np.abs(values))
                gap = np.abs(np.subtract(laws[solver_type][part], values)) / scale
                widest = max(widest, float(gap.max()))
                assert gap.max() < 1e-9, (settings, solver_type, part)
    print(f"largest gap between page and Python: {widest:.1e}")


# --- the page


def figures_on_the_page() -> tuple[LiveFigure, LiveFigure]:
    return VarianceExplorer(particles=1000), VarianceExplorer(name="second")


FIGURE = "document.querySelector('#live-variance > div')?.figure"


def settings_of(page: Page) -> dict[str, Any]:
    values: dict[str, Any] = page.evaluate(f"() => {FIGURE}.settings()")
    return values


def shown(page: Page) -> list[str]:
    return page.locator("#live-variance .live-number").all_inner_texts()


def assert_equal_to_python(page: Page) -> None:
    found = page.evaluate(f"() => {FIGURE}.result.laws")
    figure = VarianceExplorer(**settings_of(page))
    for solver_type in SOLVERS:
        for part, values in figure.law(solver_type)._asdict().items():
            np.testing.assert_allclose(found[solver_type][part], values, rtol=1e-9, atol=1e-9)


CONTROLS = {
    "target": "Target",
    "schedule": "Schedule",
    "solver_type": "History term",
    "eta": "eta η",
    "s_noise": "s_noise",
    "steps": "Steps",
    "seed": "Seed of the sample",
    "particles": "Particles of the sample",
}


def move(page: Page, setting: str, value: Any) -> None:
    """Set a control as a reader does, by its label."""
    control = page.locator("#live-variance").get_by_label(CONTROLS[setting], exact=True)
    if control.evaluate("e => e.tagName") == "SELECT":
        control.select_option(value)
    else:
        control.fill(str(value))
    settle(page)
    assert settings_of(page)[setting] == value


@in_browser
def test_it_mounts_over_http_and_from_the_disk(visit: Open, site: Path) -> None:
    for page in (visit(), visit(url=(site / "page.html").as_uri())):
        assert not page.locator("#live-variance > img").is_visible()
        assert page.locator("#live-variance canvas").count() == 2
        assert shown(page) == ["1.032 of 1 (midpoint)", "1.063 of 1"]
        assert_equal_to_python(page)


@in_browser
def test_every_control_gives_the_law_that_python_computes(visit: Open) -> None:
    page = visit()
    for setting, value in {
        "eta": 0.37, "s_noise": 1.25, "steps": 33, "schedule": "kl_optimal", "target": "mixture",
        "seed": 12, "particles": 500,
    }.items():  # fmt: skip
        before = page.evaluate(f"() => {FIGURE}.result.laws")
        move(page, setting, value)
        assert_equal_to_python(page)
        assert page.evaluate(f"() => {FIGURE}.result.laws") != before, setting
    assert "±" in shown(page)[0]
    assert "500 particles" in page.locator("#live-variance .live-help").inner_text()


@in_browser
def test_the_chosen_history_term_is_named_and_the_other_stays(visit: Open) -> None:
    page = visit()
    move(page, "solver_type", "heun")
    assert shown(page) == ["1.063 of 1 (heun)", "1.032 of 1"]
    assert page.locator("#live-variance .live-results").inner_text().count("With midpoint") == 1
    for name in ("1.063 of 1 with heun", "1.032 of 1 with midpoint"):
        assert name in (page.locator("#live-variance canvas").first.get_attribute("aria-label"))
    assert page.locator("#live-variance .live-number[aria-live=polite]").count() == 2


@in_browser
def test_seed_and_particles_are_offered_for_the_sample_only(visit: Open) -> None:
    page = visit()
    assert page.get_by_label("Seed of the sample").first.is_hidden()
    move(page, "target", "mixture")
    assert page.get_by_label("Seed of the sample").first.is_visible()


@in_browser
def test_a_link_carries_every_setting(visit: Open) -> None:
    page = visit()
    for setting, value in {"target": "mixture", "eta": 1.7, "steps": 5, "seed": 9}.items():
        move(page, setting, value)
    page.get_by_role("button", name="Copy link").first.click()
    copied = page.locator("#live-variance textarea")
    copied.wait_for()
    assert copied.input_value() == page.url
    other = visit("#" + page.url.split("#")[1])
    assert settings_of(other) == settings_of(page)
    assert not other.locator("#live-variance .live-note").is_visible()


@in_browser
def test_a_bad_link_falls_back_to_the_defaults_and_says_so(visit: Open) -> None:
    page = visit("#live-variance?eta=9&steps=2.5&target=%3Cscript%3E&colour=red&s_noise=1.2")
    found = settings_of(page)
    assert (found["eta"], found["steps"], found["target"]) == (1, 20, "gaussian")
    assert found["s_noise"] == 1.2
    note = page.locator("#live-variance .live-note")
    assert note.is_visible()
    for part in ("eta = 9", "steps = 2.5", "target = <script>", "colour is no setting"):
        assert part in note.inner_text()
    page.locator("#live-variance").get_by_role("button", name="Reset").click()
    settle(page)
    assert not note.is_visible()
    assert settings_of(page)["s_noise"] == 1


@in_browser
@pytest.mark.parametrize("target", ["gaussian", "mixture"])
def test_the_copied_python_computes_what_is_shown(visit: Open, target: str) -> None:
    page = visit(f"#live-variance?target={target}&eta=0.8&solver_type=heun&particles=200")
    page.locator("#live-variance").get_by_role("button", name="Copy as Python").click()
    text = page.locator("#live-variance textarea")
    text.wait_for()
    names: dict[str, Any] = {}
    exec(text.input_value(), names)
    final = page.evaluate(f"() => {FIGURE}.result.laws.heun.spread.at(-1)")
    assert names["spread"] == pytest.approx(final, abs=1e-9)


@in_browser
def test_the_picture_can_be_saved(visit: Open) -> None:
    page = visit()
    with page.expect_download() as download:
        page.locator("#live-variance").get_by_role("button", name="Save PNG").click()
    assert download.value.suggested_filename == "variance.png"
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


@in_browser
def test_the_keyboard_alone_is_enough(visit: Open) -> None:
    page = visit("#live-variance?target=mixture")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "() => { const e = document.activeElement;"
                " return e.labels?.[0]?.textContent || e.textContent }"
            )
        )
        outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", reached[-1]
    wanted = [*CONTROLS.values(), "Reset", "Copy link", "Copy as Python", "Save PNG"]
    assert reached == wanted
    eta = page.locator("#live-variance").get_by_label("eta η")
    eta.focus()
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert settings_of(page)["eta"] == pytest.approx(0.99)
    assert page.locator("#live-variance output", has_text="0.99").count() == 1


@in_browser
def test_out_of_sight_nothing_is_drawn(visit: Open) -> None:
    page = visit()
    assert page.locator("#live-second > div").count() == 0, "made although far below"
    count = f"() => {FIGURE}.frames"
    before = page.evaluate(count)
    page.wait_for_timeout(300)
    assert page.evaluate(count) == before, "draws although nothing changed"
    page.evaluate("() => scrollTo(0, document.body.scrollHeight)")
    page.locator("#live-second.live").wait_for()
    before = page.evaluate(count)
    slider = "document.querySelector('#live-variance .live-controls input')"
    page.evaluate(f"() => {{ {slider}.value = 0.2; {slider}.dispatchEvent(new Event('input')) }}")
    page.wait_for_timeout(300)
    assert page.evaluate(count) == before
    page.evaluate("() => scrollTo(0, 0)")
    page.wait_for_function(f"() => {FIGURE}.frames > {before}")
    settle(page)
    assert_equal_to_python(page)


@in_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(visit: Open, theme: str) -> None:
    page = visit("#live-variance?eta=9")  # with the note
    page.evaluate(f"() => {{ document.documentElement.dataset.theme = '{theme}' }}")
    page.locator("#live-variance").get_by_role("button", name="Copy as Python").click()
    page.locator("#live-variance textarea").wait_for()
    page.evaluate(Path(AXE_FILE_PATH).read_text(encoding="utf-8"))
    violations = page.evaluate("async () => (await axe.run({preload: false})).violations")
    assert [f"{v['id']}: {n['html'][:120]}" for v in violations for n in v["nodes"]] == []


@in_browser
def test_the_picture_follows_the_theme(visit: Open) -> None:
    page = visit()
    corner = (
        "() => [...document.querySelector('#live-variance canvas').getContext('2d')"
        ".getImageData(2, 2, 1, 1).data].slice(0, 3)"
    )
    assert sum(page.evaluate(corner)) > 600
    page.evaluate("() => { document.documentElement.dataset.theme = 'dark' }")
    settle(page)
    assert sum(page.evaluate(corner)) < 200


@in_browser
@pytest.mark.parametrize("scale", [1, 2])
def test_on_a_phone_it_fits_and_is_sharp(visit: Open, scale: int) -> None:
    page = visit(
        viewport={"width": PHONE_WIDTH, "height": 800},
        device_scale_factor=scale, has_touch=True, is_mobile=True,
    )  # fmt: skip
    assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE_WIDTH
    canvas = page.locator("#live-variance canvas").first
    assert canvas.evaluate("e => e.width") == scale * canvas.evaluate("e => e.clientWidth")
    heights = page.locator("#live-variance button").evaluate_all(
        "buttons => buttons.map(button => button.clientHeight)"
    )
    assert min(heights) >= 40


@in_browser
def test_without_scripts_and_on_paper_the_picture_is_shown(visit: Open) -> None:
    page = visit(java_script_enabled=False)
    assert page.locator("#live-variance > img").is_visible()
    page = visit()
    page.emulate_media(media="print")
    assert page.locator("#live-variance > img").is_visible()
    assert not page.locator("#live-variance canvas").first.is_visible()


@in_browser
@pytest.mark.parametrize("target", ["gaussian", "mixture"])
def test_with_a_kernel_the_numbers_are_those_of_python(visit: Open, target: str) -> None:
    """The module as JupyterLab runs it, with a stand-in for the kernel's model."""
    figure = VarianceExplorer(target=target, particles=200, steps=6, eta=0.4, name="live")
    figure._handle_custom_msg("shown", [])
    page = visit()
    page.evaluate(
        """async ([state, result, esm]) => {
            const listeners = {}, sent = [];
            state.result = null;
            const model = {
                get: name => state[name],
                set(name, value) { state[name] = value; listeners["change:" + name]?.(); },
                on(event, listener) { listeners[event] = listener; },
                off() {}, save_changes() {}, send: message => sent.push(message),
            };
            const url = URL.createObjectURL(
                new Blob([esm], { type: "text/javascript" }));
            const el = document.querySelector("main").insertBefore(
                document.createElement("div"), document.querySelector("h1"));
            el.id = "kernel";
            window.kernel = { model, sent };
            await (await import(url)).default.render({ model, el });
            model.set("result", result);
        }""",
        [figure.page_state(), figure.result, figure._esm],
    )
    page.wait_for_function("() => document.querySelector('#kernel').figure.result")
    settle(page)
    assert page.evaluate("() => kernel.sent") == ["shown"]
    number = f"{figure.law('midpoint').spread[-1]:.3f}"
    texts = page.locator("#kernel .live-number").all_inner_texts()
    assert texts[0].startswith(number)
    page.locator("#kernel").get_by_label("eta η").fill("0.9")
    assert page.evaluate("() => kernel.model.get('eta')") == 0.9
    settle(page)
    # Until Python has answered, what stands is its last answer.
    assert page.locator("#kernel .live-number").all_inner_texts() == texts
