"""The live figures: their Python side, and in a browser against `dpmpp_core`, number by number."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripts
import torch
from browser import Open, in_browser, settle, with_kernel
from PIL import Image
from playwright.sync_api import Page
from test_book import ROOT
from traitlets import TraitError

import dpmpp_core as dp
from dpmpp_core import figures
from dpmpp_core.widgets import (
    TARGETS,
    FreshNoise,
    LiveFigure,
    SideBySide,
    TrajectoryExplorer,
    VarianceExplorer,
    target,
)
from dpmpp_core.widgets.kept import KeptStarts
from dpmpp_core.widgets.start import start

# --- in Python


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("eta", 2.5, "eta must be a number from 0 to 2, got 2.5"),
        ("eta", float("nan"), "eta must be a number from 0 to 2, got nan"),
        ("eta", "1", "eta must be a number from 0 to 2, got '1'"),
        ("steps", 12.0, "steps must be an integer from 2 to 100, got 12.0"),
        ("steps", True, "steps must be an integer from 2 to 100, got True"),
        ("solver_type", "euler", "solver_type must be 'midpoint' or 'heun', got 'euler'"),
        ("schedule", "beta", "schedule must be 'karras', 'exponential' or 'kl_optimal', got"),
        ("target", "square", "target must be one of 'triangle'"),
        ("target", dp.gaussian(torch.zeros(3)), "got a mixture in 3 dimensions"),
        ("device", "abacus", "device must be one that torch can use here, got 'abacus'"),
        ("device", "cuda:99", "device must be one that torch can use here, got 'cuda:99'"),
        ("device", "meta", "device must be one that torch can use here, got 'meta'"),
        ("device", None, "device must be one that torch can use here, got None"),
        ("denoiser", 3, "denoiser must be None or callable as (x, sigma) -> x0, got 3"),
    ],
)
def test_a_bad_value_is_refused_in_a_sentence(setting: str, value: Any, sentence: str) -> None:
    with pytest.raises(TraitError, match=r"^[^\n]*$") as refusal:
        TrajectoryExplorer(**{setting: value})
    assert sentence in str(refusal.value)
    explorer = TrajectoryExplorer()
    before = getattr(explorer, setting)
    with pytest.raises(TraitError) as refusal:
        setattr(explorer, setting, value)
    assert sentence in str(refusal.value)
    assert getattr(explorer, setting) == before


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_target_has_a_picture(name: str) -> None:
    explorer = TrajectoryExplorer(target=name, particles=5, steps=3)
    assert "plane" in explorer.describe()
    assert explorer._png().startswith(b"\x89PNG")
    assert target(name).dim == 2


def test_the_view_is_sent_states_and_estimates() -> None:
    explorer = TrajectoryExplorer(particles=7, steps=4)
    explorer._handle_custom_msg("shown", [])
    first = explorer.result
    assert first["steps"] == 4
    states = np.frombuffer(first["states"], dtype=np.float32).reshape(5, 7, 2)
    run = explorer.run()
    np.testing.assert_allclose(states[-1], run[-1].x_next, rtol=1e-6)
    estimates = np.frombuffer(first["estimates"], dtype=np.float32).reshape(4, 7, 2)
    np.testing.assert_allclose(estimates[2], run[2].denoised, rtol=1e-6)


def test_a_target_of_ones_own_is_offered_and_kept() -> None:
    own = dp.GaussianMixture(torch.tensor([[0.0, 1.0], [0.0, -1.0]]), 0.1)
    explorer = TrajectoryExplorer(own, particles=6)
    assert explorer.page_state()["target"] == "own"
    assert explorer.offers["targets"]["own"]["means"] == own.means.tolist()
    explorer.set_state({"target": "ring"})
    assert explorer.mixture is target("ring")
    explorer.set_state({"target": "own"})
    assert explorer.mixture is own
    assert "your own" in explorer.describe()


def test_fresh_noise_is_of_unit_variance_and_another_for_other_step_counts() -> None:
    x = torch.zeros(4000, 2, dtype=torch.float64)
    ten, eleven = dp.schedule.karras(10, 0.03, 2.5), dp.schedule.karras(11, 0.03, 2.5)
    first = FreshNoise(x, ten, seed=3)
    xi = first(ten[0], ten[1])
    assert torch.equal(xi, first(ten[0], ten[1]))
    others = [first(ten[1], ten[2]), FreshNoise(x, eleven, seed=3)(eleven[0], eleven[1])]
    for other in others:
        assert abs(float((xi * other).mean())) < 4 / 8000**0.5
    assert abs(float(xi.square().mean()) - 1) < 4 * (2 / 8000) ** 0.5
    # Particle i has the seed + i.
    shifted = FreshNoise(x[:5], ten, seed=4)(ten[0], ten[1])
    assert torch.equal(shifted[:4], xi[1:5])


def test_starts_that_are_kept_are_the_starts_that_would_be_drawn() -> None:
    kept = KeptStarts()
    for name, top, seed, n in (
        ("ring", 2.5, 5, 9), ("ring", 2.5, 5, 9), ("moons", 2.5, 5, 9), ("moons", 3.0, 5, 9),
        ("moons", 3.0, 6, 9), ("moons", 3.0, 6, 8),
    ):  # fmt: skip
        mesh = dp.Mesh.from_sigmas([top, 1.0, 0.0])
        found = kept(target(name), mesh, seed, n)
        assert torch.equal(found, start(target(name), mesh, seed, n))
        found.zero_()  # as a denoiser may that writes into its argument


# --- a denoiser of one's own

IN_THE_PLANE = (TrajectoryExplorer, SideBySide)


def shown(kind: type[LiveFigure], **settings: Any) -> Any:
    figure = kind(particles=7, **settings)
    figure._handle_custom_msg("shown", [])
    return figure


def states_sent(figure: Any) -> list[bytes]:
    return [part for part in figure.result.values() if isinstance(part, bytes)]


@pytest.mark.parametrize("kind", IN_THE_PLANE)
def test_a_denoiser_of_ones_own_takes_the_place_of_the_targets(kind: Any) -> None:
    asked = []

    def collapse(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        asked.append((x.shape, sigma.shape, float(sigma.max() - sigma.min()), x.dtype))
        return torch.full_like(x, 0.25)

    figure = shown(kind, denoiser=collapse)
    assert set(asked) == {((7, 2), (7,), 0.0, torch.float64)}
    # The last step goes to the estimate.
    for states in states_sent(figure)[:2]:
        np.testing.assert_array_equal(np.frombuffer(states, np.float32)[-14:], 0.25)
    figure.denoiser = figure.mixture.model()
    own = states_sent(figure)
    figure.denoiser = None
    assert figure.result["number"] == 3
    assert states_sent(figure) == own == states_sent(shown(kind))
    assert figure.trouble == ""


@pytest.mark.parametrize("kind", IN_THE_PLANE)
def test_a_figure_computes_on_one_thread_and_a_denoiser_of_ones_own_on_all(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, compute, before = [], kind.compute, torch.get_num_threads()

    def watched(figure: Any) -> Any:
        seen.append(torch.get_num_threads())
        return compute(figure)

    monkeypatch.setattr(kind, "compute", watched)
    torch.set_num_threads(3)
    try:
        figure = shown(kind)
        figure.denoiser = figure.mixture.model()
        figure.denoiser = refuse
        figure.denoiser = None
        assert seen == [1, 3, 3, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def refuse(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    raise KeyError("no weights\nfor this")


@pytest.mark.parametrize("kind", IN_THE_PLANE)
@pytest.mark.parametrize(
    ("denoiser", "sentence"),
    [
        (refuse, "denoiser raised KeyError: 'no weights\\nfor this'"),
        (lambda x, sigma: x[:, 0], "model must return a tensor of shape (7, 2), .* got shape (7,)"),
        (lambda x, sigma: x.float(), "model must return a tensor .* got torch.float32"),
        (lambda x, sigma: x / 0, "model must return finite values"),
        (lambda x: x, "denoiser raised TypeError"),
    ],
)
def test_a_denoiser_that_fails_is_told_in_a_sentence_and_costs_nothing(
    kind: Any, denoiser: Any, sentence: str
) -> None:
    figure = shown(kind)
    before = figure.result
    figure.denoiser = denoiser
    pattern = re.escape(sentence).replace(r"\.\*", ".*")
    assert re.match(f"^Nothing new was computed: {pattern}", figure.trouble)
    assert "\n" not in figure.trouble
    assert figure.result is before
    figure.seed = 6  # the slider of a failing figure still moves
    assert figure.result is before
    figure.denoiser = None
    assert figure.trouble == ""
    assert figure.result["settings"]["seed"] == 6


@pytest.mark.parametrize("kind", IN_THE_PLANE)
def test_a_figure_that_failed_at_first_sight_recovers(kind: Any) -> None:
    figure = shown(kind, denoiser=refuse)
    assert figure.result is None
    assert figure.trouble
    figure.denoiser = None
    assert figure.result["number"] == 1
    assert figure.trouble == ""


@pytest.mark.parametrize("kind", IN_THE_PLANE)
def test_a_page_shows_the_picture_of_a_denoiser_that_it_cannot_run(kind: Any) -> None:
    figure = kind(particles=7, denoiser=lambda x, sigma: 0 * x)
    html = figure.page_html()
    # What the page's script and the Sphinx extension look for is not there.
    assert 'class="live-figure"' not in html
    assert "<script" not in html
    assert "with a denoiser of one&#x27;s own, which a page cannot run" in html
    assert "denoiser: your own" in html.split('alt="')[1].split('"')[0]
    pictures = [base64.b64decode(h.split("base64,")[1].split('"')[0]) for h in (
        html, kind(particles=7).page_html()
    )]  # fmt: skip
    assert pictures[0] != pictures[1]
    figure.denoiser = None
    assert figure.page_html() == kind(particles=7).page_html()


# --- a page, and a browser


def figures_on_the_page() -> tuple[LiveFigure, LiveFigure]:
    return (
        TrajectoryExplorer(particles=40, steps=8, step=3),
        TrajectoryExplorer(particles=20, name="second"),
    )


FIGURE = "document.querySelector('#live-explorer > div')?.figure"


def settings_of(page: Page) -> dict[str, Any]:
    values: dict[str, Any] = page.evaluate(f"() => {FIGURE}.settings()")
    return values


def states_of(page: Page) -> np.ndarray[Any, Any]:
    states = page.evaluate(f"() => {FIGURE}.result.states.map(x => Array.from(x))")
    return np.asarray(states).reshape(len(states), -1, 2)


def expected(page: Page) -> list[dp.Transition]:
    return TrajectoryExplorer(**settings_of(page)).run()


def assert_equal_to_python(page: Page) -> None:
    run = expected(page)
    python = np.stack([run[0].x.numpy(), *(t.x_next.numpy() for t in run)])
    found = states_of(page)
    assert found.shape == python.shape
    np.testing.assert_allclose(found, python, atol=1e-9)


CONTROLS = {
    "target": "Target",
    "eta": "eta η",
    "s_noise": "s_noise",
    "steps": "Steps",
    "solver_type": "History term",
    "schedule": "Schedule",
    "noise": "Noise when steps change",
    "seed": "Seed",
    "particles": "Particles",
    "step": "State",
    "particle": "Particle",
}


def move(page: Page, setting: str, value: Any) -> None:
    """Set a control as a reader does, by its label."""
    figure = page.locator("#live-explorer")
    control = figure.get_by_label(CONTROLS[setting], exact=True)
    if control.evaluate("e => e.tagName") == "SELECT":
        control.select_option(value)
    else:
        control.fill(str(value))
    settle(page)
    assert settings_of(page)[setting] == value


# --- in the browser


@in_browser
def test_every_control_gives_the_states_that_python_computes(visit: Open) -> None:
    page = visit()
    assert_equal_to_python(page)
    for setting, value in [
        *(("target", name) for name in TARGETS if name != "triangle"),
        ("eta", 0.0),
        ("eta", 0.37),
        ("s_noise", 1.25),
        ("steps", 2),
        ("steps", 33),
        ("solver_type", "heun"),
        ("schedule", "exponential"),
        ("schedule", "kl_optimal"),
        ("noise", "fresh"),
        ("seed", 4_294_967_295),
        ("particles", 77),
    ]:
        before = states_of(page)
        move(page, setting, value)
        assert_equal_to_python(page)
        after = states_of(page)
        assert before.shape != after.shape or not np.array_equal(before, after)


@in_browser
def test_the_arrows_are_the_terms_of_the_step(visit: Open) -> None:
    page = visit()
    move(page, "solver_type", "heun")
    move(page, "particle", 11)
    move(page, "step", 4)
    transition = expected(page)[3]
    terms = page.evaluate(f"() => {FIGURE}.terms(3, 11)")
    shown = page.locator("#live-explorer .live-number").all_inner_texts()
    for text, (name, vector) in zip(shown, terms.items(), strict=True):
        python = getattr(transition, name)[11]
        np.testing.assert_allclose(vector, python, atol=1e-9)
        assert float(text) == pytest.approx(float(python.norm()), abs=6e-4)
    move(page, "step", 1)  # the step that has no history
    assert page.locator("#live-explorer .live-number").nth(1).inner_text() == "none"
    move(page, "step", 0)
    assert page.locator("#live-explorer .live-number").all_inner_texts() == ["–"] * 3


@in_browser
def test_the_numbers_beside_the_picture(visit: Open) -> None:
    page = visit()
    move(page, "particles", 1500)
    page.wait_for_timeout(100)
    measured = page.evaluate(f"() => {FIGURE}.measured")
    result = expected(page)[-1].x_next
    spread = float((result - result.mean(0)).square().sum(1).mean().sqrt())
    assert measured["spread"] == pytest.approx(spread, abs=1e-9)
    trace = float(dp.triangle().covariance.trace())
    assert measured["targetSpread"] == pytest.approx(trace**0.5, abs=1e-9)
    assert 0 < measured["distance"] < 0.3
    near = measured["distance"]
    # No noise to speak of beside a drift made for it: the particles gather, and that is seen.
    move(page, "s_noise", 0.5)
    page.wait_for_timeout(100)
    assert page.evaluate(f"() => {FIGURE}.measured.distance") > near + 0.05


@in_browser
def test_a_link_to_a_figure_far_below_leads_to_it(visit: Open) -> None:
    page = visit("#live-second?eta=0.5")
    page.locator("#live-second.live").wait_for()
    eta = "() => document.querySelector('#live-second > div').figure.settings().eta"
    assert page.evaluate(eta) == 0.5
    page.wait_for_function("() => scrollY > 3000")


@in_browser
def test_a_number_out_of_range_is_set_to_the_nearest(visit: Open) -> None:
    page = visit()
    box = page.locator("#live-explorer").get_by_label("Particles", exact=True)
    box.fill("99999")
    box.press("Tab")
    assert box.input_value() == "4000"
    box.fill("")
    box.press("Tab")
    assert box.input_value() == "4000"
    box.fill("2.5")
    box.press("Tab")
    assert settings_of(page)["particles"] == 3
    # A drawing meanwhile does not take away what is being typed.
    box.fill("0")
    page.evaluate("() => { document.documentElement.dataset.theme = 'dark' }")
    settle(page)
    assert box.input_value() == "0"
    box.press("Tab")
    assert settings_of(page)["particles"] == 1


@in_browser
def test_arrow_keys_choose_a_particle_and_enter_plays(visit: Open) -> None:
    page = visit()
    page.locator("#live-explorer .live-canvas").focus()
    x = states_of(page)[3]
    for key, axis, sign in (("ArrowRight", 0, 1), ("ArrowUp", 1, 1), ("ArrowLeft", 0, -1)):
        before = settings_of(page)["particle"]
        page.keyboard.press(key)
        after = settings_of(page)["particle"]
        assert sign * (x[after] - x[before])[axis] > 0
    page.locator("#live-explorer .live-play").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => {FIGURE}.settings().step === 8", timeout=10_000)
    assert page.locator("#live-explorer .live-play").inner_text() == "Play"


@in_browser
def test_a_click_chooses_the_nearest_particle(visit: Open) -> None:
    page = visit()
    box = page.locator("#live-explorer .live-canvas").bounding_box()
    assert box is not None
    wide = TrajectoryExplorer().half_width
    x, y = states_of(page)[3][17]
    page.mouse.click(
        box["x"] + (x / wide + 1) / 2 * box["width"], box["y"] + (1 - y / wide) / 2 * box["height"]
    )
    assert settings_of(page)["particle"] == 17


@in_browser
@pytest.mark.parametrize("noise", ["path", "fresh"])
@pytest.mark.parametrize("name", ["triangle", "moons"])
def test_the_copied_python_computes_what_is_shown(visit: Open, noise: str, name: str) -> None:
    page = visit(f"#live-explorer?noise={noise}&target={name}&eta=0.8&particles=9")
    page.locator("#live-explorer").get_by_role("button", name="Copy as Python").click()
    text = page.locator("#live-explorer textarea")
    text.wait_for()
    names: dict[str, Any] = {}
    exec(text.input_value(), names)
    np.testing.assert_allclose(states_of(page)[-1], names["result"], atol=1e-9)


@in_browser
def test_the_play_stops_out_of_sight_and_for_the_reader(visit: Open) -> None:
    page = visit("#live-explorer?step=0")
    play = page.locator("#live-explorer .live-play")
    for stop in (
        lambda: page.evaluate("() => scrollTo(0, document.body.scrollHeight)"),
        lambda: move(page, "step", 1),
        lambda: page.locator("#live-explorer").get_by_role("button", name="Reset").click(),
    ):
        page.evaluate("() => scrollTo(0, 0)")
        play.click()
        assert play.inner_text() == "Pause"
        stop()
        page.wait_for_function("play => play.textContent === 'Play'", arg=play.element_handle())
        assert settings_of(page)["step"] < 8


@in_browser
def test_reduced_motion_slows_the_play_button(visit: Open) -> None:
    page = visit("#live-explorer?step=0&steps=50", reduced_motion="reduce")
    page.locator("#live-explorer .live-play").click()
    page.wait_for_timeout(1500)
    assert settings_of(page)["step"] <= 2


@in_browser
def test_with_a_kernel_the_states_are_those_of_python(visit: Open) -> None:
    """The module as JupyterLab runs it, with a stand-in for the kernel's model."""
    page = visit()
    explorer = TrajectoryExplorer(particles=12, steps=6, eta=0.4, name="live")
    with_kernel(page, explorer)
    states = "() => document.querySelector('#kernel').figure.result.states.map(x => [...x])"
    last = np.asarray(page.evaluate(states)[-1]).reshape(-1, 2)
    np.testing.assert_allclose(last, explorer.run()[-1].x_next, rtol=1e-6, atol=1e-6)
    assert page.locator("#kernel").get_by_role("button", name="Copy link").count() == 0
    page.locator("#kernel").get_by_label("eta η").fill("0.9")
    assert page.evaluate("() => kernel.model.get('eta')") == 0.9
    settle(page)
    # Until Python has answered, what stands is its last answer.
    assert np.array_equal(np.asarray(page.evaluate(states)[-1]).reshape(-1, 2), last)
    # What Python could not compute is said.
    note = page.locator("#kernel .live-note")
    assert not note.is_visible()
    page.evaluate("() => kernel.model.set('trouble', 'Nothing new was computed: no.')")
    assert note.inner_text() == "Nothing new was computed: no."
    page.evaluate("() => kernel.model.set('trouble', '')")
    assert not note.is_visible()


@in_browser
def test_two_moves_of_a_slider_within_one_frame_are_drawn_once(visit: Open) -> None:
    page = visit("")
    frames = page.evaluate(
        f"""async () => {{
            const frame = () => new Promise(requestAnimationFrame);
            const slider = [...document.querySelectorAll('#live-explorer input')]
                .find(input => input.labels[0].textContent.startsWith('eta'));
            await frame();
            const before = {FIGURE}.frames;
            for (const value of [0.3, 0.4, 0.5]) {{
                slider.value = value;
                slider.dispatchEvent(new Event('input'));
            }}
            for (let i = 0; i < 5; i++) await frame();
            return {FIGURE}.frames - before;
        }}"""
    )
    assert frames == 1


# --- off the main thread

# Counts what is asked of the first worker, and the most that was under way at one at a time.
SPY = """
    globalThis.spy = { asked: 0, workers: 0, most: 0 };
    globalThis.Worker = class extends Worker {
        constructor(url) {
            super(url);
            this.first = !spy.workers++;
            this.under = 0;
            this.addEventListener("message", () => this.under--);
        }
        postMessage(...message) {
            spy.asked += this.first;
            spy.most = Math.max(spy.most, ++this.under);
            super.postMessage(...message);
        }
    };
"""
NO_WORKER = {
    "none": "delete globalThis.Worker;",
    "refused": "globalThis.Worker = class { constructor() { throw new Error('no'); } };",
    "failing late": """globalThis.Worker = class {
        constructor() { setTimeout(() => this.onerror(new Event('error'))); }
        postMessage() {}
        terminate() {}
    };""",
}


@in_browser
def test_the_sampler_runs_in_a_worker_over_http_and_from_the_disk(visit: Open, site: Path) -> None:
    for page in (visit(), visit(url=(site / "page.html").as_uri())):
        assert len(page.workers) == 1  # and none of the figure far below
        assert page.workers[0].url.startswith("blob:")
        made = page.workers[0].evaluate("() => Object.keys(made)")
        assert set(made) == {"coefficients", "bridge", "philox", "engine", "runs", "explorer_run"}
        page.evaluate(f"() => {FIGURE}.remove()")
        page.wait_for_timeout(200)
        assert len(page.workers) == 0


@in_browser
@pytest.mark.parametrize("noise", ["path", "fresh"])
def test_many_particles_are_shared_out_and_come_back_in_order(visit: Open, noise: str) -> None:
    four = "Object.defineProperty(navigator, 'hardwareConcurrency', { get: () => 4 });"
    page = visit(
        f"#live-explorer?particles=1503&steps=8&seed=4294967000&noise={noise}", script=four
    )
    assert len(page.workers) == 3
    assert_equal_to_python(page)
    move(page, "particles", 2002)
    assert len(page.workers) == 4
    assert_equal_to_python(page)
    move(page, "particles", 30)
    move(page, "eta", 0.4)
    assert_equal_to_python(page)


@in_browser
@pytest.mark.parametrize("why", NO_WORKER)
def test_where_no_worker_can_be_had_the_page_computes_the_same(visit: Open, why: str) -> None:
    page = visit(script=NO_WORKER[why])
    assert_equal_to_python(page)
    move(page, "eta", 0.37)
    move(page, "steps", 21)
    assert_equal_to_python(page)


@in_browser
def test_of_many_moves_the_newest_is_computed_and_one_at_a_time(visit: Open) -> None:
    page = visit("#live-explorer?particles=2000&steps=20", script=SPY)
    before = page.evaluate("() => spy.asked")
    page.evaluate(
        f"""async () => {{
            const seed = [...document.querySelectorAll('#live-explorer input')]
                .find(input => input.labels[0].textContent === 'Seed');
            for (let i = 0; i < 40; i++) {{
                seed.value = 100 + i;
                seed.dispatchEvent(new Event('input'));
                await new Promise(requestAnimationFrame);
            }}
            await {FIGURE}.settled();
        }}"""
    )
    spy = page.evaluate("() => spy")
    assert spy["most"] == 1
    assert 2 <= spy["asked"] - before < 40
    assert page.evaluate(f"() => {FIGURE}.result.settings.seed") == 139
    assert_equal_to_python(page)


@in_browser
def test_what_cannot_be_computed_is_said_and_taken_back(visit: Open) -> None:
    page = visit()
    before = states_of(page)
    note = page.locator("#live-explorer .live-note")
    # No control allows it, so it is slipped in behind them.
    page.evaluate(
        """() => {
            const post = Worker.prototype.postMessage;
            Worker.prototype.postMessage = function (question) {
                Worker.prototype.postMessage = post;
                question.settings.eta = -1;
                post.call(this, question);
            };
        }"""
    )
    move(page, "eta", 0.5)
    assert note.inner_text() == (
        "Nothing new was computed: eta must be a finite number >= 0, got -1"
    )
    assert np.array_equal(states_of(page), before)
    move(page, "eta", 0.6)
    assert not note.is_visible()
    assert_equal_to_python(page)


@in_browser
def test_the_closest_levels_that_the_ranges_allow_can_be_computed(visit: Open) -> None:
    page = visit()
    for schedule in ("karras", "exponential", "kl_optimal"):
        link = f"#live-explorer?sigma_min=0.5&sigma_max=1.01&steps=100&schedule={schedule}&eta=2"
        page.evaluate("hash => { location.hash = hash }", link)
        page.wait_for_function(f"name => {FIGURE}.settings().schedule === name", arg=schedule)
        settle(page)
        assert settings_of(page)["sigma_min"] == 0.5
        assert not page.locator("#live-explorer .live-note").is_visible()
        assert_equal_to_python(page)
    page = visit("#live-explorer?sigma_min=1&sigma_max=1.01&steps=100")
    note = page.locator("#live-explorer .live-note").inner_text()
    assert "sigma_min = 1 is not a number from 0.001 to 0.5" in note
    assert_equal_to_python(page)


# --- what a page carries


@pytest.fixture(scope="module")
def benchmark() -> Any:
    """benchmarks/page.py, which builds pages and weighs them."""
    return scripts.load("benchmarks/page.py")


def test_a_page_with_the_three_figures_of_the_first_chapters_carries_at_most_100_kb(
    benchmark: Any, tmp_path: Path
) -> None:
    three = (TrajectoryExplorer, SideBySide, VarianceExplorer)
    page = benchmark.build(tmp_path, three)
    weights = benchmark.weights(page, three)
    html = page.read_text(encoding="utf-8")
    assert html.count('class="live-figure"') == 3
    assert len([name for name in weights if name.startswith("live/")]) == html.count("live/")
    total = sum(weights.values())
    print(f"three figures, pictures included: {total / 1000:.1f} kB compressed")
    assert total <= 100_000


def test_a_page_loads_each_module_once_and_as_it_was_written(
    benchmark: Any, tmp_path: Path
) -> None:
    live = benchmark.extension()
    live.write_files(tmp_path)
    scripts = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.js")}
    assert sorted(live.page_scripts(live.figure_classes())) == sorted(scripts)
    folder = ROOT / "dpmpp_core" / "widgets"
    assert {path.name for path in folder.glob("*.js")} <= set(scripts)
    for path in folder.glob("*.js"):
        lines = path.read_text(encoding="utf-8").splitlines()
        own = lines[max([0, *(i for i, line in enumerate(lines) if ' from "./' in line)]) + 1 :]
        written = {line for line in own if not line.startswith("export ")}
        assert written <= set(scripts[path.name].splitlines())
        # Its first line says what it is.
        assert [name for name, text in scripts.items() if lines[0] in text] == [path.name]


def test_a_page_loads_the_answers_of_its_own_figures_only(benchmark: Any) -> None:
    live = benchmark.extension()
    assert len(live.figure_classes()) > 3
    for module in live.figure_classes():
        loaded = live.page_scripts([module])
        assert [name for name in loaded if name.endswith("_run.js")] == [f"{module}_run.js"]


def test_the_picture_keeps_the_colours_of_the_terms() -> None:
    with Image.open(io.BytesIO(TrajectoryExplorer()._png())) as image:
        counted = image.convert("RGB").getcolors()
    found = {"#" + bytes(colour).hex().upper() for _, colour in counted}
    assert {term.color for term in figures.TERMS.values()} <= found
    assert figures.INK.upper() in found


def test_every_kind_of_figure_has_a_module_of_its_own() -> None:
    modules = [cls.module for cls in LiveFigure.__subclasses__()]
    assert len(set(modules)) == len(modules)
