"""The line explorer: its numbers against closed forms, and its page against Python."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from browser import Open, in_browser, run_js, settle
from random_knobs import random_knobs
from scipy.stats import wasserstein_distance

import dpmpp_core as dp
from dpmpp_core.moments import gaussian_moments
from dpmpp_core.transport import quantiles
from dpmpp_core.widgets import LineExplorer, LiveFigure
from dpmpp_core.widgets.line import (
    PATHS,
    TARGETS,
    _range,
    _scaled_density,
    distance_to,
    exact_distance,
)
from dpmpp_core.widgets.line_target import LINE_TARGETS
from dpmpp_core.widgets.modules import module_source
from dpmpp_core.widgets.start import start

NAMES = sorted(TARGETS)


def even_levels(n: int) -> torch.Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


# --- the numbers


@pytest.mark.parametrize("name", NAMES)
def test_the_distance_is_that_to_very_many_exact_numbers(name: str) -> None:
    target = TARGETS[name].mixture
    x = target.sample(500, generator=torch.Generator().manual_seed(3))[:, 0] * 1.1 + 0.05
    many = quantiles(target, torch.special.ndtri(even_levels(50_000)))
    wanted = wasserstein_distance(x.numpy(), many.numpy())
    assert distance_to(x, target) == pytest.approx(wanted, rel=5e-3)


def test_the_distance_of_a_shifted_law_is_the_shift() -> None:
    for name in NAMES:
        target = TARGETS[name].mixture
        there = quantiles(target, torch.special.ndtri(even_levels(300)))
        assert distance_to(there.flip(0) - 0.25, target) == pytest.approx(0.25, abs=1e-12)
        assert distance_to(there, target) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_an_exact_sample_is_as_far_as_the_brownian_bridge_says(name: str) -> None:
    """n^(1/2) (F_n - F) is a Brownian bridge at F: its mean size at x is (2/pi F (1 - F))^(1/2)."""
    target, n = TARGETS[name].mixture, 4000
    x = torch.linspace(-7.0, 8.0, 30_001, dtype=torch.float64)[:, None]
    w, m, v = target.weights, target.means[:, 0], target.covariances
    below = torch.special.ndtr((x - m) / v.sqrt()) @ w
    size = (2.0 / math.pi * below * (1.0 - below) / n).sqrt()
    found = exact_distance(target, n)
    assert abs(found.value - float(torch.trapezoid(size, x[:, 0]))) < 4 * found.error / 4
    assert found.error < found.value


def test_of_a_gaussian_the_spread_is_the_exact_one_within_its_error() -> None:
    for settings in ({"steps": 8}, {"eta": 2.0, "s_noise": 0.7, "solver_type": "heun"}):
        figure = LineExplorer(target="gaussian", **settings)
        knobs = {knob: getattr(figure, knob) for knob in ("eta", "s_noise", "solver_type")}
        law = gaussian_moments(figure.mesh, **knobs, mean=0.0, variance=1.0)
        run, wanted = figure.run(), float(law.variance[-1]) ** 0.5
        assert abs(run.spread - wanted) < 4 * run.error
        assert run.error == pytest.approx(wanted / math.sqrt(4000), rel=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_the_paths_are_the_states_of_the_sampler_on_one_brownian_path(name: str) -> None:
    figure = LineExplorer(target=name, steps=9, seed=4, eta=0.8, particles=150)
    target, sigmas = TARGETS[name].mixture, figure.sigmas(9)
    x = start(target, figure.mesh, 4, 150)
    last = dp.sample(
        target.model(), x, sigmas, eta=0.8, disable=True,
        noise_sampler=dp.PhiloxBridge(x, sigmas, seed=4, eta=0.8),
    )  # fmt: skip
    paths = np.array(figure.run().paths)
    assert paths.shape == (10, PATHS)
    mean, variance = float(target.mean), float(target.covariance)
    for states, state, sigma in ((paths[0], x, float(sigmas[0])), (paths[-1], last, 0.0)):
        wanted = (state[:PATHS, 0] - mean) / math.sqrt(variance + sigma**2)
        np.testing.assert_allclose(states, wanted, rtol=1e-12, atol=1e-12)


def test_more_steps_keep_the_path_of_the_noise() -> None:
    few, many = (
        np.array(LineExplorer(target="gaussian", steps=steps).run().paths) for steps in (30, 60)
    )
    np.testing.assert_array_equal(few[0], many[0])
    assert np.corrcoef(few[-1], many[-1])[0, 1] > 0.99
    other = np.array(LineExplorer(target="gaussian", steps=30, seed=10**6).run().paths)
    assert abs(np.corrcoef(few[-1], other[-1])[0, 1]) < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_eta_makes_the_paths_longer_and_leaves_the_law_but_s_noise_does_not(name: str) -> None:
    figure = LineExplorer(target=name, steps=60)
    lengths = []
    for eta in (0.0, 0.5, 2.0):
        figure.eta = eta
        run = figure.run()
        lengths.append(run.length)
        assert run.distance < run.exact_distance + 4 * run.exact_scatter
    assert 20 * lengths[0] < 1.5 * lengths[1] < lengths[2]
    figure.s_noise = 1.3
    run = figure.run()
    assert run.distance > run.exact_distance + 5 * run.exact_scatter


@pytest.mark.parametrize("name", NAMES)
def test_the_shades_are_densities_of_unit_variance(name: str) -> None:
    target = TARGETS[name]
    places = np.linspace(-9.0, 9.0, 4001)
    for sigma in (14.6, 1.0, 0.03, 0.0):
        density = _scaled_density(target, sigma, places)
        moments = [float(np.trapezoid(density * places**power, places)) for power in range(3)]
        assert moments == pytest.approx([1.0, 0.0, 1.0], abs=1e-9)
    low, high = _range(target)
    seen = (places >= low) & (places <= high)
    assert np.trapezoid(_scaled_density(target, 14.6, places)[seen], places[seen]) > 0.998


def test_the_rare_mode_has_the_weight_of_its_name() -> None:
    target = LINE_TARGETS["rare"].mixture
    assert float(target.weights.min()) == pytest.approx(0.05)
    beyond = quantiles(target, torch.special.ndtri(torch.tensor([0.949, 0.951]).double()))
    assert float(beyond[0]) < 2.0 < float(beyond[1])


# --- the page


def random_settings(number: int) -> dict[str, Any]:
    chance = random.Random(number)
    return {
        "target": NAMES[number % 3],
        **random_knobs(chance),
        "seed": chance.randrange(2**32),
        "particles": chance.choice([100, 300, 1000]),
    }


@pytest.mark.browser
def test_the_page_computes_what_python_computes() -> None:
    figures = [LineExplorer(**random_settings(number)) for number in range(12)]
    found = run_js(
        "({run}, all) => all.map(s => {"
        " const { targets, ...rest } = s.offers;"
        " return run.answer(s, { ...targets[s.target], ...rest }, {}); })",
        [figure.page_state() for figure in figures],
        {"run": module_source("line_run.js")},
    )
    widest: dict[str, float] = {}
    for figure, run in zip(figures, found, strict=True):
        for part, values in figure.run()._asdict().items():
            scale = np.maximum(1.0, np.abs(values))
            gap = float(np.max(np.abs(np.subtract(run[part], values)) / scale))
            widest[part] = max(widest.get(part, 0.0), gap)
            # The page knows the target's quantiles from a table of its distribution function.
            assert gap < (1e-6 if "exact" in part or part == "distance" else 1e-9), (figure, part)
    print("largest gaps between page and Python:", {k: f"{v:.0e}" for k, v in widest.items()})


def figures_on_the_page() -> tuple[LiveFigure, LiveFigure]:
    return LineExplorer(), LineExplorer(name="second")


FIGURE = "document.querySelector('#live-line > div').figure"


@in_browser
@pytest.mark.parametrize("name", NAMES)
def test_at_the_end_stand_the_shades_of_the_target(visit: Open, name: str) -> None:
    """The right half of the strip at sigma = 0, where no path is drawn."""
    page = visit(f"#live-line?target={name}")
    red = page.locator("#live-line canvas").first.evaluate(
        "e => [...e.getContext('2d').getImageData(e.width - 17, 0, 1, e.height).data]"
        ".filter((_, i) => i % 4 === 0)"
    )
    target = TARGETS[name]
    low, high = _range(target)
    rows = len(red) - 62  # the margins of plotArea
    places = high - (np.arange(rows) + 0.5) / rows * (high - low)
    highest = max(
        _scaled_density(target, sigma, np.linspace(low, high, 400)).max()
        for sigma in [0.0, *np.geomspace(0.0292, 14.6146, 100)]
    )
    part = 190 / 255 * np.sqrt(_scaled_density(target, 0.0, places) / highest)
    wanted = 255 - part * (255 - int("76", 16))
    # Grey on white, but for the row of the axis; the image has half as many rows as the panel.
    assert np.abs(np.array(red[30:-33]) - wanted[:-1]).max() < 8


@in_browser
def test_the_labels_say_what_is_seen(visit: Open) -> None:
    page = visit("#live-line?target=rare&eta=0.4&steps=12&particle=5")
    run = LineExplorer(target="rare", eta=0.4, steps=12).run()
    paths, density = page.locator("#live-line canvas").evaluate_all(
        "all => all.map(e => e.ariaLabel)"
    )
    own = np.array(run.paths)[:, 5]
    said = f"number 5, goes from {own[0]:.2f} to {own[-1]:.2f}".replace("-", "−")
    assert said in paths
    assert f"is {np.abs(np.diff(own)).sum():.1f} spreads long" in paths
    assert "Paths of 60 particles over 12 steps, from λ −2.7 to 3.5 and then to σ = 0" in paths
    assert f"{max(run.density):.3f} and " in density
    assert page.locator("#live-line .live-number").all_inner_texts() == [
        f"{run.spread:.3f} ± {run.error:.3f} of 1",
        f"{run.distance:.3f} spreads (exact sample: {run.exact_distance:.3f} ± "
        f"{run.exact_scatter:.3f})",
        f"{run.length:.1f} spreads",
    ]


@in_browser
def test_the_copied_python_computes_what_is_shown(visit: Open) -> None:
    page = visit("#live-line?target=rare&eta=0.8&s_noise=1.1&solver_type=heun&particles=200")
    page.locator("#live-line").get_by_role("button", name="Copy as Python").click()
    text = page.locator("#live-line textarea")
    text.wait_for()
    names: dict[str, Any] = {}
    exec(text.input_value(), names)
    for number in ("spread", "distance"):
        shown = page.evaluate(f"() => {FIGURE}.result.{number}")
        assert names[number] == pytest.approx(shown, abs=1e-6)


@in_browser
def test_heun_is_drawn_dashed(visit: Open) -> None:
    """The density's line has gaps: it covers fewer pixels, of the same colour."""
    page = visit("#live-line?target=gaussian&s_noise=0.5")
    ink = (
        "() => { const e = document.querySelectorAll('#live-line canvas')[1];"
        " return [...e.getContext('2d').getImageData(12, 32, e.width - 30, 250).data]"
        ".filter((v, i) => i % 4 === 0 && v < 60).length }"
    )
    solid = page.evaluate(ink)
    page.locator("#live-line").get_by_label("History term").select_option("heun")
    settle(page)
    assert 0.4 * solid < page.evaluate(ink) < 0.85 * solid
