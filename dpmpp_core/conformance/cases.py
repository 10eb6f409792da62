"""The cases: runs with everything that they depend on given as numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from ..coefficients import SolverType
from ..mesh import Mesh
from ..sampler import trajectory
from ..schedule import Flow, Process, as_process

__all__ = ["Case", "cases", "tensor", "text"]

Row = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    r"""One run with everything that it depends on given as numbers; N steps of d elements.

    The estimate, element by element but for ``"joint"``, with
    :math:`s = \alpha^2 / 4 + \sigma^2`:

    ===============  ======================================================================
    denoiser         estimate :math:`\hat x_0`
    ===============  ======================================================================
    ``"gaussian"``   :math:`\alpha x / (\alpha^2 + \sigma^2)`: the exact one of N(0, 1)
    ``"two_modes"``  :math:`(\alpha x / 4 + \sigma^2 \tanh(\alpha x / s)) / s`: of N(-1, 1/4)
                     and N(1, 1/4) in equal parts (1/4 is the variance)
    ``"joint"``      :math:`(\alpha x / 4 + \sigma^2 \tanh(\alpha S / s)) / s` with S the sum
                     of the sample's elements: of N(-m, I/4) and N(m, I/4), m = (1, ..., 1)
    ``"given"``      row k of ``denoised``, whatever the state
    ===============  ======================================================================
    """

    name: str
    process: str
    shift: float = 1.0
    """The time shift of a flow model, which its first level depends on; 1 for the others."""
    batch: int = 1
    """The d elements are this many samples, one after the other."""
    denoiser: str
    sigmas: Row
    """N + 1 levels."""
    eta: float
    s_noise: float
    solver_type: SolverType
    x: Row
    """The initial state, d numbers."""
    noise: tuple[Row, ...]
    """N rows of d unit normals; row k is :math:`\\xi_k`, also where the step has to ignore it."""
    denoised: tuple[Row, ...] = ()
    """N rows for the denoiser ``"given"``, none for the others."""
    expected: tuple[Row, ...] = ()
    """The states after steps 0 to N - 1."""

    @property
    def steps(self) -> int:
        """The number of steps N."""
        return len(self.sigmas) - 1

    @property
    def noising(self) -> Process:
        """The process, with a flow's shift."""
        return Flow(self.shift) if self.process == "flow" else as_process(self.process)

    def mesh(self) -> Mesh:
        """The levels as a mesh; a flow's first level of 1 is replaced."""
        return Mesh.from_sigmas(self.sigmas, self.noising)

    def estimate(self, x: Tensor, sigma: float, k: int) -> Tensor:
        """The denoiser's answer to x of shape ``(1, d)``, float64, at step k."""
        if self.denoiser == "given":
            return tensor(self.denoised[k])[None]
        alpha = self.noising.alpha(sigma)
        if self.denoiser == "gaussian":
            return alpha * x / (alpha**2 + sigma**2)
        s = 0.25 * alpha**2 + sigma**2
        summed = x
        if self.denoiser == "joint":
            samples = x.reshape(self.batch, -1)
            summed = samples.sum(dim=1, keepdim=True).expand_as(samples).reshape(x.shape)
        return (0.25 * alpha * x + sigma**2 * torch.tanh(alpha * summed / s)) / s

    def states(self) -> Tensor:
        """The states after every step, shape ``(N, d)``, by :func:`dpmpp_core.trajectory`."""
        asked = iter(range(self.steps))
        pairs = zip(self.sigmas[1:], self.noise, strict=True)
        xi = {sigma: tensor(row)[None] for sigma, row in pairs}
        run = trajectory(
            lambda x, sigma: self.estimate(x, float(sigma[0]), next(asked)),
            tensor(self.x)[None],
            self.sigmas,
            eta=self.eta,
            s_noise=self.s_noise,
            solver_type=self.solver_type,
            process=self.noising,
            noise_sampler=lambda sigma, sigma_next: xi[float(sigma_next)],
        )
        return torch.cat([transition.x_next for transition in run])


def cases() -> tuple[Case, ...]:
    """The committed cases."""
    return _read_cases()


@lru_cache(maxsize=1)
def _read_cases() -> tuple[Case, ...]:
    found: list[dict[str, Any]] = json.loads(text())["cases"]
    return tuple(Case(**{key: _frozen(value) for key, value in case.items()}) for case in found)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(entry) for entry in value) if isinstance(value, list) else value


def text(name: str = "cases.json") -> str:
    """The committed file of that name: cases.json, or noise.json."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def tensor(values: Sequence[Any]) -> Tensor:
    """Numbers as float64 on the host."""
    return torch.tensor(values, dtype=torch.float64, device="cpu")
