"""The sampler under ComfyUI's conventions, against a stand-in for the parts that it meets.

The numbers are ComfyUI's own (tests/golden); the stand-in is not (tests/comfyui_stand_in).
"""

from __future__ import annotations

import inspect
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import golden_cases
from torch import Tensor

import dpmpp_core
from dpmpp_core import GaussianMixture, PhiloxBridge, StepError, schedule
from dpmpp_core.adapters import comfy as adapter

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = Path(__file__).parent / "comfyui_stand_in"
NAME = "OneSampler_DPMPP_2M_SDE"


@pytest.fixture(autouse=True)
def comfy(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The stand-in, importable as ComfyUI's package is."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    from comfy import model_sampling, samplers

    yield SimpleNamespace(model_sampling=model_sampling, samplers=samplers)
    forget_comfy()


def forget_comfy() -> None:
    for name in [name for name in sys.modules if name == "comfy" or name.startswith("comfy.")]:
        del sys.modules[name]


def unit(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact estimate for data of N(0, I) on VE."""
    return x / (1 + sigma.view(-1, *[1] * (x.ndim - 1)) ** 2)


def unit_flow(x: Tensor, sigma: Tensor) -> Tensor:
    """The exact estimate for data of N(0, I) on a flow."""
    s = sigma.view(-1, *[1] * (x.ndim - 1))
    return (1 - s) * x / ((1 - s) ** 2 + s**2)


def masked(comfy: Any, model_sampling: Any, denoise: Any) -> Any:
    """What a sampler function gets as its model, without a mask."""
    guider = comfy.samplers.Guider(model_sampling, denoise)
    return comfy.samplers.MaskedModel(guider, torch.zeros(()), torch.zeros(()))


def latents(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def run(
    comfy: Any,
    x: Tensor,
    sigmas: Tensor,
    *,
    model_sampling: Any = None,
    seed: Any = 7,
    **options: Any,
) -> Tensor:
    """The sampler function as KSAMPLER calls it, without a mask."""
    model_sampling = model_sampling or comfy.model_sampling.Discrete()
    flow = isinstance(model_sampling, comfy.model_sampling.CONST)
    model = masked(comfy, model_sampling, options.pop("denoise", unit_flow if flow else unit))
    extra_args = {"seed": seed, "model_options": {}, "denoise_mask": None}
    return adapter.sample_dpmpp_2m_sde(model, x, sigmas, extra_args, disable=True, **options)


def karras(steps: int = 8) -> Tensor:
    return schedule.karras(steps, 0.03, 14.6).float()


# --- ComfyUI's numbers ---


def of_kind(comfy: Any, kind: str) -> Any:
    return (
        comfy.model_sampling.DiscreteFlow() if kind == "CONST" else comfy.model_sampling.Discrete()
    )


@pytest.mark.parametrize("case", golden_cases("comfyui_injected_noise"))
def test_with_the_noise_handed_in_every_state_is_comfyuis_and_the_model_says_the_process(
    case: Any, comfy: Any
) -> None:
    g = case["arrays"]
    process = "flow" if case["model_sampling"] == "CONST" else "ve"
    denoise = GaussianMixture(g["means"], g["variances"], g["weights"]).model(process)
    step_into = {float(s): k - 1 for k, s in enumerate(g["sigmas"])}
    seen: list[dict[str, Any]] = []
    out = run(
        comfy,
        g["x_T"],
        g["sigmas"],
        model_sampling=of_kind(comfy, case["model_sampling"]),
        denoise=denoise,
        callback=seen.append,
        eta=case["eta"],
        s_noise=case["s_noise"],
        solver_type=case["solver_type"],
        noise_sampler=lambda sigma, sigma_next: g["xi"][step_into[float(sigma_next)]],
    )
    scale = g["out"].abs().max()
    assert float((out - g["out"]).abs().max() / scale) < 1e-11
    assert [state["i"] for state in seen] == list(range(len(g["x"])))
    for k, state in enumerate(seen):
        assert float((state["x"] - g["x"][k]).abs().max() / g["x"][k].abs().max()) < 1e-11
        assert set(state) == {"x", "i", "sigma", "sigma_hat", "denoised"}


@pytest.mark.parametrize("case", golden_cases("comfyui_brownian_tree_cpu"))
def test_with_comfyuis_tree_the_picture_is_comfyuis(case: Any, comfy: Any) -> None:
    g = case["arrays"]
    (sampler,) = adapter.SamplerDPMPP2MSDE().get_sampler(
        solver_type=case["solver_type"],
        eta=case["eta"],
        s_noise=case["s_noise"],
        noise="tree (gpu)" if case["function"].endswith("_gpu") else "tree (cpu)",
        seeds="one per batch",
    )
    out = run(
        comfy,
        g["x_T"],
        g["sigmas"],
        model_sampling=of_kind(comfy, case["model_sampling"]),
        seed=case["seed"],
        **sampler.extra_options,
    )
    assert float((out - g["out"]).abs().max() / g["out"].abs().max()) < 2e-6


@pytest.mark.parametrize("end", [9, 8])
def test_the_tree_spans_the_levels_above_0(end: int, comfy: Any) -> None:
    # A part of a schedule ends above 0, and its tree with it, as dpmpp_core's own default does.
    x, sigmas = latents(), karras()[:end]
    out = run(comfy, x, sigmas, noise="tree (cpu)", seeds="one per batch")
    expected = dpmpp_core.sample_dpmpp_2m_sde(
        lambda x, sigma, seed: unit(x, sigma), x, sigmas, {"seed": 7}, disable=True
    )
    assert torch.equal(out, expected)


# --- the workflow around it ---


def test_a_whole_run_is_dpmpp_cores_with_the_noise_and_the_data_mixed_in_by_comfyui(
    comfy: Any,
) -> None:
    noise, image, sigmas = latents(), latents(seed=1), karras()[2:]
    guider = comfy.samplers.Guider(comfy.model_sampling.Discrete(), unit)
    previews: list[tuple[int, Tensor, Tensor, int]] = []
    (sampler,) = adapter.SamplerDPMPP2MSDE().get_sampler(eta=0.7, s_noise=0.9, solver_type="heun")
    out = sampler.sample(
        guider,
        sigmas,
        {"seed": 3, "model_options": {"transformer_options": {"a": 1}}},
        lambda *told: previews.append(told),
        noise,
        image,
        disable_pbar=True,
    )
    x = noise * sigmas[0] + image
    path = PhiloxBridge(x, sigmas, 3, eta=0.7)
    expected = dpmpp_core.sample_dpmpp_2m_sde_gpu(
        unit, x, sigmas, disable=True, eta=0.7, s_noise=0.9, solver_type="heun", noise_sampler=path
    )
    assert torch.equal(out, expected)
    # What latent_preview is given: step, estimate, state, number of steps.
    assert [(step, total) for step, _, _, total in previews] == [(k, 6) for k in range(6)]
    assert torch.equal(previews[0][1], unit(x, sigmas[:1]))
    assert torch.equal(previews[0][2], x)
    assert all(call["seed"] == 3 for call in guider.calls)
    assert all(call["model_options"] == {"transformer_options": {"a": 1}} for call in guider.calls)
    assert all(call["sigma"].shape == (2,) for call in guider.calls)


def test_what_lies_outside_the_mask_is_the_given_image(comfy: Any) -> None:
    noise, image = latents(), latents(seed=1)
    mask = torch.zeros(2, 4, 8, 8)
    mask[..., :3] = 1.0
    guider = comfy.samplers.Guider(comfy.model_sampling.Discrete(), unit)
    (sampler,) = adapter.SamplerDPMPP2MSDE().get_sampler()
    out = sampler.sample(guider, karras(), {"seed": 3}, None, noise, image, mask, disable_pbar=True)
    assert torch.equal(out[..., 3:], image[..., 3:])
    assert not torch.equal(out[..., :3], image[..., :3])


def test_it_runs_in_inference_mode_as_comfyui_runs_its_nodes(comfy: Any) -> None:
    with torch.inference_mode():
        inside = run(comfy, latents(), karras())
    assert torch.equal(inside, run(comfy, latents(), karras()))


def test_at_most_one_level_returns_the_state_without_asking_the_model(comfy: Any) -> None:
    x = latents()
    for sigmas in (torch.tensor([]), torch.tensor([3.0])):
        assert adapter.sample_dpmpp_2m_sde(lambda *_: None, x, sigmas) is x


def test_an_interruption_in_the_callback_ends_the_run(comfy: Any) -> None:
    class InterruptError(Exception):
        pass

    def callback(state: dict[str, Any]) -> None:
        if state["i"] == 2:
            raise InterruptError

    with pytest.raises(InterruptError):
        run(comfy, latents(), karras(), callback=callback)


def test_the_progress_bar_is_shown_unless_comfyui_turns_it_off(
    comfy: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    noise, guider = latents(), comfy.samplers.Guider(comfy.model_sampling.Discrete(), unit)
    (sampler,) = adapter.SamplerDPMPP2MSDE().get_sampler()
    for off, shown in ((True, False), (False, True)):
        sampler.sample(guider, karras(), {"seed": 3}, None, noise, noise, disable_pbar=off)
        assert ("8/8" in capfd.readouterr().err) == shown


# --- what is read from the model ---


@pytest.mark.parametrize(
    ("kind", "arguments", "first"),
    [
        ("DiscreteFlow", {"shift": 1.0}, 0.9999),
        ("DiscreteFlow", {"shift": 3.0}, 3 * 0.9999 / (1 + 2 * 0.9999)),
        ("FluxFlow", {"mu": 1.15}, 1 / (1 + math.exp(-1.15) * (1 / 0.9999 - 1))),
    ],
)
def test_a_flows_first_level_of_1_is_the_one_that_the_model_gives_for_1e_4(
    kind: str, arguments: dict[str, float], first: float, comfy: Any
) -> None:
    told: list[float] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        told.append(float(sigma[0]))
        return unit_flow(x, sigma)

    sigmas = schedule.flow(6, 3.0).float()
    before = sigmas.clone()
    flow = getattr(comfy.model_sampling, kind)(**arguments)
    run(comfy, latents(), sigmas, model_sampling=flow, denoise=denoise)
    assert float(before[0]) == 1.0
    assert torch.equal(sigmas, before)
    # A float32 near 1 is 6e-8 from its neighbours; the three first levels are 3e-5 apart or more.
    assert told == pytest.approx([first, *before[1:-1].tolist()], abs=6e-8)


def test_a_flows_first_level_below_1_stays(comfy: Any) -> None:
    told: list[float] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        told.append(float(sigma[0]))
        return unit_flow(x, sigma)

    sigmas = torch.tensor([0.99995, 0.5, 0.0])
    flow = comfy.model_sampling.DiscreteFlow()
    run(comfy, latents(), sigmas, model_sampling=flow, denoise=denoise)
    assert told == sigmas[:-1].tolist()


@pytest.mark.parametrize(("scale", "s_noise", "expected"), [(8.0, 1.0, 8.0), (8.0, 0.5, None)])
def test_the_noise_has_the_scale_that_the_model_was_trained_with(
    scale: float, s_noise: float, expected: float | None, comfy: Any
) -> None:
    # A perfect model and noises in directions of their own: what is left of each is an entry, and
    # the root of their squares is the noise of the last state. It must be scale * sigma.
    sigmas = torch.tensor([0.95, 0.8, 0.55, 0.3, 0.1], dtype=torch.float64)
    data, directions = 0.3, torch.eye(5, dtype=torch.float64)[:, None]
    x = (1 - sigmas[0]) * data + sigmas[0] * scale * directions[0]
    steps = iter(range(1, 5))
    out = run(
        comfy,
        x,
        sigmas,
        model_sampling=comfy.model_sampling.DiscreteFlow(noise_scale=scale),
        denoise=lambda x, sigma: torch.full_like(x, data),
        s_noise=s_noise,
        noise_sampler=lambda sigma, sigma_next: directions[next(steps)],
    )
    left = float((out - (1 - sigmas[-1]) * data).norm())
    if expected is None:
        assert left < scale * 0.1 * 0.9
    else:
        assert left == pytest.approx(expected * 0.1, rel=1e-12)


def test_a_model_without_a_noise_scale_has_1(comfy: Any) -> None:
    sigmas, x = schedule.flow(6).float()[1:], latents()
    flux = run(comfy, x, sigmas, model_sampling=comfy.model_sampling.FluxFlow())
    plain = run(comfy, x, sigmas, model_sampling=comfy.model_sampling.DiscreteFlow())
    assert torch.equal(flux, plain)


# --- seeds and paths ---

SOURCES = ["bridge", "tree (cpu)"]


@pytest.mark.parametrize("noise", SOURCES)
def test_with_one_seed_per_image_image_i_is_the_single_image_of_seed_plus_i(
    noise: Any, comfy: Any
) -> None:
    x = latents(3)
    batch = run(comfy, x, karras(), noise=noise, seed=41)
    for i in range(3):
        single = run(comfy, x[i : i + 1], karras(), noise=noise, seed=41 + i)
        assert torch.equal(batch[i : i + 1], single)


@pytest.mark.parametrize("noise", SOURCES)
def test_the_last_seed_is_followed_by_the_first(noise: Any, comfy: Any) -> None:
    x = latents(1)
    pair = run(comfy, torch.cat([x, x]), karras(), noise=noise, seed=2**64 - 1)
    assert torch.equal(pair[1:], run(comfy, x, karras(), noise=noise, seed=0))


@pytest.mark.parametrize("noise", SOURCES)
def test_with_the_same_seed_for_all_images_equal_starts_stay_equal(noise: Any, comfy: Any) -> None:
    x = latents(1).expand(3, -1, -1, -1).contiguous()
    same = run(comfy, x, karras(), noise=noise, seeds="same for all images")
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], same[2])
    assert not torch.equal(*run(comfy, x[:2], karras(), noise=noise))


@pytest.mark.parametrize("noise", SOURCES)
def test_with_one_path_per_batch_equal_starts_part(noise: Any, comfy: Any) -> None:
    x = latents(1).expand(2, -1, -1, -1).contiguous()
    out = run(comfy, x, karras(), noise=noise, seeds="one per batch")
    assert not torch.allclose(out[0], out[1], atol=0.1)
    # A batch of one is one image, whatever the two of them are called.
    alone = run(comfy, x[:1], karras(), noise=noise, seeds="one per batch")
    assert torch.equal(alone, run(comfy, x[:1], karras(), noise=noise))


@pytest.mark.parametrize("noise", SOURCES)
def test_a_list_of_seeds_has_one_for_each_image(noise: Any, comfy: Any) -> None:
    x = latents(2)
    out = run(comfy, x, karras(), noise=noise, seed=[5, 90], seeds="one per batch")
    assert torch.equal(out[1:], run(comfy, x[1:], karras(), noise=noise, seed=90))


def test_the_tree_of_the_gpu_is_the_hosts_on_a_machine_without_one(comfy: Any) -> None:
    outs = [run(comfy, latents(), karras(), noise=f"tree ({where})") for where in ("cpu", "gpu")]
    assert torch.equal(*outs)


@pytest.mark.parametrize(("noise", "cpu"), [("tree (cpu)", True), ("tree (gpu)", False)])
def test_a_tree_is_drawn_where_its_name_says(
    noise: Any, cpu: bool, comfy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    class Asked(dpmpp_core.BrownianTree):
        def __init__(self, *arguments: Any, cpu: bool, **others: Any) -> None:
            asked.append(cpu)
            super().__init__(*arguments, cpu=cpu, **others)

    monkeypatch.setattr(adapter, "BrownianTree", Asked)
    run(comfy, latents(), karras(), noise=noise)
    assert asked == [cpu]


def test_the_bridges_clock_is_the_one_that_was_chosen(comfy: Any) -> None:
    x, sigmas = latents(), karras()
    outs = {clock: run(comfy, x, sigmas, clock=clock, eta=0.6) for clock in ("tau", "sigma")}
    for clock, out in outs.items():
        path = PhiloxBridge(x, sigmas, 7, eta=0.6, clock=clock)
        expected = dpmpp_core.sample(unit, x, sigmas, eta=0.6, noise_sampler=path, disable=True)
        assert torch.equal(out, expected)
    assert not torch.allclose(outs["tau"], outs["sigma"], atol=0.1)


def test_a_run_split_in_two_is_the_whole_run_when_both_parts_name_the_path(comfy: Any) -> None:
    # The estimate is constant, so that the history that a second part starts without is zero.
    # DisableNoise, which the second part needs, brings the seed 0 with it.
    sigmas, x = karras(), latents() * 14.6
    options = {"denoise": lambda x, sigma: torch.full_like(x, 0.2), "noise": "bridge"}

    def split(**more: Any) -> Tensor:
        half = run(comfy, x, sigmas[:5], seed=9, **options, **more)
        return run(comfy, half, sigmas[4:-1], seed=0, **options, **more)

    whole = run(comfy, x, sigmas[:-1], seed=9, **options)
    assert torch.allclose(split(path_seed=9), whole, rtol=0, atol=1e-6)
    assert not torch.allclose(split(), whole, rtol=0, atol=1e-3)


def test_without_noise_no_path_is_laid(comfy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(adapter, "PhiloxBridge", never)
    # 3,000 levels: a bridge would refuse them.
    sigmas = schedule.karras(3000, 0.03, 14.6).float()[:5]
    for silence in ({"eta": 0.0}, {"s_noise": 0.0}):
        assert torch.isfinite(run(comfy, latents(), sigmas, **silence)).all()


def test_no_seed_is_one_from_torchs_global_generator(comfy: Any) -> None:
    outs = []
    for _ in range(2):
        torch.manual_seed(3)
        outs.append(run(comfy, latents(), karras(), seed=None))
    assert torch.equal(*outs)
    assert not torch.equal(outs[0], run(comfy, latents(), karras(), seed=None))


# --- machines that lack something ---


def test_a_device_without_float64_gets_the_hosts_path() -> None:
    # "meta" stands for any kind that is neither a CPU nor a CUDA device.
    sigmas = karras().double()
    x = latents(2)
    ours = [
        adapter._bridge(state, sigmas, streams, dpmpp_core.VE(), 1.0, "tau")
        for state in (x, x.to("meta"))
        for streams in ([1, 2], 5)
    ]
    draws = [sampler(sigmas[0], sigmas[1]) for sampler in ours]
    assert all(draw.device.type == "cpu" and draw.shape == x.shape for draw in draws)
    assert torch.equal(draws[0], draws[2])
    assert torch.equal(draws[1], draws[3])


def test_kernels_that_cannot_be_compiled_are_done_without(
    comfy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(comfy, latents(), karras())

    class NoCompiler(PhiloxBridge):
        def __init__(self, *arguments: Any, backend: Any = None, **others: Any) -> None:
            super().__init__(*arguments, backend="torch", **others)
            self.broken = backend is None

        def __call__(self, *levels: Any) -> Tensor:
            if self.broken:
                raise RuntimeError("Failed to find C compiler.")
            return super().__call__(*levels)

    monkeypatch.setattr(adapter, "PhiloxBridge", NoCompiler)
    adapter._kernels_run.cache_clear()
    try:
        out = run(comfy, latents(), karras())
        assert not adapter._kernels_run(torch.device("cpu"))
    finally:
        adapter._kernels_run.cache_clear()
    assert torch.allclose(out, expected, rtol=0, atol=1e-6)


# --- refusals ---


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"noise": "gpu"}, r"^noise must be one of 'bridge', 'tree \(gpu\)', 'tree \(cpu\)', got"),
        ({"seeds": 3}, r"^seeds must be one of 'one per image', 'same .* got 3$"),
        ({"clock": "time"}, r"^clock must be 'tau' or 'sigma', got 'time'$"),
        ({"solver_type": "euler"}, r"^solver_type must be .* got 'euler'$"),
        ({"eta": -0.5}, r"^eta must be a finite number >= 0, got -0.5$"),
        ({"eta": -0.5, "noise": "tree (cpu)"}, r"^eta must be a finite number >= 0, got -0.5$"),
        ({"s_noise": math.nan}, r"^s_noise must be a finite number >= 0, got nan$"),
        ({"seed": [1, 2, 3]}, r"^seed must be one integer or a list .* got a list of 3$"),
        ({"path_seed": -2}, r"^seed must be an integer from 0 to 2\^64 - 1 .* got -2$"),
        ({"noise_sampler": 3}, r"^noise_sampler must be callable, got 3$"),
    ],
)
def test_a_bad_option_is_refused_in_one_sentence_before_the_model_is_called(
    options: dict[str, Any], sentence: str, comfy: Any
) -> None:
    def never(x: Tensor, sigma: Tensor) -> Tensor:
        raise AssertionError

    with pytest.raises(ValueError, match=sentence):
        run(comfy, latents(), karras(), denoise=never, **options)


@pytest.mark.parametrize("noise", SOURCES)
@pytest.mark.parametrize(
    ("sigmas", "sentence"),
    [
        ([1.0, 2.0, 0.0], r"^sigmas must be strictly decreasing, got sigmas\[0\] = 1.0"),
        ([2.0, math.nan, 0.0], r"^sigmas must be finite, got sigmas\[1\] = nan"),
        ([[2.0, 1.0]], r"^sigmas must have one dimension"),
    ],
)
def test_a_bad_schedule_is_refused_as_one_whatever_the_noise(
    sigmas: Any, sentence: str, noise: Any, comfy: Any
) -> None:
    with pytest.raises(ValueError, match=sentence):
        run(comfy, latents(), torch.tensor(sigmas), noise=noise)


@pytest.mark.parametrize("first", [1.0, 0.0, math.nan, math.inf, "much"])
def test_a_flow_that_gives_no_first_level_between_0_and_1_is_refused(
    first: Any, comfy: Any
) -> None:
    flow = comfy.model_sampling.DiscreteFlow()
    flow.percent_to_sigma = lambda percent: first
    with pytest.raises(ValueError, match=rf"^percent_to_sigma\(1e-4\).* must .*, got '?{first}"):
        run(comfy, latents(), schedule.flow(4).float(), model_sampling=flow)


def test_an_infinite_first_level_of_a_flow_is_not_replaced(comfy: Any) -> None:
    sigmas = torch.tensor([math.inf, 0.5, 0.0])
    with pytest.raises(ValueError, match=r"^sigmas must be finite, got sigmas\[0\] = inf"):
        run(comfy, latents(), sigmas, model_sampling=comfy.model_sampling.DiscreteFlow())


@pytest.mark.parametrize("scale", [-1.0, math.nan, None])
def test_a_noise_scale_that_is_none_is_refused(scale: Any, comfy: Any) -> None:
    flow = comfy.model_sampling.DiscreteFlow(noise_scale=scale)
    with pytest.raises(ValueError, match=rf"^noise_scale must be a finite .*, got {scale}$"):
        run(comfy, latents(), schedule.flow(4).float(), model_sampling=flow)


def test_a_model_that_does_not_say_its_process_is_refused(comfy: Any) -> None:
    bare = comfy.samplers.Guider(None, unit)
    del bare.inner_model.model_sampling
    inside = comfy.samplers.MaskedModel(bare, torch.zeros(()), torch.zeros(()))
    for model, name in ((unit, "function"), (inside, "MaskedModel")):
        with pytest.raises(ValueError, match=f"^model must be one that ComfyUI .* type {name}$"):
            adapter.sample_dpmpp_2m_sde(model, latents(), karras())


def test_an_estimate_that_is_not_finite_is_named_with_its_step(comfy: Any) -> None:
    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return unit(x, sigma) * (math.nan if float(sigma[0]) < 1.0 else 1.0)

    with pytest.raises(StepError, match=r"^model must return finite values, got nan at step \d"):
        run(comfy, latents(), karras(), denoise=denoise)


# --- the node ---


def test_the_function_can_be_called_like_comfyuis_of_that_name() -> None:
    ours = list(inspect.signature(adapter.sample_dpmpp_2m_sde).parameters.values())
    theirs = inspect.signature(dpmpp_core.sample_dpmpp_2m_sde).parameters.values()
    theirs = [p for p in theirs if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [
        (p.name, p.default) for p in theirs
    ]
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])


def test_every_widget_is_an_argument_and_starts_at_its_default() -> None:
    node = adapter.NODE_CLASS_MAPPINGS[NAME]
    widgets = node.INPUT_TYPES()["required"]
    arguments = inspect.signature(getattr(node, node.FUNCTION)).parameters
    assert list(widgets) == list(arguments)[1:]
    for name, (kind, options) in widgets.items():
        default = kind[0] if isinstance(kind, list) else options["default"]
        assert default == arguments[name].default
        assert options["tooltip"].endswith(".")
    assert node.RETURN_TYPES == ("SAMPLER",)
    assert set(adapter.NODE_DISPLAY_NAME_MAPPINGS) == {NAME}
    json.dumps(node.INPUT_TYPES())  # the page is told of a node in JSON


def test_every_choice_that_the_node_offers_runs(comfy: Any) -> None:
    widgets = adapter.SamplerDPMPP2MSDE.INPUT_TYPES()["required"]
    x, sigmas = latents(), karras(4)
    start = adapter.SamplerDPMPP2MSDE().get_sampler()[0].extra_options
    outs = []
    for name, (kind, _) in widgets.items():
        for choice in kind if isinstance(kind, list) else [0]:
            (sampler,) = adapter.SamplerDPMPP2MSDE().get_sampler(**{name: choice})
            expected = None if (name, choice) == ("path_seed", -1) else choice
            assert sampler.extra_options == start | {name: expected}
            outs.append(run(comfy, x, sigmas, **sampler.extra_options))
    assert all(torch.isfinite(out).all() for out in outs)


# --- loaded by ComfyUI ---

LOADER = """
import importlib.abc, importlib.util, json, os, sys

class Missing(importlib.abc.MetaPathFinder):
    # ComfyUI does not always have these. torch brings sympy, but the package must not ask for it.
    names = {"anywidget", "diffusers", "ipywidgets", "llvmlite", "matplotlib", "numba", "ot",
             "safetensors", "sklearn", "sympy", "triton", "dpmpp_core"}
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in self.names:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)

sys.meta_path.insert(0, Missing())
import torch
from comfy import model_sampling, samplers

def load(path):
    # As ComfyUI's nodes.py does: a folder is a package, and its path is the package's name.
    folder = os.path.isdir(path)
    name = path.replace(".", "_x_") if folder else os.path.splitext(path)[0]
    file = os.path.join(path, "__init__.py") if folder else path
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

def picture(module):
    node = module.NODE_CLASS_MAPPINGS["OneSampler_DPMPP_2M_SDE"]
    node.RELATIVE_PYTHON_MODULE = "custom_nodes.one-sampler"
    widgets = node.INPUT_TYPES()["required"]
    values = {w: k[0] if isinstance(k, list) else o["default"] for w, (k, o) in widgets.items()}
    (sampler,) = getattr(node(), node.FUNCTION)(**values)
    guider = samplers.Guider(
        model_sampling.Discrete(), lambda x, sigma: x / (1 + sigma.view(-1, 1, 1, 1) ** 2)
    )
    noise = torch.linspace(-2, 2, 512).reshape(2, 4, 8, 8)
    sigmas = torch.tensor([14.6, 5.0, 1.0, 0.2, 0.0])
    empty = torch.zeros_like(noise)
    with torch.inference_mode():
        out = sampler.sample(guider, sigmas, {"seed": 11}, None, noise, empty, disable_pbar=True)
    return out.flatten().tolist()

said = []
for path in sys.argv[1:]:
    said.append([picture(load(path)), "dpmpp_core" in sys.modules])
    Missing.names.discard("dpmpp_core")
print(json.dumps(said))
"""


def test_comfyuis_loader_takes_a_clone_and_needs_nothing_else_or_a_file_of_one_line_and_the_package(
    tmp_path: Path,
) -> None:
    # A dot and a hyphen, as the path of a release has them.
    nodes = tmp_path / "ComfyUI-0.38.1" / "custom_nodes"
    unneeded = shutil.ignore_patterns(".*", "_build", "__pycache__", "build", "dist")
    shutil.copytree(ROOT, nodes / "one-sampler", ignore=unneeded)
    names = "NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS"
    line = f"from dpmpp_core.adapters.comfy import {names}\n"
    (nodes / "one_sampler.py").write_text(line)

    script = tmp_path / "loader.py"
    script.write_text(LOADER)
    done = subprocess.run(
        [sys.executable, "-W", "error", script, nodes / "one-sampler", nodes / "one_sampler.py"],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(map(str, (STAND_IN, ROOT))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (clone, clone_looked_elsewhere), (package, _) = json.loads(done.stdout)

    x = torch.linspace(-2, 2, 512).reshape(2, 4, 8, 8) * 14.6
    sigmas = torch.tensor([14.6, 5.0, 1.0, 0.2, 0.0])
    path = PhiloxBridge(x, sigmas, 11)
    expected = dpmpp_core.sample(unit, x, sigmas, noise_sampler=path, disable=True)
    assert clone == pytest.approx(expected.flatten().tolist(), abs=1e-5)
    assert package == clone
    assert not clone_looked_elsewhere


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package ``comfy`` is to be found."""
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(STAND_IN)])
    forget_comfy()


@pytest.mark.usefixtures("outside")
def test_outside_comfyui_the_node_says_what_it_needs() -> None:
    with pytest.raises(ImportError, match="needs ComfyUI, whose package 'comfy' was not found"):
        adapter.SamplerDPMPP2MSDE().get_sampler()


@pytest.mark.usefixtures("outside")
def test_the_repositorys_entry_offers_nothing_outside_comfyui() -> None:
    # pytest imports the file as a matter of course, and not as a package everywhere.
    found: dict[str, Any] = {"__name__": "__init__", "__package__": ""}
    exec((ROOT / "__init__.py").read_text(encoding="utf-8"), found)
    assert found["NODE_CLASS_MAPPINGS"] == {}
    assert found["NODE_DISPLAY_NAME_MAPPINGS"] == {}
