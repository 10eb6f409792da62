"""The digits explorer: its numbers, and its network and pictures in a browser against torch."""

from __future__ import annotations

import base64
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripts
import torch
from browser import WIDGETS, Open, in_browser, run_js, settle
from playwright.sync_api import Page
from random_knobs import random_knobs
from sklearn.neighbors import KNeighborsClassifier
from traitlets import TraitError

from dpmpp_core import digits
from dpmpp_core.digits import Denoiser, DigitsNet, Sizes
from dpmpp_core.widgets import DigitsExplorer, LiveFigure
from dpmpp_core.widgets.digits import IMAGES, references, spread_within
from dpmpp_core.widgets.modules import module_source

# --- the numbers


def test_held_out_images_are_recognised_as_scikit_learn_recognises_them() -> None:
    images, found = digits.load_images(), references()
    model = KNeighborsClassifier(1, algorithm="brute")
    model.fit(images.train.flatten(1).numpy(), images.train_labels.numpy())
    for label in range(10):
        held = images.held_out[images.held_out_labels == label].flatten(1).numpy()
        assert found.own[label] == pytest.approx(model.score(held, [label] * len(held)))
        distances, _ = model.kneighbors(held)
        assert found.distance[label] == pytest.approx(distances.mean(), rel=1e-5)


def test_the_spread_within_classes_is_the_pooled_standard_deviation() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(25, 64, generator=generator)
    labels = torch.arange(25) % 10
    squares = sum(
        (x[labels == c].double().var(0) * (int((labels == c).sum()) - 1) for c in range(10)),
        torch.zeros(64, dtype=torch.float64),
    )
    spread, _ = spread_within(x, labels)
    assert spread == pytest.approx(math.sqrt(float(squares.mean()) / 15))


def test_the_spread_has_the_error_of_normal_pixels() -> None:
    """Of 64 n independent normals of variance s^2, Var(s^2) = 2 s^4 / (64 n)."""
    n = 4000
    x = 3.0 * torch.randn(n, 64, generator=torch.Generator().manual_seed(1))
    spread, error = spread_within(x, torch.arange(n) % 10)
    expected = 3.0 * math.sqrt(2 / (64 * n)) / 2
    assert error == pytest.approx(expected, rel=0.05)
    assert abs(spread - 3.0) < 4 * expected


def test_the_training_images_themselves_have_the_spread_that_counts_as_one() -> None:
    images = digits.load_images()
    for label in (0, 7):
        own = images.train[images.train_labels == label].flatten(1)
        figure = DigitsExplorer(label=label, steps=2)
        unit = spread_within(figure.sampled(), figure.labels)[0] / figure.run().spread
        assert unit == pytest.approx(float(own.double().var(0).mean().sqrt()))


# --- the run


def test_picture_i_of_a_seed_is_picture_0_of_the_seed_plus_i() -> None:
    many = DigitsExplorer(label=4, seed=3, steps=6).sampled()
    first = DigitsExplorer(label=4, seed=8, steps=6).sampled()
    torch.testing.assert_close(many[5], first[0], rtol=0, atol=1e-4)
    assert float((many[4] - first[0]).abs().max()) > 0.3


def test_another_eta_is_a_change_and_not_another_draw() -> None:
    one, near = DigitsExplorer(eta=1.0).sampled(), DigitsExplorer(eta=1.02).sampled()
    other = DigitsExplorer(eta=1.0, seed=500).sampled()
    size = [float((x - one).square().mean().sqrt()) for x in (near, other)]
    assert 0 < size[0] < 0.1 * size[1]


def test_without_guidance_the_class_does_not_count() -> None:
    four, nine = (DigitsExplorer(label=c, w=0.0, steps=5).sampled() for c in (4, 9))
    assert torch.equal(four, nine)
    four, nine = (DigitsExplorer(label=c, w=1.0, steps=5).sampled() for c in (4, 9))
    assert float((four - nine).abs().max()) > 0.3


def test_a_class_may_be_given_by_its_number() -> None:
    figure = DigitsExplorer(label=np.int64(7))
    assert figure.label == "7"
    assert figure.labels.tolist() == [7] * IMAGES
    figure.label = "each"
    assert figure.labels.tolist() == [i % 10 for i in range(IMAGES)]
    for wrong in (10, -1, True, 3.0, "ten", None):
        with pytest.raises(TraitError, match=r"^label must be 'each', '0', .* or '9', got "):
            figure.label = wrong
        assert figure.label == "each"


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 8.1, -1.1, "strong", True])
def test_a_guidance_that_is_no_number_or_out_of_range_is_refused(wrong: Any) -> None:
    with pytest.raises(TraitError, match=r"^w must be a number from -1 to 8, got "):
        DigitsExplorer(w=wrong)


# --- the page's network


def random_net(sizes: Sizes) -> DigitsNet:
    """With weights that no layer leaves at zero, rounded to float16 as a file has them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DigitsNet(sizes).requires_grad_(False)
        for weight in net.parameters():
            weight.copy_(torch.randn_like(weight).div(math.sqrt(weight.shape[-1])).half())
        frequencies = net["time"].frequencies
        frequencies.copy_(frequencies.half())
    return net


def packed(net: DigitsNet) -> dict[str, Any]:
    weights = {name: value.half().numpy() for name, value in net.state_dict().items()}
    joined = b"".join(value.astype("<f2").tobytes() for value in weights.values())
    return {
        "shapes": [[name, list(value.shape)] for name, value in weights.items()],
        "bytes": base64.b64encode(joined).decode(),
    }


NET = (WIDGETS / "digits_net.js").read_text(encoding="utf-8")


@pytest.mark.browser
def test_the_page_reads_the_size_of_the_network_from_its_weights() -> None:
    nets = [
        random_net(sizes) for sizes in (digits.SIZES, Sizes(7, 5, 1, 3, 2), Sizes(4, 6, 4, 5, 1))
    ]
    cases = [(w, s) for w in (0.0, 1.0, 3.5, -1.0) for s in (0.002, 0.4, 80.0)]
    batches = [torch.randn(n, 64, generator=torch.Generator().manual_seed(n)) for n in (10, 13, 1)]
    found = run_js(
        """({ net }, [files, spread, batches, cases]) => files.map(file => {
            const { denoise } = net.createNet(net.readTensors(file), spread);
            return batches.map(x => cases.map(([w, s]) => {
                const n = x.length / 64, labels = Array.from({ length: n }, (_, i) => i % 11);
                const noisy = Float64Array.from(x, v => v * s);
                return Array.from(denoise(noisy, n, s, labels, w, new Float64Array(x.length)));
            }));
        })""",
        [[packed(net) for net in nets], 0.6, [x.flatten().tolist() for x in batches], cases],
        {"net": NET},
    )
    for net, by_batch in zip(nets, found, strict=True):
        model = Denoiser(net, 0.6)
        for x, by_case in zip(batches, by_batch, strict=True):
            labels = torch.arange(len(x)) % 11
            for (w, sigma), estimate in zip(cases, by_case, strict=True):
                exact = model(x.double() * sigma, sigma, label=labels, w=w).flatten()
                scale = float(exact.abs().max())
                np.testing.assert_allclose(estimate, exact.numpy(), rtol=0, atol=1e-5 * scale)


@pytest.mark.browser
def test_the_page_reads_every_finite_float16() -> None:
    numbers = np.arange(2**16, dtype="<u2").view("<f2")
    finite = numbers[np.isfinite(numbers)]
    found = run_js(
        "({ net }, data) => Array.from(net.readTensors(data).all.data)",
        {
            "shapes": [["all", [len(finite)]]],
            "bytes": base64.b64encode(finite.tobytes()).decode(),
        },
        {"net": NET},
    )
    assert np.array_equal(np.asarray(found), finite.astype(np.float64))


# --- the page's numbers


def random_settings(number: int) -> dict[str, Any]:
    chance = random.Random(number)
    return {
        "label": ["each", *map(str, range(10))][number % 11],
        "w": chance.choice([0.0, 1.0, 1.0, 2.0, round(chance.uniform(-1.0, 8.0), 1)]),
        **random_knobs(chance, most_steps=60),
        "seed": chance.randrange(2**32),
    }


@pytest.mark.browser
def test_the_page_makes_the_pictures_that_torch_makes() -> None:
    all_settings = [random_settings(number) for number in range(22)]
    found = run_js(
        """({ run }, all) => {
            const keep = {};
            return all.map(s => {
                const found = run.answer(s, { rows: 5, columns: 5 }, keep);
                const { images, neighbours } = found;
                return { ...found, images: [...images], neighbours: [...neighbours] };
            });
        }""",
        all_settings,
        {"run": module_source("digits_run.js")},
    )
    widest = 0.0
    for settings, page in zip(all_settings, found, strict=True):
        for name, value in DigitsExplorer(**settings).run()._asdict().items():
            exact = value.flatten().numpy() if isinstance(value, torch.Tensor) else value
            if name == "images":
                widest = max(widest, float(np.abs(np.subtract(page[name], exact)).max()))
            np.testing.assert_allclose(
                page[name], exact, rtol=0, atol=1e-4, err_msg=f"{name} of {settings}"
            )
    print(f"largest gap between a pixel of the page and of torch: {widest:.1e}")
    assert set(page) == set(DigitsExplorer(steps=2).run()._fields)


def test_a_page_with_the_figure_carries_at_most_300_kb(tmp_path: Path) -> None:
    benchmark = scripts.load("benchmarks/page.py")
    weights = benchmark.weights(benchmark.build(tmp_path, [DigitsExplorer]), [DigitsExplorer])
    print(f"compressed: {sum(weights.values()) / 1000:.1f} kB")
    assert sum(weights.values()) <= 300_000
    # Once for all figures of a page; and a notebook, where Python computes, gets none of it.
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.count("digits_data.js") == 1
    assert len(html) < 20_000
    assert len(DigitsExplorer._esm) < 100_000


# --- the page


def figures_on_the_page() -> tuple[LiveFigure, LiveFigure]:
    return DigitsExplorer(steps=6), DigitsExplorer(name="second", steps=6)


FIGURE = "document.querySelector('#live-digits > div')?.figure"


def label_of(page: Page, number: int) -> str:
    found: str = page.locator("#live-digits canvas").nth(number).get_attribute("aria-label") or ""
    return found


@in_browser
def test_a_picture_is_chosen_by_a_click_or_with_the_keyboard(visit: Open) -> None:
    page = visit()
    assert label_of(page, 1).startswith("Picture 0, asked for as a 0,")
    grid = page.locator("#live-digits canvas").first
    box = grid.bounding_box()
    assert box is not None
    grid.click(position={"x": 0.5 * box["width"], "y": 0.7 * box["height"]})
    settle(page)
    assert page.evaluate(f"() => {FIGURE}.settings().image") == 17
    assert label_of(page, 1).startswith("Picture 17, asked for as a 7,")
    page.locator("#live-digits").get_by_label("Picture to compare").focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    assert label_of(page, 1).startswith("Picture 18, asked for as a 8,")
    run = DigitsExplorer(steps=6).run()
    assert label_of(page, 1).endswith(f"a {run.found[18]}, at distance {run.distances[18]:.2f}.")


@in_browser
def test_a_pixel_of_the_grid_is_a_square_of_the_screen_between_paper_and_ink(visit: Open) -> None:
    """Each of the 64 squares has one colour, at both ends of its width and height."""
    for ratio in (1, 2):
        page = visit(device_scale_factor=ratio)
        pixels = page.evaluate(
            f"""() => {{
                const canvas = document.querySelector('#live-digits canvas');
                const {{ width, height }} = canvas, pen = canvas.getContext('2d');
                const unit = devicePixelRatio, cell = [width / 5, height / 5];
                const side = Math.floor(Math.min(cell[0] - 6 * unit, cell[1] - 23 * unit) / 8);
                const left = Math.round(cell[0] + (cell[0] - 8 * side) / 2);
                const top = Math.round(6 * unit);
                const at = (x, y) => [...pen.getImageData(left + x, top + y, 1, 1).data].join();
                const ends = [0, side - 1];
                const squares = Array.from({{ length: 64 }}, (_, i) => ends.flatMap(a =>
                    ends.map(b => at((i % 8) * side + a, Math.floor(i / 8) * side + b))));
                return {{ squares, values: Array.from({FIGURE}.result.images).slice(64, 128) }};
            }}"""
        )
        assert all(len(set(square)) == 1 for square in pixels["squares"])
        light = [float(square[0].split(",")[0]) for square in pixels["squares"]]
        # Paper is 255 and ink 0x22, as the page sets them; beyond -1 and 1 there is nothing.
        expected = 255 - (np.clip(pixels["values"], -1, 1) + 1) / 2 * (255 - 0x22)
        np.testing.assert_allclose(light, expected, atol=1.0)


@in_browser
def test_what_is_near_another_class_is_said_in_words(visit: Open) -> None:
    page = visit("#live-digits?steps=3&w=0&label=1")
    run = DigitsExplorer(steps=3, w=0.0, label=1).run()
    strays = [f"picture {i}, a 1 near a {found}" for i, found in enumerate(run.found) if found != 1]
    assert len(strays) == IMAGES - run.own > 5
    assert f"(not: {'; '.join(strays)})" in label_of(page, 0)
    first = page.locator("#live-digits .live-number").first.inner_text()
    assert first.startswith(f"{run.own} of 25 (held out: ")


@in_browser
@pytest.mark.parametrize("label", ["each", "7"])
def test_the_copied_python_computes_what_is_shown(visit: Open, label: str) -> None:
    page = visit(f"#live-digits?label={label}&w=2.5&eta=0.8&solver_type=heun&seed=9")
    page.locator("#live-digits").get_by_role("button", name="Copy as Python").click()
    text = page.locator("#live-digits textarea")
    text.wait_for()
    names: dict[str, Any] = {}
    exec(text.input_value(), names)
    result = page.evaluate(
        f"() => {{ const r = {FIGURE}.result; return [Array.from(r.images), r.distance]; }}"
    )
    np.testing.assert_allclose(names["images"].flatten().numpy(), result[0], rtol=0, atol=1e-4)
    assert names["distance"] == pytest.approx(result[1], abs=1e-4)
