"""Processes and schedules against closed forms, 100-digit arithmetic and diffusers."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import laplace as laplace_distribution

from dpmpp_core import VE, VP, Flow, Mesh, schedule

MP = mpmath.MPContext()
MP.dps = 100
EPS = 2.0**-52
PROCESSES = [VE(), VP(), Flow(), Flow(3.0)]
LOW, HIGH = 0.03, 14.6

fixed = settings(derandomize=True, deadline=None, max_examples=100)
wide_sigma = st.floats(-12.0, 12.0).map(lambda e: 10.0**e)
unit_sigma = st.one_of(
    st.floats(1e-12, 1.0 - 1e-12), st.floats(-12.0, -1e-12).map(lambda e: 10.0**e)
)


def exact_alpha(process, sigma):
    s = MP.mpf(sigma)
    return {"ve": MP.mpf(1), "vp": MP.sqrt(1 - s * s), "flow": 1 - s}[process.name]


def ulps(value, exact):
    """The distance of a float from an exact number, in units of the last place of the float."""
    return float(abs(MP.mpf(value) - exact) / MP.mpf(math.ulp(float(exact))))


def sigmas_of(process):
    return wide_sigma if process.name == "ve" else unit_sigma


def close(actual, expected, relative):
    """Every entry within a relative error; zeros are zeros."""
    actual, expected = actual.tolist(), [float(e) for e in expected]
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert abs(a - e) <= relative * abs(e), (a, e)


# --- processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES)
@fixed
@given(data=st.data())
def test_sigma_inverts_the_half_log_snr(process, data):
    sigma = data.draw(sigmas_of(process))
    lam = process.half_log_snr(sigma)
    # |d log sigma / d lambda| <= 1, so the rounding of lambda is all that can be lost.
    assert process.sigma(lam) == pytest.approx(sigma, rel=(4 + 2 * abs(lam)) * EPS, abs=0.0)


@pytest.mark.parametrize("process", PROCESSES)
@fixed
@given(data=st.data())
def test_alpha_and_lambda_agree_with_100_digits(process, data):
    sigma = data.draw(sigmas_of(process))
    alpha = exact_alpha(process, sigma)
    assert ulps(process.alpha(sigma), alpha) <= 2.0
    lam = MP.log(alpha / MP.mpf(sigma))
    # A difference of two logarithms: its error is relative to each of the two, not to lambda.
    size = 1 + abs(MP.log(alpha)) + abs(MP.log(MP.mpf(sigma)))
    assert abs(process.half_log_snr(sigma) - lam) <= 2 * EPS * size


@pytest.mark.parametrize("process", PROCESSES)
@fixed
@given(data=st.data())
def test_a_float_and_a_tensor_give_the_same(process, data):
    sigma = data.draw(sigmas_of(process))
    lam = process.half_log_snr(sigma)
    for method, argument in [("alpha", sigma), ("half_log_snr", sigma), ("sigma", lam)]:
        function = getattr(process, method)
        number = function(argument)
        scalar = function(torch.tensor(argument, dtype=torch.float64))
        matrix = function(torch.full((2, 3), argument, dtype=torch.float64))
        assert type(number) is float
        assert scalar.shape == ()
        assert matrix.shape == (2, 3)
        assert scalar.dtype == matrix.dtype == torch.float64
        # Two libraries' logarithms and exponentials: an ulp or two of the larger logarithm.
        slack = 4 * EPS * (1.0 if method == "alpha" else 1.0 + abs(math.log(sigma)))
        scale = abs(number) if method != "half_log_snr" else 1.0 + abs(number)
        assert abs(scalar.item() - number) <= slack * scale
        assert (matrix - number).abs().max() <= slack * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("process", PROCESSES)
def test_a_tensor_keeps_its_dtype_and_its_gradient(process, dtype):
    sigma = torch.tensor([0.1, 0.5, 0.9], dtype=dtype, requires_grad=True)
    for function in (process.alpha, process.half_log_snr, process.sigma):
        out = function(sigma)
        assert out.dtype == dtype
        assert out.shape == sigma.shape
        assert out.requires_grad


@fixed
@given(sigma=unit_sigma)
def test_vp_keeps_the_variance_and_flow_mixes_linearly(sigma):
    assert VP().alpha(sigma) ** 2 + sigma**2 == pytest.approx(1.0, rel=4 * EPS)
    assert Flow().alpha(sigma) + sigma == pytest.approx(1.0, rel=EPS)
    assert VE().alpha(sigma) == 1.0


@pytest.mark.parametrize("process", PROCESSES)
@fixed
@given(data=st.data())
def test_lambda_decreases_with_sigma(process, data):
    one, two = data.draw(sigmas_of(process)), data.draw(sigmas_of(process))
    low, high = sorted((one, two))
    if high > low * (1 + 1e-9):
        assert process.half_log_snr(high) < process.half_log_snr(low)


@pytest.mark.parametrize("process", PROCESSES)
def test_without_noise_a_tensor_has_alpha_one_and_lambda_infinite(process):
    zero = torch.zeros(2, dtype=torch.float64)
    assert process.alpha(zero).tolist() == [1.0, 1.0]
    assert process.half_log_snr(zero).tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("process", PROCESSES)
def test_the_largest_float_below_the_limit_has_a_finite_lambda(process):
    sigma = math.nextafter(process.sigma_limit, 0.0)
    assert math.isfinite(process.half_log_snr(sigma))
    assert process.alpha(sigma) > 0.0


@pytest.mark.parametrize(
    ("process", "lam", "sigma"),
    [
        (VE(), math.log(2.0), 0.5),
        (VP(), 0.0, math.sqrt(0.5)),
        (VP(), math.log(4.0 / 3.0), 0.6),
        (Flow(), 0.0, 0.5),
        (Flow(3.0), math.log(3.0), 0.25),
    ],
)
def test_known_pairs_of_lambda_and_sigma(process, lam, sigma):
    assert process.sigma(lam) == pytest.approx(sigma, rel=4 * EPS)
    assert process.half_log_snr(sigma) == pytest.approx(lam, rel=4 * EPS, abs=4 * EPS)


@pytest.mark.parametrize("process", PROCESSES)
@settings(derandomize=True, deadline=None, max_examples=200)
@given(data=st.data())
def test_log_alpha_gain_keeps_all_digits(process, data):
    sigma = data.draw(sigmas_of(process))
    # From a step of one part in 1e15 to a step of twenty orders of magnitude.
    step = 10.0 ** data.draw(st.floats(-15.0, 20.0))
    sigma_next = data.draw(
        st.sampled_from([sigma / (1.0 + step), math.nextafter(sigma, 0.0), sigma * (1.0 - 1e-8)])
    )
    exact = MP.log(exact_alpha(process, sigma_next) / exact_alpha(process, sigma))
    gain = process.log_alpha_gain(sigma, sigma_next)
    if process.name == "ve":
        assert gain == 0.0
    elif sigma_next < sigma:
        assert ulps(gain, exact) <= 4.0


@pytest.mark.parametrize("process", PROCESSES)
def test_log_alpha_gains_add_up(process):
    levels = [0.999999, 0.9, 0.5, 0.25, 1e-3, 1e-9, 0.0]
    total = math.fsum(process.log_alpha_gain(s, t) for s, t in pairwise(levels))
    assert total == pytest.approx(process.log_alpha_gain(levels[0], 0.0), rel=8 * EPS, abs=0.0)


@pytest.mark.parametrize("shift", [0.25, 1.0, 1.15, 3.0, 12.0])
def test_the_first_level_of_a_flow_is_the_shifted_time_of_one_minus_1e_4(shift):
    s, t = Fraction(shift), 1 - Fraction(1, 10_000)
    exact = s * t / (1 + (s - 1) * t)
    assert Flow(shift).first_sigma == pytest.approx(float(exact), rel=2 * EPS)
    assert Flow(shift).first_sigma < 1.0


def test_without_a_shift_the_first_level_of_a_flow_is_one_minus_1e_4():
    assert Flow().first_sigma == 1.0 - 1e-4


@fixed
@given(t=st.floats(0.0, 1.0), a=st.floats(0.01, 100.0), b=st.floats(0.01, 100.0))
def test_time_shifts_form_a_group(t, a, b):
    # One over (the time's odds): a shift multiplies the odds t / (1 - t).
    once = schedule.shift_time(schedule.shift_time(t, a), b)
    assert once == pytest.approx(schedule.shift_time(t, a * b), rel=1e-12, abs=1e-300)
    back = schedule.shift_time(schedule.shift_time(t, a), 1.0 / a)
    assert back == pytest.approx(t, rel=1e-12, abs=1e-300)
    tensor = schedule.shift_time(torch.tensor(t, dtype=torch.float64), a)
    assert tensor.item() == schedule.shift_time(t, a)


@pytest.mark.parametrize(("name", "kind"), [("ve", VE), ("vp", VP), ("flow", Flow)])
def test_a_process_is_found_by_its_name(name, kind):
    assert schedule.as_process(name) == kind()
    assert schedule.as_process(name).name == name


def test_a_process_object_is_returned_as_it_is():
    for process in PROCESSES:
        assert schedule.as_process(process) is process
    assert Flow(3.0) != Flow()


@pytest.mark.parametrize("bad", ["VE", "edm", "", None, 1, VE, ("ve",), object()])
def test_an_unknown_process_is_refused_by_name(bad):
    with pytest.raises(ValueError, match="process must be") as caught:
        schedule.as_process(bad)
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.inf, math.nan])
def test_a_flow_refuses_a_shift_that_is_not_positive(shift):
    with pytest.raises(ValueError, match="shift must be") as caught:
        Flow(shift)
    assert repr(shift) in str(caught.value)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_cannot_be_changed(process):
    with pytest.raises(AttributeError):
        process.shift = 2.0


# --- every schedule ----------------------------------------------------------------------------

SD = schedule.discrete_table()
FLOW3 = schedule.flow_table(3.0)

# name: (function of steps, process of its levels, its first level)
SCHEDULES = {
    "karras": (lambda n: schedule.karras(n, LOW, HIGH), "ve", HIGH),
    "karras rho 1": (lambda n: schedule.karras(n, LOW, HIGH, rho=1.0), "ve", HIGH),
    "exponential": (lambda n: schedule.exponential(n, LOW, HIGH), "ve", HIGH),
    "polyexponential": (lambda n: schedule.polyexponential(n, LOW, HIGH, rho=0.7), "ve", HIGH),
    "vp": (schedule.vp, "ve", math.sqrt(math.expm1(19.9 / 2 + 0.1))),
    "kl_optimal": (lambda n: schedule.kl_optimal(n, LOW, HIGH), "ve", HIGH),
    "simple": (lambda n: schedule.simple(n, SD), "ve", SD[-1].item()),
    "normal": (lambda n: schedule.normal(n, SD), "ve", SD[-1].item()),
    "sgm_uniform": (lambda n: schedule.sgm_uniform(n, SD), "ve", SD[-1].item()),
    "beta": (lambda n: schedule.beta(n, SD), "ve", SD[-1].item()),
    "linear_quadratic": (lambda n: schedule.linear_quadratic(n, 1.0), "flow", 1.0),
    "flow": (schedule.flow, "flow", 1.0),
    "flow shift 3": (lambda n: schedule.flow(n, 3.0), "flow", 1.0),
    "simple of a flow": (lambda n: schedule.simple(n, FLOW3), Flow(3.0), 1.0),
    "normal of a flow": (lambda n: schedule.normal(n, FLOW3, Flow(3.0)), Flow(3.0), 1.0),
    "sgm_uniform of a flow": (lambda n: schedule.sgm_uniform(n, FLOW3, Flow(3.0)), Flow(3.0), 1.0),
    "beta of a flow": (lambda n: schedule.beta(n, FLOW3), Flow(3.0), 1.0),
}


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 101])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_falls_from_its_first_level_to_zero_in_so_many_steps(name, steps):
    function, _, first = SCHEDULES[name]
    sigmas = function(steps)
    assert sigmas.dtype == torch.float64
    assert sigmas.device.type == "cpu"
    assert sigmas.shape == (steps + 1,)
    assert sigmas[0].item() == pytest.approx(first, rel=40 * EPS)
    assert sigmas[-1].item() == 0.0
    assert (sigmas.diff() < 0.0).all()


@pytest.mark.parametrize("steps", [1, 2, 20, 200])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_makes_a_mesh(name, steps):
    function, process, _ = SCHEDULES[name]
    sigmas = function(steps)
    mesh = Mesh.from_sigmas(sigmas, process)
    assert mesh.steps == len(sigmas) - 1
    assert all(h > 0.0 for h in mesh.h)
    # Half the schedules of a flow start at 1, where there is no data: only that level moves.
    assert list(mesh.sigma[1:]) == sigmas[1:].tolist()


@pytest.mark.parametrize("steps", [2, 20, 1000])
def test_ddim_uniform_and_laplace_make_a_mesh_too(steps):
    for sigmas in (schedule.ddim_uniform(steps, SD), schedule.laplace(steps, LOW, HIGH)):
        assert (sigmas.diff() < 0.0).all()
        assert Mesh.from_sigmas(sigmas).steps == len(sigmas) - 1


def test_a_schedule_of_one_step_goes_from_its_top_to_zero():
    table = torch.arange(1.0, 11.0)
    for function in (schedule.simple, schedule.normal, schedule.sgm_uniform, schedule.beta):
        # The top of the table goes through a logarithm in two of them.
        assert function(1, table).tolist() == pytest.approx([10.0, 0.0], rel=4 * EPS)
    for sigmas in (schedule.flow(1, 3.0), schedule.linear_quadratic(1, 1.0)):
        assert sigmas.tolist() == [1.0, 0.0]


# --- between two levels ------------------------------------------------------------------------


@fixed
@given(
    low=st.floats(1e-3, 1.0),
    ratio=st.floats(1.5, 1e4),
    steps=st.integers(2, 60),
    rho=st.floats(0.5, 20.0),
)
def test_karras_levels_are_even_in_the_root_of_sigma(low, ratio, steps, rho):
    high = low * ratio
    lo, hi, power = MP.mpf(low), MP.mpf(high), 1 / MP.mpf(rho)
    exact = [
        ((steps - 1 - k) * hi**power + k * lo**power) / (steps - 1) for k in range(steps)
    ]  # a weighted mean of the two roots
    # rho times the rounding of a root whose size is that of the largest.
    slack = (4 + 2 * rho + 2 * abs(math.log(low)) + math.log(ratio)) * EPS * ratio ** (1 / rho)
    close(schedule.karras(steps, low, high, rho)[:-1], [e ** MP.mpf(rho) for e in exact], 2 * slack)


@fixed
@given(low=st.floats(1e-6, 1.0), ratio=st.floats(1.5, 1e8), steps=st.integers(2, 60))
def test_exponential_levels_fall_by_one_ratio(low, ratio, steps):
    high = low * ratio
    levels = schedule.exponential(steps, low, high)[:-1]
    fall = (MP.mpf(low) / MP.mpf(high)) ** (MP.mpf(1) / (steps - 1))
    # exp turns the rounding of a logarithm of up to 33 into a relative error.
    close(levels, [MP.mpf(high) * fall**k for k in range(steps)], 64 * EPS)


@pytest.mark.parametrize("rho", [0.5, 1.0, 2.5])
def test_polyexponential_levels_are_a_power_of_the_ramp_in_log_sigma(rho):
    n = 9
    levels = schedule.polyexponential(n, LOW, HIGH, rho)[:-1]
    width = MP.log(MP.mpf(HIGH)) - MP.log(MP.mpf(LOW))
    exact = [
        MP.mpf(LOW) * MP.exp(width * (MP.mpf(n - 1 - k) / (n - 1)) ** MP.mpf(rho)) for k in range(n)
    ]
    close(levels, exact, 32 * EPS)


@pytest.mark.parametrize(("beta_d", "beta_min", "eps_s"), [(19.9, 0.1, 1e-3), (5.0, 1.0, 0.01)])
def test_vp_levels_solve_the_vp_sde(beta_d, beta_min, eps_s):
    # In the SDE's own coordinates alpha^2 = exp(-integral of beta): sigma^2 + 1 = 1 / alpha^2.
    levels = schedule.vp(7, beta_d, beta_min, eps_s)[:-1]
    for k, sigma in enumerate(levels.tolist()):
        t = 1.0 + k / 6 * (eps_s - 1.0)
        integral, _ = quad(lambda u: beta_min + beta_d * u, 0.0, t)
        assert sigma**2 == pytest.approx(math.expm1(integral), rel=1e-13)


def test_laplace_levels_are_quantiles_of_a_laplace_distribution():
    n, mu, scale = 41, 0.3, 0.5
    levels = schedule.laplace(n, 1e-9, 1e9, mu, scale)
    u = np.linspace(1.0, 0.0, n)[1:-1]
    quantiles = laplace_distribution.ppf(u, loc=mu, scale=scale)
    # The 1e-5 that keeps the ends finite moves a quantile by at most beta 1e-5 / (2 min(u, 1 - u)).
    moved = scale * 1e-5 / (2.0 * np.minimum(u, 1.0 - u))
    assert (np.abs(levels[1:-1].log().numpy() - quantiles) <= moved * 1.001 + 1e-14).all()
    ends = [mu - scale * math.log(1e-5), mu + scale * math.log(1e-5)]
    # 1 - 2 |1/2| + 1e-5 is 1e-5 to a relative 1e-11 or so in float64.
    assert levels[[0, -1]].log().tolist() == pytest.approx(ends, abs=1e-10)


def test_laplace_levels_equal_their_formula_in_100_digits():
    n = 8
    levels = schedule.laplace(n, 1e-9, 1e9)
    exact = []
    for k in range(n):
        centred = MP.mpf(1) / 2 - MP.mpf(k) / (n - 1)
        tail = MP.log(1 - 2 * abs(centred) + MP.mpf(1e-5))
        exact.append(MP.exp(-MP.mpf(0.5) * MP.sign(centred) * tail))
    # At both ends 1 - 2|u - 1/2| + 1e-5 keeps 1e-5 of the digits of 1.
    close(levels, exact, EPS / 1e-5)


@pytest.mark.parametrize("steps", [50, 1000])
def test_laplace_gives_a_clipped_level_once(steps):
    levels = schedule.laplace(steps, LOW, HIGH)
    # The quantile of log sigma at tail probability p is -+ log(2 p) / 2: clipped where
    # 2 p + 1e-5 < HIGH^-2 at the top, < LOW^2 at the bottom.
    tail = [2.0 * k / (steps - 1) + 1e-5 for k in range((steps + 1) // 2)]
    top, bottom = sum(t <= HIGH**-2 for t in tail), sum(t <= LOW**2 for t in tail)
    assert top >= 1
    assert bottom >= 1
    assert len(levels) == steps - (top - 1) - (bottom - 1)
    assert levels[0].item() == HIGH
    assert levels[-1].item() == LOW
    assert (levels.diff() < 0.0).all()
    assert (len(levels) < steps) == (steps == 1000)


def test_kl_optimal_levels_are_even_in_arctan_sigma():
    levels = schedule.kl_optimal(30, LOW, HIGH)[:-1]
    angles = levels.atan()
    step = (math.atan(LOW) - math.atan(HIGH)) / 29
    assert (angles.diff() - step).abs().max() < 1e-15 * 4
    # (1 + sigma^2) / sigma atan(sigma): the tangent's condition number is 23 at 14.6.
    assert levels[0].item() == pytest.approx(HIGH, rel=32 * EPS)
    assert levels[-1].item() == pytest.approx(LOW, rel=32 * EPS)


def test_the_middle_of_kl_optimal_is_the_bisector_of_the_two_angles():
    middle = schedule.kl_optimal(3, LOW, HIGH)[1].item()
    # tan((a + b) / 2) = (sin a + sin b) / (cos a + cos b)
    cos = [1.0 / math.hypot(1.0, s) for s in (LOW, HIGH)]
    sin = [s * c for s, c in zip((LOW, HIGH), cos, strict=True)]
    assert middle == pytest.approx(sum(sin) / sum(cos), rel=1e-14)


@pytest.mark.parametrize("steps", [2, 10, 33])
@pytest.mark.parametrize("kind", ["karras", "exponential"])
def test_karras_and_exponential_agree_with_diffusers(kind, steps):
    scheduler = EulerDiscreteScheduler()
    oracle = getattr(scheduler, f"_convert_to_{kind}")(np.array([HIGH, LOW]), steps)
    ours = getattr(schedule, kind)(steps, LOW, HIGH)
    # Both in float64; numpy's powers and torch's differ by ulps, raised to the 7th power.
    close(ours[:-1], oracle, 64 * EPS)


@pytest.mark.parametrize("steps", [1, 10, 33])
def test_beta_agrees_with_diffusers_on_an_even_table(steps):
    # diffusers takes quantiles 1 - k / (n - 1) of a continuum of levels, ComfyUI 1 - k / n of the
    # table: the first n of diffusers' n + 1, to half the spacing of the table.
    table = torch.linspace(LOW, HIGH, 200_001, dtype=torch.float64)
    oracle = EulerDiscreteScheduler()._convert_to_beta(np.array([HIGH, LOW]), steps + 1)[:-1]
    ours = schedule.beta(steps, table)[:-1].numpy()
    assert np.abs(ours - oracle).max() <= 0.5001 * (HIGH - LOW) / 200_000


@pytest.mark.parametrize("function", ["karras", "exponential", "polyexponential", "kl_optimal"])
@pytest.mark.parametrize(
    ("low", "high", "named"),
    [
        (0.0, 1.0, "sigma_min must be a finite number above 0, got 0.0"),
        (-1.0, 1.0, "sigma_min must be a finite number above 0, got -1.0"),
        (math.nan, 1.0, "sigma_min must be a finite number above 0, got nan"),
        (1.0, math.inf, "sigma_max must be a finite number above 0, got inf"),
        (1.0, 1.0, "sigma_min must be below sigma_max = 1.0, got 1.0"),
        (2.0, 1.0, "sigma_min must be below sigma_max = 1.0, got 2.0"),
    ],
)
def test_levels_in_the_wrong_order_or_not_positive_are_refused(function, low, high, named):
    with pytest.raises(ValueError, match="sigma_m") as caught:
        getattr(schedule, function)(5, low, high)
    assert named in str(caught.value)
    with pytest.raises(ValueError, match="sigma_m"):
        schedule.laplace(5, low, high)


# --- tables ------------------------------------------------------------------------------------


def test_the_discrete_table_is_the_training_levels_of_stable_diffusion():
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, num_train_timesteps=1000
    )
    kept = scheduler.alphas_cumprod.double()
    oracle = ((1.0 - kept) / kept).sqrt()
    # diffusers multiplies in float32: up to 2^-24 a factor, and 1 - kept starts at 8.5e-4.
    count = torch.arange(1, 1001, dtype=torch.float64)
    bound = 0.5 * count * 2.0**-24 / (1.0 - kept)
    assert ((SD - oracle).abs() / oracle <= bound.clamp(min=1e-4)).all()
    assert SD[0].item() == pytest.approx(0.0292, abs=5e-5)
    assert SD[-1].item() == pytest.approx(14.6146, abs=5e-5)


def test_the_discrete_table_equals_the_product_in_100_digits():
    timesteps = 40
    first, last = MP.sqrt(MP.mpf(0.001)), MP.sqrt(MP.mpf(0.2))
    kept, exact = MP.mpf(1), []
    for k in range(timesteps):
        kept *= 1 - (first + (last - first) * k / (timesteps - 1)) ** 2
        exact.append(MP.sqrt(1 / kept - 1))
    # 1 - kept loses three digits at the first entry, 1 - 0.999.
    close(schedule.discrete_table(timesteps, 0.001, 0.2), exact, 1000 * EPS)


def test_a_discrete_table_of_one_level_and_of_equal_betas():
    (one,) = schedule.discrete_table(1, 0.2, 0.2).tolist()
    assert one == pytest.approx(0.5, rel=4 * EPS)  # sqrt(0.2 / 0.8)
    equal = schedule.discrete_table(3, 0.5, 0.5).tolist()
    assert equal == pytest.approx([1.0, math.sqrt(3.0), math.sqrt(7.0)], rel=8 * EPS)


@pytest.mark.parametrize(
    ("start", "end"), [(0.0, 0.1), (0.2, 0.1), (0.1, 1.0), (-0.1, 0.1), (math.nan, 0.1)]
)
def test_a_discrete_table_refuses_betas_outside_0_to_1(start, end):
    with pytest.raises(ValueError, match=r"beta_start (and beta_end )?must") as caught:
        schedule.discrete_table(10, start, end)
    assert repr(start) in str(caught.value)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_flow_table_agrees_with_diffusers(shift):
    oracle = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift).sigmas
    ours = schedule.flow_table(shift)
    assert ours.shape == (1000,)
    # diffusers computes in float32.
    assert (ours.flip(0) - oracle.double()).abs().max() < 4e-7
    assert ours[-1].item() == 1.0


@pytest.mark.parametrize("steps", [1, 4, 25])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_flow_schedule_agrees_with_diffusers(shift, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps))
    assert (schedule.flow(steps, shift) - scheduler.sigmas.double()).abs().max() < 4e-7


def test_the_flow_schedule_with_shift_3_in_four_steps():
    # 3 t / (1 + 2 t) at t = 1, 3/4, 1/2, 1/4, 0
    assert schedule.flow(4, 3.0).tolist() == pytest.approx([1.0, 0.9, 0.75, 0.5, 0.0], rel=2 * EPS)
    assert schedule.flow(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


# --- schedules of a table, by hand on [1, 2, ..., 10] -------------------------------------------

TEN = torch.arange(1.0, 11.0)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, [10, 0]),
        (2, [10, 5, 0]),
        (3, [10, 7, 4, 0]),  # back from the top by int(0), int(3.33), int(6.67)
        (4, [10, 8, 5, 3, 0]),  # int(2.5) = 2, int(5) = 5, int(7.5) = 7
        (5, [10, 8, 6, 4, 2, 0]),
        (10, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
    ],
)
def test_simple_counts_back_from_the_top(steps, expected):
    assert schedule.simple(steps, TEN).tolist() == expected


def test_simple_of_stable_diffusion_in_20_steps_takes_every_50th_level():
    sigmas = schedule.simple(20, SD)
    assert sigmas[:-1].tolist() == SD.flip(0)[::50].tolist()


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, [10, 0]),
        (2, [10, 1, 0]),
        (4, [10, 7, 4, 1, 0]),
        # every 1.5 entries: half way between two is their geometric mean
        (7, [10, math.sqrt(72), 7, math.sqrt(30), 4, math.sqrt(6), 1, 0]),
    ],
)
def test_normal_takes_even_times_of_the_table(steps, expected):
    assert schedule.normal(steps, TEN).tolist() == pytest.approx(expected, rel=8 * EPS)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, [10, 0]),
        (2, [10, math.sqrt(30), 0]),
        (3, [10, 7, 4, 0]),
        (6, [10, math.sqrt(72), 7, math.sqrt(30), 4, math.sqrt(6), 0]),
    ],
)
def test_sgm_uniform_takes_one_time_more_and_drops_the_last(steps, expected):
    assert schedule.sgm_uniform(steps, TEN).tolist() == pytest.approx(expected, rel=8 * EPS)


@pytest.mark.parametrize("steps", [3, 17, 64])
def test_even_times_of_a_geometric_table_are_a_geometric_schedule(steps):
    table = 2.0 ** torch.arange(0.0, 9.0, dtype=torch.float64)
    position = np.linspace(8.0, 0.0, steps)
    close(schedule.normal(steps, table)[:-1], 2.0**position, 16 * EPS)
    position = np.linspace(8.0, 0.0, steps + 1)[:-1]
    close(schedule.sgm_uniform(steps, table, "vp")[:-1], 2.0**position, 16 * EPS)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_normal_of_a_flow_shifts_even_times_between_the_ends_of_its_table(shift):
    # ComfyUI takes the time of a level to be the level: with a shift it is applied twice to the end
    s = Fraction(shift)

    def shifted(t):
        return s * t / (1 + (s - 1) * t)

    bottom = shifted(Fraction(1, 1000))
    times = [1 - (1 - bottom) * Fraction(k, 3) for k in range(4)]
    sigmas = schedule.normal(4, schedule.flow_table(shift), Flow(shift))
    close(sigmas, [*map(shifted, times), 0], 8 * EPS)
    times = [1 - (1 - bottom) * Fraction(k, 4) for k in range(4)]
    sigmas = schedule.sgm_uniform(4, schedule.flow_table(shift), Flow(shift))
    close(sigmas, [*map(shifted, times), 0], 8 * EPS)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, [2, 0]),
        (2, [7, 2, 0]),
        (3, [8, 5, 2, 0]),
        (4, [10, 8, 6, 4, 2, 0]),  # a stride of 2: five levels, not four
        (5, [10, 8, 6, 4, 2, 0]),
        (9, [10, 9, 8, 7, 6, 5, 4, 3, 2, 0]),
        (40, [10, 9, 8, 7, 6, 5, 4, 3, 2, 0]),
    ],
)
def test_ddim_uniform_counts_up_from_the_second_level(steps, expected):
    assert schedule.ddim_uniform(steps, TEN).tolist() == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(4, [8.0, 6.0, 4.0, 2.0, 1e-6]), (9, [8.0, 7, 6, 5, 4, 3, 2, 1, 1e-6]), (1, [5.0, 1e-6])],
)
def test_ddim_uniform_appends_no_zero_to_a_table_that_starts_there(steps, expected):
    table = torch.tensor([0.0, 1e-6, 1, 2, 3, 4, 5, 6, 7, 8], dtype=torch.float64)
    assert schedule.ddim_uniform(steps, table).tolist() == expected


@pytest.mark.parametrize(("a", "b"), [(0.6, 0.6), (1.0, 2.0), (0.4, 1.3)])
def test_beta_levels_are_quantiles_of_a_beta_distribution(a, b):
    steps, levels = 25, 1000
    # The table counts from 1, so that the schedule is the list of chosen indices plus 1.
    index = schedule.beta(steps, torch.arange(levels) + 1, a, b)[:-1].tolist()
    assert len(index) == steps
    for k, i in enumerate(i - 1 for i in index):
        below, above = (max(0.0, min(1.0, (i + d) / (levels - 1))) for d in (-0.5, 0.5))
        quantile = 1 - MP.mpf(k) / steps
        cdf = [MP.betainc(a, b, 0, x, regularized=True) for x in (below, above)]
        assert cdf[0] - MP.mpf(1e-12) <= quantile <= cdf[1] + MP.mpf(1e-12)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(3, [10, 7, 4, 0]), (9, [10, 9, 8, 7, 6, 5, 4, 3, 2, 0]), (18, [10, 9, 8, 7, 6, 5, 4, 3, 2])],
)
def test_beta_1_1_is_even_in_the_table(steps, expected):
    sigmas = schedule.beta(steps, TEN, a=1.0, b=1.0)
    assert sigmas[: len(expected)].tolist() == expected


def test_beta_gives_a_level_once_when_quantiles_coincide():
    sigmas = schedule.beta(50, TEN)
    assert sigmas.tolist() == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_a_table_of_any_dtype_gives_float64_levels_and_is_left_alone(dtype):
    table = torch.arange(1, 11).to(dtype)
    kept = table.clone()
    for function in (
        schedule.simple,
        schedule.normal,
        schedule.sgm_uniform,
        schedule.ddim_uniform,
        schedule.beta,
    ):
        sigmas = function(5, table)
        assert sigmas.dtype == torch.float64
        sigmas.zero_()
    assert torch.equal(table, kept)


def test_a_schedule_shares_no_memory_with_a_float64_table():
    table = torch.arange(1.0, 11.0, dtype=torch.float64)
    schedule.simple(10, table).zero_()
    schedule.ddim_uniform(10, table).zero_()
    assert table.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


# --- linear_quadratic --------------------------------------------------------------------------


def test_linear_quadratic_in_four_steps_by_hand():
    # removed: 0, 0.05, 0.1, then 0.1 + 0.05 j + 0.2 j^2, whose value at j = 2 is 1
    sigmas = schedule.linear_quadratic(4, 1.0, threshold_noise=0.1)
    assert sigmas.tolist() == pytest.approx([1.0, 0.95, 0.9, 0.65, 0.0], rel=8 * EPS)
    sigmas = schedule.linear_quadratic(4, 3.0, threshold_noise=0.1)
    assert sigmas.tolist() == pytest.approx([3.0, 2.85, 2.7, 1.95, 0.0], rel=8 * EPS)


@pytest.mark.parametrize(
    ("steps", "theta", "linear"), [(20, 0.025, None), (21, 0.025, None), (30, 0.1, 10), (2, 0.3, 1)]
)
def test_linear_quadratic_is_a_line_and_the_parabola_that_continues_it(steps, theta, linear):
    removed = 1.0 - schedule.linear_quadratic(steps, 1.0, theta, linear)
    m = steps // 2 if linear is None else linear
    first = removed.diff()
    assert removed[m].item() == pytest.approx(theta, rel=1e-13)
    assert first[:m].tolist() == pytest.approx([theta / m] * m, rel=1e-12)
    # A parabola with slope theta / m at its start rises by (slope + curvature) in its first step.
    curvature = (1.0 - theta - theta / m * (steps - m)) / (steps - m) ** 2
    assert first[m].item() == pytest.approx(theta / m + curvature, rel=1e-12)
    second = [2.0 * curvature] * (steps - m - 1)
    # A second difference of numbers up to 1 keeps an absolute error of four roundings.
    assert first.diff()[m:].tolist() == pytest.approx(second, abs=4 * EPS)
    assert removed[-1].item() == 1.0


# --- bad input ---------------------------------------------------------------------------------

STEPS_OF = {
    "karras": lambda n: schedule.karras(n, LOW, HIGH),
    "exponential": lambda n: schedule.exponential(n, LOW, HIGH),
    "polyexponential": lambda n: schedule.polyexponential(n, LOW, HIGH),
    "vp": lambda n: schedule.vp(n),
    "laplace": lambda n: schedule.laplace(n, LOW, HIGH),
    "kl_optimal": lambda n: schedule.kl_optimal(n, LOW, HIGH),
    "simple": lambda n: schedule.simple(n, TEN),
    "normal": lambda n: schedule.normal(n, TEN),
    "sgm_uniform": lambda n: schedule.sgm_uniform(n, TEN),
    "ddim_uniform": lambda n: schedule.ddim_uniform(n, TEN),
    "beta": lambda n: schedule.beta(n, TEN),
    "linear_quadratic": lambda n: schedule.linear_quadratic(n, 1.0),
    "flow": lambda n: schedule.flow(n),
}


@pytest.mark.parametrize("steps", [0, -3, 2.5, True, "5", None])
@pytest.mark.parametrize("name", STEPS_OF)
def test_a_number_of_steps_that_is_no_count_is_refused(name, steps):
    with pytest.raises(ValueError, match="steps must be an integer of at least 1") as caught:
        STEPS_OF[name](steps)
    assert repr(steps) in str(caught.value)


@pytest.mark.parametrize("timesteps", [0, -1, 1.5, True])
def test_a_table_of_no_levels_is_refused(timesteps):
    for function in (
        lambda n: schedule.discrete_table(n),
        lambda n: schedule.flow_table(timesteps=n),
    ):
        with pytest.raises(ValueError, match="timesteps must be") as caught:
            function(timesteps)
        assert repr(timesteps) in str(caught.value)


TABLE_FUNCTIONS = ["simple", "normal", "sgm_uniform", "ddim_uniform", "beta"]


@pytest.mark.parametrize("function", TABLE_FUNCTIONS)
@pytest.mark.parametrize(
    "table",
    [
        torch.tensor([1.0, 1.0, 2.0]),
        torch.tensor([3.0, 2.0, 1.0]),
        torch.tensor([-1.0, 2.0]),
        torch.tensor([1.0, math.nan]),
        torch.tensor([1.0, math.inf]),
        torch.tensor([]),
        torch.tensor(1.0),
        torch.ones(2, 2),
        [1.0, 2.0],
    ],
    ids=["equal", "falling", "negative", "nan", "inf", "empty", "0-d", "2-d", "list"],
)
def test_a_table_that_is_no_ascending_list_of_levels_is_refused(function, table):
    with pytest.raises(ValueError, match="table must") as caught:
        getattr(schedule, function)(2, table)
    assert repr(table) in str(caught.value)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    ("argument", "function"),
    [
        ("rho", lambda v: schedule.karras(3, LOW, HIGH, rho=v)),
        ("rho", lambda v: schedule.polyexponential(3, LOW, HIGH, rho=v)),
        ("beta_d", lambda v: schedule.vp(3, beta_d=v)),
        ("beta_min", lambda v: schedule.vp(3, beta_min=v)),
        ("eps_s", lambda v: schedule.vp(3, eps_s=v)),
        ("beta", lambda v: schedule.laplace(3, LOW, HIGH, beta=v)),
        ("a", lambda v: schedule.beta(3, TEN, a=v)),
        ("b", lambda v: schedule.beta(3, TEN, b=v)),
        ("shift", lambda v: schedule.flow(3, v)),
        ("shift", lambda v: schedule.flow_table(v)),
        ("sigma_max", lambda v: schedule.linear_quadratic(3, v)),
        ("threshold_noise", lambda v: schedule.linear_quadratic(3, 1.0, threshold_noise=v)),
    ],
)
def test_a_parameter_that_must_be_positive_is_refused_by_name(argument, function, value):
    with pytest.raises(ValueError, match=f"{argument} must") as caught:
        function(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", ["a", None, True, 1j, [1.0], 10**400])
@pytest.mark.parametrize(
    ("argument", "function"),
    [
        ("sigma_min", lambda v: schedule.karras(3, v, HIGH)),
        ("sigma_max", lambda v: schedule.exponential(3, LOW, v)),
        ("rho", lambda v: schedule.karras(3, LOW, HIGH, rho=v)),
        ("eps_s", lambda v: schedule.vp(3, eps_s=v)),
        ("mu", lambda v: schedule.laplace(3, LOW, HIGH, mu=v)),
        ("a", lambda v: schedule.beta(3, TEN, a=v)),
        ("shift", lambda v: schedule.flow(3, v)),
        ("shift", Flow),
        ("threshold_noise", lambda v: schedule.linear_quadratic(3, 1.0, threshold_noise=v)),
        ("beta_start", lambda v: schedule.discrete_table(3, beta_start=v)),
    ],
)
def test_what_is_no_real_number_is_refused_by_name(argument, function, value):
    with pytest.raises(ValueError, match=f"^{argument} must") as caught:
        function(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("mu", [math.nan, math.inf, -math.inf])
def test_laplace_refuses_a_centre_that_is_not_finite(mu):
    with pytest.raises(ValueError, match=f"mu must be a finite number, got {mu}"):
        schedule.laplace(3, LOW, HIGH, mu=mu)


@pytest.mark.parametrize(
    ("named", "function"),
    [
        ("threshold_noise", lambda: schedule.linear_quadratic(10, 1.0, 0.9)),
        ("threshold_noise", lambda: schedule.linear_quadratic(10, 1.0, 0.7)),
        ("linear_steps", lambda: schedule.linear_quadratic(10, 1.0, 0.5, 1)),
        ("beta_d", lambda: schedule.vp(3, beta_d=1e4)),
        ("sigma_min", lambda: schedule.karras(3, 1e-300, 1e300)),
        ("rho", lambda: schedule.karras(3, LOW, HIGH, rho=1e300)),
        ("table", lambda: schedule.normal(3, torch.tensor([1.0]))),
        ("table", lambda: schedule.normal(3, torch.tensor([0.0, 1.0, 2.0]))),
        ("table", lambda: schedule.simple(3, torch.tensor([0.0, 1.0, 2.0]))),
    ],
)
def test_arguments_that_lead_to_no_descending_levels_are_refused(named, function):
    with pytest.raises(ValueError, match=r"must give finite levels that decrease") as caught:
        function()
    assert named in str(caught.value)


def test_levels_four_hundred_orders_of_magnitude_apart_are_a_schedule():
    sigmas = schedule.exponential(5, 1e-200, 1e200)
    # exp turns the rounding of a logarithm of 460 into a relative error.
    close(sigmas, [1e200, 1e100, 1.0, 1e-100, 1e-200, 0.0], 2000 * EPS)


@pytest.mark.parametrize("steps", [np.int64(3), np.uint8(3)])
def test_a_number_of_steps_may_be_an_integer_of_another_library(steps):
    for function in STEPS_OF.values():
        assert torch.equal(function(steps), function(3))


@pytest.mark.parametrize("value", [1.0, 1.5])
def test_fractions_must_lie_below_one(value):
    with pytest.raises(ValueError, match=f"eps_s must be a number between 0 and 1, got {value}"):
        schedule.vp(3, eps_s=value)
    with pytest.raises(ValueError, match=rf"threshold_noise must .* between 0 and 1, got {value}"):
        schedule.linear_quadratic(3, 1.0, threshold_noise=value)


@pytest.mark.parametrize("linear_steps", [0, -1, 4, 5])
def test_linear_steps_must_leave_a_quadratic_step(linear_steps):
    with pytest.raises(ValueError, match=f"linear_steps must .* got {linear_steps}"):
        schedule.linear_quadratic(4, 1.0, linear_steps=linear_steps)


def test_simple_refuses_more_steps_than_levels():
    with pytest.raises(ValueError, match="steps must be at most the table's 10 levels, got 11"):
        schedule.simple(11, TEN)


def test_ddim_uniform_refuses_a_table_of_one_level():
    with pytest.raises(ValueError, match="table must hold at least 2 levels, got 1"):
        schedule.ddim_uniform(1, torch.tensor([1.0]))


@pytest.mark.parametrize("function", ["normal", "sgm_uniform"])
def test_even_times_refuse_an_unknown_process(function):
    with pytest.raises(ValueError, match=r"process must be .* got 'edm'"):
        getattr(schedule, function)(3, TEN, "edm")


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedule.laplace(5, 0.03, 14.6, mu=math.nan),
        lambda: schedule.vp(3, beta_d=1e4),
        lambda: schedule.karras(3, 0.03, 14.6, rho=1e-3),
        lambda: schedule.karras(3, 1e-300, 1e300),
        lambda: schedule.linear_quadratic(10, 1.0, 0.5, 1.5),
        lambda: schedule.linear_quadratic(10, 1.0, 0.025, True),
        lambda: schedule.linear_quadratic(10, 1.0, 0.025, "2"),
    ],
)
def test_a_schedule_that_cannot_be_computed_is_refused(make):
    with pytest.raises(ValueError, match="must"):
        make()


@pytest.mark.parametrize("shift", [0.1, 0.3, 0.7, 3.0])
def test_a_shift_leaves_time_one_where_it_is(shift):
    assert schedule.flow(4, shift)[0].item() == 1.0
    assert schedule.flow_table(shift)[-1].item() == 1.0


@pytest.mark.parametrize("lam", [360.0, 400.0])
@pytest.mark.parametrize("process", [VP(), Flow()])
def test_small_levels_have_a_finite_inverse(lam, process):
    assert process.sigma(lam) == pytest.approx(math.exp(-lam), rel=1e-12, abs=0.0)
    tensor = process.sigma(torch.tensor(lam, dtype=torch.float64)).item()
    assert tensor == pytest.approx(math.exp(-lam), rel=1e-12, abs=0.0)


@pytest.mark.parametrize("process", [VE(), VP(), Flow()])
def test_a_float_without_noise_gives_what_a_tensor_gives(process):
    assert process.half_log_snr(0.0) == math.inf
    assert process.half_log_snr(torch.tensor(0.0)).item() == math.inf
    assert process.sigma(math.inf) == 0.0


@pytest.mark.parametrize(
    "make",
    [
        lambda as_: schedule.karras(5, 0.03, 14.6, rho=as_(7.0)),
        lambda as_: schedule.polyexponential(5, 0.03, 14.6, rho=as_(0.7)),
        lambda as_: schedule.vp(5, beta_d=as_(19.9)),
        lambda as_: schedule.linear_quadratic(5, 1.0, as_(0.025)),
    ],
)
def test_a_parameter_given_as_a_tensor_is_its_number(make):
    exact = make(lambda v: torch.tensor(v).item())
    torch.testing.assert_close(make(torch.tensor), exact, rtol=1e-13, atol=0)
