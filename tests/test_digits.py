"""The learned denoiser: its images, its formula, its file of weights, and its training."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import mpmath
import pytest
import scripts
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import dpmpp_core as dp
from dpmpp_core import digits
from dpmpp_core.digits import CLASSES, NO_CLASS, PIXELS, SIZES, Denoiser, DigitsNet, Sizes
from dpmpp_core.guidance import guided

SCRIPT = Path(__file__).parent.parent / "training" / "digits.py"
SMALL = Sizes(width=8, middle=6, blocks=2, embedding=4, frequencies=3)


@pytest.fixture(scope="module")
def training() -> ModuleType:
    return scripts.load("training/digits.py")


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return digits.load()


def states(n: int = 6, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(3)).to(dtype)


# --- images --------------------------------------------------------------------------------------


def test_the_images_are_split_once_and_for_all() -> None:
    images = digits.load_images()
    assert images.train.shape == (1437, 1, 8, 8)
    assert images.held_out.shape == (360, 1, 8, 8)
    together = torch.cat([images.train, images.held_out])
    assert together.dtype == torch.float32
    assert torch.equal(((together + 1) * 8).frac(), torch.zeros_like(together))
    assert (together.min(), together.max()) == (-1.0, 1.0)
    # No image is in both parts: the 1,797 are all different.
    assert len(together.view(-1, PIXELS).unique(dim=0)) == 1797
    digest = hashlib.sha256(images.train_labels.numpy().astype("uint8").tobytes()).hexdigest()
    assert digest.startswith("33fe81a53fa12d9c")


def test_both_parts_have_the_same_share_of_each_class() -> None:
    images = digits.load_images()
    many = torch.bincount(images.train_labels, minlength=CLASSES) / 1437
    few = torch.bincount(images.held_out_labels, minlength=CLASSES) / 360
    assert (many - few).abs().max() < 1 / 360


# --- the formula ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [1e-3, 0.0292, 0.7, 14.6146, 1e4])
def test_the_preconditioning_has_its_closed_form(sigma: float) -> None:
    with mpmath.workdps(50):
        s, level = mpmath.mpf(0.75), mpmath.mpf(sigma)
        variance = level**2 + s**2
        expected = [
            s**2 / variance,
            level * s / mpmath.sqrt(variance),
            1 / mpmath.sqrt(variance),
            mpmath.log(level) / 4,
        ]
        found = digits.precondition(torch.tensor([sigma], dtype=torch.float64), 0.75)
        for value, exact in zip(found, expected, strict=True):
            assert abs(float(value) - exact) <= 4e-16 * abs(exact)


@pytest.mark.parametrize("sigma", [0.0292, 0.5, 14.6146])
def test_the_preconditioning_does_what_it_is_for(sigma: float) -> None:
    """The input has variance 1, the target has variance 1, and what F's errors cost is least."""
    s = 0.75
    skip, out, into, _ = (
        float(c[0]) for c in digits.precondition(torch.tensor([sigma], dtype=torch.float64), s)
    )
    assert into**2 * (s**2 + sigma**2) == pytest.approx(1, abs=1e-14)
    # The target (x_0 - c_skip (x_0 + sigma eps)) / c_out.
    assert ((1 - skip) ** 2 * s**2 + skip**2 * sigma**2) / out**2 == pytest.approx(1, abs=1e-12)
    for other in (skip - 1e-3, skip + 1e-3):
        assert (1 - other) ** 2 * s**2 + other**2 * sigma**2 > out**2


def test_the_network_computes_its_formula(model: Denoiser) -> None:
    """Written out once more, in float64 and one image at a time."""
    weights = {name: value.double() for name, value in load_file(digits.WEIGHTS).items()}

    def linear(name: str, value: Tensor) -> Tensor:
        return weights[f"{name}.weight"] @ value + weights[f"{name}.bias"]

    def silu(value: Tensor) -> Tensor:
        return value / (1 + torch.exp(-value))

    def norm(value: Tensor) -> Tensor:
        centred = value - value.mean()
        return centred / torch.sqrt((centred * centred).mean() + 1e-5)

    def denoise(x: Tensor, sigma: float, label: int) -> Tensor:
        s = model.spread
        root = math.sqrt(sigma**2 + s**2)
        angle = 2 * math.pi * math.log(sigma) / 4 * weights["time.frequencies"]
        wave = torch.cat([angle.cos(), angle.sin()])
        e = silu(linear("time", wave) + weights["class.weight"][label])
        u = linear("in", x / root)
        for i in range(SIZES.blocks):
            scale, shift = linear(f"block.{i}.modulation", e).split(SIZES.width)
            inside = linear(f"block.{i}.up", norm(u) * (1 + scale) + shift)
            u = u + linear(f"block.{i}.down", silu(inside))
        return s**2 / root**2 * x + sigma * s / root * linear("out", norm(u))

    labels = torch.tensor([0, 3, 9, 10])
    sigmas = torch.tensor([0.0292, 0.4, 3.0, 14.6146], dtype=torch.float64)
    x = states(4, torch.float64) * (1 + sigmas.view(-1, 1, 1, 1))
    found = model(x, sigmas, label=labels)
    for i in range(4):
        expected = denoise(x[i].flatten(), float(sigmas[i]), int(labels[i]))
        assert torch.allclose(found[i].flatten(), expected, atol=2e-6)


def test_the_network_is_small_enough_for_a_page() -> None:
    width, middle, blocks, *_ = SIZES
    assert 2 * PIXELS * width + 2 * blocks * width * middle <= 60_000
    assert sum(p.numel() for p in DigitsNet().parameters()) <= 110_000


# --- the denoiser --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6, 1, 8, 8), (6, 64), (6, 8, 8)])
def test_the_estimate_has_the_states_form(
    model: Denoiser, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = states(dtype=dtype).view(shape)
    before = x.clone()
    out = model(x, torch.full((6,), 0.5, dtype=dtype), label=3, w=2.0, seed=5)
    assert (out.shape, out.dtype) == (x.shape, dtype)
    assert torch.equal(x, before)


def test_a_number_and_one_level_for_each_sample_are_the_same(model: Denoiser) -> None:
    x = states()
    assert torch.equal(model(x, 0.5, label=3), model(x, torch.full((6,), 0.5), label=3))


def test_each_sample_has_its_own_class_and_strength(model: Denoiser) -> None:
    x, labels = states(), torch.tensor([0, 1, 9, 10, 4, 4])
    w = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, -1.0])
    together = model(x, 0.8, label=labels, w=w)
    for i in range(6):
        alone = model(x[i : i + 1], 0.8, label=int(labels[i]), w=float(w[i]))
        assert torch.allclose(together[i], alone[0], atol=1e-5)


def test_no_class_is_the_last_row_and_guidance_leaves_it_alone(model: Denoiser) -> None:
    x = states()
    plain = model(x, 0.8)
    assert torch.equal(plain, model(x, 0.8, label=NO_CLASS))
    assert torch.allclose(plain, model(x, 0.8, label=None, w=5.0), atol=1e-6)
    assert torch.allclose(plain, model(x, 0.8, label=3, w=0.0), atol=1e-6)


def test_guidance_inside_is_guidance_outside(model: Denoiser) -> None:
    x = states()
    outside = guided(model, 2.5, {"label": 7}, {"label": None})
    assert torch.allclose(model(x, 0.8, label=7, w=2.5), outside(x, 0.8), atol=1e-5)


def test_no_gradient_is_recorded(model: Denoiser) -> None:
    x = states().requires_grad_()
    assert not model(x, 0.5, label=1, w=2.0).requires_grad
    assert not any(p.requires_grad for p in model.net.parameters())


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (11, r"^label must be None, an integer from 0 to 10, .*got 11$"),
        (-1, r"^label must be .*got -1$"),
        (3.0, r"^label must be .*got 3.0$"),
        (True, r"^label must be .*got True$"),
        ("3", r"^label must be .*got '3'$"),
        (torch.tensor([0, 1, 2, 3, 4, 12]), r"^label must be .*got 12$"),
        (torch.tensor([0, 1]), r"^label must be .*got shape \(2,\)$"),
        (torch.zeros(6), r"^label must be"),
    ],
)
def test_a_class_that_there_is_not_is_refused(model: Denoiser, label: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(states(), 0.5, label=label)


@pytest.mark.parametrize("w", [math.nan, math.inf, torch.tensor([1.0, math.nan, 1, 1, 1, 1])])
def test_a_strength_that_is_not_finite_is_refused(model: Denoiser, w: Any) -> None:
    with pytest.raises(ValueError, match=r"^w must be"):
        model(states(), 0.5, label=3, w=w)


def test_states_and_levels_of_another_shape_are_refused(model: Denoiser) -> None:
    with pytest.raises(ValueError, match=r"^x must be .*got torch.float32 of shape \(6, 63\)$"):
        model(torch.zeros(6, 63), 0.5)
    with pytest.raises(ValueError, match=r"^sigma must be .*got shape \(2,\)$"):
        model(states(), torch.tensor([0.5, 0.5]))


def test_the_sampler_takes_it_as_it_is(model: Denoiser) -> None:
    x = 14.6146 * states()
    sigmas = dp.schedule.karras(8, 0.0292, 14.6146)
    settings: dict[str, Any] = {"label": torch.arange(6), "w": 1.5, "seed": 1}
    out = dp.sample(model, x, sigmas, extra_args=settings, disable=True)
    assert out.shape == x.shape
    assert out.isfinite().all()


# --- what it has learned -------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.06, 0.25, 1.0, 4.0, 14.6146])
def test_it_denoises_images_that_it_has_never_seen_better_than_no_network(
    model: Denoiser, sigma: float
) -> None:
    """And better with the class than without it where the noise hides the class."""
    images = digits.load_images()
    clean = images.held_out.double()
    generator = torch.Generator().manual_seed(5)
    noisy = clean + sigma * torch.randn(clean.shape, generator=generator, dtype=torch.float64)

    def error(estimate: Tensor) -> float:
        return float((estimate - clean).square().mean())

    told = error(model(noisy, sigma, label=images.held_out_labels))
    untold = error(model(noisy, sigma))
    mean, s = images.train.double().mean(), model.spread
    linear = error(mean + s**2 / (s**2 + sigma**2) * (noisy - mean))
    assert told < 0.8 * linear
    assert told < untold if sigma >= 0.25 else told < 1.05 * untold


def test_its_digits_are_of_the_class_that_was_asked_for(model: Denoiser) -> None:
    """For a classifier that has seen real digits only."""
    from sklearn.svm import SVC

    images = digits.load_images()
    classifier = SVC(gamma=0.02, C=10).fit(images.train.flatten(1), images.train_labels)
    labels = torch.arange(CLASSES).repeat(20)
    x = 14.6146 * torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sigmas = dp.schedule.karras(20, 0.0292, 14.6146)
    out = dp.sample(model, x, sigmas, eta=0.0, extra_args={"label": labels}, disable=True)
    right = (classifier.predict(out.flatten(1)) == labels.numpy()).mean()
    assert right >= 0.93


# --- a coarse copy -------------------------------------------------------------------------------


def test_a_coarse_copy_has_few_values_each_near_its_own(model: Denoiser) -> None:
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    coarse = digits.rounded(model, 3).net.state_dict()
    for name, value in before.items():
        assert torch.equal(model.net.state_dict()[name], value)
        if value.ndim == 2 and name != "class.weight":
            step = float(value.abs().max()) / 3
            assert len((coarse[name] / step).round(decimals=3).unique()) <= 7
            assert float((coarse[name] - value).abs().max()) <= step / 2 * (1 + 1e-5)
        else:
            assert torch.equal(coarse[name], value)
    x = states()
    errors = [float((digits.rounded(model, b)(x, 0.5) - model(x, 0.5)).norm()) for b in (3, 6, 12)]
    assert errors[0] > 4 * errors[1] > 16 * errors[2] > 0
    with pytest.raises(ValueError, match=r"^bits must be an integer of at least 2, got 1$"):
        digits.rounded(model, 1)


def test_a_switched_denoiser_is_the_one_above_and_the_other_below() -> None:
    def constant(value: float) -> Callable[..., Tensor]:
        return lambda x, sigma, label: x * 0 + value + label

    model = digits.switched(constant(100.0), constant(200.0), 1.0)
    x = states(4)
    for sigma, expected in (([2.0] * 4, [100] * 4), ([1.0, 1.1, 0.5, 3.0], [200, 100, 200, 100])):
        out = model(x, torch.tensor(sigma), label=3)
        assert out.shape == x.shape
        assert out[:, 0, 0, 0].tolist() == [value + 3 for value in expected]
    with pytest.raises(ValueError, match=r"^border must be"):
        digits.switched(constant(1), constant(2), math.nan)


# --- the file of weights -------------------------------------------------------------------------


def change(tmp_path: Path, edit: Callable[[dict[str, Tensor]], Any], **metadata: str) -> Path:
    weights = load_file(digits.WEIGHTS)
    edit(weights)
    save_file(weights, tmp_path / "mine.safetensors", {"spread": "0.75", **metadata})
    return tmp_path / "mine.safetensors"


def test_the_packages_file_is_the_one_that_its_hash_names() -> None:
    found = hashlib.sha256(digits.WEIGHTS.read_bytes()).hexdigest()
    assert found == digits.SHA256
    assert digits.WEIGHTS.stat().st_size < 500_000


def test_half_precision_weights_are_computed_with_as_they_are(model: Denoiser) -> None:
    for name, value in load_file(digits.WEIGHTS).items():
        loaded = model.net.state_dict()[name]
        assert (value.dtype, loaded.dtype) == (torch.float16, torch.float32)
        assert torch.equal(loaded.double(), value.double())


def test_a_file_of_your_own_is_loaded(tmp_path: Path) -> None:
    own = digits.load(change(tmp_path, lambda weights: weights["out.bias"].add_(1.0)))
    assert own.spread == 0.75
    assert torch.equal(
        own.net.state_dict()["out.bias"], load_file(own_path(tmp_path))["out.bias"].float()
    )


def own_path(folder: Path) -> Path:
    return folder / "mine.safetensors"


@pytest.mark.parametrize("place", [5, 3000, -1])
def test_one_changed_byte_is_refused(
    tmp_path: Path, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = bytearray(digits.WEIGHTS.read_bytes())
    raw[place] ^= 1
    changed = tmp_path / "digits.safetensors"
    changed.write_bytes(raw)
    monkeypatch.setattr(digits, "WEIGHTS", changed)
    with pytest.raises(ValueError, match=r"^digits.safetensors must have the SHA-256 .*changed$"):
        digits.load()


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (
        lambda weights: weights.pop("block.1.up.bias"),
        r"^mine.safetensors must hold .* lacks 'block.1.up.bias'$",
    ),
    "too many": (
        lambda weights: weights.update({"block.9.up.bias": torch.zeros(3)}),
        r"weight too many, 'block.9.up.bias'$",
    ),
    "shape": (
        lambda weights: weights.update({"in.weight": torch.zeros(64, 96).half()}),
        r"'in.weight' in torch.float16 of shape \(96, 64\), got torch.float16 of shape \(64, 96\)$",
    ),
    "dtype": (
        lambda weights: weights.update({"in.bias": torch.zeros(96)}),
        r"'in.bias' in torch.float16 .* got torch.float32",
    ),
    "not finite": (
        lambda weights: weights["in.bias"].fill_(math.nan),
        r"finite weights, got 'in.bias'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_weight_is_refused_by_name(tmp_path: Path, name: str) -> None:
    edit, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        digits.load(change(tmp_path, edit))


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^path must be a file of weights, got '.*none'$"):
        digits.load(tmp_path / "none")
    text = tmp_path / "text.safetensors"
    text.write_text("no weights at all, but some bytes of text")
    with pytest.raises(
        ValueError, match=r"^path must be a file of weights, got 'text.safetensors'"
    ):
        digits.load(text)
    for spread in ("", "nan", "-1"):
        with pytest.raises(ValueError, match=rf"^mine.safetensors must hold .*, got {spread!r}$"):
            digits.load(change(tmp_path, lambda weights: None, spread=spread))


# --- training ------------------------------------------------------------------------------------


def tiny(training: ModuleType, **other: Any) -> Any:
    return training.Settings(**{"steps": 12, "batch": 8, "sizes": SMALL, **other})


def bits(net: DigitsNet) -> list[bytes]:
    return [value.numpy().tobytes() for value in net.state_dict().values()]


def test_a_run_that_was_interrupted_and_resumed_ends_in_the_same_bits(
    training: ModuleType, tmp_path: Path
) -> None:
    images, settings = digits.load_images(), tiny(training)
    whole, spread = training.train(images, settings, disable=True)
    file = tmp_path / "run.pt"
    # Interrupted twice: at a checkpoint, and three steps after one.
    training.train(images, settings, file, every=4, until=4, disable=True)
    state = training.resume(settings, file)
    model = Denoiser(state.net, spread)
    for _ in range(3):
        training.take_step(state, model, images, settings)
    resumed, _ = training.train(images, settings, file, every=4, disable=True)
    assert bits(resumed) == bits(whole)
    # And the last state is kept, from which nothing is left to do.
    again, _ = training.train(images, settings, file, every=4, disable=True)
    assert bits(again) == bits(whole)


def test_another_seed_is_another_network(training: ModuleType) -> None:
    images = digits.load_images()
    first, _ = training.train(images, tiny(training), disable=True)
    second, _ = training.train(images, tiny(training, seed=1), disable=True)
    assert bits(first) != bits(second)


def test_a_checkpoint_of_another_run_is_refused(training: ModuleType, tmp_path: Path) -> None:
    images, file = digits.load_images(), tmp_path / "run.pt"
    training.train(images, tiny(training), file, until=2, disable=True)
    with pytest.raises(ValueError, match=r"^run.pt must be of a run with .*seed=1.* got .*seed=0"):
        training.train(images, tiny(training, seed=1), file, disable=True)


def test_the_class_of_a_tenth_of_the_images_is_not_told(training: ModuleType) -> None:
    images, settings = digits.load_images(), training.Settings(batch=2048)
    hidden = told_wrong = 0
    for step in range(10):
        clean, labels, _, _ = training.draw(images, settings, step)
        hidden += int((labels == NO_CLASS).sum())
        for image, label in list(zip(clean, labels, strict=True))[:20]:
            where = (images.train.view(-1, PIXELS) == image).all(1)
            told_wrong += int(label not in (NO_CLASS, int(images.train_labels[where][0])))
    # Of 20,480: five standard deviations of a binomial are 215.
    assert abs(hidden - 2048) < 215
    assert told_wrong == 0
    never = training.Settings(dropout=0.0)
    assert (training.draw(images, never, 0)[1] != NO_CLASS).all()


def test_levels_are_log_normal(training: ModuleType) -> None:
    images = digits.load_images()
    settings = training.Settings(batch=4096, log_level=(-0.5, 1.3))
    levels = torch.cat([training.draw(images, settings, step)[2] for step in range(4)]).log()
    assert float(levels.mean()) == pytest.approx(-0.5, abs=0.01)
    assert float(levels.std()) == pytest.approx(1.3, abs=0.01)


def test_the_first_guess_has_the_loss_that_the_preconditioning_promises(
    training: ModuleType,
) -> None:
    """F = 0 leaves a target of variance 1, plus what the images' mean adds."""
    images, settings = digits.load_images(), training.Settings(batch=4096)
    spread = float(images.train.double().std(correction=0))
    model = Denoiser(DigitsNet(), spread)
    clean, labels, levels, noise = training.draw(images, settings, 0)
    loss = training.loss_of(model, clean, labels, levels, noise).detach()
    mean = float(images.train.double().mean())
    share = levels**2 / (levels**2 + spread**2)  # (1 - c_skip)^2 / c_out^2, times s^2
    assert float((loss - share * (mean / spread) ** 2).mean()) == pytest.approx(1.0, abs=0.02)


def test_the_kept_weights_are_an_average_of_the_last_steps(training: ModuleType) -> None:
    images, settings = digits.load_images(), tiny(training, average=0.5)
    state = training.begin(settings)
    model = Denoiser(state.net, 0.75)
    expected = {name: value.double() for name, value in state.net.named_parameters()}
    for step in range(1, 7):
        training.take_step(state, model, images, settings)
        keep = max(0.0, 1 - 1 / (0.5 * step))
        for name, value in state.net.named_parameters():
            expected[name] = keep * expected[name] + (1 - keep) * value.detach().double()
    for name, value in state.average.named_parameters():
        assert torch.allclose(value.double(), expected[name], atol=1e-7)


def test_training_lowers_the_loss_and_what_it_writes_can_be_read(
    training: ModuleType, tmp_path: Path
) -> None:
    images = digits.load_images()
    settings = training.Settings(steps=40, batch=64)
    net, spread = training.train(images, settings, disable=True)
    digest = training.write(net, spread, tmp_path / "new.safetensors", {"command": "a test"})
    model = digits.load(tmp_path / "new.safetensors", digest)
    assert model.spread == spread
    batch = training.draw(images, training.Settings(batch=1024), 10**6)
    fresh = Denoiser(DigitsNet(), spread)
    with torch.no_grad():
        before = float(training.loss_of(fresh, *batch).mean())
        assert float(training.loss_of(model, *batch).mean()) < 0.9 * before


def test_the_same_weights_are_written_as_the_packages_own_bytes(
    training: ModuleType, model: Denoiser, tmp_path: Path
) -> None:
    from safetensors import safe_open

    with safe_open(digits.WEIGHTS, framework="pt") as file:
        notes = {name: note for name, note in file.metadata().items() if name != "spread"}
    for _ in range(4):
        path = tmp_path / "again.safetensors"
        assert training.write(model.net, model.spread, path, notes) == digits.SHA256
        assert digits.load(path, digits.SHA256).spread == model.spread


def test_the_command_in_the_file_is_that_of_its_settings() -> None:
    from safetensors import safe_open

    with safe_open(digits.WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["command"].startswith("python training/digits.py")
    images = digits.load_images()
    assert float(metadata["spread"]) == float(images.train.double().std(correction=0))
