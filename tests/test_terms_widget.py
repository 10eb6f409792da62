"""The sizes of the terms: against the run itself, exact variances, and in a browser."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from browser import Open, in_browser, run_js, settle, with_kernel
from playwright.sync_api import Page
from random_knobs import random_knobs

import dpmpp_core as dp
from dpmpp_core.moments import AffineDenoiser, affine_moments, gaussian_denoiser
from dpmpp_core.widgets import TARGETS, LiveFigure, TermSizes, TrajectoryExplorer
from dpmpp_core.widgets.modules import module_source
from dpmpp_core.widgets.start import start
from dpmpp_core.widgets.terms import _linear, _together, gaussian_shares, linear_shares, sizes

TILTED = torch.tensor([[1.0, 0.5], [0.5, 0.6]], dtype=torch.float64)
GAUSSIAN = dp.gaussian(torch.tensor([0.3, -1.0]), TILTED)
KNOBS: Any = {"eta": 0.8, "s_noise": 1.2, "solver_type": "heun"}
PARTS = ("drift", "history", "noise", "share", "error", "start", "all_noise", "rest")

# --- sizes


def test_the_sizes_are_those_of_the_explorers_particles() -> None:
    settings: Any = {
        "target": "spiral", "steps": 9, "particles": 150, "seed": 7, "sigma_min": 0.05,
        "sigma_max": 5.0, **KNOBS,
    }  # fmt: skip
    found, run = TermSizes(**settings).terms(), TrajectoryExplorer(**settings).run()
    assert found.sigma == [t.sigma for t in run]
    for name in ("drift", "history", "noise"):
        wanted = [np.sqrt(np.mean(getattr(t, name).numpy() ** 2)) for t in run]
        np.testing.assert_allclose(getattr(found, name), wanted, rtol=1e-12)


def test_the_noise_of_a_gaussian_has_the_size_of_its_coefficient() -> None:
    figure = TermSizes(target="gaussian", particles=10_000, steps=8, **KNOBS)
    mesh = dp.Mesh.from_sigmas(figure.sigmas(8))
    noise = dp.step_table(mesh, **KNOBS).D
    # 20,000 squares of unit normals: their root mean square is 1 within 0.005, one standard error.
    np.testing.assert_allclose(figure.terms().noise, noise, rtol=0.025)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_term_that_is_not_there_has_no_size(eta: float) -> None:
    terms = TermSizes(eta=eta, steps=5).terms()
    assert [size > 0 for size in terms.drift] == [True] * 5
    assert [size > 0 for size in terms.history] == [False, True, True, True, False]
    assert [size > 0 for size in terms.noise] == [eta > 0] * 4 + [False]
    assert [share != 0 for share in terms.share] == [eta > 0] * 4 + [False]


def test_what_rounding_leaves_of_a_term_counts_as_nothing() -> None:
    """A constant estimate has no history, whatever its last digits do."""

    def denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x, 0.5) + 1e-16 * torch.sign(x - 0.5)

    assert TermSizes(steps=6, denoiser=denoiser).terms().history == [0.0] * 6


# --- shares


def test_the_shares_of_a_gaussian_are_what_its_variance_loses_without_that_noise() -> None:
    """The variance by the recursion forwards, once for each noise left out."""
    mesh = dp.Mesh.from_sigmas(dp.schedule.karras(7, 0.03, 6.0))
    table = dp.step_table(mesh, **KNOBS)
    variances = torch.linalg.eigvalsh(TILTED)
    denoiser = gaussian_denoiser(mesh, variance=variances)
    denoiser = AffineDenoiser(denoiser.gain, torch.zeros_like(denoiser.offset))

    def variance(noise: tuple[float, ...], first: Any) -> float:
        changed = dp.StepTable(table.A, table.B, table.C, noise)
        moments = affine_moments(changed, *denoiser, initial=(torch.zeros(2), first))
        return float(moments.variance[-1].sum())

    first_law = variances + mesh.sigma[0] ** 2
    whole = variance(table.D, first_law)
    found = gaussian_shares(GAUSSIAN, mesh, **KNOBS)
    for k, (share, error) in enumerate(found.noise):
        without = tuple(d if j != k else 0.0 for j, d in enumerate(table.D))
        assert share == pytest.approx(1 - variance(without, first_law) / whole, abs=1e-12)
        assert error == 0
    start_out = variance(table.D, torch.zeros(2))
    assert found.start[0] == pytest.approx(1 - start_out / whole, abs=1e-12)
    assert found.start[0] + found.all_noise[0] == pytest.approx(1, abs=1e-12)
    assert found.rest == (0, 0)


def test_the_estimate_of_the_shares_agrees_with_the_exact_ones_within_its_error() -> None:
    """A Gaussian split in two equal parts, so that the sampler is the same and nothing is known."""
    twice = dp.GaussianMixture(GAUSSIAN.means.repeat(2, 1), TILTED.repeat(2, 1, 1))
    sigmas = dp.schedule.karras(6, 0.03, 2.5)
    mesh = dp.Mesh.from_sigmas(sigmas)
    exact = gaussian_shares(GAUSSIAN, mesh, **KNOBS)
    gaps = []
    for seed in range(0, 60_000, 1000):  # sixty samples that share no particle
        x = start(twice, mesh, seed, 400)
        path = dp.PhiloxBridge(x, sigmas, seed=seed, eta=KNOBS["eta"])
        run = list(dp.trajectory(twice.model(), x, sigmas, **KNOBS, noise_sampler=path))
        found = linear_shares(run, twice, mesh)
        pairs = zip(
            [*found.noise[:4], *found[1:]], [*exact.noise[:4], *exact[1:]], strict=True
        )  # the fifth share is 0.001: its error is mostly of second order, and skewed
        gaps.append([(share - true) / error for (share, error), (true, _) in pairs])
    # Of 60: the mean is 0 within 0.13, one standard error, and the spread 1 within 0.09.
    assert np.abs(np.mean(gaps, 0)).max() < 0.55
    spread = np.sqrt(np.mean(np.square(gaps), 0))
    assert (spread > 0.65).all()
    assert (spread < 1.4).all()


def test_what_several_sources_decide_together_is_in_no_share() -> None:
    """x = sign(z + w) has E x z = 1 / sqrt(pi), so z alone explains 1 / pi, and w as much."""
    z, w = torch.randn(
        2, 20_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    parts = [_linear(torch.sign(z + w), source) for source in (z, w)]
    for part in parts:
        share, error = part.with_error()
        assert abs(share - 1 / math.pi) < 4 * error
        assert error < 0.01
    share, error = _together(parts).with_error()
    assert abs(share - 2 / math.pi) < 4 * error
    share, error = _linear(torch.sign(z * w), z).with_error()
    assert abs(share) < 4 * error


def test_an_estimate_without_bias_may_be_below_zero_and_is_zero_on_the_mean() -> None:
    generator = torch.Generator().manual_seed(2)
    found = [
        _linear(*torch.randn(2, 100, 2, dtype=torch.float64, generator=generator)).with_error()
        for _ in range(400)
    ]
    shares, errors = np.transpose(found)
    assert shares.min() < 0
    assert abs(shares.mean()) < 4 * shares.std() / 20
    assert shares.std() < errors.mean() < 1.5 * shares.std()  # at 0 it is a little on the safe side


def test_a_target_that_is_one_point_has_nothing_to_share() -> None:
    for target in (dp.gaussian(torch.zeros(2), 0.0), dp.point_cloud(torch.zeros(2, 2))):
        terms = TermSizes(target=target, steps=4, particles=100).terms()
        assert terms.start[0] == terms.all_noise[0] == 0
        assert not any(terms.share)


def test_only_a_gaussian_with_its_own_denoiser_is_exact() -> None:
    assert [name for name in TARGETS if TermSizes(target=name).exact] == ["gaussian"]
    assert TermSizes(target=GAUSSIAN).exact
    figure = TermSizes(target=GAUSSIAN, denoiser=lambda x, sigma: 0.5 * x, particles=100)
    assert not figure.exact
    assert figure.terms().error[0] > 0


def test_the_sizes_of_a_run_have_an_entry_for_every_step() -> None:
    x = torch.ones(3, 2, dtype=torch.float64)
    run = list(dp.trajectory(lambda x, sigma: 0 * x, x, [2.0, 1.0, 0.0], eta=0.0))
    assert sizes(run) == {"drift": [0.5, 0.5], "history": [0.0, 0.0], "noise": [0.0, 0.0]}


# --- the class


def test_the_picture_is_described_with_its_numbers() -> None:
    figure = TermSizes(eta=0.0, steps=6, step=5, particles=200)
    terms = figure.terms()
    words = figure.describe()
    assert f"drift {terms.drift[5] / terms.sigma[5]:.3g}, no history, no noise" in words
    assert "with eta 0 there is no noise" in words
    assert "exact" not in words
    figure.set_trait("unit", "absolute")
    assert f"drift {terms.drift[5]:.3g}, no" in figure.describe()
    assert ", exact; " in TermSizes("gaussian").describe()


@pytest.mark.parametrize(
    "settings",
    [{"eta": 0.0, "steps": 2}, {"target": "moons", "steps": 100}, {"target": GAUSSIAN, "step": 99}],
)
def test_every_picture_can_be_drawn(settings: Any) -> None:
    assert TermSizes(particles=100, **settings)._png().startswith(b"\x89PNG")


# --- the page's numbers


def random_settings(number: int) -> dict[str, Any]:
    chance = random.Random(number)
    own = [torch.tensor(0.7), torch.tensor([0.2, 1.5]), TILTED]
    target: Any = [*TARGETS, *(dp.gaussian(torch.tensor([1.0, 2.0]), v) for v in own)][number % 9]
    return {
        "target": target,
        **random_knobs(chance),
        "seed": chance.randrange(2**32),
        "particles": chance.choice([100, 300]),
    }


@pytest.mark.browser
def test_the_page_computes_the_numbers_that_python_computes() -> None:
    kinds = [TermSizes(**random_settings(number)) for number in range(27)]
    states = [figure.page_state() for figure in kinds]
    found = run_js(
        "({run}, all) => all.map(s => run.answer(s, s.offers.targets[s.target], {}))",
        states,
        {"run": module_source("terms_run.js")},
    )
    widest = 0.0
    for figure, page in zip(kinds, found, strict=True):
        python = figure.compute()
        assert page["exact"] == python["exact"]
        assert page["sigma"] == pytest.approx(python["sigma"], rel=1e-12)
        for part in PARTS:
            gap = np.abs(np.subtract(page[part], python[part])) / np.maximum(1.0, python[part])
            widest = max(widest, float(gap.max()))
            assert gap.max() < 1e-9, (figure.page_state(), part)
    print(f"largest gap between page and Python: {widest:.1e}")


# --- the page


def figures_on_the_page() -> tuple[LiveFigure, LiveFigure]:
    return TermSizes(particles=200), TermSizes(name="second")


FIGURE = "document.querySelector('#live-terms > div').figure"


def setting(page: Page, name: str) -> Any:
    return page.evaluate(f"name => {FIGURE}.settings()[name]", name)


def table(page: Page, place: str = "#live-terms") -> dict[str, str]:
    rows = page.locator(f"{place} .live-terms tr").all_inner_texts()
    return dict(row.split("\t") for row in rows)


def labels(page: Page) -> list[str]:
    found: list[str] = page.locator("#live-terms canvas").evaluate_all(
        "all => all.map(e => e.ariaLabel)"
    )
    return found


@in_browser
def test_the_table_holds_the_numbers_of_the_chosen_step(visit: Open) -> None:
    page = visit("#live-terms?step=4&steps=12&target=ring&unit=absolute")
    terms = TermSizes("ring", steps=12, particles=200).terms()
    found = table(page)
    for name in ("drift", "history", "noise"):
        assert float(found[name]) == pytest.approx(getattr(terms, name)[4], rel=5e-3)
    assert float(found["history / drift"]) == pytest.approx(
        terms.history[4] / terms.drift[4], rel=5e-3
    )
    assert found["share of its noise in the result"] == (
        f"{terms.share[4]:.3f} ± {terms.error[4]:.3f}"
    )
    totals = page.locator("#live-terms .live-results output").all_inner_texts()
    assert totals == [f"{a:.3f} ± {b:.3f}" for a, b in terms[-3:]]
    ratio = found["history / drift"]
    page.locator("#live-terms").get_by_label("Sizes", exact=True).select_option("sigma")
    settle(page)
    assert float(table(page)["drift"]) == pytest.approx(terms.drift[4] / terms.sigma[4], rel=5e-3)
    assert table(page)["history / drift"] == ratio


@in_browser
def test_a_step_is_chosen_by_a_click_and_by_the_arrow_keys(visit: Open) -> None:
    page = visit()
    for canvas in page.locator("#live-terms canvas").all():
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box is not None
        # Where the axes begin and end is the same for all plots of plot.js.
        left, right = 40, box["width"] - 14
        for k in (0, 3, 19):
            x = left + (k + 0.5) / 20 * (right - left)
            canvas.click(position={"x": x + 2, "y": 100})
            assert setting(page, "step") == k
        canvas.click(position={"x": 3, "y": 100})
        assert setting(page, "step") == 0
        for pressed, k in (("ArrowLeft", 0), ("ArrowRight", 1), ("End", 19), ("ArrowRight", 19),
                           ("ArrowLeft", 18), ("Home", 0)):  # fmt: skip
            page.keyboard.press(pressed)
            assert setting(page, "step") == k, pressed
            settle(page)
            assert f"at step {k}." in labels(page)[0]
            assert f"from step {k}." in labels(page)[1]
    page.evaluate(f"() => {FIGURE}.settings()")
    assert page.locator("#live-terms").get_by_label("Step", exact=True).input_value() == "0"


@in_browser
def test_what_is_not_there_is_said_and_not_drawn(visit: Open) -> None:
    page = visit("#live-terms?eta=0&step=0")
    assert table(page) | {"drift": ""} == {
        "drift": "", "history": "none", "noise": "none", "history / drift": "none",
        "share of its noise in the result": "none",
    }  # fmt: skip
    help_text = " ".join(page.locator("#live-terms .live-help").all_inner_texts())
    for sentence in ("Step 0 has no history", "Step 19 goes to σ = 0", "With η = 0 no step has"):
        assert sentence in help_text
    assert "No noise at any step." in labels(page)[0]
    assert labels(page)[1] == "No step adds noise."
    green = """e => {
        const { data } = e.getContext("2d").getImageData(0, 40, e.width, e.height - 80);
        let count = 0;
        for (let i = 0; i < data.length; i += 4) {
            if (data[i + 1] > data[i] + 60 && data[i + 1] > data[i + 2] + 20) count++;
        }
        return count;
    }"""
    canvases = page.locator("#live-terms canvas").all()
    assert [canvas.evaluate(green) for canvas in canvases] == [0, 0]
    page.locator("#live-terms").get_by_label("eta η").fill("0.5")
    settle(page)
    assert all(canvas.evaluate(green) > 50 for canvas in canvases)
    help_text = " ".join(page.locator("#live-terms .live-help").all_inner_texts())
    assert "With η = 0" not in help_text


@in_browser
def test_the_page_says_whether_the_shares_are_exact(visit: Open) -> None:
    page = visit("#live-terms?target=gaussian")
    texts = page.locator("#live-terms .live-results").inner_text()
    assert "±" not in texts
    assert not page.locator("#live-terms").get_by_text("Of several of them together").is_visible()
    assert "The shares are exact" in page.locator("#live-terms").inner_text()
    page.locator("#live-terms").get_by_label("Target", exact=True).select_option("moons")
    settle(page)
    assert page.locator("#live-terms").get_by_text("Of several of them together").is_visible()
    assert "estimated from 200 particles" in page.locator("#live-terms").inner_text()
    assert page.locator("#live-terms .live-results").inner_text().count("±") == 3


@in_browser
def test_a_step_past_the_end_is_the_last_and_comes_back(visit: Open) -> None:
    page = visit("#live-terms?steps=4&step=15")
    assert page.locator("#live-terms caption").inner_text().startswith("Step 3: ")
    page.locator("#live-terms").get_by_label("Steps", exact=True).fill("30")
    settle(page)
    assert page.locator("#live-terms caption").inner_text().startswith("Step 15: ")


@in_browser
def test_the_levels_are_set_by_number_and_held_within_their_range(visit: Open) -> None:
    page = visit()
    first = page.locator("#live-terms").get_by_label("First σ", exact=True)
    first.fill("2.5")
    settle(page)
    assert setting(page, "sigma_max") == 2.5
    for text, value in (("1000", 100), ("0.2", 1.01), ("", 1.01)):
        first.fill(text)
        first.blur()
        assert (setting(page, "sigma_max"), float(first.input_value())) == (value, value)


@in_browser
@pytest.mark.parametrize(
    "query", ["target=gaussian", "target=spiral&unit=absolute&solver_type=heun"]
)
def test_the_copied_python_computes_what_is_shown(visit: Open, query: str) -> None:
    page = visit(f"#live-terms?{query}&eta=0.8&steps=9&step=5")
    page.locator("#live-terms").get_by_role("button", name="Copy as Python").click()
    text = page.locator("#live-terms textarea")
    text.wait_for()
    names: dict[str, Any] = {}
    exec(text.input_value(), names)
    result = page.evaluate(f"() => {FIGURE}.result")
    scale = 1.0 if "absolute" in query else result["sigma"][5]
    for name, size in names["sizes"][5].items():
        assert size == pytest.approx(result[name][5] / scale, rel=1e-9)
    assert names["share"] == pytest.approx(result["share"][5], abs=1e-9)
    assert names["error"] == pytest.approx(result["error"][5], abs=1e-9)


@in_browser
def test_with_a_kernel_a_denoiser_and_a_target_of_ones_own_are_shown(visit: Open) -> None:
    figure = TermSizes(
        GAUSSIAN, denoiser=lambda x, sigma: 0.3 * x, particles=100, name="kernel", step=3
    )
    page = visit()
    with_kernel(page, figure)
    terms = figure.terms()
    json.dumps(figure.result)  # it travels as it is
    found = table(page, "#kernel")
    assert float(found["drift"]) == pytest.approx(terms.drift[3] / terms.sigma[3], rel=5e-3)
    assert "±" in found["share of its noise in the result"]
    assert page.locator("#kernel select").first.input_value() == "own"
