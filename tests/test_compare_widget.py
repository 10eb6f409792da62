"""Side by side: its Python side, and in a browser against `dpmpp_core`, number by number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from browser import Open, in_browser, settle, with_kernel
from playwright.sync_api import Page
from test_book import PHONE_WIDTH

import dpmpp_core as dp
from dpmpp_core.widgets import PRESETS, TARGETS, SideBySide
from dpmpp_core.widgets.live import LiveFigure

# --- in Python


def test_an_unknown_preset_or_side_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"preset must be one of 'solver', .*, got 'speed'"):
        SideBySide("speed")
    with pytest.raises(ValueError, match="side must be 'a' or 'b', got 'c'"):
        SideBySide().run("c")


def test_a_preset_sets_both_sides_and_a_setting_goes_before_it() -> None:
    figure = SideBySide("steps", b_steps=80)
    assert (figure.a_steps, figure.b_steps) == (10, 80)
    for name, preset in PRESETS.items():
        figure = SideBySide(name)
        assert {key: getattr(figure, key) for key in preset.settings()} == preset.settings()


def test_equal_sides_have_equal_results_and_the_same_starts_lead_to_both() -> None:
    same = SideBySide(b_solver_type="midpoint", particles=9)
    assert same.distance() == 0.0
    other = SideBySide("steps", particles=9)
    assert torch.equal(other.run("a")[0], other.run("b")[0])
    assert other.distance() > 0.0


def test_more_steps_on_the_same_path_come_nearer_to_many() -> None:
    # The path is one: were the noise of 40 steps another, the results would lie far apart.
    kwargs: dict[str, Any] = {"particles": 60, "target": dp.gaussian(torch.zeros(2), 1.0)}
    coarse = SideBySide("steps", **kwargs, b_steps=100).distance()
    fine = SideBySide("steps", **kwargs, a_steps=50, b_steps=100).distance()
    assert fine < 0.4 * coarse < 0.4


def test_half_way_is_half_way_in_lambda_on_both_sides() -> None:
    figure = SideBySide("steps", progress=50)
    mesh = figure.mesh("b")
    middle = float(mesh.lam[0]) + 50 / 99 * float(mesh.lam[39] - mesh.lam[0])
    for side in ("a", "b"):
        mesh, k = figure.mesh(side), figure.shown_step(side)
        assert float(mesh.lam[k]) <= middle < float(mesh.lam[k + 1])
    figure.progress = 0
    assert (figure.shown_step("a"), figure.shown_step("b")) == (0, 0)
    figure.progress = 99
    assert (figure.shown_step("a"), figure.shown_step("b")) == (9, 39)
    figure.progress = 100
    assert (figure.shown_step("a"), figure.shown_step("b")) == (10, 40)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_every_target_has_a_picture(name: str) -> None:
    figure = SideBySide("eta", target=name, particles=5, a_steps=3, b_steps=3)
    assert "eta 0," in figure.describe()
    assert "root mean square distance" in figure.describe()
    assert figure._png().startswith(b"\x89PNG")


def test_a_view_is_answered_once_for_many_changes_at_a_time() -> None:
    figure = SideBySide(particles=7, a_steps=4, b_steps=6)
    figure.a_eta = 0.5
    assert figure.result is None
    figure._handle_custom_msg("shown", [])
    first = figure.result
    for side, steps in (("a", 4), ("b", 6)):
        states = np.frombuffer(first[side], dtype=np.float32).reshape(steps + 1, 7, 2)
        np.testing.assert_allclose(states, figure.run(side), rtol=1e-6, atol=1e-7)
    figure.set_state(PRESETS["s-noise"].settings())
    assert figure.result["number"] == first["number"] + 1
    assert figure.result["settings"]["b_s_noise"] == 0.9
    figure.progress = 20  # a view's own matter
    assert figure.result["number"] == first["number"] + 1


def test_a_target_of_ones_own_is_offered_and_kept() -> None:
    own = dp.GaussianMixture(torch.tensor([[0.0, 1.0], [0.0, -1.0]]), 0.1)
    figure = SideBySide(target=own, particles=6)
    assert figure.page_state()["target"] == "own"
    entry = figure.offers["targets"]["own"]
    assert entry["means"] == own.means.tolist()
    assert entry["spread"] == pytest.approx(1.2**0.5)
    figure.set_state({"target": "ring"})
    figure.set_state({"target": "own"})
    assert figure.mixture is own
    assert "your own" in figure.describe()


def test_no_setting_that_a_control_allows_is_refused_by_the_path() -> None:
    for schedule in ("karras", "exponential", "kl_optimal"):
        for low, high in ((0.5, 1.0), (0.001, 100.0)):
            figure = SideBySide(
                schedule=schedule, sigma_min=low, sigma_max=high, a_steps=100, b_steps=2,
                b_eta=2.0, a_eta=0.01, particles=2,
            )  # fmt: skip
            assert figure.distance() >= 0.0


# --- a page, and a browser


def figures_on_the_page() -> tuple[LiveFigure, LiveFigure]:
    return SideBySide(particles=40), SideBySide("steps", particles=20, name="second")


FIGURE = "document.querySelector('#live-compare > div')?.figure"


def settings_of(page: Page) -> dict[str, Any]:
    values: dict[str, Any] = page.evaluate(f"() => {FIGURE}.settings()")
    return values


def states_of(page: Page, side: str, figure: str = FIGURE) -> np.ndarray[Any, Any]:
    states = page.evaluate(f"side => {figure}.result[side].states.map(x => [...x])", side)
    return np.asarray(states).reshape(len(states), -1, 2)


def assert_equal_to_python(page: Page) -> SideBySide:
    """Both sides' states, the shown steps and the numbers under the picture."""
    figure = SideBySide(**settings_of(page))
    results = {}
    for side in ("a", "b"):
        python = figure.run(side).numpy()
        found = states_of(page, side)
        assert found.shape == python.shape
        np.testing.assert_allclose(found, python, atol=1e-6, rtol=0)
        shown = page.evaluate(f"side => {FIGURE}.shownStep(side)", side)
        assert shown == figure.shown_step(side)
        results[side] = (python[-1], python[shown])

    def rms(x: Any, y: Any) -> float:
        return float(np.sqrt(np.square(x - y).sum(-1).mean()))

    wanted = [
        figure.distance(),
        rms(results["a"][1], results["b"][1]),
        *(rms(results[side][0], results[side][0].mean(0)) for side in ("a", "b")),
        float(figure.mixture.covariance.trace()) ** 0.5,
    ]
    found = page.locator("#live-compare .live-results output").all_inner_texts()
    assert [float(text) for text in found] == pytest.approx(wanted, abs=6e-4)
    return figure


SHARED = {
    "target": "Target",
    "schedule": "Schedule",
    "seed": "Seed",
    "particles": "Particles",
    "paths": "Paths drawn",
    "progress": "Progress",
}
KNOBS = {"eta": "eta η", "s_noise": "s_noise", "solver_type": "History term", "steps": "Steps"}


def move(page: Page, setting: str, value: Any) -> None:
    """Set a control as a reader does, by its label and, for one side, its group."""
    figure = page.locator("#live-compare")
    if setting in SHARED:
        control = figure.get_by_label(SHARED[setting], exact=True)
    else:
        side, knob = setting.split("_", 1)
        group = figure.get_by_role("group", name=f"Side {side.upper()}", exact=True)
        control = group.get_by_label(KNOBS[knob], exact=True)
    if control.evaluate("e => e.tagName") == "SELECT":
        control.select_option(value)
    else:
        control.fill(str(value))
    settle(page)
    assert settings_of(page)[setting] == value


# --- in the browser


def random_settings(seed: int) -> dict[str, Any]:
    chance = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "target": str(chance.choice(sorted(TARGETS))),
        "schedule": str(chance.choice(["karras", "exponential", "kl_optimal"])),
        "sigma_min": round(float(chance.uniform(0.01, 0.5)), 3),
        "sigma_max": round(float(chance.uniform(1.0, 20.0)), 3),
        "seed": int(chance.integers(2**32)),
        "particles": int(chance.integers(1, 60)),
        "progress": int(chance.integers(101)),
        "paths": int(chance.integers(12)),
    }
    for side in ("a", "b"):
        values[f"{side}_eta"] = round(float(chance.uniform(0, 2)), 2)
        values[f"{side}_s_noise"] = round(float(chance.uniform(0.5, 1.5)), 2)
        values[f"{side}_solver_type"] = str(chance.choice(["midpoint", "heun"]))
        values[f"{side}_steps"] = int(chance.integers(2, 101))
    return values


@in_browser
def test_ten_random_settings_give_what_python_computes(visit: Open) -> None:
    page = visit()
    for seed in range(10):
        wanted = random_settings(seed)
        query = "&".join(f"{key}={value}" for key, value in wanted.items())
        page.evaluate("hash => { location.hash = hash }", f"#live-compare?{query}")
        page.wait_for_function(f"seed => {FIGURE}.settings().seed === seed", arg=wanted["seed"])
        settle(page)
        assert settings_of(page) == wanted
        assert not page.locator("#live-compare .live-note").is_visible()
        assert_equal_to_python(page)


@in_browser
def test_the_picture_changes_with_every_control(visit: Open) -> None:
    page = visit()
    pixels = "() => [...document.querySelectorAll('#live-compare canvas')].map(c => c.toDataURL())"

    def changed(setting: str, value: Any) -> list[bool]:
        before = page.evaluate(pixels)
        move(page, setting, value)
        return [x != y for x, y in zip(before, page.evaluate(pixels), strict=True)]

    assert changed("a_eta", 0.4) == [True, False, True]
    assert changed("b_s_noise", 1.2) == [False, True, True]
    assert changed("b_solver_type", "midpoint") == [False, True, True]
    assert changed("paths", 12) == [True, True, False]
    assert changed("progress", 40) == [True, True, True]
    assert changed("target", "moons") == [True, True, True]


@in_browser
def test_a_preset_is_chosen_recognised_and_left(visit: Open) -> None:
    page = visit()
    select = page.locator("#live-compare").get_by_label("Compare", exact=True)
    assert select.input_value() == "solver"
    for name, preset in PRESETS.items():
        select.select_option(label=preset.label)
        settle(page)
        found = settings_of(page)
        assert {key: found[key] for key in preset.settings()} == preset.settings()
        assert_equal_to_python(page)
        assert select.input_value() == name
    move(page, "a_eta", 0.3)
    assert select.input_value() == ""
    select.select_option("solver")
    settle(page)
    select.select_option("")  # no choice to be made
    settle(page)
    assert select.input_value() == "solver"


@in_browser
def test_it_says_when_the_two_sides_have_one_path(visit: Open) -> None:
    page = visit()
    clock = page.locator("#live-compare .compare-clock")
    assert "one Brownian path" in clock.inner_text()
    move(page, "a_eta", 0.5)
    assert "alike, not equal" in clock.inner_text()
    move(page, "a_eta", 0)
    assert "only side B" in clock.inner_text()
    move(page, "b_eta", 0)
    assert "no noise is added on either side" in clock.inner_text()


@in_browser
def test_the_progress_says_the_states_that_are_shown(visit: Open) -> None:
    page = visit()
    progress = page.locator("#live-compare").get_by_label("Progress", exact=True)
    progress.focus()
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert settings_of(page)["progress"] == 99
    assert progress.get_attribute("aria-valuetext") == "99 %: A 9 of 10, B 9 of 10"


@in_browser
@pytest.mark.parametrize("name", ["triangle", "moons"])
def test_the_copied_python_computes_what_is_shown(visit: Open, name: str) -> None:
    page = visit(f"#live-compare?target={name}&a_eta=0.8&b_steps=21&particles=9")
    page.locator("#live-compare").get_by_role("button", name="Copy as Python").click()
    text = page.locator("#live-compare textarea")
    text.wait_for()
    names: dict[str, Any] = {}
    exec(text.input_value(), names)
    for side in ("a", "b"):
        np.testing.assert_allclose(states_of(page, side)[-1], names[side], atol=1e-6)
    measured = page.evaluate(f"() => {FIGURE}.measured.distance")
    assert measured == pytest.approx(float(names["distance"]), abs=1e-6)


@in_browser
def test_on_a_phone_the_panels_stack(visit: Open) -> None:
    page = visit(viewport={"width": PHONE_WIDTH, "height": 800}, has_touch=True, is_mobile=True)
    boxes = page.locator("#live-compare canvas").evaluate_all(
        "all => all.map(e => ({ top: e.getBoundingClientRect().top, width: e.clientWidth,"
        " height: e.clientHeight, pixels: e.width }))"
    )
    assert len({box["top"] for box in boxes}) == 3
    for box in boxes:
        assert box["width"] > 300
        assert box["width"] == box["height"] == box["pixels"]


@in_browser
def test_with_a_kernel_the_states_are_those_of_python(visit: Open) -> None:
    """The module as JupyterLab runs it, with a stand-in for the kernel's model."""
    page = visit()
    figure = SideBySide("steps", particles=12, a_eta=0.4, name="live")
    with_kernel(page, figure)
    for side in ("a", "b"):
        states = states_of(page, side, "document.querySelector('#kernel').figure")
        np.testing.assert_allclose(states, figure.run(side), rtol=1e-6, atol=1e-6)
    group = page.locator("#kernel").get_by_role("group", name="Side B", exact=True)
    group.get_by_label("eta η").fill("0.9")
    assert page.evaluate("() => kernel.model.get('b_eta')") == 0.9
