"""Exact denoisers against integrals, torch.distributions, autograd and linear algebra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import kstest, norm
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from dpmpp_core import VE, VP, Flow, GaussianMixture, gaussian, point_cloud, targets, triangle

EPS = 2.0**-52
NAMES = ["ve", "vp", "flow"]
# One noise level of each kind: little noise, much noise, and nearly nothing else.
LEVELS = [("ve", 0.2), ("ve", 5.0), ("vp", 0.3), ("vp", 0.97), ("flow", 0.1), ("flow", 0.9)]

fixed = settings(derandomize=True, deadline=None, max_examples=20)


def alpha_of(process, sigma):
    if process == "ve":
        return 1.0
    return math.sqrt(1.0 - sigma**2) if process == "vp" else 1.0 - sigma


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_covariances(k, d, seed=1):
    root = normals(k, d, d, seed=seed)
    return root @ root.mT + 0.1 * torch.eye(d, dtype=torch.float64)


def mixture(k=4, d=3, kind="full", seed=0):
    """A mixture of that kind and, written out in full, its weights, means and covariances."""
    means = 2.0 * normals(k, d, seed=seed)
    weights = torch.arange(1.0, k + 1.0, dtype=torch.float64)
    full = random_covariances(k, d, seed=seed + 1)
    if kind == "full":
        given_as = full
    elif kind == "diagonal":
        given_as = full.diagonal(dim1=1, dim2=2)
        full = torch.diag_embed(given_as)
    else:
        given_as = full[:, 0, 0]
        full = given_as[:, None, None] * torch.eye(d, dtype=torch.float64)
    return GaussianMixture(means, given_as, weights), weights / weights.sum(), means, full


def noised_law(weights, means, full, process, sigma):
    """The law of alpha x0 + sigma eps as torch.distributions knows it."""
    alpha, eye = alpha_of(process, sigma), torch.eye(means.shape[1], dtype=torch.float64)
    return MixtureSameFamily(
        Categorical(weights), MultivariateNormal(alpha * means, alpha**2 * full + sigma**2 * eye)
    )


PARTS = [(-1.0, 0.05, 0.3), (0.5, 0.1, 0.5), (2.0, 0.02, 0.2)]
"""Mean, variance and weight of each component of a mixture in one dimension."""
ONE_D = GaussianMixture(
    *(
        torch.tensor(c, dtype=torch.float64)
        for c in ([[m] for m, _, _ in PARTS], [v for _, v, _ in PARTS], [w for _, _, w in PARTS])
    )
)


def bell(x, mean, variance):
    return math.exp(-((x - mean) ** 2) / (2.0 * variance)) / math.sqrt(2.0 * math.pi * variance)


def prior(x0):
    return sum(w * bell(x0, m, v) for m, v, w in PARTS)


def moment_by_bayes(x, process, sigma, power):
    """The integral of x0^power p(x0) N(x; alpha x0, sigma^2), without algebra."""
    alpha = alpha_of(process, sigma)
    value, _ = quad(
        lambda x0: x0**power * prior(x0) * bell(x, alpha * x0, sigma**2),
        -3.0,
        4.0,
        points=[-1.0, 0.5, 2.0, min(max(x / alpha, -3.0), 4.0)],
        epsabs=0.0,
        epsrel=1e-11,
        limit=400,
    )
    return value


# --- Bayes' rule -------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [-1.7, 0.1, 1.4])
@pytest.mark.parametrize(("process", "sigma"), LEVELS)
def test_denoiser_and_density_are_bayes_rule_integrated(process, sigma, x):
    mass, first, second = (moment_by_bayes(x, process, sigma, n) for n in range(3))
    state = torch.tensor([[x]], dtype=torch.float64, requires_grad=True)
    estimate = ONE_D.denoise(state, sigma, process)
    assert estimate.item() == pytest.approx(first / mass, rel=1e-9)
    log_density = ONE_D.log_density(state, sigma, process).item()
    assert log_density == pytest.approx(math.log(mass), rel=1e-9, abs=1e-9)
    # Tweedie's second-order formula: alpha Var[x0 | x] / sigma^2 is the denoiser's slope.
    (slope,) = torch.autograd.grad(estimate.sum(), state)
    variance = second / mass - (first / mass) ** 2
    expected = alpha_of(process, sigma) * variance / sigma**2
    assert slope.item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("process", "sigma"), [*LEVELS, ("ve", 0.0), ("vp", 0.0), ("flow", 1.0)])
def test_the_density_integrates_to_one(process, sigma):
    def density(x):
        at = torch.tensor([[x]], dtype=torch.float64)
        return ONE_D.log_density(at, sigma, process).exp().item()

    reach = 4.0 + 9.0 * sigma
    mass, _ = quad(density, -reach, reach, points=[-1.0, 0.5, 2.0], limit=200, epsrel=1e-7)
    assert mass == pytest.approx(1.0, abs=1e-6)


# --- every kind of covariance against torch.distributions --------------------------------------


@pytest.mark.parametrize("kind", ["full", "diagonal", "isotropic"])
@pytest.mark.parametrize(("process", "sigma"), [*LEVELS, ("ve", 0.0), ("flow", 0.0)])
def test_log_density_and_score_are_those_of_torch_distributions(kind, process, sigma):
    target, weights, means, full = mixture(kind=kind)
    law = noised_law(weights, means, full, process, sigma)
    x = (3.0 * normals(50, 3, seed=5)).requires_grad_()
    oracle = law.log_prob(x)
    # Relative to logarithms of size 10 to 100: 1e-12 leaves the digits of a Cholesky solve.
    torch.testing.assert_close(
        target.log_density(x, sigma, process), oracle, rtol=1e-11, atol=1e-11
    )
    (gradient,) = torch.autograd.grad(oracle.sum(), x)
    torch.testing.assert_close(
        target.score(x.detach(), sigma, process), gradient, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("kind", ["full", "diagonal", "isotropic"])
@pytest.mark.parametrize(("process", "sigma"), LEVELS)
def test_the_denoiser_is_tweedies_formula(kind, process, sigma):
    target, weights, means, full = mixture(kind=kind)
    law = noised_law(weights, means, full, process, sigma)
    x = (3.0 * normals(50, 3, seed=6)).requires_grad_()
    (gradient,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    tweedie = (x.detach() + sigma**2 * gradient) / alpha_of(process, sigma)
    torch.testing.assert_close(
        target.denoise(x.detach(), sigma, process), tweedie, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(("process", "sigma"), LEVELS)
def test_the_score_is_the_gradient_of_the_log_density(process, sigma):
    target, *_ = mixture(k=5, d=4)
    x = (2.0 * normals(20, 4, seed=7)).requires_grad_()
    (gradient,) = torch.autograd.grad(target.log_density(x, sigma, process).sum(), x)
    torch.testing.assert_close(target.score(x.detach(), sigma, process), gradient)


@pytest.mark.parametrize("kind", ["number", "diagonal", "full"])
@pytest.mark.parametrize(("process", "sigma"), LEVELS)
def test_a_gaussian_has_the_linear_denoiser_of_conditioning(kind, process, sigma):
    # Cov(x0, x) Cov(x)^-1 with Cov(x0, x) = alpha S and Cov(x) = alpha^2 S + sigma^2 I.
    d, alpha = 4, alpha_of(process, sigma)
    mean, full = normals(d, seed=2), random_covariances(1, d)[0]
    spread = {"number": 0.7, "diagonal": full.diagonal(), "full": full}[kind]
    covariance = {
        "number": 0.7 * torch.eye(d, dtype=torch.float64),
        "diagonal": torch.diag(full.diagonal()),
        "full": full,
    }[kind]
    x = 2.0 * normals(10, d, seed=3)
    noised = alpha**2 * covariance + sigma**2 * torch.eye(d, dtype=torch.float64)
    correction = torch.linalg.solve(noised, (x - alpha * mean).mT).mT
    target = gaussian(mean, spread)
    torch.testing.assert_close(
        target.denoise(x, sigma, process), mean + alpha * correction @ covariance
    )
    torch.testing.assert_close(target.score(x, sigma, process), -correction)


def test_the_unit_gaussian_shrinks_the_state():
    x = normals(5, 2)
    target = gaussian(torch.zeros(2))
    torch.testing.assert_close(target.denoise(x, 2.0), x / 5.0)
    torch.testing.assert_close(target.denoise(x, 0.6, "vp"), 0.8 * x)
    # 0.25 / (0.25^2 + 0.75^2) = 0.4
    torch.testing.assert_close(target.denoise(x, 0.75, "flow"), 0.4 * x)


@pytest.mark.parametrize("process", [VP(), Flow(), Flow(3.0)])
def test_at_sigma_one_nothing_is_left_of_the_data_but_its_mean(process):
    target, weights, means, _ = mixture()
    x = normals(6, 3, seed=8)
    expected = (weights @ means).expand(6, 3)
    torch.testing.assert_close(target.denoise(x, 1.0, process), expected)
    torch.testing.assert_close(target.score(x, 1.0, process), -x)


@fixed
@given(sigma=st.floats(0.01, 0.99), seed=st.integers(0, 1000), process=st.sampled_from(NAMES[1:]))
def test_vp_and_flow_are_ve_in_other_coordinates(sigma, seed, process):
    # x / alpha = x0 + (sigma / alpha) eps: the same observation.
    target, *_ = mixture(seed=seed)
    alpha = alpha_of(process, sigma)
    x = normals(8, 3, seed=seed)
    torch.testing.assert_close(
        target.denoise(x, sigma, process), target.denoise(x / alpha, sigma / alpha)
    )
    torch.testing.assert_close(
        target.log_density(x, sigma, process),
        target.log_density(x / alpha, sigma / alpha) - 3 * math.log(alpha),
    )


# --- symmetries --------------------------------------------------------------------------------


@fixed
@given(seed=st.integers(0, 10_000), d=st.integers(1, 5), level=st.sampled_from(LEVELS))
def test_rotating_and_moving_the_data_rotates_and_moves_the_answers(seed, d, level):
    process, sigma = level
    target, weights, means, full = mixture(k=3, d=d, seed=seed)
    turn, _ = torch.linalg.qr(normals(d, d, seed=seed + 2))
    move = normals(d, seed=seed + 3)
    moved = GaussianMixture(means @ turn.mT + move, turn @ full @ turn.mT, weights)
    x = 2.0 * normals(6, d, seed=seed + 4)
    there = x @ turn.mT + alpha_of(process, sigma) * move
    # The rotation moves the covariances by ulps; their condition number is up to 1e3.
    close = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(
        moved.denoise(there, sigma, process),
        target.denoise(x, sigma, process) @ turn.mT + move,
        **close,
    )
    torch.testing.assert_close(
        moved.score(there, sigma, process), target.score(x, sigma, process) @ turn.mT, **close
    )
    torch.testing.assert_close(
        moved.log_density(there, sigma, process), target.log_density(x, sigma, process), **close
    )


@fixed
@given(seed=st.integers(0, 10_000), order=st.permutations(range(5)), level=st.sampled_from(LEVELS))
def test_the_order_of_the_components_does_not_matter(seed, order, level):
    process, sigma = level
    target, weights, means, full = mixture(k=5, d=2, seed=seed)
    shuffled = GaussianMixture(means[order], full[order], weights[order])
    x = 2.0 * normals(6, 2, seed=seed)
    for name in ("denoise", "score", "log_density"):
        torch.testing.assert_close(
            getattr(shuffled, name)(x, sigma, process), getattr(target, name)(x, sigma, process)
        )


@fixed
@given(seed=st.integers(0, 10_000), axes=st.permutations(range(4)))
def test_the_order_of_the_coordinates_does_not_matter(seed, axes):
    for kind in ("full", "diagonal", "isotropic"):
        target, weights, means, full = mixture(d=4, kind=kind, seed=seed)
        shuffled = GaussianMixture(means[:, axes], full[:, axes][:, :, axes], weights)
        x = normals(5, 4, seed=seed)
        torch.testing.assert_close(
            shuffled.denoise(x[:, axes], 0.7), target.denoise(x, 0.7)[:, axes]
        )


@fixed
@given(scale=st.floats(0.01, 100.0), sigma=st.floats(0.05, 10.0), seed=st.integers(0, 1000))
def test_another_unit_of_length_scales_the_answers(scale, sigma, seed):
    target, weights, means, full = mixture(seed=seed)
    scaled = GaussianMixture(scale * means, scale**2 * full, weights)
    x = normals(5, 3, seed=seed)
    torch.testing.assert_close(
        scaled.denoise(scale * x, scale * sigma), scale * target.denoise(x, sigma)
    )
    torch.testing.assert_close(
        scaled.log_density(scale * x, scale * sigma),
        target.log_density(x, sigma) - 3 * math.log(scale),
    )


def test_splitting_a_component_in_two_changes_nothing():
    target, weights, means, full = mixture(k=2)
    which, share = [0, 0, 1], torch.tensor([0.3, 0.7, 1.0], dtype=torch.float64)
    split = GaussianMixture(means[which], full[which], share * weights[which])
    x = normals(5, 3, seed=4)
    torch.testing.assert_close(split.denoise(x, 0.5), target.denoise(x, 0.5))
    torch.testing.assert_close(split.log_density(x, 0.5), target.log_density(x, 0.5))


def test_kinds_of_covariance_agree_where_they_say_the_same():
    means, variances = normals(3, 2), torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    x = normals(7, 2, seed=9)
    as_numbers = GaussianMixture(means, variances)
    as_diagonal = GaussianMixture(means, variances[:, None].expand(3, 2))
    as_full = GaussianMixture(means, variances[:, None, None] * eye)
    for other in (as_diagonal, as_full):
        for name in ("denoise", "score", "log_density"):
            torch.testing.assert_close(
                getattr(other, name)(x, 0.4), getattr(as_numbers, name)(x, 0.4)
            )
        torch.testing.assert_close(other.covariance, as_numbers.covariance)
    one = GaussianMixture(means, 0.5)
    torch.testing.assert_close(
        one.denoise(x, 0.4), GaussianMixture(means, torch.full((3,), 0.5)).denoise(x, 0.4)
    )


# --- clouds of points --------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [1e-3, 1e-8, 1e-100])
@pytest.mark.parametrize("process", NAMES)
def test_with_little_noise_the_denoiser_of_a_cloud_is_the_nearest_point(process, sigma):
    points = torch.cartesian_prod(*[torch.arange(4.0)] * 2).double()
    target = point_cloud(points)
    # At most 0.3 from a point: the next one is farther by 0.4^2 / (2 sigma^2) in the exponent.
    nearest = torch.randint(16, (20,), generator=torch.Generator().manual_seed(1))
    away = 0.3 * torch.nn.functional.normalize(normals(20, 2, seed=2), dim=1)
    x = alpha_of(process, sigma) * (points[nearest] + away)
    assert torch.equal(target.denoise(x, sigma, process), points[nearest])


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 3.0, 4.0, 5.0]])
def test_with_much_noise_the_denoiser_of_a_cloud_is_its_mean(weights):
    points = normals(5, 3)
    target = point_cloud(points, None if weights is None else torch.tensor(weights))
    expected = np.average(points.numpy(), axis=0, weights=weights)
    estimate = target.denoise(1e8 * normals(4, 3, seed=2), 1e8).numpy()
    # What x says of a point is of the order |x| |point| / sigma^2 = 1e-8.
    assert np.abs(estimate - expected).max() < 1e-7


def test_between_two_points_the_denoiser_is_a_hyperbolic_tangent():
    target = point_cloud(torch.tensor([[-1.0], [1.0]]))
    x = torch.linspace(-3.0, 3.0, 25, dtype=torch.float64)[:, None]
    for sigma in (0.3, 1.0, 4.0):
        torch.testing.assert_close(target.denoise(x, sigma), torch.tanh(x / sigma**2))
        mass = torch.log(torch.cosh(x[:, 0] / sigma**2)) - (x[:, 0] ** 2 + 1) / (2 * sigma**2)
        expected = mass - 0.5 * math.log(2 * math.pi * sigma**2)
        torch.testing.assert_close(target.log_density(x, sigma), expected)


def test_a_weighted_cloud_prefers_its_heavier_point():
    # Half way between two points only the weights speak.
    target = point_cloud(torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, 3.0]))
    assert target.denoise(torch.tensor([[0.5]]).double(), 0.2).item() == pytest.approx(0.75)


def test_a_single_point_is_always_the_answer():
    target = point_cloud(torch.tensor([[1.0, -2.0]]))
    estimate = target.denoise(5.0 * normals(9, 2), 3.0)
    assert torch.equal(estimate, torch.tensor([[1.0, -2.0]]).double().expand(9, 2))


# --- shapes, dtypes, blocks --------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3), (1, 1, 3, 1)])
def test_a_state_of_any_shape_is_a_batch_of_vectors(shape):
    target, *_ = mixture()
    x = normals(5, 3, seed=1)
    for name in ("denoise", "score"):
        flat = getattr(target, name)(x, 0.5)
        shaped = getattr(target, name)(x.reshape(5, *shape), 0.5)
        assert shaped.shape == (5, *shape)
        assert torch.equal(shaped.reshape(5, 3), flat)
    assert target.log_density(x.reshape(5, *shape), 0.5).shape == (5,)


@pytest.mark.parametrize("shape", [(0, 3), (0, 1, 3, 1)])
@pytest.mark.parametrize("sigma", [0.5, torch.tensor(0.5), torch.zeros(0)])
def test_an_empty_batch_has_an_empty_answer(shape, sigma):
    target, *_ = mixture()
    x = torch.zeros(shape, dtype=torch.float16)
    for name in ("denoise", "score"):
        answer = getattr(target, name)(x, sigma)
        assert answer.shape == x.shape
        assert answer.dtype == x.dtype


def test_a_cloud_of_images_denoises_images():
    images = normals(6, 2, 3, 4)
    target = point_cloud(images)
    assert target.dim == 24
    x = images + 1e-4 * normals(6, 2, 3, 4, seed=1)
    assert torch.equal(target.denoise(x, 1e-2), images)


def test_a_non_contiguous_state_is_read_in_its_own_order():
    target, *_ = mixture()
    x = normals(3, 5, seed=1)
    assert torch.equal(target.denoise(x.mT, 0.5), target.denoise(x.mT.contiguous(), 0.5))


@pytest.mark.parametrize("name", ["denoise", "score", "log_density"])
@pytest.mark.parametrize("process", NAMES)
def test_a_noise_level_per_sample_equals_a_loop(name, process):
    target, *_ = mixture()
    function = getattr(target, name)
    x = normals(4, 3, seed=1)
    sigma = torch.tensor([0.1, 0.5, 0.7, 0.95], dtype=torch.float64)
    looped = torch.cat([function(x[i : i + 1], s, process) for i, s in enumerate(sigma.tolist())])
    torch.testing.assert_close(function(x, sigma, process), looped, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["denoise", "score", "log_density"])
def test_one_noise_level_may_be_a_number_or_a_tensor(name):
    target, *_ = mixture()
    x = normals(4, 3, seed=1)
    expected = getattr(target, name)(x, 2.0)
    for sigma in (2, torch.tensor(2.0), torch.tensor([2.0]), torch.full((4,), 2), np.float32(2.0)):
        assert torch.equal(getattr(target, name)(x, sigma), expected)


@pytest.mark.parametrize("kind", ["full", "diagonal", "isotropic"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_is_kept_and_near_float64(kind, dtype):
    target, *_ = mixture(kind=kind)
    x = normals(100, 3, seed=1).to(dtype)
    precision = torch.finfo(dtype).eps
    for name in ("denoise", "score", "log_density"):
        low = getattr(target, name)(x, 0.5, "flow")
        exact = getattr(target, name)(x.double(), 0.5, "flow")
        assert low.dtype == dtype
        # Half an ulp of the last rounding, and float32 arithmetic with a condition number of 100.
        slack = 0.51 * precision * exact.abs() + 2000 * 2.0**-24
        assert ((low.double() - exact).abs() <= slack).all()


@pytest.mark.parametrize("name", ["denoise", "score", "log_density"])
@pytest.mark.parametrize("kind", ["full", "diagonal", "isotropic"])
def test_evaluation_in_blocks_equals_the_whole(name, kind, monkeypatch):
    target, *_ = mixture(k=4, d=3, kind=kind)
    x = normals(10, 3, seed=1)
    sigma = torch.linspace(0.1, 2.0, 10, dtype=torch.float64)
    whole = getattr(target, name)(x, sigma)
    seen = []
    posterior = GaussianMixture._posterior

    def spy(self, x, sigma, process):
        seen.append(len(x))
        return posterior(self, x, sigma, process)

    monkeypatch.setattr(GaussianMixture, "_posterior", spy)
    for block, sizes in ((36, [3, 3, 3, 1]), (1, [1] * 10), (10**9, [10])):
        seen.clear()
        monkeypatch.setattr(targets, "_BLOCK", block)
        torch.testing.assert_close(getattr(target, name)(x, sigma), whole, rtol=1e-13, atol=1e-13)
        assert seen == sizes


def test_the_model_is_the_denoiser_and_takes_any_extra_argument():
    target, *_ = mixture()
    x, sigma = normals(4, 3, seed=1), torch.full((4,), 0.5, dtype=torch.float64)
    for process in NAMES:
        model = target.model(process)
        expected = target.denoise(x, 0.5, process)
        assert torch.equal(model(x, sigma), expected)
        assert torch.equal(model(x, sigma, seed=3, model_options={}), expected)
    assert torch.equal(target.model()(x, sigma), target.denoise(x, 0.5, VE()))


def test_no_argument_is_modified():
    target, _, means, full = mixture()
    x, sigma = normals(4, 3, seed=1), torch.full((4,), 0.5, dtype=torch.float64)
    kept = [t.clone() for t in (x, sigma, means, full)]
    target.denoise(x, sigma)
    target.score(x, sigma)
    target.log_density(x, sigma)
    for before, after in zip(kept, (x, sigma, means, full), strict=True):
        assert torch.equal(before, after)


def test_gradients_reach_the_state_but_not_the_parameters():
    means = normals(3, 2).requires_grad_()
    target = GaussianMixture(means, 0.5)
    x = normals(4, 2, seed=1)
    assert not target.denoise(x, 0.5).requires_grad
    assert target.denoise(x.requires_grad_(), 0.5).requires_grad
    assert not target.means.requires_grad


# --- mean and covariance -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "diagonal", "isotropic"])
def test_mean_and_covariance_are_those_of_the_parts(kind):
    target, weights, means, full = mixture(kind=kind)
    w, m, s = weights.numpy(), means.numpy(), full.numpy()
    second = sum(w[j] * (s[j] + np.outer(m[j], m[j])) for j in range(4))
    mean = w @ m
    assert target.mean.numpy() == pytest.approx(mean, rel=1e-13)
    assert target.covariance.numpy() == pytest.approx(second - np.outer(mean, mean), abs=1e-12)
    assert target.dim == 3


def test_mean_and_variance_in_one_dimension_are_the_integrals():
    moments = [
        quad(lambda x, n=n: x**n * prior(x), -3.0, 4.0, points=[-1.0, 0.5, 2.0], epsabs=1e-12)[0]
        for n in (0, 1, 2)
    ]
    assert moments[0] == pytest.approx(1.0, abs=1e-9)
    assert ONE_D.mean.item() == pytest.approx(moments[1], abs=1e-8)
    assert ONE_D.covariance.item() == pytest.approx(moments[2] - moments[1] ** 2, abs=1e-8)


def test_a_cloud_has_the_covariance_of_its_points():
    points = normals(20, 3)
    expected = np.cov(points.numpy().T, bias=True)
    assert point_cloud(points).covariance.numpy() == pytest.approx(expected, abs=1e-13)


def test_a_component_much_narrower_than_another_keeps_its_variance():
    means, variances = torch.zeros(2, 1), torch.tensor([1.0, 1e-18], dtype=torch.float64)
    x = torch.tensor([[0.0], [1e-9], [1.0]], dtype=torch.float64)
    as_full = GaussianMixture(means, variances[:, None, None])
    as_numbers = GaussianMixture(means, variances)
    torch.testing.assert_close(as_full.log_density(x), as_numbers.log_density(x))


def test_weights_are_scaled_to_sum_to_one():
    means, x = normals(3, 2), normals(5, 2, seed=1)
    one = GaussianMixture(means, 0.2, torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64))
    ten = GaussianMixture(means, 0.2, [2, 3, 5])
    torch.testing.assert_close(ten.weights.sum().item(), 1.0)
    torch.testing.assert_close(one.denoise(x, 0.5), ten.denoise(x, 0.5))
    torch.testing.assert_close(one.log_density(x, 0.5), ten.log_density(x, 0.5))
    even = GaussianMixture(means, 0.2)
    assert even.weights.tolist() == pytest.approx([1 / 3] * 3, rel=4 * EPS)


def test_the_triangle_has_three_long_modes_along_its_sides():
    target = triangle()
    assert target.weights.tolist() == pytest.approx([0.4, 0.3, 0.3])
    assert target.means.norm(dim=1).tolist() == pytest.approx([1.9] * 3)
    apart = torch.cdist(target.means, target.means)
    assert apart[[0, 1, 2], [1, 2, 0]].tolist() == pytest.approx([1.9 * math.sqrt(3.0)] * 3)
    for centre, covariance in zip(target.means, target.covariances, strict=True):
        assert torch.linalg.eigvalsh(covariance).tolist() == pytest.approx([0.03, 0.55])
        # A side is perpendicular to the way from the middle to its centre.
        torch.testing.assert_close(covariance @ centre, 0.03 * centre)


# --- samples -----------------------------------------------------------------------------------

# A deviation of 5 standard errors: about 1 in 2 million for each number compared; seeds are fixed.
Z = 5.0


@pytest.mark.parametrize("kind", ["full", "diagonal", "isotropic"])
@pytest.mark.parametrize(
    ("process", "sigma"), [("ve", 0.0), ("ve", 2.0), ("vp", 0.6), ("flow", 0.4)]
)
def test_samples_have_the_mean_and_the_covariance_of_the_law(kind, process, sigma):
    n = 40_000
    target, weights, means, full = mixture(kind=kind)
    law = noised_law(weights, means, full, process, sigma)
    x = target.sample(n, sigma, process, torch.Generator().manual_seed(11))
    assert x.shape == (n, 3)
    assert x.dtype == torch.float64
    centred = x - law.mean
    error = (x.mean(0) - law.mean) / (law.variance / n).sqrt()
    assert error.abs().max() < Z
    alpha = alpha_of(process, sigma)
    centre = means - weights @ means
    within = torch.einsum("j,jab->ab", weights, full)
    between = torch.einsum("j,ja,jb->ab", weights, centre, centre)
    expected = alpha**2 * (within + between) + sigma**2 * torch.eye(3, dtype=torch.float64)
    products = centred[:, :, None] * centred[:, None, :]
    error = (products.mean(0) - expected) / (products.std(0) / math.sqrt(n))
    assert error.abs().max() < Z


@pytest.mark.parametrize(
    ("process", "sigma"), [("ve", 0.0), ("ve", 0.5), ("vp", 0.6), ("flow", 0.4)]
)
def test_samples_in_one_dimension_follow_the_mixture(process, sigma):
    alpha = alpha_of(process, sigma)

    def cdf(x):
        return sum(
            w * norm.cdf(x, alpha * m, math.sqrt(alpha**2 * v + sigma**2)) for m, v, w in PARTS
        )

    x = ONE_D.sample(20_000, sigma, process, torch.Generator().manual_seed(12))
    # A p-value below 1e-6 is the two-sided 5 standard errors of the other tests.
    assert kstest(x[:, 0].numpy(), cdf).pvalue > 1e-6


def test_a_sample_of_a_cloud_without_noise_is_one_of_its_points():
    points, n = normals(4, 2), 10_000
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    x = point_cloud(points, weights).sample(n, generator=torch.Generator().manual_seed(13))
    hits = (x[:, None] == points).all(-1)
    assert (hits.sum(-1) == 1).all()
    share = weights.double() / 10
    error = (hits.double().mean(0) - share) / (share * (1 - share) / n).sqrt()
    assert error.abs().max() < Z


def test_samples_at_one_level_are_data_and_noise_that_are_independent():
    # The same draws with another sigma: x = x0 + sigma eps with the same x0 and eps.
    target, *_ = mixture()
    drawn = [target.sample(5000, s, generator=torch.Generator().manual_seed(3)) for s in (0, 1, 2)]
    torch.testing.assert_close(drawn[2] - drawn[1], drawn[1] - drawn[0])
    noise, data = drawn[1] - drawn[0], drawn[0] - target.mean
    products = noise[:, :, None] * data[:, None, :]
    assert (products.mean(0) / (products.std(0) / math.sqrt(5000))).abs().max() < Z


def test_a_generator_makes_samples_reproducible():
    target, *_ = mixture()

    def draw(seed):
        return target.sample(10, 0.5, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    torch.manual_seed(5)
    first, second = target.sample(10), target.sample(10)
    torch.manual_seed(5)
    assert torch.equal(target.sample(10), first)
    assert not torch.equal(first, second)


def test_a_generator_leaves_the_global_one_alone():
    target, *_ = mixture()
    before = torch.get_rng_state()
    target.sample(10, 0.5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_degenerate_covariance_is_sampled_on_its_line():
    line = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    target = gaussian(torch.zeros(3), torch.outer(line, line))
    x = target.sample(1000, generator=torch.Generator().manual_seed(1))
    along = x @ line / line.dot(line)
    torch.testing.assert_close(x, along[:, None] * line, rtol=0.0, atol=1e-7)
    assert along.std() > 0.5


# --- bad input ---------------------------------------------------------------------------------

EYE = torch.eye(2)


@pytest.mark.parametrize(
    ("means", "covariances", "weights", "named"),
    [
        (torch.zeros(2, 2, 2), 1.0, None, "means"),
        (torch.zeros(0, 2), 1.0, None, "means"),
        (torch.zeros(2, 0), 1.0, None, "means"),
        (torch.tensor(1.0), 1.0, None, "means"),
        (torch.tensor([[0.0, math.nan]]), 1.0, None, "means"),
        (torch.tensor([[0.0, math.inf]]), 1.0, None, "means"),
        (torch.zeros(3, 2), torch.ones(2), None, "covariances"),
        (torch.zeros(3, 2), torch.ones(2, 2), None, "covariances"),
        (torch.zeros(3, 2), torch.ones(3, 2, 3), None, "covariances"),
        (torch.zeros(3, 2), math.nan, None, "covariances"),
        (torch.zeros(3, 2), math.inf, None, "covariances"),
        (torch.zeros(3, 2), 1.0, torch.ones(2), "weights"),
        (torch.zeros(3, 2), 1.0, torch.tensor([1.0, 0.0, 1.0]), "weights"),
        (torch.zeros(3, 2), 1.0, torch.tensor([1.0, -1.0, 1.0]), "weights"),
        (torch.zeros(3, 2), 1.0, torch.tensor([1.0, math.nan, 1.0]), "weights"),
        (torch.zeros(3, 2), 1.0, torch.tensor(1.0), "weights"),
    ],
)
def test_a_mixture_refuses_parts_that_do_not_fit(means, covariances, weights, named):
    with pytest.raises(ValueError, match=f"^{named} must be") as caught:
        GaussianMixture(means, covariances, weights)
    bad = {"means": means, "covariances": covariances, "weights": weights}[named]
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize(
    ("covariances", "value"),
    [
        (-0.5, "-0.5"),
        (torch.tensor([1.0, -0.25]), "-0.25"),
        (torch.tensor([[1.0, 1.0], [1.0, -2.0]]), "-2"),
        (torch.stack([EYE, torch.tensor([[0.0, 1.0], [1.0, 0.0]])]), "-1"),
    ],
)
def test_a_negative_variance_is_refused(covariances, value):
    with pytest.raises(ValueError, match="covariances must have eigenvalues >= 0") as caught:
        GaussianMixture(torch.zeros(2, 2), covariances)
    assert value in str(caught.value)


def test_a_covariance_that_is_not_symmetric_is_refused():
    skew = torch.stack([EYE, torch.tensor([[1.0, 0.5], [0.0, 1.0]])])
    with pytest.raises(ValueError, match=r"symmetric, got a gap of 0\.5"):
        GaussianMixture(torch.zeros(2, 2), skew)


def test_a_gaussian_refuses_a_mean_or_a_covariance_of_another_shape():
    with pytest.raises(ValueError, match=r"mean must have shape \(d,\), got shape \(1, 2\)"):
        gaussian(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"mean must have shape \(d,\), got shape \(\)"):
        gaussian(torch.tensor(0.0))
    for shape in [(3,), (2, 3), (1, 2, 2)]:
        with pytest.raises(ValueError, match="covariance must be a number or of shape") as caught:
            gaussian(torch.zeros(2), torch.ones(shape))
        assert str(shape) in str(caught.value)


@pytest.mark.parametrize("shape", [(4, 2), (4, 4), (4, 3, 2), (3, 1)])
@pytest.mark.parametrize("name", ["denoise", "score", "log_density"])
def test_a_state_of_another_size_is_refused(name, shape):
    target, *_ = mixture()
    with pytest.raises(ValueError, match=r"x must .* with 3 numbers per sample, got") as caught:
        getattr(target, name)(torch.zeros(shape), 1.0)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_a_state_that_is_not_floating_is_refused(dtype):
    target, *_ = mixture()
    with pytest.raises(ValueError, match="x must be floating") as caught:
        target.denoise(torch.zeros(4, 3, dtype=dtype), 1.0)
    assert str(dtype) in str(caught.value)


@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), (1, 4), (0,)])
@pytest.mark.parametrize("name", ["denoise", "score", "log_density"])
def test_noise_levels_that_do_not_fit_the_batch_are_refused(name, shape):
    target, *_ = mixture()
    with pytest.raises(ValueError, match=r"sigma must be a number or have shape \(4,\)") as caught:
        getattr(target, name)(torch.zeros(4, 3), torch.ones(shape))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("sigma", [-1.0, -1e-300, math.nan, math.inf, "1", True])
@pytest.mark.parametrize("name", ["denoise", "score", "log_density"])
def test_a_number_that_is_no_noise_level_is_refused(name, sigma):
    target, *_ = mixture()
    with pytest.raises(ValueError, match="sigma must be a finite number >= 0") as caught:
        getattr(target, name)(torch.zeros(4, 3), sigma)
    assert repr(sigma) in str(caught.value)


def test_a_cloud_has_no_answer_without_noise():
    target = point_cloud(torch.tensor([[0.0], [1.0]]))
    for name in ("denoise", "score", "log_density"):
        with pytest.raises(ValueError, match=r"sigma must be above 0 where .* no spread, got 0"):
            getattr(target, name)(torch.zeros(4, 1), 0.0)


@pytest.mark.parametrize("process", ["edm", None, VP])
def test_an_unknown_process_is_refused(process):
    target, *_ = mixture()
    x = torch.zeros(4, 3)
    for call in (
        lambda: target.denoise(x, 0.5, process),
        lambda: target.score(x, 0.5, process),
        lambda: target.log_density(x, 0.5, process),
        lambda: target.sample(3, 0.5, process),
        lambda: target.model(process),
    ):
        with pytest.raises(ValueError, match="process must be") as caught:
            call()
        assert repr(process) in str(caught.value)


def test_an_empty_batch_has_empty_answers():
    target = gaussian(torch.zeros(3))
    assert target.denoise(torch.zeros(0, 3), 1.0).shape == (0, 3)
    assert target.score(torch.zeros(0, 3), 1.0).shape == (0, 3)
    assert target.denoise(torch.zeros(0, 1, 3, 1), 1.0).shape == (0, 1, 3, 1)
    assert target.log_density(torch.zeros(0, 3), 1.0).shape == (0,)


@pytest.mark.parametrize(
    ("sigma", "process"), [(-1.0, "ve"), (math.nan, "ve"), (2.0, "vp"), (2.0, "flow")]
)
def test_a_noise_level_outside_the_process_is_refused(sigma, process):
    with pytest.raises(ValueError, match=f"sigma must .* got {sigma}"):
        gaussian(torch.zeros(3)).denoise(torch.zeros(1, 3), sigma, process)


@pytest.mark.parametrize("points", [torch.zeros(0, 2), torch.zeros(3), torch.tensor(1.0)])
def test_points_that_are_no_cloud_are_refused(points):
    with pytest.raises(ValueError, match=r"(points|means) must .* shape"):
        point_cloud(points)


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_a_number_of_samples_that_is_no_count_is_refused(n):
    with pytest.raises(ValueError, match=f"n must be an integer of at least 1, got {n}"):
        triangle().sample(n)
