"""The mesh against 50-digit arithmetic, and everything it refuses."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmpp_core import VE, VP, Flow, Mesh

MP = mpmath.MPContext()
# 50 digits of every difference: alpha^2 = 1 - sigma^2 alone uses up 2 log10(1 / sigma) more.
MP.dps = 120
EPS = 2.0**-52
PROCESSES = [VE(), VP(), Flow(), Flow(3.0)]

fixed = settings(derandomize=True, deadline=None, max_examples=100)


def exact_lambda(process, sigma):
    s = MP.mpf(sigma)
    alpha = {"ve": MP.mpf(1), "vp": MP.sqrt((1 - s) * (1 + s)), "flow": 1 - s}[process.name]
    return MP.log(alpha / s)


def ulps(value, exact):
    return float(abs(MP.mpf(value) - exact) / MP.mpf(math.ulp(float(exact))))


@st.composite
def levels_of(draw, process):
    """Two to eight levels, neighbours apart by 1e-15 of themselves to a factor of 1e20."""
    if process.name == "ve":
        sigma = 10.0 ** draw(st.floats(-5.0, 8.0))
    else:
        sigma = draw(
            st.one_of(
                st.floats(1e-5, 0.9999),
                st.floats(4.0, 15.0).map(lambda e: 1.0 - 10.0**-e),
            )
        )
    levels = [sigma]
    step = st.one_of(st.floats(-15.0, 20.0).map(lambda e: 10.0**e), st.just(1e-8))
    for excess in draw(st.lists(step, min_size=1, max_size=7)):
        following = levels[-1] / (1.0 + excess)
        levels.append(min(following, math.nextafter(levels[-1], 0.0)))
    return levels


# --- what a mesh holds -------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES)
@fixed
@given(data=st.data())
def test_every_step_keeps_all_its_digits(process, data):
    levels = data.draw(levels_of(process))
    mesh = Mesh.from_sigmas(levels, process)
    for k, (s, t) in enumerate(pairwise(levels)):
        exact = exact_lambda(process, t) - exact_lambda(process, s)
        assert mesh.h[k] > 0.0
        assert ulps(mesh.h[k], exact) <= 4.0, (s, t)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("relative", [1e-15, 1e-12, 1e-8, 1e-4, 1.0, 1e20])
def test_a_step_of_any_length_keeps_all_its_digits(process, relative):
    for sigma in (0.999999, 0.75, 0.5, 1e-3):
        following = min(sigma / (1.0 + relative), math.nextafter(sigma, 0.0))
        mesh = Mesh.from_sigmas([sigma, following], process)
        exact = exact_lambda(process, following) - exact_lambda(process, sigma)
        assert ulps(mesh.h[0], exact) <= 4.0


@pytest.mark.parametrize("process", PROCESSES)
@fixed
@given(data=st.data())
def test_the_steps_add_up_to_the_rise_of_lambda(process, data):
    levels = data.draw(levels_of(process))
    mesh = Mesh.from_sigmas(levels, process)
    rise = exact_lambda(process, levels[-1]) - exact_lambda(process, levels[0])
    assert math.fsum(mesh.h) == pytest.approx(float(rise), rel=8 * EPS, abs=0.0)


@pytest.mark.parametrize("process", PROCESSES)
@fixed
@given(data=st.data())
def test_alpha_and_lambda_belong_to_sigma(process, data):
    levels = data.draw(levels_of(process))
    mesh = Mesh.from_sigmas([*levels, 0.0], process)
    assert mesh.sigma == (*levels, 0.0)
    for sigma, alpha, lam in list(zip(mesh.sigma, mesh.alpha, mesh.lam, strict=True))[:-1]:
        exact = exact_lambda(process, sigma)
        exact_alpha = MP.exp(exact) * MP.mpf(sigma)
        assert ulps(alpha, exact_alpha) <= 2.0
        # A difference of two logarithms: right to the last place of the larger.
        size = 1 + abs(MP.log(exact_alpha)) + abs(MP.log(MP.mpf(sigma)))
        assert abs(lam - exact) <= 2 * EPS * size


@pytest.mark.parametrize("process", PROCESSES)
def test_lambda_increases_and_h_is_its_difference(process):
    levels = [0.99, 0.7, 0.5, 0.3, 0.1, 0.01, 1e-4]
    mesh = Mesh.from_sigmas(levels, process)
    assert all(a < b for a, b in pairwise(mesh.lam))
    for h, (a, b) in zip(mesh.h, pairwise(mesh.lam), strict=True):
        assert h == pytest.approx(b - a, abs=4 * EPS * 10.0)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_lengths_are_those_of_n_steps(process):
    mesh = Mesh.from_sigmas([0.9, 0.5, 0.1, 0.0], process)
    assert mesh.steps == len(mesh.h) == 3
    assert len(mesh.sigma) == len(mesh.alpha) == len(mesh.lam) == 4
    assert mesh.process is process
    for field in (mesh.sigma, mesh.alpha, mesh.lam, mesh.h):
        assert all(type(value) is float for value in field)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_last_step_to_zero_is_infinitely_long(process):
    mesh = Mesh.from_sigmas([0.9, 0.5, 0.0], process)
    assert mesh.sigma[-1] == 0.0
    assert mesh.alpha[-1] == 1.0
    assert mesh.lam[-1] == math.inf
    assert mesh.h[-1] == math.inf
    assert math.isfinite(mesh.h[0])
    assert math.isfinite(mesh.lam[-2])


def test_by_hand():
    # alpha / sigma: 1/4, 1, 4 for VE; 3/4, 4/3 for VP; 1/3, 1, 3 for FLOW
    ve = Mesh.from_sigmas([4.0, 1.0, 0.25])
    assert ve.h == pytest.approx([math.log(4.0)] * 2, rel=2 * EPS)
    assert ve.alpha == (1.0, 1.0, 1.0)
    vp = Mesh.from_sigmas([0.8, 0.6], "vp")
    assert vp.alpha == pytest.approx([0.6, 0.8], rel=2 * EPS)
    assert vp.h == pytest.approx([2.0 * math.log(4.0 / 3.0)], rel=4 * EPS)
    flow = Mesh.from_sigmas([0.75, 0.5, 0.25], "flow")
    assert flow.alpha == (0.25, 0.5, 0.75)
    assert flow.h == pytest.approx([math.log(3.0)] * 2, rel=2 * EPS)


def test_ve_is_the_process_unless_another_is_named():
    assert Mesh.from_sigmas([2.0, 1.0]).process == VE()
    assert Mesh.from_sigmas([0.9, 0.5], "vp").process == VP()
    assert Mesh.from_sigmas([0.9, 0.5], "flow").process == Flow()


def test_a_mesh_cannot_be_changed():
    mesh = Mesh.from_sigmas([2.0, 1.0])
    for field in dataclasses.fields(mesh):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(mesh, field.name, None)


def test_meshes_of_equal_levels_are_equal():
    assert Mesh.from_sigmas([0.9, 0.5]) == Mesh.from_sigmas((0.9, 0.5))
    assert Mesh.from_sigmas([0.9, 0.5]) != Mesh.from_sigmas([0.9, 0.5], "vp")


# --- what it is made from ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "sigmas",
    [
        [8.0, 2.0, 0.5, 0.0],
        (8.0, 2.0, 0.5, 0.0),
        np.array([8.0, 2.0, 0.5, 0.0]),
        np.array([8.0, 2.0, 0.5, 0.0], dtype=np.float32),
        torch.tensor([8.0, 2.0, 0.5, 0.0]),
        torch.tensor([8.0, 2.0, 0.5, 0.0], dtype=torch.float64),
        torch.tensor([8.0, 2.0, 0.5, 0.0], dtype=torch.float16),
        torch.tensor([8.0, 2.0, 0.5, 0.0], dtype=torch.bfloat16),
        torch.tensor([8.0, 2.0, 0.5, 0.0], requires_grad=True),
        torch.tensor([0.0, 0.5, 2.0, 8.0]).flip(0),
        torch.tensor([[8.0, 1.0], [2.0, 1.0], [0.5, 1.0], [0.0, 1.0]])[:, 0],
        list(torch.tensor([8.0, 2.0, 0.5, 0.0])),
    ],
)
def test_levels_come_in_any_container_and_dtype(sigmas):
    assert Mesh.from_sigmas(sigmas) == Mesh.from_sigmas([8.0, 2.0, 0.5, 0.0])


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64, torch.uint8])
def test_integer_levels_are_levels(dtype):
    mesh = Mesh.from_sigmas(torch.tensor([8, 2, 1, 0], dtype=dtype))
    assert mesh == Mesh.from_sigmas([8.0, 2.0, 1.0, 0.0])
    assert Mesh.from_sigmas([8, 2, 1, 0]) == mesh


def test_a_float32_level_is_read_without_rounding():
    sigmas = torch.tensor([14.6146, 0.0292], dtype=torch.float32)
    assert Mesh.from_sigmas(sigmas).sigma == tuple(sigmas.double().tolist())


@pytest.mark.parametrize("process", PROCESSES)
def test_the_given_levels_are_not_modified(process):
    tensor = torch.tensor([1.0 if process.name == "flow" else 0.99, 0.5, 0.0])
    kept, numbers = tensor.clone(), tensor.tolist()
    as_list = list(numbers)
    Mesh.from_sigmas(tensor, process)
    Mesh.from_sigmas(as_list, process)
    assert torch.equal(tensor, kept)
    assert as_list == numbers


# --- the first level of a flow -----------------------------------------------------------------


def exact_first(shift):
    s, t = Fraction(shift), 1 - Fraction(1, 10_000)
    return float(s * t / (1 + (s - 1) * t))


def test_a_flow_that_starts_at_one_starts_one_ten_thousandth_below():
    mesh = Mesh.from_sigmas([1.0, 0.5, 0.0], "flow")
    assert mesh.sigma == (1.0 - 1e-4, 0.5, 0.0)
    assert mesh.alpha[0] == pytest.approx(1e-4, rel=1e-11)  # a few digits are lost in 1 - 0.9999
    assert mesh.lam[0] == pytest.approx(math.log(1e-4 / 0.9999), rel=1e-12)


@pytest.mark.parametrize("shift", [0.5, 3.0, 12.0])
def test_a_shift_moves_the_first_level_of_a_flow(shift):
    mesh = Mesh.from_sigmas([1.0, 0.5, 0.0], Flow(shift))
    assert mesh.sigma[0] == pytest.approx(exact_first(shift), rel=2 * EPS)
    assert mesh.sigma[1:] == (0.5, 0.0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(
    ("dtype", "rounded"),
    [
        (torch.float64, np.float64),
        (torch.float32, np.float32),
        (torch.bfloat16, np.float32),  # half precision would round it to 1 again
        (torch.float16, np.float32),
        (torch.int64, np.float64),
    ],
)
def test_the_first_level_of_a_flow_has_the_precision_of_the_schedule(dtype, rounded, shift):
    sigmas = torch.tensor([1, 0], dtype=dtype)
    mesh = Mesh.from_sigmas(sigmas, Flow(shift))
    slack = 0.0 if rounded is np.float32 else 2 * EPS
    assert mesh.sigma[0] == pytest.approx(float(rounded(exact_first(shift))), rel=slack, abs=0.0)


def test_a_flow_that_starts_above_one_is_replaced_too():
    assert Mesh.from_sigmas([1.5, 0.5], "flow") == Mesh.from_sigmas([1.0, 0.5], "flow")


@pytest.mark.parametrize("first", [0.99999, 0.9999, 0.5])
def test_a_flow_that_starts_below_one_is_left_alone(first):
    assert Mesh.from_sigmas([first, 0.25], "flow").sigma == (first, 0.25)


def test_ve_may_start_at_one():
    assert Mesh.from_sigmas([1.0, 0.5]).sigma[0] == 1.0


# --- refusals ----------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kind", [list, torch.tensor])
@pytest.mark.parametrize(
    ("sigmas", "condition", "entry", "value"),
    [
        ([0.9, NAN, 0.1], "finite", "sigmas[1]", "nan"),
        ([NAN, 0.5, 0.1], "finite", "sigmas[0]", "nan"),
        ([0.9, 0.5, NAN], "finite", "sigmas[2]", "nan"),
        ([0.9, 0.5, -INF], "finite", "sigmas[2]", "-inf"),
        ([0.9, INF, 0.1], "finite", "sigmas[1]", "inf"),
        ([0.9, 0.5, -0.25], "negative", "sigmas[2]", "-0.25"),
        ([-0.25, 0.5], "negative", "sigmas[0]", "-0.25"),
        ([0.9, 0.0, 0.0], "0 only at the end", "sigmas[1]", "0.0"),
        ([0.0, 0.5], "0 only at the end", "sigmas[0]", "0.0"),
        ([0.5, 0.5, 0.0], "strictly decreasing", "sigmas[0] = 0.5", "sigmas[1] = 0.5"),
        ([0.75, 0.25, 0.5], "strictly decreasing", "sigmas[1] = 0.25", "sigmas[2] = 0.5"),
        ([0.25, 0.5], "strictly decreasing", "sigmas[0] = 0.25", "sigmas[1] = 0.5"),
    ],
)
def test_a_bad_level_is_refused_and_named(process, kind, sigmas, condition, entry, value):
    with pytest.raises(ValueError, match=r"^sigmas m") as caught:
        Mesh.from_sigmas(kind(sigmas), process)
    for part in (condition, entry, value):
        assert part in str(caught.value)


@pytest.mark.parametrize("first", [INF, NAN])
def test_a_first_level_that_is_not_finite_is_refused(first):
    for process in ("ve", "vp"):
        with pytest.raises(ValueError, match=r"sigmas must be finite, got sigmas\[0\] = (inf|nan)"):
            Mesh.from_sigmas([first, 0.5], process)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("kind", [list, torch.tensor])
@pytest.mark.parametrize("sigmas", [[], [0.5], [0.0]])
def test_fewer_than_two_levels_are_refused(process, kind, sigmas):
    with pytest.raises(ValueError, match="sigmas must hold at least two levels, got") as caught:
        Mesh.from_sigmas(kind(sigmas), process)
    assert all(str(s) in str(caught.value) for s in sigmas)


@pytest.mark.parametrize("shape", [(), (1, 3), (3, 1), (2, 0)])
def test_a_tensor_of_another_rank_is_refused(shape):
    with pytest.raises(ValueError, match="sigmas must have one dimension") as caught:
        Mesh.from_sigmas(torch.ones(shape))
    assert str(tuple(shape)) in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.complex128])
def test_a_dtype_that_is_not_real_is_refused(dtype):
    with pytest.raises(ValueError, match="sigmas must hold real numbers") as caught:
        Mesh.from_sigmas(torch.tensor([1, 0]).to(dtype))
    assert str(dtype) in str(caught.value)


@pytest.mark.parametrize(
    "sigmas",
    [
        "karras",
        "10",
        b"10",
        ["1", "0.5"],
        [True, False],
        {2.0: 1, 1.0: 2},
        None,
        1.0,
        [1.0, None],
        [[1.0], [0.5]],
        [1.0, 1j],
        [2.0, object()],
        [10**400, 1],
    ],
)
def test_what_is_no_sequence_of_numbers_is_refused(sigmas):
    with pytest.raises(ValueError, match="sigmas must be a 1-D tensor or a sequence") as caught:
        Mesh.from_sigmas(sigmas)
    assert repr(sigmas) in str(caught.value)


@pytest.mark.parametrize("first", [1.0, 1.5, 14.6])
def test_vp_refuses_a_level_without_data(first):
    with pytest.raises(ValueError, match="sigmas must lie below 1 for process 'vp'") as caught:
        Mesh.from_sigmas([first, 0.5], "vp")
    assert f"sigmas[0] = {first}" in str(caught.value)


@pytest.mark.parametrize("second", [1.0, 1.5, 0.99995, 0.9999])
def test_a_flow_refuses_a_second_level_above_the_replaced_first(second):
    with pytest.raises(ValueError, match=r"sigmas must continue below 0\.9999") as caught:
        Mesh.from_sigmas([2.0, second, 0.5], "flow")
    assert f"sigmas[1] = {second}" in str(caught.value)


def test_a_flow_allows_any_second_level_below_the_replaced_first():
    second = math.nextafter(0.9999, 0.0)
    assert Mesh.from_sigmas([1.0, second], "flow").h[0] > 0.0


@pytest.mark.parametrize("tiny", [5e-324, 1e-310])
def test_a_last_level_so_small_that_the_step_overflows_is_refused(tiny):
    with pytest.raises(ValueError, match="sigmas must end at 0 or at a normal number") as caught:
        Mesh.from_sigmas([14.6, 1.0, tiny])
    assert f"sigmas[2] = {tiny}" in str(caught.value)


def test_the_smallest_normal_number_is_a_level():
    mesh = Mesh.from_sigmas([1.0, 2.0**-1022])
    assert mesh.h[0] == pytest.approx(1022.0 * math.log(2.0), rel=2 * EPS)


@pytest.mark.parametrize("process", ["VE", "edm", None, 3, VP])
def test_an_unknown_process_is_refused(process):
    with pytest.raises(ValueError, match="process must be") as caught:
        Mesh.from_sigmas([0.9, 0.5], process)
    assert repr(process) in str(caught.value)


@pytest.mark.parametrize("sigmas", [[10**400, 1], [torch.tensor(1j), torch.tensor(0.5)]])
def test_numbers_that_no_float_can_hold_are_refused_by_name(sigmas):
    with pytest.raises(ValueError, match="sigmas must be"):
        Mesh.from_sigmas(sigmas)


def test_a_flow_refuses_an_infinite_first_level():
    with pytest.raises(ValueError, match=r"sigmas must be finite, got sigmas\[0\] = inf"):
        Mesh.from_sigmas([math.inf, 0.5, 0.0], "flow")
