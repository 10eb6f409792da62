r"""Golden numbers for ports of the sampler, and the check of a port's own numbers.

``python -m dpmpp_core.conformance --cases`` prints the cases as JSON: the levels, the knobs, the
initial state, the noise of every step as numbers, a denoiser of one line, and the state after every
step. A port runs them, writes its own states beside them as ``"states"``, and

``python -m dpmpp_core.conformance FILE`` compares: one line for each case, exit code 0 if all pass
and 1 if not. The line of a case that fails names the step, what was expected, what came, the
coefficients that would explain the step, and the known mistake that gives its numbers.

What the numbers are compared with is committed in ``cases.json``. Four of its cases are
ComfyUI's own states; the others are this package's, and the tests hold them against 50 digits.

``noise.json``, which ``--noise`` prints, has the numbers of :class:`~dpmpp_core.PhiloxBridge` from
the random words to the normals of a run, for a port that is to have the same seeds.
"""

from .cases import Case, cases
from .checking import Verdict, check, read_answers
from .mistakes import MISTAKES, Mistake

__all__ = ["MISTAKES", "Case", "Mistake", "Verdict", "cases", "check", "read_answers"]
