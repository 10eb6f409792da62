"""Classifier-free guidance: the formula, and what it does to a law where that is exact."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor

import dpmpp_core as dp
from dpmpp_core import moments
from dpmpp_core.guidance import guide, guided

F64 = torch.float64
NOT_FINITE = [math.nan, math.inf, -math.inf]

# The class, and all the data: a mean and a variance each.
CLASS = (1.0, 0.25)
ALL = (0.2, 1.0)


def two(n: int = 5, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    u, c = torch.randn(2, n, 1, 3, generator=generator, dtype=F64).to(dtype)
    return u, c


# --- the formula ---------------------------------------------------------------------------------


@given(w=st.floats(-20, 20))
def test_the_guided_estimate_lies_on_the_line_through_both(w: float) -> None:
    u, c = two()
    expected = [[a + w * (b - a) for a, b in zip(u.flatten(), c.flatten(), strict=True)]]
    assert torch.allclose(guide(u, c, w).flatten(), torch.tensor(expected, dtype=F64), atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64])
def test_zero_and_one_give_back_the_two_estimates_to_the_last_bit(dtype: torch.dtype) -> None:
    u, c = two(dtype=dtype)
    for w in (0.0, torch.zeros(5)):
        assert torch.equal(guide(u, c, w), u)
    for w in (1.0, torch.ones(5)):
        assert torch.equal(guide(u, c, w), c)
    assert guide(u, c, 2.5).dtype == dtype


def test_each_sample_may_have_a_strength_of_its_own() -> None:
    u, c = two()
    w = torch.tensor([0.0, 1.0, 3.0, -0.5, 7.0], dtype=F64)
    together = guide(u, c, w)
    for i in range(5):
        assert torch.allclose(together[i], guide(u[i : i + 1], c[i : i + 1], float(w[i]))[0])


@pytest.mark.parametrize("process", ["ve", "vp", "flow"])
def test_guiding_estimates_noises_or_velocities_is_the_same(process: str) -> None:
    """At one state each is an affine function of the others, and the weights sum to 1."""
    kind = {"ve": dp.VE(), "vp": dp.VP(), "flow": dp.Flow()}[process]
    sigma, w = 0.6, 4.0
    alpha = kind.alpha(sigma)
    u, c = two()
    x = torch.linspace(-2, 2, u.numel(), dtype=F64).view(u.shape)
    noise_u, noise_c = ((x - alpha * e) / sigma for e in (u, c))
    by_noise = (x - sigma * guide(noise_u, noise_c, w)) / alpha
    velocity = guide(noise_u - u, noise_c - c, w)  # of flow models
    by_velocity = (x - sigma * velocity) / (alpha + sigma)
    assert torch.allclose(by_noise, guide(u, c, w), atol=1e-13)
    assert torch.allclose(by_velocity, guide(u, c, w), atol=1e-13)


# --- the wrapper ---------------------------------------------------------------------------------


class Recorder:
    """A model whose answer tells what it was asked."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        self.calls.append(extra_args)
        return x * 0 + extra_args["label"]


def test_the_wrapper_asks_with_and_without_the_condition() -> None:
    model = Recorder()
    guided_model = guided(model, 3.0, {"label": 4}, {"label": 10})
    out = guided_model(torch.zeros(2, 3), torch.ones(2), seed=7)
    assert model.calls == [{"seed": 7, "label": 10}, {"seed": 7, "label": 4}]
    assert (out == 10 + 3 * (4 - 10)).all()


@pytest.mark.parametrize(("w", "label"), [(1.0, 4), (0.0, 10)])
def test_an_estimate_without_weight_is_not_asked_for(w: float, label: int) -> None:
    model = Recorder()
    assert (
        guided(model, w, {"label": 4}, {"label": 10})(torch.zeros(2), torch.ones(2)) == label
    ).all()
    assert len(model.calls) == 1


@pytest.mark.parametrize("w", NOT_FINITE)
def test_a_strength_that_is_not_finite_is_refused_by_name(w: float) -> None:
    u, c = two()
    with pytest.raises(ValueError, match=r"^w must be a finite number, .*got (nan|inf|-inf)$"):
        guide(u, c, w)
    with pytest.raises(ValueError, match=r"^w must be finite, got (nan|inf|-inf)$"):
        guide(u, c, torch.tensor([1.0, w, 1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match=r"^w must be"):
        guided(Recorder(), w, {}, {})


@pytest.mark.parametrize("w", [None, "7", True, torch.tensor([1.0, 2.0]), torch.tensor([1] * 5)])
def test_a_strength_that_is_no_number_or_of_another_shape_is_refused(w: Any) -> None:
    with pytest.raises(ValueError, match=r"^w must be"):
        guide(*two(), w)


def test_estimates_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^conditional must have the shape .*\(5, 3\)$"):
        guide(torch.zeros(5, 1, 3), torch.zeros(5, 3), 2.0)


# --- in the toy: the guided denoiser of two Gaussians is affine, so its law is exact -------------


def toy(mesh: dp.Mesh, w: float) -> moments.AffineDenoiser:
    """Gain and offset of the guided denoiser at each level."""
    u = moments.gaussian_denoiser(mesh, *ALL)
    c = moments.gaussian_denoiser(mesh, *CLASS)
    return moments.AffineDenoiser(guide(u.gain, c.gain, w), guide(u.offset, c.offset, w))


def final(mesh: dp.Mesh, w: float, eta: float) -> tuple[float, float]:
    """Mean and variance of the result, from pure noise of the first level."""
    denoiser = toy(mesh, w)
    table = dp.step_table(mesh, eta)
    law = moments.affine_moments(table, *denoiser, initial=(0.0, mesh.sigma[0] ** 2))
    return float(law.mean[-1]), float(law.variance[-1])


def limit(w: float, eta: float) -> tuple[float, float]:
    r"""Mean and variance after infinitely many steps from an infinite level.

    With y the squared level, the score is linear, and the SDE :math:`dx = (1 + \eta) \sigma^2
    \mathrm{score}\, d\lambda + \sqrt{2 \eta}\, \sigma\, dW` gives two linear equations, solved here
    by quadrature: :math:`q(y) = ((v_u + y)^{1 - w} (v_c + y)^w)^{1 + \eta}` is the square of the
    integrating factor.
    """
    (m_c, v_c), (m_u, v_u) = CLASS, ALL

    def log_q(y: float) -> float:
        return (1 + eta) * ((1 - w) * math.log(v_u + y) + w * math.log(v_c + y))

    def ratio(y: float, power: float) -> float:
        return math.exp(power * (log_q(0.0) - log_q(y)))

    mean = quad(
        lambda y: (
            0.5 * (1 + eta) * ((1 - w) * m_u / (v_u + y) + w * m_c / (v_c + y)) * ratio(y, 0.5)
        ),
        0.0, math.inf, epsabs=1e-12,
    )[0]  # fmt: skip
    if eta == 0.0:
        return mean, v_u * (v_c / v_u) ** w
    return mean, eta * quad(lambda y: ratio(y, 1.0), 0.0, math.inf, epsabs=1e-12)[0]


@pytest.mark.parametrize("w", [0.0, 1.0, 2.5])
def test_the_affine_form_is_what_the_wrapper_computes(w: float) -> None:
    mesh = dp.Mesh.from_sigmas(dp.schedule.karras(6, 0.1, 10.0))
    gain, offset = toy(mesh, w)
    by_class, by_all = (dp.gaussian(torch.tensor([m]), v).model() for m, v in (CLASS, ALL))

    def model(x: Tensor, sigma: Tensor, told: bool) -> Tensor:
        return by_class(x, sigma) if told else by_all(x, sigma)

    guided_model = guided(model, w, {"told": True}, {"told": False})
    x = torch.linspace(-9, 9, 7, dtype=F64)[:, None]
    for k, sigma in enumerate(mesh.sigma[:-1]):
        expected = gain[k] * x + offset[k]
        assert torch.allclose(guided_model(x, sigma), expected, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_the_law_of_guided_runs_tends_to_that_of_the_stochastic_equation(
    w: float, eta: float
) -> None:
    """To within what is left of the start at level 1000, and of the steps."""
    found = [
        final(dp.Mesh.from_sigmas(dp.schedule.exponential(n, 1e-3, 1e3)), w, eta)
        for n in (500, 1000)
    ]
    exact = limit(w, eta)
    for coarse, fine, value in zip(*found, exact, strict=True):
        assert abs(fine - value) < 3e-3 * max(1.0, abs(value))
        # Second order: a quarter of the error at twice the steps, until the start's trace is left.
        assert abs(fine - value) < 0.4 * abs(coarse - value) + 2e-3


def test_without_noise_the_variance_is_extrapolated_geometrically() -> None:
    mesh = dp.Mesh.from_sigmas(dp.schedule.exponential(2000, 1e-3, 1e3))
    for w in (0.0, 1.0, 2.0, 3.0):
        assert final(mesh, w, 0.0)[1] == pytest.approx(ALL[1] * (CLASS[1] / ALL[1]) ** w, rel=2e-3)


def test_more_noise_leads_from_there_to_the_product_of_powers() -> None:
    r"""Its variance is that of :math:`p_u^{1-w} p_c^w`, which nothing but much noise reaches."""
    w = 2.0
    product = 1 / ((1 - w) / ALL[1] + w / CLASS[1])
    gaps = [product - limit(w, eta)[1] for eta in (0.0, 0.5, 1.0, 2.0, 8.0, 64.0)]
    assert all(a > b > 0 for a, b in itertools.pairwise(gaps))
    assert gaps[-1] < 0.02 * gaps[0]


def test_guidance_narrows_and_overshoots_the_class_mean() -> None:
    mesh = dp.Mesh.from_sigmas(dp.schedule.karras(40, 0.0292, 14.6))
    laws = [final(mesh, w, 1.0) for w in (1.0, 2.0, 4.0)]
    assert laws[0][0] == pytest.approx(CLASS[0], abs=0.02)
    assert laws[0][0] < laws[1][0] < laws[2][0]
    assert laws[0][1] > laws[1][1] > laws[2][1]
