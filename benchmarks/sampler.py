"""Times the sampler and its noise against what people run today: python benchmarks/sampler.py

    python benchmarks/sampler.py [--device cuda] [--rounds 7] [--sizes 1x4x64x64 ...]

20 Karras steps and a model that costs nothing, so that only the sampler is timed. All contestants
take turns, in another order in each round, so that what else the machine does meets them alike;
reported are medians, the quartiles, and the median over rounds of the ratio within a round. Peers
are called as their users call them: k-diffusion's loop (of its package only ``sampling.py`` is
read: the rest needs torchvision), diffusers' scheduler, torchsde's tree as both use it.

The result goes to ``benchmarks/results/sampler-DEVICE.json``; ``make bench`` runs it.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import dpmpp_core as dp

SIZES = ["1x4x64x64", "1x4x128x128", "4x16x128x128", "1x16x21x60x104"]
STEPS = 20
SIGMAS = dp.schedule.karras(STEPS, 0.0292, 14.6146).float()
Task = Callable[[], Any]


def k_diffusion() -> Any:
    """``sampling.py`` of the installed package, with the one helper that it takes from the rest."""
    package = types.ModuleType("k_diffusion")
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, ndim: x[(...,) + (None,) * (ndim - x.ndim)]  # type: ignore[attr-defined]
    package.utils = utils  # type: ignore[attr-defined]
    sampling = types.ModuleType("k_diffusion.sampling")
    sampling.__package__ = "k_diffusion"
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    file = distribution("k_diffusion").locate_file("k_diffusion/sampling.py")
    exec(compile(Path(str(file)).read_text(encoding="utf-8"), str(file), "exec"), vars(sampling))
    return sampling


K = k_diffusion()


def contestants(x: Tensor, only: set[str] | None = None) -> dict[str, Task]:
    """What is timed, by name. ``given`` is noise that is there already."""
    estimate, given = torch.randn_like(x), torch.randn_like(x)
    sigmas = SIGMAS.to(x.device)

    def model(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        return estimate

    def handed(sigma: Any, sigma_next: Any) -> Tensor:
        return given

    def ours(noise: Callable[[], Any], **more: Any) -> Task:
        return lambda: dp.sample(model, x, SIGMAS, noise_sampler=noise(), disable=True, **more)

    def theirs(noise: Callable[[], Any]) -> Task:
        return lambda: K.sample_dpmpp_2m_sde(
            model, x, sigmas, noise_sampler=noise(), disable=True, extra_args={}
        )

    def iid() -> Callable[[Any, Any], Tensor]:
        return lambda sigma, sigma_next: torch.randn_like(x)

    def diffusers() -> None:
        scheduler = DPMSolverMultistepScheduler(
            algorithm_type="sde-dpmsolver++", use_karras_sigmas=True, prediction_type="sample"
        )
        scheduler.set_timesteps(STEPS, device=x.device)
        state = x
        for t in scheduler.timesteps:
            state = scheduler.step(estimate, t, state, variance_noise=given).prev_sample

    def noise_alone(sampler: Callable[[], Any]) -> Task:
        def draw() -> None:
            source = sampler()
            for k in range(STEPS - 1):
                source(sigmas_host[k], sigmas_host[k + 1])

        sigmas_host = SIGMAS
        return draw

    def bridge(backend: Any = None) -> Callable[[], Any]:
        return lambda: dp.PhiloxBridge(x, SIGMAS, 0, backend=backend)

    def tree() -> Any:
        return K.BrownianTreeNoiseSampler(x, SIGMAS[-2], SIGMAS[0], seed=0)

    def copies() -> None:
        for _ in range(STEPS):
            x.clone()

    return {
        "a copy of the state, 20 times": copies,
        "step, ours": ours(lambda: handed),
        "step, k-diffusion": theirs(lambda: handed),
        "step, diffusers": diffusers,
        "noise, PhiloxBridge": noise_alone(bridge()),
        "noise, PhiloxBridge in torch": noise_alone(bridge("torch")),
        "noise, torchsde's tree": noise_alone(tree),
        "noise, independent": noise_alone(iid),
        "run, ours with PhiloxBridge": ours(bridge()),
        "run, k-diffusion with its tree": theirs(tree),
        "run, k-diffusion with independent noise": theirs(iid),
    }


# --- time


def timed(task: Task, device: torch.device) -> float:
    """Seconds of one call, of many if one is too short for the clock."""
    repeat, seconds = 1, 0.0
    while True:
        began = time.perf_counter()
        for _ in range(repeat):
            task()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        if seconds > 0.02:
            return seconds / repeat
        repeat *= 4


def race(tasks: dict[str, Task], rounds: int, device: torch.device) -> dict[str, list[float]]:
    for task in tasks.values():
        task()  # what is compiled or fetched once is not timed
    found: dict[str, list[float]] = {name: [] for name in tasks}
    names = list(tasks)
    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            found[name].append(timed(tasks[name], device))
    return found


def ratio(found: dict[str, list[float]], a: str, b: str) -> list[float]:
    """Lower quartile, median and upper quartile of a / b, round by round."""
    return quartiles([x / y for x, y in zip(found[a], found[b], strict=True)])


def quartiles(values: list[float]) -> list[float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return [float(f"{value:.4g}") for value in (low, middle, high)]


# --- operations and memory


class Watch(TorchDispatchMode):
    """Counts the operations of torch, and of them those that read a number back to the host: on a
    GPU each of these waits for all work before it."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.operations += 1
            self.waits += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def counted(task: Task, x: Tensor) -> dict[str, float]:
    """Operations and reads of a run, by step; and the most memory it held at once, in states."""
    with Watch() as watch:
        task()
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        task()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        with torch.profiler.profile(profile_memory=True) as profile:
            task()
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        alive = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            alive += event.nbytes()
            peak = max(peak, alive)
    return {
        "operations a step": watch.operations / STEPS,
        "waits a step": watch.waits / STEPS,
        "peak memory, in states": float(f"{peak / x.nbytes:.3g}"),
    }


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchsde's own, about times that it rounds
        yield


def processor() -> str:
    """The name of the CPU, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    options = parser.parse_args()
    device = torch.device(options.device)
    random.seed(0)
    table = {}
    for size in options.sizes:
        x = 14.6 * torch.randn([int(n) for n in size.split("x")], device=device)
        tasks = contestants(x)
        with quiet():
            found = race(tasks, options.rounds, device)
        table[size] = {
            "milliseconds": {n: quartiles([1e3 * v for v in vs]) for n, vs in found.items()},
            "counts": {n: counted(tasks[n], x) for n in tasks if n.startswith(("step", "run"))},
            "ratios": {
                f"{a} / {b}": ratio(found, a, b)
                for a, b in [
                    ("step, ours", "step, k-diffusion"),
                    ("step, ours", "step, diffusers"),
                    ("step, ours", "a copy of the state, 20 times"),
                    ("noise, PhiloxBridge", "noise, torchsde's tree"),
                    ("noise, PhiloxBridge", "noise, independent"),
                    ("noise, PhiloxBridge", "noise, PhiloxBridge in torch"),
                    ("run, ours with PhiloxBridge", "run, k-diffusion with its tree"),
                    ("run, ours with PhiloxBridge", "run, k-diffusion with independent noise"),
                ]
            },
        }
        print(size)
        for kind, rows in table[size].items():
            print(f"  {kind}")
            for name, values in rows.items():
                if isinstance(values, dict):
                    print(f"    {name:72s} {values}")
                else:
                    low, middle, high = values
                    print(f"    {name:72s} {middle:10.4g}   ({low:.4g} to {high:.4g})")
    result = {
        "command": f"python benchmarks/sampler.py --device {device.type} --rounds "
        f"{options.rounds} --sizes {' '.join(options.sizes)}",
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {
            name: version(name)
            for name in ("torch", "torchsde", "diffusers", "k-diffusion", "numba")
        },
        "steps": STEPS,
        "dtype": "float32",
        "sizes": table,
    }
    path = Path(__file__).parent / "results" / f"sampler-{device.type}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
