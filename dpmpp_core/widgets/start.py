r"""Where the particles of a live figure start: the same in Python and in the page.

Particle i of a run with seed s has the key s + i, as its noise in :class:`~dpmpp_core.PhiloxBridge`
has. From Philox's counter (element // 4, node, stream, 0) it takes

* node 1, first word: a uniform :math:`u \in (0, 1)`, and by the inverse of the cumulative weights
  the component :math:`j`, the first with :math:`u < w_0 + \dots + w_j`;
* node 0: d unit normals :math:`\varepsilon`;

and with :math:`V_j = \alpha^2 S_j + \sigma^2 I` and its symmetric root,

.. math:: x = \alpha m_j + V_j^{1/2} \varepsilon,

an exact sample of the target's law at that noise level. The root makes one normal per element
serve for data and noise, is the only symmetric one, and is continuous in alpha and sigma: the
picture does not jump while a reader moves the first noise level.
``widgets/engine.js`` has the twin, under the same names.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from ..mesh import Mesh
from ..noise.philox import box_muller, key_words, philox4x32
from ..targets import GaussianMixture

__all__ = ["START", "TARGET", "sample", "start"]

START = 1
"""The counter's third word for starts; the Brownian path has 0."""

TARGET = 2
"""The same for the samples that a picture compares the particles with."""


def start(target: GaussianMixture, mesh: Mesh, seed: int, n: int) -> Tensor:
    """n exact samples at the mesh's first noise level: shape ``(n, d)``, float64, on the host.

    Args:
        target: the law of the clean data.
        mesh: the noise levels of the run.
        seed: an integer in [0, 2^64); particle i has the seed + i modulo 2^64.
        n: the number of particles.
    """
    return sample(target, seed, n, sigma=mesh.sigma[0], alpha=mesh.alpha[0], stream=START)


def sample(
    target: GaussianMixture,
    seed: int,
    n: int,
    *,
    sigma: float = 0.0,
    alpha: float = 1.0,
    stream: int = TARGET,
) -> Tensor:
    """n exact samples of the target at a noise level (0: clean data), as :func:`start`."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be an integer from 0 to 2^64 - 1, got {seed!r}")
    key = key_words([(seed + i) % 2**64 for i in range(n)], torch.device("cpu"))
    uniform, normals = _draws(key, target.dim, stream)

    edges = torch.tensor(list(accumulate(target.weights.tolist())), dtype=torch.float64)
    which = torch.searchsorted(edges, uniform, right=True).clamp(max=len(edges) - 1)
    values, basis = torch.linalg.eigh(_full(target.covariances.cpu(), target.dim))
    scale = (alpha**2 * values.clamp(min=0.0) + sigma**2).sqrt()
    root = (basis * scale[:, None]) @ basis.mT
    return alpha * target.means.cpu()[which] + torch.einsum("nab,nb->na", root[which], normals)


def _draws(key: tuple[Tensor, Tensor], d: int, stream: int) -> tuple[Tensor, Tensor]:
    """Uniforms of shape ``(n,)`` and unit normals of shape ``(n, d)``."""

    def words(quads: Tensor, node: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rest = [torch.full_like(quads, word) for word in (node, stream, 0)]
        return philox4x32((quads, rest[0], rest[1], rest[2]), key)

    w0, w1, w2, w3 = words(torch.arange(-(-d // 4)), 0)
    normals = torch.stack((*box_muller(w0, w1), *box_muller(w2, w3)), dim=-1)
    uniform = (words(torch.zeros(1, dtype=torch.int64), 1)[0].double() + 0.5) * 2.0**-32
    return uniform[:, 0], normals.flatten(1)[:, :d]


def _full(covariances: Tensor, d: int) -> Tensor:
    """Covariances of any of their three shapes as ``(K, d, d)``."""
    if covariances.ndim == 1:
        return covariances[:, None, None] * torch.eye(d, dtype=torch.float64)
    return torch.diag_embed(covariances) if covariances.ndim == 2 else covariances
