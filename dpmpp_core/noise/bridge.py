r"""A Brownian path that any device, any number of steps and any batch size agree on.

**The path.** W runs on a clock t(lambda) that one may choose (:func:`log_gap`). In each unit of
the half log-SNR lambda, from an integer B to B + 1, it is built as Levy did. One normal gives the
increment over the whole block. Then the block is halved again and again: given the path at the two
ends l and r of an interval, its value at the midpoint m is normal, with the straight line's value
as mean and the variance

.. math:: s_m^2 = \frac{(t_m - t_l)(t_r - t_m)}{t_r - t_l},

so one more normal settles it. After :data:`DEPTH` halvings an interval is a leaf, and a point of
the mesh inside a leaf is one more such midpoint. Every normal has a name, its *node*, and is a
function of seed, node and element (:mod:`~dpmpp_core.noise.philox`).

**The weights.** What a point's value owes to the normal of a midpoint m is :math:`s_m` times a tent
(a Schauder function): 1 at m, falling linearly in t to 0 at l and r. So W at a mesh point is a sum
of at most 13 weighted normals, and an increment is the difference of two points. The weights follow
from mesh and clock, and are computed on the host, once, in float64.

Source: Levy 1948; Salmon et al. 2011 for counters in place of a stored tree.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..checks import not_negative
from ..mesh import Mesh
from ..schedule import VE, VP, Process
from . import philox
from .protocol import Seed, Streams

__all__ = ["DEPTH", "Clock", "PhiloxBridge", "Weights", "increment_row", "log_gap", "point_row"]

DEPTH = 11
"""Halvings of a block. A leaf is 2^-11 = 4.9e-4 wide in lambda.

Two points in one leaf would need its one normal twice, so a leaf must be shorter than a mesh's
shortest step. At 1,000 steps that is 9.9e-4 for laplace, and at least 2.9e-3 for karras,
exponential, simple, sgm_uniform, beta, kl_optimal, vp and flow with shift 3. One halving fewer
would refuse the first of these; each costs one normal in thirteen. Blocks of one unit, rather than
one tree over a range of, say, 32, leave out five halvings and have no end that a schedule could
lie beyond.
"""

_LEAVES = 1 << DEPTH
_FIRST_BLOCK = -(1 << 15)

Clock = Literal["tau", "sigma"]
Backend = Literal["torch", "numba", "triton"]
_FASTEST = {"cpu": "numba", "cuda": "triton"}
_MODULES = {"numba": ".compiled", "triton": ".kernels"}
LogGap = Callable[[float, float, float], float]
Row = dict[int, float]
Kind = tuple[Process, float, Clock]
"""Process, eta and clock: what the weights depend on besides the levels."""
HostMove = tuple[list[int], list[float], list[float], float]
Move = tuple[Tensor, Tensor, Tensor, Tensor]
"""The nodes of a step, their weights for path and normal, and what the old path is taken off with:
see :func:`dpmpp_core.noise.philox.move`."""


# --- clocks ------------------------------------------------------------------------------------


def log_gap(process: Process, eta: float, clock: Clock) -> LogGap:
    r"""The clock, as a function ``(a, b, origin)`` for lambdas a <= b: the logarithm of
    :math:`|t(b) - t(a)|`, up to a term that depends on ``origin`` alone.

    * ``"tau"``: :math:`t = e^{2 \eta \lambda} / (2 \eta)`, whose limit for eta -> 0 is lambda. In
      this clock a step's noise is the sum of the noises of its parts, each contracted by the
      steps after it.
    * ``"sigma"``: t = sigma, the clock of :class:`~dpmpp_core.BrownianTree`.

    Logarithms, because at eta = 50 the first spans hundreds of orders of magnitude; no difference
    of two near numbers is taken but b - a. ``origin`` should be near a and b.
    """
    if clock == "tau":
        return lambda a, b, origin: _log_gap_tau(a, b, origin, eta)
    if isinstance(process, VE):
        return lambda a, b, origin: _log_drop(b - a) - a
    if isinstance(process, VP):
        return lambda a, b, origin: _log_gap_vp(a, b)
    return lambda a, b, origin: _log_drop(b - a) - _softplus(-b) - _softplus(a)


def _log_gap_tau(a: float, b: float, origin: float, eta: float) -> float:
    y = 2.0 * eta * (b - a)
    slope = -math.expm1(-y) / y if y > 0.0 else 1.0
    return 2.0 * eta * (b - origin) + _log((b - a) * slope)


def _log_gap_vp(a: float, b: float) -> float:
    # sigma^2 = 1 / (1 + e^(2 lambda)): the difference of two squares, over the sum of the sigmas.
    high, low = -0.5 * _softplus(2.0 * a), -0.5 * _softplus(2.0 * b)
    squares = _log_drop(2.0 * (b - a)) - _softplus(-2.0 * b) - _softplus(2.0 * a)
    return squares - high - math.log1p(math.exp(low - high))


def _log_drop(x: float) -> float:
    """log(1 - exp(-x)) for x >= 0."""
    return _log(-math.expm1(-x))


def _softplus(x: float) -> float:
    """log(1 + exp(x)), for any x."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _log(x: float) -> float:
    return math.log(x) if x > 0.0 else -math.inf


# --- weights -----------------------------------------------------------------------------------


def point_row(lam: float, gap: LogGap) -> Row:
    """The path at lambda, counted from the start of its block and scaled to a unit normal.

    Returns:
        node -> weight, root first. The squares of the weights add up to 1; empty at the very start
        of a block, where the path is 0. Weights that are 0 are left out.
    """
    leaf = math.floor(lam * _LEAVES)
    block = leaf >> DEPTH
    start = float(block)
    if lam == start:
        return {}

    def share(a: float, b: float, c: float, d: float) -> float:
        """Half the log of |t(b) - t(a)| / |t(d) - t(c)|."""
        return 0.5 * (gap(a, b, lam) - gap(c, d, lam))

    row = {block_node(block): math.exp(share(start, lam, start, start + 1.0))}
    for level in range(DEPTH):
        index = leaf >> (DEPTH - level)
        left, right = math.ldexp(index, -level), math.ldexp(index + 1, -level)
        middle = math.ldexp(2 * index + 1, -level - 1)
        if lam < middle:
            tent = share(left, lam, left, middle) + share(left, lam, start, lam)
            other = share(middle, right, left, right)
        else:
            tent = share(lam, right, middle, right) + share(lam, right, start, lam)
            other = share(left, middle, left, right)
        within = index - (block << level)
        row[block_node(block) + (1 << level) + within] = math.exp(tent + other)
    left, right = math.ldexp(leaf, -DEPTH), math.ldexp(leaf + 1, -DEPTH)
    last = share(left, lam, start, lam) + share(lam, right, left, right)
    row[block_node(block) + leaf - (block << DEPTH) + _LEAVES] = math.exp(last)
    return {node: weight for node, weight in row.items() if weight > 0.0}


def block_node(block: int) -> int:
    """The node of a block's whole increment.

    A node is a 32-bit word. Its high half is the block's number, from 0 for [-32768, -32767). Its
    low half is 0 for the block, and for the midpoints below it 1; 2, 3; 4 to 7; ... as in a heap;
    then 2^11 + i for what settles a point in leaf i.
    """
    return (block - _FIRST_BLOCK) << 16


class _Increment(NamedTuple):
    """``end * point(end) - start * point(start)``, and the normals of the blocks from ``first`` on
    with the weights ``blocks``."""

    start: float
    end: float
    first: int
    blocks: list[float]


def _increment(start: float, end: float, gap: LogGap) -> _Increment:
    """The unit normal of the step from lambda ``start`` to ``end`` > start, in terms of both."""

    def share(a: float, b: float) -> float:
        return math.exp(0.5 * (gap(a, b, end) - gap(start, end, end)))

    first, last = math.floor(start), math.floor(end)
    blocks = [share(float(block), block + 1.0) for block in range(first, last)]
    return _Increment(share(float(first), start), share(float(last), end), first, blocks)


def increment_row(start: float, end: float, gap: LogGap) -> Row:
    """The weights, node -> weight, of the unit normal of the step from ``start`` to ``end``."""
    parts = _increment(start, end, gap)
    row = {block_node(parts.first + i): weight for i, weight in enumerate(parts.blocks)}
    for factor, point in ((-parts.start, start), (parts.end, end)):
        for node, weight in point_row(point, gap).items():
            row[node] = row.get(node, 0.0) + factor * weight
    return row


class Weights(NamedTuple):
    """Every step's normal as a sum of normals of the tree: ``xi[k] = table[k] @ Z[nodes]``.

    ``nodes``: int64 of shape (M,), ascending. ``table``: float64 of shape (steps, M); a step to
    sigma = 0 draws no noise and has no row. The rows are orthonormal: ``table @ table.T`` is the
    identity, which is the proof that the xi are independent unit normals.
    """

    nodes: Tensor
    table: Tensor


# --- the noise sampler -------------------------------------------------------------------------


class PhiloxBridge:
    r"""Increments of a Brownian path that is a function of the seed alone, scaled to unit variance.

    .. math:: \xi_k = \frac{W(t_{k+1}) - W(t_k)}{\sqrt{|t_{k+1} - t_k|}}, \qquad
              t = e^{2 \eta \lambda} \text{ or } \sigma

    The path does not depend on the mesh (its ends, its number of steps), on the batch size or on
    the device: sample i of a batch with seed s is sample 0 of a batch with seed s + i, and a run
    split in two draws what the whole run draws. The numbers are computed in float64 and agree
    between devices to its rounding; then they are rounded to the state's dtype.

    With the clock tau and the sampler's own eta, fine steps compose exactly into coarse ones: the
    noise that a coarse step adds is what the fine steps between the same levels add together. With
    the clock sigma they do so only in the limit of many steps.

    Nothing is stored but the path at the level last asked for, in float64: the next step starts
    there. Neither the order of the queries nor their number changes what they return.

    Args:
        x: a state; its shape ``(B, ...)``, device and dtype are those of the noise.
        sigmas: the schedule of the run, as :meth:`Mesh.from_sigmas` takes it.
        seed: an integer in [0, 2^64), sample i then has seed + i modulo 2^64; a list with one per
            sample; or None for one from torch's global generator.
        process: ``"ve"``, ``"vp"``, ``"flow"`` or a process object.
        eta: the sampler's eta, finite and >= 0. It enters only the clock tau.
        clock: ``"tau"`` or ``"sigma"``.
        backend: what computes the normals: ``"torch"``, the reference, on any device; ``"numba"``
            on a CPU; ``"triton"`` on a CUDA device. None takes the fastest that is installed. They
            agree to the rounding of float64.

    Raises:
        ValueError: for arguments outside these ranges, what :class:`Mesh` refuses, and a mesh with
            two levels in one leaf of the tree (less than 4.9e-4 apart in lambda).
    """

    def __init__(
        self,
        x: Tensor,
        sigmas: Tensor | Sequence[float],
        seed: Seed = 0,
        *,
        process: str | Process = "ve",
        eta: float = 1.0,
        clock: Clock = "tau",
        backend: Backend | None = None,
    ) -> None:
        if clock not in ("tau", "sigma"):
            raise ValueError(f"clock must be 'tau' or 'sigma', got {clock!r}")
        if x.ndim == 0:
            raise ValueError("x must have a shape (B, ...), got a tensor without dimensions")
        mesh = Mesh.from_sigmas(sigmas, process)
        self._sigma = mesh.sigma
        self._place = {level: i for i, level in enumerate(mesh.sigma)}
        self._lam = [lam for lam in mesh.lam if lam < math.inf]
        _check_leaves(mesh.sigma, self._lam)
        self._kind: Kind = mesh.process, not_negative("eta", eta), clock

        self._state, self._device, self._dtype = x.shape, x.device, x.dtype
        self._move = _mover(backend, x.device)
        self._at: int | None = None
        # All that the device has to know travels here: the steps of the mesh do not wait for it.
        self._seeds = torch.empty(len(x), dtype=torch.int64, device=x.device)
        self.reseed(seed)
        quads = -(-math.prod(x.shape[1:]) // 4)
        self._path = torch.zeros(len(x), 4 * quads, dtype=torch.float64, device=x.device)
        self._steps = [self._to_device(*move) for move in _steps(tuple(self._lam), self._kind)]
        self._to_first = self._to_device(*_move_to(self._lam[0], log_gap(*self._kind)))

    def __call__(self, sigma: Tensor | float, sigma_next: Tensor | float, /) -> Tensor:
        """The unit normal of the step between two levels.

        Args:
            sigma, sigma_next: two levels of the mesh, above 0 and not equal; numbers or 0-d
                tensors. They may have been rounded to float32 on the way here. In the reverse
                order they give the negative of the same normal.

        Returns:
            Shape, device and dtype of the state.

        Raises:
            ValueError: for anything else.
        """
        start, end = self._index("sigma", sigma), self._index("sigma_next", sigma_next)
        if start == end:
            raise ValueError(f"sigma and sigma_next must differ, got {self._sigma[start]} twice")
        if start > end:
            return -self(sigma_next, sigma)
        xi = self._empty()
        if xi.numel() > 0:
            self._move(self._path, xi, self._seeds, *self._seek(start, end))
            self._at = end
        return xi.to(self._dtype).reshape(self._state)

    def reseed(self, seed: Seed) -> None:
        """Take other paths from now on, as if the bridge had been built with this ``seed``.

        The seeds are written where the old ones were: a CUDA graph that was recorded with this
        bridge draws the new paths when it is replayed.
        """
        seeds = [s - 2**64 if s >= 2**63 else s for s in _one_per_sample(self._seeds, seed)]
        self._seeds.copy_(torch.tensor(seeds, dtype=torch.int64))
        self._at = None

    def fits(self, x: Tensor) -> bool:
        """Whether the noise is for states such as this one."""
        return (x.shape, x.device, x.dtype) == (self._state, self._device, self._dtype)

    def depart(
        self, sigma: Tensor | float, sigma_next: Tensor | float
    ) -> tuple[Tensor, Tensor, Move]:
        """For who moves the paths himself, with his own kernel: they, at ``sigma``, their seeds,
        and what takes them to ``sigma_next``, the next level. He must do it at once.

        Raises:
            ValueError: for levels that are not neighbours on the mesh.
        """
        start, end = self._index("sigma", sigma), self._index("sigma_next", sigma_next)
        if end != start + 1:
            raise ValueError(
                f"sigma and sigma_next must be neighbours, got {self._sigma[start]} and "
                f"{self._sigma[end]}"
            )
        move = self._seek(start, end)
        self._at = end
        return self._path, self._seeds, move

    @property
    def weights(self) -> Weights:
        """What the steps of the mesh are made of; computed anew at each access."""
        gap = log_gap(*self._kind)
        rows = [increment_row(start, end, gap) for start, end in pairwise(self._lam)]
        nodes = sorted(set().union(*rows))
        table = [[row.get(node, 0.0) for node in nodes] for row in rows]
        shape = (len(rows), len(nodes))
        return Weights(torch.tensor(nodes), torch.tensor(table, dtype=torch.float64).reshape(shape))

    def _index(self, name: str, level: Tensor | float) -> int:
        value = float(level)
        near = self._place.get(value)
        if near is None:
            near = min(range(len(self._sigma)), key=lambda i: abs(self._sigma[i] - value))
        if not abs(self._sigma[near] - value) <= 1e-6 * value:
            raise ValueError(
                f"{name} must be a level of the mesh the bridge was built for, got {value}; "
                f"the nearest is {self._sigma[near]}"
            )
        if near == len(self._lam):
            raise ValueError(f"{name} must be above 0: no noise is drawn in a step to sigma = 0")
        return near

    def _empty(self) -> Tensor:
        elements = math.prod(self._state[1:])
        dtype = torch.promote_types(self._dtype, torch.float32)
        return torch.empty(len(self._path), elements, dtype=dtype, device=self._device)

    def _seek(self, start: int, end: int) -> Move:
        """Take the paths to ``start``, if they are not there; what takes them on to ``end``."""
        if self._at != start:
            there = self._to_first
            if start > 0:
                there = self._to_device(*_move_to(self._lam[start], log_gap(*self._kind)))
            self._move(self._path, self._empty(), self._seeds, *there)
            self._at = start
        if end == start + 1:
            return self._steps[start]
        return self._to_device(*_move(self._lam[start], self._lam[end], log_gap(*self._kind)))

    def _to_device(
        self, nodes: Sequence[int], to_path: Sequence[float], to_xi: Sequence[float], keep: float
    ) -> Move:
        names = torch.tensor(nodes, dtype=torch.int64).to(self._device)
        weights = torch.tensor([*to_path, *to_xi, keep], dtype=torch.float64).to(self._device)
        count = len(nodes)
        return names, weights[:count], weights[count:-1], weights[-1]


def _move(start: float, end: float, gap: LogGap) -> HostMove:
    """The path from one lambda to another, in the units of :func:`point_row`, and its normal."""
    parts, point = _increment(start, end, gap), point_row(end, gap)
    blocks = [block_node(parts.first + i) for i in range(len(parts.blocks))]
    return (
        [*point, *blocks],
        [*point.values(), *(0.0 for _ in blocks)],
        [*(parts.end * weight for weight in point.values()), *parts.blocks],
        parts.start,
    )


def _move_to(lam: float, gap: LogGap) -> HostMove:
    """The path to lambda, wherever it is; the normal does not count."""
    point = point_row(lam, gap)
    return [*point], [*point.values()], [0.0] * len(point), 0.0


@lru_cache(maxsize=64)
def _steps(lam: tuple[float, ...], kind: Kind) -> list[HostMove]:
    """The moves of a run. Kept, for they cost as much as the normals of a small state."""
    gap = log_gap(*kind)
    return [_move(start, end, gap) for start, end in pairwise(lam)]


def _mover(backend: Backend | None, device: torch.device) -> Callable[..., None]:
    """The function that sums the normals: by default the fastest of the device that is there."""
    if backend not in (None, "torch", "numba", "triton"):
        raise ValueError(f"backend must be None, 'torch', 'numba' or 'triton', got {backend!r}")
    fastest = _FASTEST.get(device.type, "torch")
    if backend not in (None, "torch", fastest):
        raise ValueError(
            f"backend must be 'torch' or {fastest!r} for a state on {device.type!r}, "
            f"got {backend!r}"
        )
    if backend == "torch" or fastest == "torch":
        return philox.move
    try:
        module = importlib.import_module(_MODULES[fastest], __package__)
    except ImportError as error:
        if backend is None:
            return philox.move
        raise ValueError(f"backend {backend!r} must be installed: {error}") from error
    move: Callable[..., None] = module.move
    return move


def _one_per_sample(x: Tensor, seed: Seed) -> list[int]:
    seeds = Streams(x, seed).seeds
    if isinstance(seed, Sequence):
        return seeds
    return [(seeds[0] + i) % 2**64 for i in range(len(x))]


def _check_leaves(sigma: Sequence[float], lam: Sequence[float]) -> None:
    for k, (a, b) in enumerate(pairwise(lam)):
        if math.floor(a * _LEAVES) == math.floor(b * _LEAVES):
            raise ValueError(
                f"sigmas must be at least {1 / _LEAVES:.2g} apart in lambda, the bridge's leaf, "
                f"got sigmas[{k}] = {sigma[k]} and sigmas[{k + 1}] = {sigma[k + 1]} in one leaf"
            )
