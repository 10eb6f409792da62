"""The variance explorer: its exact law, and in a browser against Python, number by number."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from browser import Open, in_browser, run_js, settle
from playwright.sync_api import Page
from random_knobs import random_knobs

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


# --- the page's numbers


def random_settings(number: int) -> dict[str, Any]:
    chance = random.Random(number)
    return {
        "target": ["mixture", "gaussian", "rare", "gaussian"][number % 4],
        **random_knobs(chance),
        "seed": chance.randrange(2**32),
        "particles": chance.choice([300, 1000]),
    }


@pytest.mark.browser
def test_the_page_computes_the_laws_that_python_computes() -> None:
    all_settings = [random_settings(number) for number in range(20)]
    found = run_js(
        "({run}, [all, { targets, ...rest }]) =>"
        " all.map(s => run.answer(s, { ...targets[s.target], ...rest }, {}).laws)",
        [all_settings, VarianceExplorer().page_state()["offers"]],
        {"run": module_source("variance_run.js")},
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
def test_of_a_mixture_the_page_says_that_it_is_a_sample(visit: Open) -> None:
    page = visit("#live-variance?target=mixture&particles=500")
    assert "±" in shown(page)[0]
    assert "500 particles" in page.locator("#live-variance .live-help").inner_text()
    for target in sorted(LINE_TARGETS):
        words = VarianceExplorer(target=target, particles=200).describe()
        assert ("±" in words) == (target != "gaussian")


@in_browser
def test_the_chosen_history_term_is_named_and_the_other_stays(visit: Open) -> None:
    page = visit()
    assert shown(page) == ["1.032 of 1 (midpoint)", "1.063 of 1"]
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
