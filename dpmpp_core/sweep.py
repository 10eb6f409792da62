r"""Many runs as one batch, on one device or on many.

To compare settings is to run the sampler once for each; a model that takes a batch does all of them
in the time of one. The model gets one noise level per sample already, so each sample may have its
own levels, eta, s_noise, solver and seed:

.. math:: x^i_{k+1} = A^i_k x^i_k + B^i_k \hat x^i_{0,k} + C^i_k (\hat x^i_{0,k} - \hat x^i_{0,k-1})
          + D^i_k \xi^i_k

Only the number of steps must agree within a batch; runs of other lengths are another batch. Sample
i has the noise of :class:`~dpmpp_core.PhiloxBridge` for its own seed, which does not depend on the
batch. So the runs may be split over processes and machines in any way, and each still gives what it
gives alone, up to what the model itself makes of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from .coefficients import SolverType, StepTable, step_table
from .mesh import Mesh
from .noise import PhiloxBridge
from .noise.protocol import working_dtype
from .sampler import check_form, check_state
from .schedule import Process

__all__ = ["Run", "sweep"]


@dataclass(frozen=True)
class Run:
    """The settings of one sample.

    Args:
        sigmas: noise levels, as :meth:`~dpmpp_core.Mesh.from_sigmas` takes them; at least two.
        eta, s_noise, solver_type: as :func:`~dpmpp_core.step_table` takes them.
        seed: of the Brownian path, an integer in [0, 2^64).
    """

    sigmas: tuple[float, ...]
    eta: float = 1.0
    s_noise: float = 1.0
    solver_type: SolverType = "midpoint"
    seed: int = 0


def sweep(
    model: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    runs: Sequence[Run],
    *,
    process: str | Process = "ve",
    spread: bool = False,
) -> Tensor:
    """The last state of every run.

    Args:
        model: the denoiser, called as ``model(x, sigma)`` with ``sigma`` of shape ``(B,)``.
        x: the first states, shape ``(B, ...)``; sample i belongs to ``runs[i]``. Not modified.
        runs: B of them. Those with the same number of steps are one batch.
        process: ``"ve"``, ``"vp"``, ``"flow"`` or a process object.
        spread: share the runs among the processes of ``torch.distributed``, which must be
            initialised (``torchrun``; gloo or nccl). All of them call this with the same arguments,
            on devices of their own, and all get the whole result.

    Returns:
        Shape, device and dtype of x.

    Raises:
        ValueError: for what :func:`~dpmpp_core.step_table`, :class:`~dpmpp_core.Mesh` or
            :class:`~dpmpp_core.PhiloxBridge` refuses, another number of runs than samples, and
            ``spread=True`` without an initialised group; before the model is called.
        StepError: if the model returns another shape, dtype or device.
    """
    check_state(x)
    if len(runs) != len(x):
        raise ValueError(f"runs must have one for each of the {len(x)} samples, got {len(runs)}")
    if spread and not (dist.is_available() and dist.is_initialized()):
        raise ValueError("spread=True needs torch.distributed to be initialised, got no group")
    meshes = [Mesh.from_sigmas(run.sigmas, process) for run in runs]
    tables = [
        step_table(mesh, run.eta, run.s_noise, run.solver_type)
        for mesh, run in zip(meshes, runs, strict=True)
    ]
    processes, rank = (dist.get_world_size(), dist.get_rank()) if spread else (1, 0)
    out = torch.zeros_like(x)
    for steps in sorted({len(table) for table in tables}):
        batch = [i for i, table in enumerate(tables) if len(table) == steps][rank::processes]
        if batch:
            out[batch] = _run(
                model,
                x[batch],
                [meshes[i] for i in batch],
                [tables[i] for i in batch],
                _noise(x, batch, runs, process),
            )
    if spread:
        dist.all_reduce(out)  # each sample was computed by one process and is 0 in the others
    return out


@torch.no_grad()
def _run(
    model: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    meshes: Sequence[Mesh],
    tables: Sequence[StepTable],
    noise: Callable[[int], Tensor],
) -> Tensor:
    work = working_dtype(x.dtype)
    like = (len(x), *[1] * (x.ndim - 1))
    levels = torch.tensor([mesh.sigma for mesh in meshes], dtype=x.dtype).T.to(x.device)
    rows = torch.tensor([list(table) for table in tables], dtype=work).to(x.device)
    previous: Tensor | None = None
    for k in range(len(tables[0])):
        denoised = model(x, levels[k])
        check_form("model", denoised, x, k, meshes[0].sigma[k])
        a, b, c, d = (column.view(like) for column in rows[:, k].unbind(1))
        new = x.to(work) * a + b * denoised.to(work)
        if previous is not None:
            new += c * (denoised.to(work) - previous.to(work))
        if any(table[k].D > 0.0 for table in tables):
            new += d * noise(k).to(work)
        x, previous = new.to(x.dtype), denoised
    return x


def _noise(
    x: Tensor, batch: Sequence[int], runs: Sequence[Run], process: str | Process
) -> Callable[[int], Tensor]:
    """The normals of step k. Runs with the same levels and eta share a bridge, and only they can:
    both enter its weights."""
    bridges: list[tuple[list[int], PhiloxBridge, tuple[float, ...]]] = []
    kinds = dict.fromkeys((runs[i].sigmas, runs[i].eta) for i in batch)
    for sigmas, eta in kinds:
        places = [p for p, i in enumerate(batch) if (runs[i].sigmas, runs[i].eta) == (sigmas, eta)]
        seeds = [runs[batch[p]].seed for p in places]
        own = x[: len(places)]
        bridge = PhiloxBridge(own, sigmas, seeds, process=process, eta=eta)
        bridges.append((places, bridge, Mesh.from_sigmas(sigmas, process).sigma))

    def draw(k: int) -> Tensor:
        xi = torch.zeros(len(batch), *x.shape[1:], dtype=x.dtype, device=x.device)
        for places, bridge, sigma in bridges:
            if sigma[k + 1] > 0.0:
                xi[places] = bridge(sigma[k], sigma[k + 1])
        return xi

    return draw
