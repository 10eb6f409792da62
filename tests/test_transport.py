"""Transport against closed forms, POT, brute force, exact samples, and sympy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import ot
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import expm, sqrtm
from scipy.optimize import minimize_scalar
from scipy.special import ndtr, ndtri
from scipy.stats import norm

from dpmpp_core import (
    GaussianMixture,
    Mesh,
    gaussian,
    point_cloud,
    step_table,
    symbolic,
    transport,
    triangle,
)
from dpmpp_core.transport import (
    coupling_epsilon,
    energy_distance,
    exact_step,
    first_order_step,
    gaussian_wasserstein,
    jko_gaussian,
    jko_line,
    langevin_gaussian,
    langevin_time,
    noisy,
    normal_scores,
    quantiles,
    schroedinger_coupling,
    sliced_wasserstein,
    wasserstein,
    wasserstein_floor,
)

UNIT = gaussian(torch.tensor([0.0]), 1.0)
WIDE = gaussian(torch.tensor([0.5]), 1.5)
MODES = GaussianMixture(
    torch.tensor([[-1.0], [0.5], [2.0]]),
    torch.tensor([0.05, 0.1, 0.02], dtype=torch.float64),
    torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64),
)
SIGMAS = {"ve": [2.0, 1.2], "vp": [0.8, 0.6], "flow": [0.7, 0.5]}

fixed = settings(derandomize=True, deadline=None, max_examples=40)
numbers = st.floats(-100.0, 100.0, allow_subnormal=False)
samples = st.lists(numbers, min_size=2, max_size=12)


def covariance(d, seed):
    root = torch.from_numpy(np.random.default_rng(seed).standard_normal((d, d)))
    return root @ root.mT + 0.1 * torch.eye(d, dtype=torch.float64)


def random_gaussian(d, seed):
    return gaussian(
        torch.from_numpy(np.random.default_rng(seed).standard_normal(d)), covariance(d, seed + 100)
    )


def line(variance, mean=0.7):
    return gaussian(torch.tensor([mean], dtype=torch.float64), variance)


def drawn(law, n, seed):
    return law.sample(n, generator=torch.Generator().manual_seed(seed))


def slope(errors):
    """The order of errors at steps that halve."""
    return np.log2(np.asarray(errors)[:-1] / np.asarray(errors)[1:])


# --- the distance on the line -------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(2, 2), (7, 7), (30, 60), (50, 73)])
@pytest.mark.parametrize("weighted", [False, True])
def test_on_the_line_the_distance_is_that_of_pot(n, m, weighted):
    rng = np.random.default_rng(n + m)
    x, y = rng.standard_normal(n), 1.0 + 2.0 * rng.standard_normal(m)
    p, q = (rng.random(n), rng.random(m)) if weighted else (np.ones(n), np.ones(m))
    square = ot.emd2_1d(x, y, p / p.sum(), q / q.sum())
    weights = (p, q) if weighted else (None, None)
    assert wasserstein(x, y, *weights).value == pytest.approx(math.sqrt(square), rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (12, 18), (9, 16)])
def test_the_potentials_behind_the_error_are_dual_optimal(n, m):
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal(n), 1.0 + 2.0 * rng.standard_normal(m)
    p, q = np.full(n, 1.0 / n), np.full(m, 1.0 / m)
    square, u, v = transport._line(x, y, p, q)
    slack = (x[:, None] - y) ** 2 - u[:, None] - v
    # Up to the constant that is free, they are feasible and leave no duality gap.
    assert slack.min() == pytest.approx(square - p @ u - q @ v, abs=1e-12)


@fixed
@given(samples, samples, samples)
def test_the_distance_is_a_metric_on_samples(x, y, z):
    def distance(a, b):
        return wasserstein(np.array(a), np.array(b)).value

    # A level of a sample's weights carries a rounding of 1e-16, and its root shows.
    assert distance(x, y) == pytest.approx(distance(y, x), abs=1e-5)
    assert distance(x, z) <= distance(x, y) + distance(y, z) + 1e-5
    assert distance(x, x[::-1]) == 0.0


@fixed
@given(samples, samples, numbers, st.floats(0.01, 100.0))
def test_the_distance_scales_and_the_shift_splits_off(x, y, shift, scale):
    x, y = np.array(x), np.array(y)
    there = wasserstein(x, y)
    scaled = wasserstein(-scale * x, -scale * y)
    assert scaled.value == pytest.approx(scale * there.value, rel=1e-6, abs=1e-5 * scale)
    gap = x.mean() - y.mean()
    moved = wasserstein(x + shift, y).value ** 2
    expected = there.value**2 - gap**2 + (gap + shift) ** 2
    assert moved == pytest.approx(expected, rel=1e-7, abs=1e-6)


def test_two_points_against_the_unit_gaussian_have_the_distance_done_by_hand():
    # Half of the mass goes to each point: the cells' means are -+ 2 phi(0).
    for a, b in [(-1.0, 1.0), (0.3, 2.0), (-4.0, -3.5)]:
        square = (a**2 + b**2) / 2.0 + 1.0 - 2.0 * (b - a) * norm.pdf(0.0)
        found = wasserstein([b, a], UNIT).value
        assert found == pytest.approx(math.sqrt(square), rel=1e-14)


@pytest.mark.parametrize("law", [MODES, noisy(MODES, 0.5), WIDE])
def test_a_sample_and_a_law_have_the_distance_of_the_sample_and_the_laws_quantiles(law):
    x = drawn(law, 150, 1)
    weights = np.arange(1.0, 151.0)
    t = (np.arange(200_000) + 0.5) / 200_000
    fine = quantiles(law, ndtri(t))
    for p in (None, weights):
        exact = wasserstein(x, law, p)
        close = wasserstein(x, fine, p)
        assert exact.value == pytest.approx(close.value, abs=1e-4)
        # The law has no spread of its own; so many points nearly none.
        assert exact.error == pytest.approx(close.error, rel=2e-3)


def test_points_of_weight_zero_count_for_nothing():
    x, p = np.array([-50.0, 0.0, 1.0, 70.0]), np.array([0.0, 1.0, 3.0, 0.0])
    for y in (UNIT, np.array([0.5, 2.0, 4.0])):
        whole, part = wasserstein(x, y, p), wasserstein(x[1:3], y, p[1:3])
        assert whole.value == pytest.approx(part.value, rel=1e-12)
        assert whole.error == pytest.approx(part.error, rel=1e-9)


@pytest.mark.parametrize("law", [UNIT, MODES, noisy(MODES, 3.0)])
def test_quantiles_invert_the_distribution_function(law):
    z = np.linspace(-8.0, 8.0, 999)
    x = quantiles(law, z).numpy()[:, None]
    w, m, s = (t.numpy().ravel() for t in (law.weights, law.means, law.covariances.sqrt()))
    assert (np.diff(x[:, 0]) > 0.0).all()
    for sign in (1.0, -1.0):
        tail = sign * z < 0.0
        mass = ndtr(sign * (x[tail] - m) / s) @ w
        np.testing.assert_allclose(mass, ndtr(sign * z[tail]), rtol=1e-12)


@pytest.mark.parametrize("n", [33, 100])
def test_the_distance_of_two_gaussians_is_the_sum_over_normal_scores(n):
    z, w = normal_scores(n)
    square = float(w @ (quantiles(UNIT, z) - quantiles(WIDE, z)) ** 2)
    assert square == pytest.approx(gaussian_wasserstein(UNIT, WIDE) ** 2, rel=1e-9)


# --- the distance in more dimensions -------------------------------------------------------------


def test_in_space_the_distance_is_that_of_the_best_permutation():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((6, 3)), 0.5 + 2.0 * rng.standard_normal((6, 3))
    costs = [
        ((x - y[list(order)]) ** 2).sum(axis=1).mean() for order in itertools.permutations(range(6))
    ]
    assert wasserstein(x, y).value == pytest.approx(math.sqrt(min(costs)), rel=1e-12)


def test_points_on_a_line_in_space_have_the_distance_of_the_line():
    rng = np.random.default_rng(4)
    x, y, p = rng.standard_normal(40), 1.0 + rng.standard_normal(25), rng.random(40)
    axis = np.array([0.6, 0.0, 0.8])
    flat = wasserstein(x, y, p)
    space = wasserstein(x[:, None] * axis, y[:, None] * axis, p)
    assert space.value == pytest.approx(flat.value, rel=1e-10)
    assert space.error == pytest.approx(flat.error, rel=0.05)


def test_the_distance_of_gaussians_is_that_of_pot_and_of_their_samples():
    p, q = random_gaussian(3, 0), random_gaussian(3, 1)
    exact = gaussian_wasserstein(p, q)
    theirs = ot.gaussian.bures_wasserstein_distance(
        *(t.numpy() for t in (p.mean, q.mean, p.covariance, q.covariance))
    )
    assert exact == pytest.approx(float(theirs), rel=1e-10)
    assert gaussian_wasserstein(q, p) == pytest.approx(exact, rel=1e-12)
    found = wasserstein(drawn(p, 800, 0), drawn(q, 800, 1))
    assert abs(found.value - exact) < 4.0 * found.error


def test_the_distance_of_gaussians_keeps_its_digits_where_they_nearly_agree():
    for gap in (1e-3, 1e-6, 1e-9):
        S = covariance(4, 2)
        root = sqrtm(S.numpy()).real
        zero = torch.zeros(4)
        found = gaussian_wasserstein(gaussian(zero, S), gaussian(zero, (1.0 + gap) ** 2 * S))
        assert found == pytest.approx(gap * np.linalg.norm(root), rel=1e-5)
    flat = gaussian(torch.zeros(2), torch.tensor([4.0, 0.0]))
    assert gaussian_wasserstein(flat, gaussian(torch.ones(2), 1.0)) == pytest.approx(2.0)


def test_a_shift_moves_the_sliced_distance_by_its_root_mean_square_shadow():
    rng = np.random.default_rng(5)
    for d in (2, 3, 8):
        x, shift = rng.standard_normal((50, d)), rng.standard_normal(d)
        found = sliced_wasserstein(x, x + shift, directions=500)
        expected = np.linalg.norm(shift) / math.sqrt(d)
        if d == 2:
            assert found.value == pytest.approx(expected, rel=1e-12)
        else:
            assert abs(found.value - expected) < 4.0 * found.error


def test_the_sliced_distance_of_gaussians_is_the_mean_over_the_circle():
    # The shadow of N(m, S) on e is N(e m, e S e).
    p, q = random_gaussian(2, 0), random_gaussian(2, 1)
    angles = math.pi * np.arange(1000) / 1000
    e = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    (m, s), (n, t) = ((e @ g.mean, ((e @ g.covariance) * e).sum(1).sqrt()) for g in (p, q))
    exact = float(((m - n) ** 2 + (s - t) ** 2).mean().sqrt())
    found = sliced_wasserstein(drawn(p, 5000, 0), drawn(q, 5000, 1))
    assert abs(found.value - exact) < 4.0 * found.error


def test_the_spread_of_random_directions_is_part_of_the_error():
    # Two heaps: whatever spread there is comes from the directions.
    x, y = np.zeros((2, 3)), np.tile([1.0, 2.0, 3.0], (2, 1))
    values, errors = np.array([sliced_wasserstein(x, y, 50, seed) for seed in range(300)]).T
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.15)


def test_on_the_line_the_sliced_distance_is_the_distance():
    x, y = drawn(UNIT, 100, 0), drawn(WIDE, 70, 1)
    assert sliced_wasserstein(x, y, 4) == pytest.approx(wasserstein(x, y), rel=1e-9)


# --- the energy distance ------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 3])
def test_the_energy_distance_is_the_mean_over_distinct_pairs(d):
    rng = np.random.default_rng(d)
    x, y = rng.standard_normal((9, d)), 0.5 + rng.standard_normal((14, d))

    def mean(pairs):
        return np.mean([np.linalg.norm(a - b) for a, b in pairs])

    expected = (
        2.0 * mean(itertools.product(x, y))
        - mean(itertools.combinations(x, 2))
        - mean(itertools.combinations(y, 2))
    )
    assert energy_distance(x, y).value == pytest.approx(expected, rel=1e-12)


def test_the_energy_distance_of_two_gaussians_is_the_closed_form_within_its_error():
    def mean_size(m, s):
        return s * math.sqrt(2.0 / math.pi) * math.exp(-((m / s) ** 2) / 2) + m * (
            1.0 - 2.0 * norm.cdf(-m / s)
        )

    exact = 2.0 * mean_size(0.5, math.sqrt(2.5))
    exact -= mean_size(0.0, math.sqrt(2.0)) + mean_size(0.0, math.sqrt(3.0))
    found = energy_distance(drawn(UNIT, 20000, 0), drawn(WIDE, 30000, 1))
    assert abs(found.value - exact) < 3.0 * found.error
    assert found.error < 0.1 * exact


# --- standard errors ----------------------------------------------------------------------------


def repeated(statistic, law, other, n, repeats):
    """The ratio of the error that is claimed to the spread that is there, and the mean value."""
    found = [statistic(drawn(law, n, i), drawn(other, n, 9999 - i)) for i in range(repeats)]
    values, errors = np.array(found).T
    return math.sqrt((errors**2).mean()) / values.std(ddof=1), values.mean()


@pytest.mark.parametrize(
    ("statistic", "law", "other", "n", "repeats"),
    [
        (wasserstein, UNIT, WIDE, 500, 400),
        (lambda x, y: wasserstein(x, WIDE), UNIT, UNIT, 500, 400),
        (energy_distance, UNIT, WIDE, 500, 400),
        (
            lambda x, y: sliced_wasserstein(x, y, 12),
            triangle(),
            gaussian(torch.tensor([1.0, 0.0]), 1.0),
            200,
            200,
        ),
        (wasserstein, random_gaussian(2, 0), random_gaussian(2, 3), 100, 200),
    ],
    ids=["line", "law", "energy", "sliced", "plane"],
)
def test_away_from_the_floor_the_error_is_the_spread(statistic, law, other, n, repeats):
    ratio, _ = repeated(statistic, law, other, n, repeats)
    # The spread of that many values is known to one part in sqrt(2 repeats).
    assert abs(ratio - 1.0) < 3.0 / math.sqrt(2.0 * repeats)


@pytest.mark.parametrize(
    ("statistic", "law", "n", "repeats"),
    [
        (wasserstein, UNIT, 300, 400),
        (lambda x, y: wasserstein(x, MODES), MODES, 200, 200),
        (energy_distance, MODES, 300, 400),
        (lambda x, y: sliced_wasserstein(x, y, 12), triangle(), 100, 100),
        (wasserstein, triangle(), 60, 100),
    ],
    ids=["line", "law", "energy", "sliced", "plane"],
)
def test_at_the_floor_the_error_is_too_large_and_never_too_small(statistic, law, n, repeats):
    ratio, _ = repeated(statistic, law, law, n, repeats)
    assert 1.2 < ratio < 1.9


def test_the_variance_of_a_mean_has_no_bias():
    x = np.random.default_rng(0).standard_normal(5)
    assert transport._variance(x, np.full(5, 0.2)) == pytest.approx(x.var(ddof=1) / 5)


def test_the_energy_distance_has_no_floor_and_the_others_have():
    _, energy = repeated(energy_distance, UNIT, UNIT, 50, 400)
    assert abs(energy) < 0.006
    _, distance = repeated(wasserstein, UNIT, UNIT, 50, 100)
    assert distance > 0.25


def test_the_floor_is_the_mean_over_exact_samples_and_falls_with_their_size():
    small, large = wasserstein_floor(UNIT, 100, 200, seed=1), wasserstein_floor(UNIT, 1600, 200)
    rng = np.random.default_rng(0)
    x, y = np.sort(rng.standard_normal((2, 2000, 100)), axis=-1)
    by_sorting = np.sqrt(((x - y) ** 2).mean(axis=1))
    assert abs(small.value - by_sorting.mean()) < 4.0 * small.error
    assert small.error == pytest.approx(by_sorting.std(ddof=1) / math.sqrt(200), rel=0.2)
    # sqrt(log log n / n): a little less than one over the root of the size.
    assert 3.0 < small.value / large.value < 4.0


# --- Gaussian flows and the JKO step ------------------------------------------------------------


def test_sympy_finds_the_jko_step_of_a_gaussian_on_the_line():
    s, s_old, m, m_old, v, tau = sympy.symbols("s s_old m m_old v tau", positive=True)
    mu = sympy.Symbol("mu", real=True)
    distance = ((m - m_old) ** 2 + (s - s_old) ** 2) / (2 * tau)
    divergence = (s**2 / v + (m - mu) ** 2 / v - 1 - sympy.log(s**2 / v)) / 2
    (mean,) = sympy.solve(sympy.diff(distance + divergence, m), m)
    roots = sympy.solve(sympy.diff(distance + divergence, s), s)
    # Convex in s > 0, and of the two roots one is above 0.
    assert sympy.diff(distance + divergence, s, 2).subs({s: 1}).is_positive
    at = {s_old: 1.3, v: 0.4, tau: 0.25, m_old: 2.0, mu: -0.5}
    (spread,) = [root for root in (r.subs(at) for r in roots) if root > 0]
    found = jko_gaussian(line(1.3**2, 2.0), line(0.4, -0.5), 0.25)
    assert float(found.mean) == pytest.approx(float(mean.subs(at)), rel=1e-14)
    assert float(found.covariance) == pytest.approx(float(spread) ** 2, rel=1e-13)


def jko_objective(law, old, target, tau):
    S, V = law.covariance.numpy(), target.covariance.numpy()
    gap = (law.mean - target.mean).numpy()
    inverse = np.linalg.inv(V)
    divergence = np.trace(inverse @ S) + gap @ inverse @ gap - len(S)
    divergence -= np.linalg.slogdet(S)[1] - np.linalg.slogdet(V)[1]
    root = sqrtm(old.covariance.numpy()).real
    distance = np.trace(S) + np.trace(root @ root) - 2.0 * np.trace(sqrtm(root @ S @ root).real)
    distance += float((law.mean - old.mean).square().sum())
    return distance / (2.0 * tau) + 0.5 * divergence


def test_the_jko_step_is_the_minimum_where_nothing_commutes():
    old, target, tau = random_gaussian(3, 0), random_gaussian(3, 1), 0.3
    found = jko_gaussian(old, target, tau)
    least = jko_objective(found, old, target, tau)
    rng = np.random.default_rng(2)
    for size in (1e-4, 1e-2):
        for _ in range(10):
            turn = torch.from_numpy(rng.standard_normal((3, 3)))
            move = torch.from_numpy(rng.standard_normal(3))
            mean, spread = found.mean + size * move, size * (turn + turn.mT)
            rise = [
                jko_objective(gaussian(mean, found.covariance + sign * spread), old, target, tau)
                - least
                for sign in (1.0, -1.0)
            ]
            assert min(rise) > 0.0


def test_the_target_does_not_move_and_all_else_comes_to_it():
    target = random_gaussian(3, 1)
    still = jko_gaussian(target, target, 0.7)
    assert gaussian_wasserstein(still, target) < 1e-14
    law = random_gaussian(3, 5)
    for _ in range(400):
        law = jko_gaussian(law, target, 1.0)
    assert gaussian_wasserstein(law, target) < 1e-10
    point = gaussian(torch.zeros(3), 0.0)
    assert torch.linalg.eigvalsh(jko_gaussian(point, target, 1e-3).covariance)[0] > 0.0
    assert gaussian_wasserstein(langevin_gaussian(point, target, 0.0), point) < 1e-15


def test_the_langevin_flow_solves_its_equations():
    law, target, time = random_gaussian(3, 0), random_gaussian(3, 1), 0.4
    inverse = np.linalg.inv(target.covariance.numpy())
    mean, spread = law.mean.numpy(), law.covariance.numpy()

    def rates(t, y):
        m, S = y[:3], y[3:].reshape(3, 3)
        return np.concatenate(
            [
                -inverse @ (m - target.mean.numpy()),
                (2.0 * np.eye(3) - inverse @ S - S @ inverse).ravel(),
            ]
        )

    start = np.concatenate([mean, spread.ravel()])
    end = solve_ivp(rates, (0.0, time), start, rtol=1e-11, atol=1e-12).y[:, -1]
    found = langevin_gaussian(law, target, time)
    np.testing.assert_allclose(found.mean, end[:3], rtol=1e-8)
    np.testing.assert_allclose(found.covariance, end[3:].reshape(3, 3), rtol=1e-8)
    decay = expm(-time * inverse)
    np.testing.assert_allclose(
        found.mean, target.mean.numpy() + decay @ (mean - target.mean.numpy())
    )


def test_many_small_jko_steps_are_the_langevin_flow_to_first_order():
    law, target = random_gaussian(3, 0), random_gaussian(3, 1)
    exact = langevin_gaussian(law, target, 0.5)
    errors = []
    for steps in (32, 64, 128):
        found = law
        for _ in range(steps):
            found = jko_gaussian(found, target, 0.5 / steps)
        errors.append(gaussian_wasserstein(found, exact))
    np.testing.assert_allclose(slope(errors), 1.0, atol=0.05)


@pytest.mark.parametrize("n", [33, 64, 257])
@pytest.mark.parametrize("tau", [1e-3, 0.2, 30.0])
def test_on_the_line_the_solver_gives_the_gaussian_closed_form(n, tau):
    z, _ = normal_scores(n)
    old, target = line(2.0, 1.0), line(0.3, -0.5)
    found = jko_line(quantiles(old, z), target, tau)
    expected = quantiles(jko_gaussian(old, target, tau), z)
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_the_solver_on_the_line_is_of_second_order_in_the_scores():
    fine, _ = normal_scores(2049)
    old, target = noisy(MODES, 1.0), noisy(MODES, 0.5)
    best = jko_line(quantiles(old, fine), target, 0.02)
    errors = []
    for n in (129, 257, 513):
        z, w = normal_scores(n)
        gap = jko_line(quantiles(old, z), target, 0.02) - best[:: 2048 // (n - 1)]
        errors.append(float((w @ gap**2).sqrt()))
    np.testing.assert_allclose(slope(errors), 2.0, atol=0.2)


def test_a_small_jko_step_moves_every_observable_at_the_generators_rate():
    # d/dt E f = E (f' score + f'') for the flow, with the expectation taken by quadrature.
    old, target = noisy(MODES, 0.7), noisy(MODES, 0.4)
    z, w = normal_scores(1025)
    x = quantiles(old, z)
    score = target.score(x[:, None], 0.0)[:, 0]
    rates = {
        "mean": (lambda t: t, score),
        "square": (lambda t: t**2, 2.0 * x * score + 2.0),
        "cosine": (lambda t: torch.cos(t), -torch.sin(x) * score - torch.cos(x)),
    }
    for observable, rate in rates.values():
        gaps = []
        for tau in (2e-3, 1e-3, 5e-4):
            moved = float(w @ (observable(jko_line(x, target, tau)) - observable(x)))
            gaps.append(abs(moved / tau - float(w @ rate)))
        assert gaps[-1] < 0.02 * abs(float(w @ rate))
        np.testing.assert_allclose(slope(gaps), 1.0, atol=0.15)


@pytest.mark.parametrize("tau", [0.01, 0.1, 10.0])
def test_a_jko_step_pays_for_its_way_with_the_divergence(tau):
    # Where the target is not log-concave and tau large, too: the solver descends.
    target = noisy(MODES, 0.1)
    z, w = normal_scores(513)

    def divergence(t):
        entropy = torch.log(torch.diff(t) / (z[1] - z[0]))
        between = 0.5 * (w[1:] + w[:-1])
        return -float(between @ entropy) - float(w @ target.log_density(t[:, None]))

    x = quantiles(line(1.0), z)
    for _ in range(3):
        new = jko_line(x, target, tau)
        assert (torch.diff(new) > 0.0).all()
        paid = float(w @ (new - x) ** 2) / (2.0 * tau)
        assert divergence(x) - divergence(new) > paid > 0.0
        x = new


# --- the sampler's step and its Langevin part ---------------------------------------------------


@pytest.mark.parametrize("process", SIGMAS)
@pytest.mark.parametrize("eta", [0.25, 1.0, 3.0])
def test_the_step_is_the_ode_step_and_then_langevin_with_the_estimate_held(process, eta):
    mesh = Mesh.from_sigmas(SIGMAS[process], process)
    whole, flow = step_table(mesh, eta)[0], step_table(mesh, 0.0)[0]
    # Langevin towards N(alpha x0, sigma^2), by the closed form, with x0 = 1 and with y = 1.
    level = mesh.sigma[1]
    towards = gaussian(torch.tensor([mesh.alpha[1]], dtype=torch.float64), level**2)
    after = langevin_gaussian(line(0.0, 1.0), towards, langevin_time(mesh, 0, eta))
    decay = math.exp(-langevin_time(mesh, 0, eta) / level**2)
    assert float(after.mean) == pytest.approx(decay + (1.0 - decay) * mesh.alpha[1])
    assert pytest.approx(decay * flow.A, rel=1e-13) == whole.A
    assert pytest.approx(decay * flow.B + (1.0 - decay) * mesh.alpha[1], rel=1e-13) == whole.B
    assert pytest.approx(float(after.covariance), rel=1e-12) == whole.D**2


@pytest.mark.parametrize("process", SIGMAS)
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_step_jko_and_flow_agree_to_first_order(process, eta):
    data, start = line(0.8), line(1.5, 2.0)
    gaps = {"jko": [], "step": [], "move": []}
    for h in (0.01, 0.005, 0.0025):
        first = SIGMAS[process][0]
        if process == "ve":
            second = first * math.exp(-h)
        elif process == "vp":
            odds = math.sqrt(1.0 - first**2) / first * math.exp(h)
            second = 1.0 / math.hypot(1.0, odds)
        else:
            second = 1.0 / (1.0 + (1.0 - first) / first * math.exp(h))
        mesh = Mesh.from_sigmas([first, second], process)
        y = first_order_step(data, mesh, 0, 0.0, law=start).law
        whole = first_order_step(data, mesh, 0, eta, law=start).law
        towards, tau = noisy(data, second, process), langevin_time(mesh, 0, eta)
        flow = langevin_gaussian(y, towards, tau)
        gaps["jko"].append(gaussian_wasserstein(jko_gaussian(y, towards, tau), flow))
        gaps["step"].append(gaussian_wasserstein(whole, flow))
        gaps["move"].append(gaussian_wasserstein(y, flow))
    np.testing.assert_allclose(slope(gaps["move"]), 1.0, atol=0.1)
    np.testing.assert_allclose(slope(gaps["jko"]), 2.0, atol=0.1)
    np.testing.assert_allclose(slope(gaps["step"]), 2.0, atol=0.1)


@pytest.mark.parametrize("process", SIGMAS)
def test_the_first_order_step_is_the_samplers_own(process):
    # A run's second step without its history: the moments of the affine recursion.
    from dpmpp_core.moments import affine_moments, gaussian_denoiser, step_grid

    mesh = Mesh.from_sigmas([*SIGMAS[process], 0.3, 0.0], process)
    for eta, s_noise in [(0.0, 1.0), (1.0, 0.8), (0.5, 1.1)]:
        grid = step_grid(mesh, eta, s_noise)
        grid = grid._replace(C=torch.zeros_like(grid.C))
        denoiser = gaussian_denoiser(mesh, 0.7, 0.8)
        truth = affine_moments(grid, *denoiser, initial=(2.0, 1.5))
        law = line(1.5, 2.0)
        for k in range(mesh.steps):
            step = first_order_step(line(0.8), mesh, k, eta, s_noise, law)
            response = grid.A[k] + grid.B[k] * denoiser.gain[k]
            assert float(step.cross) == pytest.approx(float(response * law.covariance), rel=1e-12)
            law = step.law
            assert float(law.mean) == pytest.approx(float(truth.mean[k + 1]), rel=1e-12)
            assert float(law.covariance) == pytest.approx(float(truth.variance[k + 1]), rel=1e-12)


@pytest.mark.parametrize("process", SIGMAS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
def test_the_exact_step_solves_the_equations_of_the_sde(process, eta):
    data = random_gaussian(2, 0)
    mesh = Mesh.from_sigmas(SIGMAS[process], process)
    V = data.covariance.numpy()
    start = noisy(data, mesh.sigma[0], process)

    def levels(lam):
        odds = math.exp(lam)
        if process == "ve":
            return 1.0, 1.0 / odds, 0.0
        if process == "vp":
            sigma = 1.0 / math.hypot(1.0, odds)
            return sigma * odds, sigma, sigma**2
        sigma = 1.0 / (1.0 + odds)
        return sigma * odds, sigma, sigma

    # dx = (alpha'/alpha x + (1 + eta) sigma^2 score) dlam + sqrt(2 eta) sigma dW, from the mean.
    def rates(lam, y):
        alpha, sigma, pull = levels(lam)
        S, cross = y.reshape(2, 2, 2)
        matrix = np.linalg.inv(alpha**2 * V + sigma**2 * np.eye(2))
        matrix = pull * np.eye(2) - (1.0 + eta) * sigma**2 * matrix
        growth = matrix @ S + S @ matrix + 2.0 * eta * sigma**2 * np.eye(2)
        return np.concatenate([growth.ravel(), (cross @ matrix).ravel()])

    S = start.covariance.numpy().ravel()
    end = solve_ivp(rates, mesh.lam, np.concatenate([S, S]), rtol=1e-11, atol=1e-13).y[:, -1]
    found = exact_step(data, mesh, 0, eta)
    np.testing.assert_allclose(found.law.covariance.numpy().ravel(), end[:4], rtol=1e-8)
    np.testing.assert_allclose(found.cross.numpy().ravel(), end[4:], rtol=1e-7)


# --- bridges ------------------------------------------------------------------------------------


def test_the_coupling_is_that_of_sinkhorn():
    p, q, epsilon = line(0.5, 0.0), line(1.4, 0.6), 0.8
    x = np.linspace(-7.0, 8.0, 301)
    a, b = (np.exp(g.log_density(torch.from_numpy(x)[:, None]).numpy()) for g in (p, q))
    a, b = a / a.sum(), b / b.sum()
    costs = (x[:, None] - x) ** 2 / 2.0
    plan = ot.sinkhorn(a, b, costs, epsilon, method="sinkhorn_log", stopThr=1e-12)
    cross = x @ plan @ x - (x @ a) * (x @ b)
    assert float(schroedinger_coupling(p, q, epsilon)) == pytest.approx(cross, rel=1e-8)


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 50.0])
def test_the_coupling_is_the_published_formula_and_epsilon_comes_back(epsilon):
    p, q = random_gaussian(3, 0), random_gaussian(3, 1)
    S, T = p.covariance.numpy(), q.covariance.numpy()
    root = sqrtm(S).real
    middle = sqrtm(4.0 * root @ T @ root + epsilon**2 * np.eye(3)).real
    published = 0.5 * (root @ middle @ np.linalg.inv(root) - epsilon * np.eye(3))
    found = schroedinger_coupling(p, q, epsilon)
    np.testing.assert_allclose(found, published, rtol=1e-9, atol=1e-11)
    matrix = coupling_epsilon(p, q, found)
    np.testing.assert_allclose(matrix, epsilon * np.eye(3), atol=1e-10 * max(epsilon, 1.0))


def test_epsilon_is_the_inverse_of_the_mixed_derivative_of_the_log_density():
    joint = covariance(6, 3)
    precision = np.linalg.inv(joint.numpy())
    p, q = gaussian(torch.zeros(3), joint[:3, :3]), gaussian(torch.zeros(3), joint[3:, 3:])
    found = coupling_epsilon(p, q, joint[:3, 3:])
    np.testing.assert_allclose(found.numpy() @ -precision[:3, 3:], np.eye(3), atol=1e-9)


def test_the_coupling_is_the_least_of_its_problem():
    # On the line: half the mean square distance, and epsilon times the mutual information.
    p, q, epsilon = line(0.5, 0.0), line(1.4, 0.6), 0.8

    def objective(c):
        mean_square = 0.5 * (0.5 + 1.4 - 2.0 * c + 0.36)
        return mean_square - 0.5 * epsilon * math.log(1.0 - c**2 / (0.5 * 1.4))

    least = minimize_scalar(
        objective, bounds=(-0.83, 0.83), method="bounded", options={"xatol": 1e-12}
    )
    assert float(schroedinger_coupling(p, q, epsilon)) == pytest.approx(least.x, abs=1e-7)


def test_without_epsilon_the_coupling_is_optimal_transport_and_with_much_none():
    p, q = random_gaussian(3, 0), random_gaussian(3, 1)
    cross = schroedinger_coupling(p, q, 0.0)
    square = (p.covariance + q.covariance - 2.0 * cross).trace() + (p.mean - q.mean).square().sum()
    assert math.sqrt(float(square)) == pytest.approx(gaussian_wasserstein(p, q), rel=1e-12)
    far = schroedinger_coupling(p, q, 1e8)
    np.testing.assert_allclose(1e8 * far, p.covariance @ q.covariance, rtol=1e-5)
    point = gaussian(torch.zeros(3), 0.0)
    assert (schroedinger_coupling(point, q, 0.0) == 0.0).all()


@pytest.mark.parametrize("process", SIGMAS)
@pytest.mark.parametrize("eta", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("d", [1, 3])
def test_for_isotropic_data_a_step_is_entropic_transport_with_this_epsilon(process, eta, d):
    mesh = Mesh.from_sigmas(SIGMAS[process], process)
    alpha, sigma = mesh.alpha[0], mesh.sigma[0]
    row = step_table(mesh, eta)[0]
    for v in (0.0, 0.5, 20.0):
        data = gaussian(torch.ones(d), v)
        gain = alpha * v / (alpha**2 * v + sigma**2)
        epsilon = row.D**2 / (row.A + row.B * gain)
        before, step = noisy(data, sigma, process), first_order_step(data, mesh, 0, eta)
        found = schroedinger_coupling(before, step.law, epsilon)
        np.testing.assert_allclose(found, step.cross, atol=1e-12 * float(step.cross.abs().max()))
        matrix = coupling_epsilon(before, step.law, step.cross)
        np.testing.assert_allclose(matrix, epsilon * np.eye(d), atol=1e-10 * epsilon)


@pytest.mark.parametrize("process", SIGMAS)
@pytest.mark.parametrize("eta", [0.25, 1.0, 2.0])
def test_the_sdes_own_epsilon_is_free_of_the_data_at_eta_1_only(process, eta):
    mesh = Mesh.from_sigmas(SIGMAS[process], process)
    (s, t), (alpha, beta) = mesh.sigma, mesh.alpha
    found = []
    for v in (0.0, 0.5, 20.0):
        data = line(v)
        step = exact_step(data, mesh, 0, eta)
        epsilon = float(coupling_epsilon(noisy(data, s, process), step.law, step.cross))
        here, there = math.hypot(alpha * math.sqrt(v), s), math.hypot(beta * math.sqrt(v), t)
        ratio = here / alpha / (there / beta)
        closed = here * there * (ratio**eta - ratio**-eta)
        assert epsilon == pytest.approx(closed, rel=1e-10)
        found.append(epsilon)
    if eta == 1.0:
        bridge = alpha * beta * ((s / alpha) ** 2 - (t / beta) ** 2)
        assert found == pytest.approx([bridge] * 3, rel=1e-10)
    else:
        assert min(np.abs(np.diff(found))) > 1e-3


def test_for_other_gaussian_data_no_epsilon_fits_a_step():
    mesh = Mesh.from_sigmas([2.0, 1.0])
    data = gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 0.6]]))
    before = noisy(data, 2.0)
    for eta in (0.5, 1.0, 2.0):
        step = first_order_step(data, mesh, 0, eta)
        low, high = sorted(
            torch.linalg.eigvals(coupling_epsilon(before, step.law, step.cross)).real.tolist()
        )
        assert high / low > 1.3
        scale = float(step.cross.norm())
        misses = [
            float((schroedinger_coupling(before, step.law, e) - step.cross).norm()) / scale
            for e in np.linspace(0.5 * low, 2.0 * high, 100)
        ]
        assert min(misses) > 0.005
        exact = exact_step(data, mesh, 0, eta)
        values = torch.linalg.eigvals(coupling_epsilon(before, exact.law, exact.cross)).real
        assert (float(values.max() / values.min()) < 1.0 + 1e-12) == (eta == 1.0)


def test_at_eta_1_the_step_on_a_point_is_the_bridge_that_sympy_derives():
    mean, variance = symbolic.bridge()
    mesh = Mesh.from_sigmas([0.8, 0.6], "vp")
    at = {
        symbolic.sigma: mesh.sigma[0],
        symbolic.sigma_next: mesh.sigma[1],
        symbolic.alpha: mesh.alpha[0],
        symbolic.alpha_next: mesh.alpha[1],
    }
    response = float(sympy.diff(mean, symbolic.x_k).subs(at))
    spread = float(variance.subs(at))
    row = step_table(mesh, 1.0)[0]
    assert pytest.approx(response, rel=1e-12) == row.A
    assert pytest.approx(spread, rel=1e-12) == row.D**2
    point = line(0.0)
    step = exact_step(point, mesh, 0)
    epsilon = float(coupling_epsilon(noisy(point, 0.8, "vp"), step.law, step.cross))
    assert epsilon == pytest.approx(spread / response, rel=1e-12)


def pair_on_a_grid(sigma, sigma_next, eta):
    """The step's joint law of (x_k, x_{k+1}) for the mixture, and the forward process's."""
    x = torch.linspace(-3.5, 4.5, 121, dtype=torch.float64)
    row = step_table(Mesh.from_sigmas([sigma, sigma_next]), eta)[0]
    centre = row.A * x + row.B * MODES.denoise(x[:, None], sigma)[:, 0]
    step = MODES.log_density(x[:, None], sigma)[:, None]
    step = step - (x - centre[:, None]) ** 2 / (2.0 * row.D**2)
    forward = MODES.log_density(x[:, None], sigma_next)[None, :]
    forward = forward - (x[:, None] - x) ** 2 / (2.0 * (sigma**2 - sigma_next**2))
    step, forward = (torch.softmax(law.flatten(), 0).view(law.shape) for law in (step, forward))
    return x.numpy(), row, step.numpy(), forward.numpy()


def test_for_a_mixture_the_reverse_sde_is_entropic_transport_and_the_step_is_not():
    x, _, step, forward = pair_on_a_grid(0.8, 0.5, 1.0)

    def gap(joint, epsilon):
        costs = (x[:, None] - x) ** 2 / 2.0
        plan = ot.sinkhorn(
            joint.sum(1),
            joint.sum(0),
            costs,
            epsilon,
            method="sinkhorn_log",
            numItermax=500,
            stopThr=1e-7,
            warn=False,
        )
        return 0.5 * np.abs(plan - joint).sum()

    bridge = 0.8**2 - 0.5**2
    assert gap(forward, bridge) < 1e-9
    assert gap(forward, 1.1 * bridge) > 1e-2
    assert min(gap(step, factor * bridge) for factor in np.linspace(0.4, 1.0, 5)) > 0.02


def test_at_eta_1_the_step_keeps_the_mean_and_lacks_the_variance_of_the_estimate():
    x, row, _, forward = pair_on_a_grid(0.8, 0.5, 1.0)
    given_x = forward / forward.sum(axis=1, keepdims=True)
    mean, square = given_x @ x, given_x @ x**2
    state = torch.from_numpy(x)[:, None].requires_grad_()
    estimate = MODES.denoise(state, 0.8)
    (gain,) = torch.autograd.grad(estimate.sum(), state)
    # Cov(x0 | x) = sigma^2 times the slope of the denoiser.
    lack = row.B**2 * 0.8**2 * gain[:, 0].numpy()
    inside = slice(36, 84)
    expected = row.A * x + row.B * estimate.detach()[:, 0].numpy()
    np.testing.assert_allclose(mean[inside], expected[inside], atol=1e-8)
    spread = (square - mean**2)[inside]
    np.testing.assert_allclose(spread, (row.D**2 + lack)[inside], atol=1e-7)
    assert lack[inside].min() > 0.05 * row.D**2


# --- laws and refusals --------------------------------------------------------------------------


@pytest.mark.parametrize("process", SIGMAS)
@pytest.mark.parametrize(
    "law", [MODES, triangle(), gaussian(torch.ones(2), torch.tensor([1.0, 2.0]))]
)
def test_a_noisy_law_has_the_density_of_the_law_at_its_level(process, law):
    sigma = SIGMAS[process][0]
    x = drawn(law, 20, 0)
    found = noisy(law, sigma, process).log_density(x)
    torch.testing.assert_close(found, law.log_density(x, sigma, process), rtol=1e-12, atol=1e-12)


MESH = Mesh.from_sigmas([2.0, 1.0])
PLANE = gaussian(torch.zeros(2), 1.0)
POINT = point_cloud(torch.zeros(1, 1))
SCORES = torch.linspace(-3.0, 3.0, 40)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: wasserstein([1.0], [1.0, 2.0]), "x must be a sample of at least two points"),
        (lambda: wasserstein([1.0, 2.0], 3.0), "y must be a sample of at least two points"),
        (lambda: wasserstein([1.0, math.nan], [1.0, 2.0]), "x must be finite, got nan"),
        (lambda: wasserstein("ab", [1.0, 2.0]), "x must be a number or an array of numbers"),
        (lambda: wasserstein([1.0, 2.0], [1.0, 2.0], [1.0, -1.0]), "x_weights must be at least 0"),
        (lambda: wasserstein([1.0, 2.0], [1.0, 2.0], [1.0, 0.0]), "x_weights must have shape"),
        (lambda: wasserstein([1.0, 2.0], [1.0, 2.0], None, [1.0]), "y_weights must have shape"),
        (lambda: wasserstein([1.0, 2.0], UNIT, None, [1.0]), "y must be a sample, not a law"),
        (lambda: wasserstein(torch.zeros(3, 2), PLANE), "y must be a sample, not a law"),
        (lambda: wasserstein([1.0, 2.0], PLANE), "law must be a GaussianMixture of dimension 1"),
        (lambda: wasserstein([1.0, 2.0], POINT), "law must have components of variance above 0"),
        (lambda: wasserstein(torch.zeros(3, 2), [1.0, 2.0]), "same numbers per point, got 2 and 1"),
        (lambda: wasserstein(torch.zeros(5000, 2), torch.zeros(5000, 2)), "at most 16777216 pairs"),
        (lambda: sliced_wasserstein(torch.zeros(3, 2), torch.zeros(3, 2), 1), "directions must be"),
        (lambda: energy_distance([1.0], [1.0, 2.0]), "x must be a sample of at least two points"),
        (lambda: wasserstein_floor(UNIT, 10, 1), "repeats must be an integer of at least 2"),
        (lambda: wasserstein_floor(UNIT, 0), "n must be an integer of at least 1"),
        (lambda: normal_scores(32), "n must be an integer of at least 33, got 32"),
        (lambda: quantiles(UNIT, 40.0), "z must be from -37 to 37, got 40"),
        (lambda: noisy(UNIT, -1.0), "sigma must be a finite number >= 0, got -1.0"),
        (lambda: noisy(UNIT, 1.5, "vp"), "sigma must be at most 1 for process 'vp', got 1.5"),
        (lambda: gaussian_wasserstein(UNIT, PLANE), "law and other must have the same dimension"),
        (lambda: gaussian_wasserstein(MODES, UNIT), "law must be a Gaussian"),
        (lambda: jko_gaussian(UNIT, UNIT, 0.0), "tau must be a finite number above 0, got 0.0"),
        (lambda: jko_gaussian(UNIT, POINT, 1.0), "target must have a covariance with eigenvalues"),
        (lambda: jko_line(SCORES.flip(0), UNIT, 1.0), "x must be at least 33 strictly increasing"),
        (lambda: jko_line(SCORES[:32], UNIT, 1.0), "x must be at least 33 strictly increasing"),
        (lambda: jko_line(SCORES, PLANE, 1.0), "law must be a GaussianMixture of dimension 1"),
        (lambda: langevin_gaussian(UNIT, UNIT, -1.0), "time must be a finite number >= 0"),
        (lambda: langevin_time(MESH, 1), "k must be an integer from 0 to 0, got 1"),
        (lambda: langevin_time(MESH, 0, -1.0), "eta must be a finite number >= 0, got -1.0"),
        (lambda: langevin_time([2.0, 1.0], 0), "mesh must be a Mesh"),
        (lambda: first_order_step(MODES, MESH, 0), "data must be a Gaussian"),
        (lambda: first_order_step(UNIT, MESH, True), "k must be an integer from 0 to 0, got True"),
        (lambda: first_order_step(UNIT, MESH, 0, law=PLANE), "data and law must have the same"),
        (lambda: exact_step(UNIT, MESH, 0, -0.5), "eta must be a finite number >= 0, got -0.5"),
        (lambda: schroedinger_coupling(UNIT, UNIT, -1.0), "epsilon must be a finite number >= 0"),
        (lambda: coupling_epsilon(PLANE, PLANE, 0.5), "cross must have shape (2, 2)"),
        (lambda: coupling_epsilon(UNIT, UNIT, 0.0), "cross must not be singular, got [[0.0]]"),
        (lambda: coupling_epsilon(POINT, UNIT, 0.5), "law must have a covariance with eigenvalues"),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused_by_name(call, words):
    with pytest.raises(ValueError) as refusal:
        call()
    assert words in str(refusal.value)


@fixed
@given(samples, samples, st.integers(0, 3))
def test_any_samples_have_finite_distances_with_errors(x, y, extra):
    # Repeated points, equal samples and several numbers per point included.
    x, y = (np.repeat(np.array(v)[:, None], extra + 1, axis=1) for v in (x, y))
    for found in (wasserstein(x, y), sliced_wasserstein(x, y, 4), energy_distance(x, y)):
        assert math.isfinite(found.value)
        assert math.isfinite(found.error)
        assert found.error >= 0.0
