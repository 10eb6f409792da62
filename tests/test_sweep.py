"""Many runs as one batch, and over several processes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

import dpmpp_core as dp
from dpmpp_core.sweep import Run, sweep

F64 = torch.float64


def karras(steps: int) -> tuple[float, ...]:
    return tuple(dp.schedule.karras(steps, 0.03, 14.6).tolist())


def model(x: Tensor, sigma: Tensor) -> Tensor:
    """The denoiser of data with a standard deviation of 1/2, a function of the level too."""
    v = sigma.view(-1, *[1] * (x.ndim - 1)).to(x.dtype) ** 2
    return x * 0.25 / (0.25 + v)


def grid() -> list[Run]:
    """Settings that differ in everything, in an order that mixes the numbers of steps."""
    return [
        Run(karras(steps), eta, s_noise, solver, seed)  # type: ignore[arg-type]
        for eta, steps, s_noise, solver, seed in itertools.product(
            (0.0, 1.0, 1.5), (4, 7), (1.0, 1.1), ("midpoint", "heun"), (0, 2**64 - 1)
        )
    ]


def starts(n: int, dtype: torch.dtype = F64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 14.6 * torch.randn(n, 3, 2, generator=generator, dtype=F64).to(dtype)


@pytest.mark.parametrize("process", ["ve", "flow"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64])
def test_each_run_gives_what_it_gives_alone(dtype: torch.dtype, process: str) -> None:
    runs = grid()
    if process == "flow":
        runs = [Run(tuple(dp.schedule.flow(len(r.sigmas) - 1, 3.0).tolist()), r.eta) for r in runs]
    x = starts(len(runs), dtype)
    before = x.clone()
    together = sweep(model, x, runs, process=process)
    assert torch.equal(x, before)
    for i, run in enumerate(runs):
        first = x[i : i + 1]
        bridge = dp.PhiloxBridge(first, run.sigmas, run.seed, process=process, eta=run.eta)
        alone = dp.sample(
            model, first, run.sigmas, eta=run.eta, s_noise=run.s_noise, process=process,
            solver_type=run.solver_type, noise_sampler=bridge, disable=True,
        )  # fmt: skip
        bound = 32 * torch.finfo(dtype).eps * float(alone.abs().max())
        assert float((together[i] - alone[0]).abs().max()) <= bound, run


def work(rank: int, processes: int, meeting: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    runs = grid()
    result = sweep(model, starts(len(runs)), runs, spread=True)
    torch.save(result, f"{out}.{rank}")
    dist.destroy_process_group()


@pytest.mark.parametrize("processes", [2, 3])
def test_the_result_is_the_same_for_every_number_of_processes(
    processes: int, tmp_path: Path
) -> None:
    runs = grid()
    alone = sweep(model, starts(len(runs)), runs)
    out = str(tmp_path / "out")
    mp.spawn(work, (processes, f"file://{tmp_path}/meeting", out), processes)  # type: ignore[no-untyped-call]
    for rank in range(processes):
        assert torch.equal(torch.load(f"{out}.{rank}"), alone)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"runs": [Run(karras(3))]}, "runs must have one for each of the 2 samples, got 1"),
        ({"runs": [Run(karras(3)), Run(karras(3), eta=-1.0)]}, "eta must be"),
        ({"runs": [Run(karras(3)), Run((1.0, 2.0))]}, "sigmas must be strictly decreasing"),
        ({"runs": [Run(karras(3)), Run(karras(3), seed=-1)]}, "seed must be"),
        ({"spread": True}, "spread=True needs torch.distributed to be initialised"),
        ({"x": torch.zeros(2, 1, dtype=torch.int64)}, "x must be a dense tensor"),
    ],
)
def test_bad_input_is_refused_before_the_model_is_called(
    change: dict[str, Any], sentence: str
) -> None:
    def never(x: Tensor, sigma: Tensor) -> Tensor:
        raise AssertionError("the model was called")

    arguments = {"x": torch.zeros(2, 1), "runs": [Run(karras(3))] * 2} | change
    with pytest.raises(ValueError, match=sentence):
        sweep(never, **arguments)


def test_a_model_that_changes_the_shape_is_named() -> None:
    with pytest.raises(dp.StepError, match="model must return a tensor of shape"):
        sweep(lambda x, sigma: x[:, :1], torch.zeros(2, 3), [Run(karras(3))] * 2)
