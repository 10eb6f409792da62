r"""Sources of the unit normals :math:`\xi_k`.

A noise sampler is any callable ``(sigma, sigma_next) -> Tensor`` that returns a unit normal of the
state's shape for the step between two noise levels, with k-diffusion's and ComfyUI's meaning. Here:

* :class:`BrownianTree`: increments of one Brownian path, bit-identical to ComfyUI's default;
* :class:`PhiloxBridge`: increments of one Brownian path that does not depend on mesh, batch or
  device;
* :class:`IndependentNoise`: a fresh draw from a torch generator at each step.
"""

from .bridge import PhiloxBridge
from .independent import IndependentNoise
from .protocol import NoiseSampler, Seed
from .tree import BrownianTree

__all__ = ["BrownianTree", "IndependentNoise", "NoiseSampler", "PhiloxBridge", "Seed"]
