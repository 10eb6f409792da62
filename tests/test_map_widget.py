"""The map of the final spread: exact numbers, the page's against Python's, and its cross."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from browser import Open, in_browser, run_js, settle
from playwright.sync_api import Page
from random_knobs import random_knobs

import dpmpp_core as dp
from dpmpp_core.moments import gaussian_denoiser, gaussian_moments
from dpmpp_core.widgets import LiveFigure, VarianceMap
from dpmpp_core.widgets.map import ETAS, LEVELS, MODELS, ROWS, SOLVERS, believed_gain
from dpmpp_core.widgets.modules import module_source

# --- the numbers


@pytest.mark.parametrize(
    ("solver_type", "spreads"),
    [("midpoint", (1.102, 1.032, 1.007)), ("heun", (1.276, 1.063, 1.013))],
)
def test_the_ratio_for_a_unit_gaussian_is_the_known_one(solver_type: Any, spreads: Any) -> None:
    for steps, spread in zip((10, 20, 40), spreads, strict=True):
        assert VarianceMap(steps=steps).ratio(solver_type) == pytest.approx(spread, abs=5e-4)


@pytest.mark.parametrize("schedule", ["karras", "kl_optimal"])
@pytest.mark.parametrize("up", ROWS)
def test_each_place_of_the_map_has_the_moments_of_its_own_setting(up: Any, schedule: str) -> None:
    figure = VarianceMap(up=up, s_noise=0.9, steps=7, schedule=schedule, spread=0.6)
    for solver_type in SOLVERS:
        figure.solver_type = solver_type
        values = figure.map()
        for row in (0, 1, 20, -1):
            levels = getattr(dp.schedule, schedule)(
                int(ROWS[up][row]) if up == "steps" else 7, 0.0292, 14.6146
            )
            s_noise = 0.9 if up == "steps" else ROWS[up][row]
            law = gaussian_moments(
                dp.Mesh.from_sigmas(levels), ETAS, s_noise, solver_type, variance=0.36
            )
            np.testing.assert_allclose(values[row], law.variance[-1].sqrt() / 0.6, rtol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_a_wrong_denoiser_gives_the_spread_that_the_sampler_itself_gives(model: str) -> None:
    """The sampler is linear here: run from one start, and with each noise alone, and add up."""
    settings: Any = {"eta": 0.7, "s_noise": 1.1, "solver_type": "heun"}
    figure = VarianceMap(**settings, steps=8, spread=0.8, model=model, error=-0.3)
    sigmas = dp.schedule.karras(8, 0.0292, 14.6146)

    def denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        high = bool(sigma[0] > 0.8)
        wrong = {"exact": False, "high": high, "low": not high, "all": True}[model]
        variance = (0.8 * (0.7 if wrong else 1.0)) ** 2
        return x * (variance / (variance + sigma[0] ** 2))

    alone = torch.eye(9, dtype=torch.float64)
    step = iter(alone[:, 1:].T)
    weights = dp.sample(
        denoiser, alone[:, :1], sigmas, **settings,
        noise_sampler=lambda *_: next(step)[:, None], disable=True,
    )  # fmt: skip
    start = 0.8**2 + float(sigmas[0]) ** 2
    variance = weights[0, 0] ** 2 * start + weights[1:].square().sum()
    assert figure.ratio() == pytest.approx(float(variance) ** 0.5 / 0.8, rel=1e-6)
    assert figure.error != 0
    same = VarianceMap(**settings, steps=8, spread=0.8).ratio()
    assert (figure.ratio() == same) == (model == "exact")


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_who_is_wrong_everywhere_reaches_the_spread_it_believes_in(eta: float) -> None:
    """But for the first level, where the state has the data's spread: 0.5 % of the variance."""
    wrong = VarianceMap(steps=60, eta=eta, model="all", error=0.25, sigma_max=100.0)
    right = VarianceMap(steps=60, eta=eta, spread=1.25, sigma_max=100.0)
    assert wrong.ratio() == pytest.approx(1.25 * right.ratio(), rel=1e-4)


def test_the_parts_of_the_levels_make_up_all_of_them() -> None:
    mesh = dp.Mesh.from_sigmas(dp.schedule.karras(9, 0.03, 14.0))
    exact, high, low, everywhere = (believed_gain(mesh, 0.5, model, 0.4) for model in MODELS)
    is_high = torch.tensor(mesh.sigma[:-1]) > 0.5
    assert 0 < is_high.sum() < 9
    assert torch.equal(high, torch.where(is_high, everywhere, exact))
    assert torch.equal(low, torch.where(is_high, exact, everywhere))
    torch.testing.assert_close(exact, gaussian_denoiser(mesh, variance=0.25).gain)
    torch.testing.assert_close(everywhere, gaussian_denoiser(mesh, variance=0.49).gain)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"spread": 0.0}, "spread must be a finite number above 0, got 0.0"),
        ({"error": -1.0}, "error must be a finite number above -1, got -1.0"),
        ({"model": "none"}, "model must be one of 'exact', 'high', 'low', 'all', got 'none'"),
    ],
)
def test_a_belief_out_of_range_is_refused_in_a_sentence(change: Any, sentence: str) -> None:
    mesh = dp.Mesh.from_sigmas([2.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="^" + sentence.replace("(", r"\(")):
        believed_gain(mesh, **{"spread": 1.0, **change})


def test_the_alternative_text_has_the_numbers() -> None:
    figure = VarianceMap(up="steps", model="high", error=0.5, steps=10)
    text, values = figure.describe(), figure.map()
    for number in (values.min(), values.max(), figure.ratio(), figure.ratio("heun")):
        assert f"{number:.3f}" in text
    assert "wrong at high noise, there it believes in a spread of 1.5" in text


# --- the page's numbers


def random_settings(number: int) -> dict[str, Any]:
    chance = random.Random(number)
    return {
        "up": chance.choice(["s_noise", "steps"]),
        **random_knobs(chance, most_steps=60),
        "spread": chance.choice([1.0, chance.uniform(0.1, 2.0)]),
        "model": chance.choice(list(MODELS)),
        "error": chance.uniform(-0.5, 0.5),
    }


@pytest.mark.browser
def test_the_page_computes_the_map_that_python_computes() -> None:
    """One after another with the same `keep`, as in the page."""
    all_settings = [random_settings(number) for number in range(12)]
    last = all_settings[-1]
    other = next(solver for solver in SOLVERS if solver != last["solver_type"])
    for change in (
        {"s_noise": 1.3}, {"spread": 0.7}, {"model": "low"}, {"error": 0.1}, {"solver_type": other},
    ):  # fmt: skip
        last = {**last, **change}
        all_settings.append(last)
    found = run_js(
        """({ run }, [all, { etas, rows }]) => {
            const keep = {};
            return all.map(s => {
                const { map, chosen } = run.answer(s, { etas, rows: rows[s.up] }, keep);
                return { map: [...map], chosen };
            });
        }""",
        [all_settings, VarianceMap().page_state()["offers"]],
        {"run": module_source("map_run.js")},
    )
    widest = 0.0
    for settings, answer in zip(all_settings, found, strict=True):
        figure = VarianceMap(**settings)
        ours = [*figure.map().ravel(), *(figure.ratio(solver_type) for solver_type in SOLVERS)]
        theirs = [*answer["map"], *(answer["chosen"][solver_type] for solver_type in SOLVERS)]
        gap = np.abs(np.subtract(theirs, ours)) / np.maximum(1.0, ours)
        widest = max(widest, float(gap.max()))
        assert gap.max() < 1e-9, settings
    print(f"largest gap between page and Python: {widest:.1e}")


@pytest.mark.browser
def test_a_contour_line_lies_where_the_map_has_that_value() -> None:
    """A saddle, which crosses some cells twice, on points at uneven distances."""
    xs, ys = [-1.5, -1.0, -0.4, 0.3, 1.0, 1.2, 2.0], [-1.0, -0.7, 0.1, 0.6, 1.4]
    level = 0.013
    lines = run_js(
        "({ plot }, [map, xs, ys, level]) => plot.contour(map, xs, ys, level)",
        [[x * y for y in ys for x in xs], xs, ys, level],
        {"plot": module_source("plot.js")},
    )
    ends = np.array(lines).reshape(-1, 2)
    # Along an edge of a cell the map is linear, so the ends of each line are exact.
    np.testing.assert_allclose(ends[:, 0] * ends[:, 1], level, atol=1e-12)
    # Every edge that the level crosses has the end of a line: of two where two cells share it.
    signs = np.sign(np.outer(ys, xs) - level)
    crossed = [(np.diff(signs, axis=axis) != 0).sum() for axis in (0, 1)]
    places, counts = np.unique(np.round(ends, 9), axis=0, return_counts=True)
    assert len(places) == sum(crossed)
    inner = np.all((places > (xs[0], ys[0])) & (places < (xs[-1], ys[-1])), axis=1)
    assert (counts == np.where(inner, 2, 1)).all()


# --- the page


def figures_on_the_page() -> tuple[LiveFigure, LiveFigure]:
    return VarianceMap(), VarianceMap(name="second")


def settings_of(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(
        "() => document.querySelector('#live-map > .live-root').figure.settings()"
    )
    return found


@in_browser
@pytest.mark.parametrize("up", ROWS)
def test_the_cross_goes_where_the_pointer_points(visit: Open, up: Any) -> None:
    page = visit(f"#live-map?up={up}")
    canvas = page.locator("#live-map canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    # The axes' corners, from plot.js: 50 and 14 pixels beside them, 30 above, 32 below.
    left, right = box["x"] + 51, box["x"] + box["width"] - 15
    top, bottom = box["y"] + 31, box["y"] + box["height"] - 33
    low, high = (int(n) if up == "steps" else float(n) for n in ROWS[up][[0, -1]])
    middle = round((low * high) ** 0.5) if up == "steps" else 1.0
    page.mouse.move(left, bottom)
    page.mouse.down()
    settle(page)
    assert (settings_of(page)["eta"], settings_of(page)[up]) == (0.0, low)
    page.mouse.move((left + right) / 2, (top + bottom) / 2, steps=4)
    settle(page)
    found = settings_of(page)
    assert found["eta"] == pytest.approx(1.0, abs=0.011)
    assert found[up] == pytest.approx(middle, abs=0.011)
    page.mouse.move(right + 300, top - 20)  # beyond the map, still held
    page.mouse.up()
    page.mouse.move(left, bottom)  # no longer held
    settle(page)
    assert (settings_of(page)["eta"], settings_of(page)[up]) == (2.0, high)
    number = page.locator("#live-map .live-number").first.inner_text()
    assert float(number) == pytest.approx(VarianceMap(**settings_of(page)).ratio(), abs=5e-4)


@in_browser
def test_the_arrow_keys_move_the_cross_and_stop_at_the_edge(visit: Open) -> None:
    page = visit("#live-map?up=steps&steps=59")
    page.locator("#live-map canvas").focus()
    for key in ("ArrowRight", "ArrowUp", "ArrowUp", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    settle(page)
    assert settings_of(page)["eta"] == pytest.approx(0.98)
    assert settings_of(page)["steps"] == 60
    page.locator("#live-map").get_by_label("Up the map").select_option("s_noise")
    page.locator("#live-map canvas").focus()
    page.keyboard.press("ArrowDown")
    settle(page)
    assert settings_of(page)["s_noise"] == pytest.approx(0.98)
    label = page.locator("#live-map canvas").get_attribute("aria-label") or ""
    assert "The cross is at eta 0.98, s_noise 0.98, 60 steps" in label


@in_browser
def test_an_error_is_offered_for_a_wrong_denoiser_only(visit: Open) -> None:
    page = visit()
    error = page.locator("#live-map").get_by_label("The denoiser's error")
    assert error.is_hidden()
    page.locator("#live-map").get_by_label("Denoiser", exact=True).select_option("low")
    settle(page)
    assert error.is_visible()
    words = "The denoiser is wrong at low noise, there it believes in a spread of 1.2."
    assert page.get_by_text(words).is_visible()


@in_browser
def test_the_levels_are_told_without_colour(visit: Open) -> None:
    """What is written on the canvas: the numbers of the lines that lie far apart."""
    script = """{
        const write = CanvasRenderingContext2D.prototype.fillText;
        window.written = [];
        CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
            written.push(text);
            write.call(this, text, ...place);
        };
    }"""
    page = visit(script=script)
    written = page.evaluate("() => written")
    assert {"0.7", "0.8", "0.9", "1", "1.1", "1.2", "1.5"} <= set(written)
    assert {"eta η", "s_noise", "too narrow", "too wide"} <= set(written)
    assert 1.0 in LEVELS


@in_browser
@pytest.mark.parametrize("model", MODELS)
def test_the_copied_python_computes_what_is_shown(visit: Open, model: str) -> None:
    page = visit(
        f"#live-map?model={model}&eta=0.8&solver_type=heun&spread=0.7&error=-0.2&s_noise=1.1&steps=9"
    )
    page.locator("#live-map").get_by_role("button", name="Copy as Python").click()
    text = page.locator("#live-map textarea")
    text.wait_for()
    names: dict[str, Any] = {}
    exec(text.input_value(), names)
    shown = page.evaluate(
        "() => document.querySelector('#live-map > .live-root').figure.result.chosen.heun"
    )
    assert names["ratio"] == pytest.approx(shown, abs=1e-9)
