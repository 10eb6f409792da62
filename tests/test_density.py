"""The law of the sampler against exact moments, nested quadrature, samples and closed forms."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import chi2, norm

from dpmpp_core import (
    GaussianMixture,
    IndependentNoise,
    Mesh,
    StepTable,
    gaussian,
    point_cloud,
    sample,
    schedule,
    step_table,
)
from dpmpp_core.density import Law, fokker_planck, kolmogorov_distance, sampler_law, state_laws
from dpmpp_core.moments import affine_moments, gaussian_moments

SOLVERS = ["midpoint", "heun"]
ENDS = {"ve": (20.0, 0.05), "vp": (0.99, 0.05), "flow": (0.99, 0.05)}
MIXTURE = GaussianMixture(
    torch.tensor([[-1.0], [0.5], [2.0]], dtype=torch.float64),
    torch.tensor([0.05, 0.1, 0.02], dtype=torch.float64),
    torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64),
)
CLOUD = point_cloud(
    torch.tensor([[-1.0], [0.3], [2.0]], dtype=torch.float64), torch.tensor([0.2, 0.5, 0.3])
)


def even_mesh(steps, process="ve", ends=None, zero=False):
    """Even in log sigma between the ends; the last level may be 0 instead."""
    high, low = ends or ENDS[process]
    s = torch.linspace(math.log(high), math.log(low), steps + 1 - zero, dtype=torch.float64).exp()
    return Mesh.from_sigmas(s.tolist() + [0.0] * zero, process)


def at_level(target, mesh, k):
    """The exact law of level k, from the definition of the process."""
    variance = mesh.alpha[k] ** 2 * target.covariances.flatten() + mesh.sigma[k] ** 2
    return GaussianMixture(mesh.alpha[k] * target.means, variance, target.weights)


def normal(mean, variance):
    return gaussian(torch.tensor([mean], dtype=torch.float64), variance)


def without_history(table):
    return dataclasses.replace(table, C=(0.0,) * len(table))


# --- the law of the steps -----------------------------------------------------------------------


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(
    ("process", "eta", "s_noise", "solver_type"),
    [
        ("ve", 1.0, 1.0, "midpoint"),
        ("ve", 1.0, 1.4, "heun"),
        ("ve", 0.3, 0.7, "midpoint"),
        ("ve", 3.0, 1.0, "midpoint"),
        ("ve", 0.0, 1.0, "heun"),
        ("ve", 1.0, 0.0, "midpoint"),
        ("vp", 1.0, 1.0, "heun"),
        ("flow", 0.5, 1.2, "midpoint"),
    ],
)
def test_gaussian_data_give_the_normal_law_of_the_exact_moments(
    process, eta, s_noise, solver_type, zero
):
    mesh = even_mesh(7, process, zero=zero)
    knobs = eta, s_noise, solver_type
    laws = state_laws(step_table(mesh, *knobs), normal(0.4, 0.6), mesh, points=2000)
    moments = gaussian_moments(mesh, *knobs, mean=0.4, variance=0.6)
    assert len(laws) == mesh.steps + 1
    for k in (0, 1, 4, 7):
        law, mean, variance = laws[k], moments.mean[k], moments.variance[k]
        exact = norm(float(mean), float(variance.sqrt()))
        t = torch.tensor(exact.ppf([1e-6, 0.01, 0.2, 0.5, 0.77, 0.9999])).reshape(2, 3)
        assert law.mean() == pytest.approx(exact.mean(), abs=1e-9 * exact.std())
        assert law.mean(lambda x, m=mean: (x - m) ** 2) == pytest.approx(exact.var(), rel=1e-9)
        assert law.cdf(t).numpy() == pytest.approx(exact.cdf(t), abs=1e-9)
        assert law.density(t).numpy() == pytest.approx(exact.pdf(t), abs=1e-8 * exact.pdf(mean))


# From the table of facts that this package was planned with: another program, on another grid.
KNOWN = {
    "midpoint": (1.74e-2, 4.72e-3, 2.11e-3),
    "heun": (4.24e-2, 1.05e-2, 4.60e-3),
    "none": (-2.09e-1, -1.08e-1, -7.24e-2),
}


@pytest.mark.parametrize("history", KNOWN)
def test_the_second_moment_of_a_mixture_has_the_known_errors_and_slopes(history):
    steps = (16, 32, 48)
    errors = []
    for n in steps:
        mesh = even_mesh(n, ends=(20.0, 0.2))
        table = step_table(mesh, solver_type="heun" if history == "heun" else "midpoint")
        if history == "none":
            table = without_history(table)
        law = state_laws(table, MIXTURE, mesh)[-1]
        exact = float(MIXTURE.covariance + MIXTURE.mean**2) + mesh.sigma[-1] ** 2
        errors.append(law.mean(lambda x: x**2) - exact)
    assert errors == pytest.approx(KNOWN[history], rel=3e-3)
    slope = math.log(errors[1] / errors[2]) / math.log(steps[2] / steps[1])
    assert slope == pytest.approx(1.0 if history == "none" else 2.0, abs=0.05)


@pytest.mark.parametrize("solver_type", SOLVERS)
@pytest.mark.parametrize("process", ["ve", "flow"])
def test_three_steps_agree_with_nested_gauss_hermite_sums(process, solver_type):
    target = GaussianMixture(torch.tensor([[-0.8], [0.9]]), torch.tensor([0.5, 0.8]))
    mesh = even_mesh(3, process, ends=(0.9, 0.4))
    table = step_table(mesh, 0.8, 1.1, solver_type)
    points, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(36))
    weights = weights / weights.sum()

    first = at_level(target, mesh, 0)
    x = (first.means + first.covariances.sqrt()[:, None] * points).flatten()
    mass = torch.outer(first.weights, weights).flatten()
    before = torch.zeros_like(x)
    for k, (A, B, C, D) in enumerate(table):
        d = target.denoise(x[:, None], mesh.sigma[k], process)[:, 0]
        middle = A * x + B * d + C * (d - before)
        x = (middle[:, None] + D * points).flatten()
        before = d.repeat_interleave(len(points))
        mass = torch.outer(mass, weights).flatten()

    law = sampler_law(target, mesh, 0.8, 1.1, solver_type)
    for f in (torch.cos, lambda x: x**3, lambda x: torch.exp(-(x**2))):
        assert law.mean(f) == pytest.approx(float(mass @ f(x)), abs=1e-8)


@pytest.mark.parametrize(
    ("target", "sigmas", "process", "knobs"),
    [
        (MIXTURE, [20.0, 6.0, 2.0, 0.8, 0.3, 0.1], "ve", (1.0, 1.0, "midpoint")),
        (MIXTURE, [20.0, 6.0, 2.0, 0.8, 0.3, 0.1], "ve", (0.0, 1.0, "heun")),
        (MIXTURE, schedule.karras(8, 0.03, 14.6), "ve", (0.3, 1.2, "heun")),
        (MIXTURE, [0.99, 0.9, 0.7, 0.5, 0.3, 0.1, 0.0], "vp", (1.0, 1.0, "heun")),
        (MIXTURE, [0.99, 0.9, 0.7, 0.5, 0.3, 0.1], "flow", (0.5, 0.9, "midpoint")),
        (CLOUD, schedule.karras(8, 0.05, 14.6), "ve", (1.0, 1.0, "midpoint")),
        (CLOUD, schedule.karras(8, 0.03, 14.6), "ve", (0.0, 1.0, "heun")),
    ],
)
def test_samples_stay_within_the_dvoretzky_bound_of_the_law(target, sigmas, process, knobs):
    """sup |F_n - F| is above sqrt(log(2 / p) / 2n) with probability p at most: Massart 1990."""
    mesh = Mesh.from_sigmas(sigmas, process)
    law = sampler_law(target, mesh, *knobs, resolution=0.8)
    n, p = 100_000, 1e-4
    start = target.sample(n, mesh.sigma[0], process, torch.Generator().manual_seed(7))
    eta, s_noise, solver_type = knobs
    drawn = sample(
        target.model(process),
        start,
        sigmas,
        eta=eta,
        s_noise=s_noise,
        solver_type=solver_type,
        process=process,
        noise_sampler=IndependentNoise(start, seed=8),
        disable=True,
    )
    drawn = drawn.flatten().sort().values
    # Off the points of the cloud, where rounding decides on which side a state is.
    t = torch.linspace(-2.003, 3.004, 500, dtype=torch.float64)
    share = torch.searchsorted(drawn, t, side="right") / n
    gap = float((share - law.cdf(t)).abs().max())
    assert gap < math.sqrt(math.log(2.0 / p) / (2.0 * n))
    assert law.error < 1e-4


@pytest.mark.parametrize(
    ("target", "knobs"), [(MIXTURE, {"eta": 1.0}), (MIXTURE, {"eta": 0.2, "s_noise": 1.3})]
)
def test_the_error_falls_like_a_gaussian_in_the_resolution_and_its_estimate_is_above_it(
    target, knobs
):
    mesh = even_mesh(12, ends=(20.0, 0.2))
    fine = sampler_law(target, mesh, **knobs, resolution=2.0)
    errors = []
    for resolution in (0.65, 0.8, 1.0):
        law = sampler_law(target, mesh, **knobs, resolution=resolution)
        errors.append(kolmogorov_distance(law, fine))
        assert errors[-1] < law.error
        assert errors[-1] < 3.0 * math.exp(-2.0 * (math.pi * resolution) ** 2) + 1e-11
    assert errors[-1] < 1e-7


def test_every_state_has_mass_1_and_no_density_below_rounding():
    mesh = even_mesh(14, ends=(20.0, 0.1), zero=True)
    for eta in (0.0, 0.2, 1.0):
        laws = state_laws(step_table(mesh, eta), MIXTURE, mesh)
        for law in laws:
            assert float(law.weights.sum()) == pytest.approx(1.0, abs=1e-13)
            assert float(law.weights.min()) > -1e-14 * float(law.weights.max())
        t = torch.linspace(-2.0, 3.0, 400, dtype=torch.float64)
        rise = laws[-1].cdf(t).diff()
        assert (rise >= -1e-12).all()


def test_the_first_law_is_the_marginal_of_the_first_level_or_the_initial_one():
    mesh = even_mesh(4, ends=(3.0, 0.5))
    other = GaussianMixture(torch.tensor([[0.0], [4.0]]), torch.tensor([2.0, 0.7]))
    t = torch.linspace(-6.0, 8.0, 50, dtype=torch.float64)
    for eta in (0.0, 1.0):
        table = step_table(mesh, eta)
        for initial, exact in ((None, at_level(MIXTURE, mesh, 0)), (other, other)):
            law = state_laws(table, MIXTURE, mesh, initial=initial)[0]
            density = exact.log_density(t[:, None]).exp()
            assert law.density(t).numpy() == pytest.approx(density.numpy(), abs=1e-9)


def test_a_start_from_pure_noise_gives_the_exact_moments_of_that_start():
    mesh = even_mesh(9)
    start = (0.0, mesh.sigma[0] ** 2)
    law = sampler_law(
        normal(1.5, 0.3),
        mesh,
        initial=normal(*start),
    )
    exact = gaussian_moments(mesh, mean=1.5, variance=0.3, initial=start)
    assert law.mean() == pytest.approx(float(exact.mean[-1]), abs=1e-9)
    spread = law.mean(lambda x: (x - exact.mean[-1]) ** 2)
    assert spread == pytest.approx(float(exact.variance[-1]), rel=1e-8)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_a_wrong_denoiser_takes_the_place_of_the_exact_one(eta):
    mesh = even_mesh(6, ends=(5.0, 0.3))
    table = step_table(mesh, eta)
    law = sampler_law(MIXTURE, mesh, eta, model=lambda x, sigma: 0.4 * x + 0.1)
    first = at_level(MIXTURE, mesh, 0)
    exact = affine_moments(table, 0.4, 0.1, initial=(float(first.mean), float(first.covariance)))
    assert law.mean() == pytest.approx(float(exact.mean[-1]), abs=1e-9)
    spread = law.mean(lambda x: (x - exact.mean[-1]) ** 2)
    assert spread == pytest.approx(float(exact.variance[-1]), rel=1e-8)


def test_a_cloud_of_points_ends_as_a_row_of_jumps_at_the_points():
    mesh = Mesh.from_sigmas([10.0, 3.0, 1.0, 0.5, 0.3, 0.1, 0.03, 0.0])
    law = state_laws(step_table(mesh), CLOUD, mesh, resolution=0.55)[-1]
    t = torch.tensor([-1.001, -0.999, 0.299, 0.301, 1.999, 2.001], dtype=torch.float64)
    below, first, second, third, fourth, all_of_it = law.cdf(t).tolist()
    assert (below, all_of_it) == pytest.approx((0.0, 1.0), abs=1e-5)
    assert second - first < 1e-3
    assert fourth - third < 1e-3
    middles = law.cdf(torch.tensor([-0.35, 1.15], dtype=torch.float64)).tolist()
    shares = [first, third - second, all_of_it - fourth]
    assert [middles[0], middles[1] - middles[0], 1.0 - middles[1]] == pytest.approx(
        shares, abs=1e-3
    )


def test_an_image_that_folds_the_line_adds_what_falls_together():
    u = torch.linspace(-9.0, 9.0, 400, dtype=torch.float64)
    weights = torch.exp(-0.5 * u**2)
    law = Law(u, weights / weights.sum(), lambda u: u**2)
    t = torch.tensor([[0.01, 0.3], [1.7, 20.0]], dtype=torch.float64)
    assert law.cdf(t).numpy() == pytest.approx(chi2.cdf(t, 1), abs=1e-10)
    assert law.density(t).numpy() == pytest.approx(chi2.pdf(t, 1), rel=1e-8)
    assert law.mean() == pytest.approx(1.0, abs=1e-12)
    assert law.cdf(torch.tensor([-1.0, 100.0])).tolist() == [0.0, 1.0]


# --- the Fokker-Planck equation -----------------------------------------------------------------


def distance_to_the_marginal(law, target, mesh, k):
    exact = at_level(target, mesh, k).log_density(law.nodes[:, None]).exp() * law.spacing
    return float((law.weights - exact).abs().sum())


@pytest.mark.parametrize(("eta", "order"), [(0.3, 2), (1.0, 2), (2.0, 2), (0.0, 1)])
def test_the_density_comes_to_the_exact_marginal_at_the_claimed_order(eta, order):
    """Where the error is of order 2 in the cells and 1 in the steps, steps are quartered."""
    mesh = even_mesh(6)
    runs = [
        fokker_planck(MIXTURE, mesh, eta, cells=200 * 2**n, substeps=8 * 2 ** (order * n))
        for n in range(3)
    ]
    for k in (3, 5, 6):
        errors = [distance_to_the_marginal(run[k], MIXTURE, mesh, k) for run in runs]
        assert errors[0] > errors[1] > errors[2]
        assert math.log2(errors[1] / errors[2]) == pytest.approx(order, abs=0.2)
    assert errors[-1] < (4e-2 if eta == 0.0 else 4e-3)


def test_halved_steps_halve_the_error_once_the_cells_are_fine():
    mesh = even_mesh(6)
    errors = [
        distance_to_the_marginal(
            fokker_planck(MIXTURE, mesh, cells=1200, substeps=substeps)[-1], MIXTURE, mesh, 6
        )
        for substeps in (4, 8, 16)
    ]
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("process", list(ENDS))
@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_gaussian_data_keep_their_law_to_rounding(process, eta):
    mesh = even_mesh(12, process)
    laws = fokker_planck(normal(0.7, 1.3), mesh, eta, cells=300)
    for k, law in enumerate(laws):
        exact = at_level(normal(0.7, 1.3), mesh, k)
        density = exact.log_density(law.nodes[:, None]).exp()
        assert float((law.weights / law.spacing - density).abs().max()) < 1e-12 * float(
            density.max()
        )


@pytest.mark.parametrize("target", [MIXTURE, CLOUD], ids=["mixture", "cloud"])
@pytest.mark.parametrize(("eta", "s_noise"), [(0.0, 1.0), (1e-3, 1.0), (1.0, 0.2), (5.0, 2.0)])
@pytest.mark.parametrize(
    ("steps", "substeps", "cells", "rounding"), [(1, 1, 3000, 1e-10), (12, 3, 200, 1e-12)]
)
def test_mass_is_kept_and_no_value_is_negative_however_long_the_steps(
    target, eta, s_noise, steps, substeps, cells, rounding
):
    mesh = even_mesh(steps)
    start = GaussianMixture(torch.tensor([[-30.0], [5.0]]), torch.tensor([1.0, 40.0]))
    for initial in (None, start):
        for law in fokker_planck(
            target, mesh, eta, s_noise, substeps=substeps, cells=cells, initial=initial
        ):
            assert float(law.weights.sum()) == pytest.approx(1.0, abs=rounding)
            assert float(law.weights.min()) >= 0.0


@pytest.mark.parametrize("process", list(ENDS))
@pytest.mark.parametrize(("eta", "s_noise"), [(1.0, 0.8), (1.0, 1.25), (0.5, 1.6)])
def test_a_wrong_start_and_a_wrong_noise_have_the_closed_form_of_gaussian_data(
    process, eta, s_noise
):
    """In u the SDE is du = -eta u dt + s sqrt(2 eta) dW, an Ornstein-Uhlenbeck process."""
    mesh = even_mesh(4, process)
    m, v = 0.7, 1.3
    tau = [math.exp(-mesh.lam[k]) for k in (0, -1)]
    t = 0.5 * math.log((v + tau[0] ** 2) / (v + tau[1] ** 2))
    scale = mesh.alpha[-1] * math.sqrt(v + tau[1] ** 2)
    unit = mesh.alpha[0] * math.sqrt(v + tau[0] ** 2)
    start = normal(mesh.alpha[0] * m + 0.5 * unit, 0.3 * unit**2)
    mean = mesh.alpha[-1] * m + 0.5 * math.exp(-eta * t) * scale
    variance = (s_noise**2 + (0.3 - s_noise**2) * math.exp(-2.0 * eta * t)) * scale**2
    errors = []
    for substeps in (20, 40):
        law = fokker_planck(
            normal(m, v), mesh, eta, s_noise, cells=400, substeps=substeps, initial=start
        )[-1]
        errors.append(
            (
                (law.mean() - mean) / scale,
                law.mean(lambda x: (x - mean) ** 2) / variance - 1.0,
            )
        )
    assert np.abs(errors[1]).max() < 2e-2
    assert 2.0 * np.array(errors[1]) - errors[0] == pytest.approx([0.0, 0.0], abs=1e-3)


@pytest.mark.parametrize("s_noise", [0.8, 1.25])
def test_the_sampler_with_short_steps_has_the_law_of_the_equation(s_noise):
    v = 1.3
    fine = gaussian_moments(even_mesh(1500), 1.0, s_noise, variance=v).variance[-1]
    laws = [
        fokker_planck(normal(0.0, v), even_mesh(8), 1.0, s_noise, cells=600, substeps=substeps)
        for substeps in (40, 80)
    ]
    coarse, half = (run[-1].mean(lambda x: x**2) for run in laws)
    assert half == pytest.approx(float(fine), rel=1e-4)
    assert 2.0 * half - coarse == pytest.approx(float(fine), rel=1e-5)


def test_the_sampler_comes_to_the_equation_for_a_mixture_and_a_wrong_noise():
    ends = (20.0, 0.2)
    limit = fokker_planck(MIXTURE, even_mesh(8, ends=ends), 1.0, 1.2, cells=800, substeps=160)[-1]
    gaps = [
        kolmogorov_distance(sampler_law(MIXTURE, even_mesh(n, ends=ends), 1.0, 1.2), limit)
        for n in (10, 20)
    ]
    assert gaps[0] / gaps[1] > 3.0
    assert gaps[1] < 5e-3


# --- refusals -----------------------------------------------------------------------------------

PLANE = GaussianMixture(torch.zeros(1, 2), 1.0)
MESH = even_mesh(4)
TABLE = step_table(MESH)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: sampler_law(PLANE, MESH), "target must be a GaussianMixture of dimension 1"),
        (lambda: sampler_law(3, MESH), "target must be a GaussianMixture of dimension 1, got 3"),
        (lambda: sampler_law(MIXTURE, [1.0]), "mesh must be a Mesh"),
        (lambda: sampler_law(MIXTURE, MESH, initial=PLANE), "initial must be a GaussianMixture"),
        (lambda: sampler_law(MIXTURE, MESH, initial=CLOUD), "initial must have variances above 0"),
        (lambda: sampler_law(MIXTURE, MESH, eta=-1.0), "eta must be a finite number >= 0"),
        (lambda: sampler_law(MIXTURE, MESH, resolution=0.1), "resolution must be a number from"),
        (lambda: sampler_law(MIXTURE, MESH, points=9), "points must be at least 16, got 9"),
        (lambda: sampler_law(MIXTURE, MESH, points=50), "points at least"),
        (lambda: sampler_law(MIXTURE, MESH, eta=1e-25), "eta and s_noise must be 0 or give more"),
        (
            lambda: sampler_law(MIXTURE, MESH, model=lambda x, sigma: x / 0.0),
            "model must return finite values",
        ),
        (
            lambda: sampler_law(MIXTURE, MESH, model=lambda x, sigma: x[:, 0]),
            "model must return finite values of shape",
        ),
        (lambda: state_laws(None, MIXTURE, MESH), "table must be a StepTable of 4 rows, got None"),
        (
            lambda: state_laws(step_table(even_mesh(5)), MIXTURE, MESH),
            "table must be a StepTable of 4 rows, got 5 rows",
        ),
        (
            lambda: state_laws(dataclasses.replace(TABLE, C=(0.1,) * 4), MIXTURE, MESH),
            "table must have C = 0 in its first step",
        ),
        (
            lambda: state_laws(
                StepTable(TABLE.A, TABLE.B, TABLE.C, (0.1, 0.0, 0.1, 0.1)), MIXTURE, MESH
            ),
            "table must have noise in all steps",
        ),
        (
            lambda: fokker_planck(MIXTURE, even_mesh(4, zero=True)),
            "mesh must end above 0",
        ),
        (lambda: fokker_planck(PLANE, MESH), "target must be a GaussianMixture of dimension 1"),
        (lambda: fokker_planck(MIXTURE, MESH, eta=math.nan), "eta must be a finite number >= 0"),
        (lambda: fokker_planck(MIXTURE, MESH, s_noise=-1.0), "s_noise must be a finite number"),
        (lambda: fokker_planck(MIXTURE, MESH, substeps=0), "substeps must be an integer"),
        (lambda: fokker_planck(MIXTURE, MESH, cells=4), "cells must be at least 8, got 4"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
