"""The golden numbers for ports, and the check of a port, with one in plain Python."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import scripts
import torch
from browser import run_js
from conftest import golden_cases
from hypothesis import given
from hypothesis import strategies as st

from dpmpp_core import Flow, StepError, sample
from dpmpp_core.conformance import MISTAKES, cases, check, read_answers
from dpmpp_core.conformance.__main__ import main
from dpmpp_core.conformance.cases import text
from dpmpp_core.widgets.modules import module_source

ROOT = Path(__file__).parent.parent
CASES = json.loads(text())["cases"]
NAMES = [case["name"] for case in CASES]
NAMES_OF_SHIFT_3 = ["flow-gaussian", "flow-two-modes", "flow-heun", "flow-no-noise"]
NOISE = json.loads(text("noise.json"))
MP = mpmath.mp.clone()
MP.dps = 50


# --- a port, from the contract alone; with 50 digits it is the truth -----------------------------


def port(
    case: dict[str, Any], m: Any = math, number: Any = float, bug: str = ""
) -> list[list[Any]]:
    """The states after every step. `m` and `number` are the arithmetic, `bug` is a mistake."""

    def alpha_of(s: Any) -> Any:
        return {"ve": lambda: number(1), "vp": lambda: m.sqrt(1 - s * s), "flow": lambda: 1 - s}[
            case["process"]
        ]()

    def estimate(state: list[Any], s: Any, k: int, i: int) -> Any:
        a, x = alpha_of(s), state[i]
        if case["denoiser"] == "given":
            return number(case["denoised"][k][i])
        if case["denoiser"] == "gaussian":
            return a * x / (a * a + s * s)
        v = a * a / 4 + s * s
        total = x
        if case["denoiser"] == "joint":
            size = len(state) // case["batch"]
            total = sum(state[size * (i // size) : size * (i // size) + size])
        return (a * x / 4 + s * s * m.tanh(a * total / v)) / v

    sigmas = [number(s) for s in case["sigmas"]]
    if case["process"] == "flow" and sigmas[0] >= 1:
        t, shift = number(1 - 1e-4), 1.0 if bug == "no shift" else case["shift"]
        # The levels are float64 numbers, this one too.
        replaced = float(t / (t + (1 - t) / number(shift)))
        sigmas[0] = number(0.999 if bug == "first level" else replaced)
    eta, s_noise = number(case["eta"]), number(case["s_noise"])
    if bug == "s_noise as eta" and s_noise == 0:
        eta = number(0)
    if bug == "s_noise":
        s_noise = number(1)
    heun = (case["solver_type"] == "heun") != (bug == "solver")
    x, before, h_before, states = [number(v) for v in case["x"]], None, None, []
    for k, (s, t) in enumerate(pairwise(sigmas)):
        x0 = [estimate(x, s, k, i) for i in range(len(x))]
        row = {"noise before": max(k - 1, 0), "noise after": min(k + 1, len(sigmas) - 2)}.get(
            bug, k
        )
        noise = [number(v) for v in case["noise"][row]]
        if t == 0:
            x = list(x0)
            if bug == "last noise" and eta > 0:
                x = [v + s_noise * s * z for v, z in zip(x, noise, strict=True)]
            states.append(x)
            continue
        a = number(1) if bug in ("alpha", "as ve") else alpha_of(t)
        h = m.log(s / t) if bug == "as ve" else m.log(alpha_of(t) / t) - m.log(alpha_of(s) / s)
        z = (1 + eta) * h
        shrink = m.exp(-eta * h)
        if bug == "careless":
            pull, rate = 1 - m.exp(-z), 1 - m.exp(-2 * eta * h)
        else:
            pull, rate = -m.expm1(-z), -m.expm1(-2 * eta * h)
        ratio = s / t if bug == "ratio" else t / s
        spread = s_noise * t * m.sqrt(rate)
        if bug.startswith("amplitude"):
            spread = s_noise * t * eta * m.sqrt(-m.expm1(-2 * h))
        if bug == "amplitude, drift of the ODE":
            shrink, pull = number(1), -m.expm1(-h)
        x_next = [ratio * shrink * v + a * pull * e for v, e in zip(x, x0, strict=True)]
        if bug == "first history" and before is None:
            before, h_before = [number(0)] * len(x), h
        if before is not None:
            r = h / h_before if bug == "r" else h_before / h
            if bug in ("no ratio", "half the ratio"):
                r = number(1) if bug == "no ratio" else (1 + r) / 2
            z = h if bug == "amplitude, drift of the ODE" else z
            weight = 1 - pull / z if heun else pull / 2
            sign = -1 if bug == "sign" else 1
            x_next = [
                v + sign * a * weight / r * (e - e_before)
                for v, e, e_before in zip(x_next, x0, before, strict=True)
            ]
        kept = x if bug == "state kept" else x0
        x = [v + spread * n for v, n in zip(x_next, noise, strict=True)]
        before = before if bug == "first kept" and before is not None else kept
        h_before = h
        states.append(x)
    return states


def answers(bug: str = "", number: Any = float, m: Any = math) -> dict[str, Any]:
    """The port's file."""
    states = {case["name"]: port(case, m, number, bug) for case in CASES}
    return {"cases": [{"name": name, "states": rows} for name, rows in states.items()]}


class Single:
    """math's functions in float32."""

    log, exp, expm1, sqrt, tanh = np.log, np.exp, np.expm1, np.sqrt, np.tanh


def run(tmp_path: Path, content: Any, *options: str) -> tuple[int, Path]:
    file = tmp_path / "port.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return main([str(file), *options]), file


# --- the numbers are right -----------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_what_is_expected_is_what_50_digits_give(case: dict[str, Any]) -> None:
    exact = port(case, MP, MP.mpf)
    for row, truth in zip(case["expected"], exact, strict=True):
        size = max(1.0, *(abs(float(v)) for v in truth))
        assert all(abs(v - t) < 4e-15 * size for v, t in zip(row, truth, strict=True))


COMFYUI = {
    "ve-comfyui-midpoint": ("EPS", "karras12", 1.0, 1.0, "midpoint"),
    "ve-comfyui-heun": ("EPS", "karras12", 0.3, 1.1, "heun"),
    "flow-comfyui-midpoint": ("CONST", "flow10_shift3", 1.0, 1.0, "midpoint"),
    "flow-comfyui-heun": ("CONST", "flow10_shift3", 1.7, 1.1, "heun"),
}


@pytest.mark.parametrize("name", COMFYUI)
def test_four_cases_are_states_that_comfyui_returned(name: str) -> None:
    keys = ("model_sampling", "schedule", "eta", "s_noise", "solver_type")
    found = [parameter.values[0] for parameter in golden_cases("comfyui_injected_noise")]
    (theirs,) = (c["arrays"] for c in found if tuple(c[k] for k in keys) == COMFYUI[name])
    ours = CASES[NAMES.index(name)]
    assert ours["x"] == theirs["x_T"][:2].flatten().tolist()
    assert ours["sigmas"] == theirs["sigmas"].tolist()
    assert ours["noise"] == theirs["xi"][:, :2].flatten(1).tolist()
    assert ours["denoised"] == theirs["denoised"][:, :2].flatten(1).tolist()
    assert ours["expected"][:-1] == theirs["x"][1:, :2].flatten(1).tolist()
    assert ours["expected"][-1] == theirs["out"][:2].flatten().tolist()


def test_comfyuis_model_had_no_shift_though_its_levels_have() -> None:
    for name in ("flow-comfyui-midpoint", "flow-comfyui-heun"):
        case = CASES[NAMES.index(name)]
        assert case["sigmas"][5] == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))
        off = {}
        for shift in (1.0, 3.0):
            states = port({**case, "shift": shift})
            off[shift] = float(np.abs(np.subtract(states, case["expected"])).max())
        assert case["shift"] == 1.0
        assert off[1.0] < 1e-14 < 1e-5 < off[3.0]


def test_the_committed_files_are_what_the_tool_writes() -> None:
    tool = scripts.load("tools/conformance_cases.py")
    ours, made = json.loads(text()), json.loads(tool.as_text(tool.build()))
    assert made["about"] == ours["about"]
    assert made["refused"] == ours["refused"]
    for case, again in zip(ours["cases"], made["cases"], strict=True):
        assert list(case) == list(again)
        for key, value in case.items():
            # Another processor may round an exponential otherwise.
            if key in ("sigmas", "x", "noise", "denoised", "expected"):
                assert np.allclose(value, again[key], rtol=1e-14, atol=1e-15)
            else:
                assert value == again[key]
    ours, made = NOISE, json.loads(tool.noise_as_text(tool.noise()))
    assert list(made) == list(ours)
    assert made["about"] == ours["about"]
    answers = {"words": "words", "normals": "normals", "path": "w", "runs": "xi"}
    for kind, numbers in answers.items():
        for entry, again in zip(ours[kind], made[kind], strict=True):
            assert {**entry, numbers: None} == {**again, numbers: None}
            assert np.allclose(entry[numbers], again[numbers], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("entry", json.loads(text())["refused"], ids=lambda entry: entry["why"])
def test_what_is_to_be_refused_is_refused_by_the_package(entry: dict[str, Any]) -> None:
    setting = {k: entry[k] for k in ("eta", "s_noise", "solver_type") if k in entry}
    process = Flow(entry["shift"]) if "shift" in entry else entry["process"]
    x = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"must|may") as refusal:
        sample(lambda x, sigma: x, x, entry["sigmas"], process=process, disable=True, **setting)
    assert not isinstance(refusal.value, StepError)


def test_every_process_solver_and_kind_of_end_has_a_case() -> None:
    kinds = {(case.process, case.solver_type) for case in cases()}
    assert kinds == {(p, s) for p in ("ve", "vp", "flow") for s in ("midpoint", "heun")}
    assert {case.eta for case in cases()} >= {0.0, 0.5, 1.0}
    assert {case.sigmas[-1] == 0.0 for case in cases()} == {True, False}
    assert {case.sigmas[0] >= 1.0 for case in cases() if case.process == "flow"} == {True, False}
    replaced = {c.shift for c in cases() if c.process == "flow" and c.sigmas[0] >= 1.0}
    assert replaced == {1.0, 3.0}
    assert any(case.s_noise == 0.0 < case.eta for case in cases())
    assert max(case.batch for case in cases()) > 1
    growth = [
        g for c in cases() for h in [c.mesh().h] for g in np.divide(h[1:], h[:-1]) if g < math.inf
    ]
    assert min(growth) < 0.2
    assert max(growth) > 5


def test_the_shift_of_a_case_is_that_of_its_levels() -> None:
    for case in CASES:
        assert ("shift" in case) == (case["process"] == "flow")
        if case["name"] in NAMES_OF_SHIFT_3:
            even = [3.0 * t / (1.0 + 2.0 * t) for t in np.linspace(1.0, 0.0, len(case["sigmas"]))]
            assert case["shift"] == 3.0
            assert case["sigmas"] == pytest.approx(even)


def test_the_joint_denoiser_is_the_mean_of_the_clean_samples() -> None:
    """By Bayes' rule, from the two densities; and each sample of a batch has its own."""
    case = next(case for case in cases() if case.denoiser == "joint")
    sigma, x = 0.6, np.array([0.3, -0.8, 1.1, -0.2, 0.4, -1.5])
    found = case.estimate(torch.tensor(x)[None], sigma, 0)[0].numpy()
    alpha = 1.0 - sigma
    s = alpha**2 / 4 + sigma**2
    for sample_of in (slice(0, 3), slice(3, 6)):
        part = x[sample_of]
        modes = [np.ones(3), -np.ones(3)]
        weights = [math.exp(-((part - alpha * m) ** 2).sum() / (2 * s)) for m in modes]
        means = [m + alpha / 4 / s * (part - alpha * m) for m in modes]
        exact = sum(w * m for w, m in zip(weights, means, strict=True)) / sum(weights)
        assert np.allclose(found[sample_of], exact, rtol=1e-13)


# --- a right port passes -------------------------------------------------------------------------


def test_the_package_passes(tmp_path: Path, capsys: Any) -> None:
    ours = [{"name": case.name, "states": case.states().tolist()} for case in cases()]
    assert run(tmp_path, {"cases": ours})[0] == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(NAMES) + 1
    assert [line.split()[:2] for line in printed[:-1]] == [["ok", name] for name in NAMES]
    assert printed[-1] == f"{len(NAMES)} of {len(NAMES)} cases pass"


def test_a_port_in_plain_python_passes(tmp_path: Path) -> None:
    assert run(tmp_path, answers())[0] == 0


@pytest.mark.browser
def test_the_javascript_of_the_books_pages_passes(tmp_path: Path) -> None:
    script = """({ engine }, cases) => cases.map(c => {
      const mesh = engine.makeMesh(c.sigmas, { name: c.process, shift: c.shift });
      const table = engine.stepTable(
        mesh, { eta: c.eta, sNoise: c.s_noise, solverType: c.solver_type });
      let k = 0;
      const denoise = (x, n, sigma, alpha, out) => {
        const s = alpha ** 2 / 4 + sigma ** 2, size = x.length / (c.batch ?? 1);
        const seen = i => c.denoiser !== "joint" ? x[i]
          : x.slice(i - i % size, i - i % size + size).reduce((a, b) => a + b);
        for (let i = 0; i < x.length; i++) {
          out[i] = c.denoiser === "given" ? c.denoised[k][i]
            : c.denoiser === "gaussian" ? alpha * x[i] / (alpha ** 2 + sigma ** 2)
            : (alpha * x[i] / 4 + sigma ** 2 * Math.tanh(alpha * seen(i) / s)) / s;
        }
        k += 1;
      };
      const x = Float64Array.from(c.x);
      const run = engine.run({ target: { d: x.length, denoise }, mesh, table, x, xi: c.noise });
      return { name: c.name, states: run.states.slice(1).map(state => Array.from(state)) };
    })"""
    found = run_js(script, CASES, {"engine": module_source("engine.js")})
    assert run(tmp_path, {"cases": found})[0] == 0


def test_states_in_float32_with_coefficients_in_float64_pass_with_a_tolerance(
    tmp_path: Path,
) -> None:
    rounded = answers()
    for case in rounded["cases"]:
        case["states"] = np.float32(case["states"]).astype(float).tolist()
    assert run(tmp_path, rounded)[0] == 1
    assert run(tmp_path, rounded, "--tolerance", "1e-5")[0] == 0


# --- a wrong port is told what is wrong ----------------------------------------------------------

PLANTED = {
    "sign": "wrong sign of C",
    "r": "r inverted",
    "amplitude": "eta taken for an amplitude of the noise",
    "amplitude, drift of the ODE": "eta taken for an amplitude of the noise",
    "last noise": "noise at the last step",
    "alpha": "alpha missing",
    "as ve": "the formulas of ve for another process",
    "first history": "history at the first step",
    "ratio": "sigma_k / sigma_{k+1} in A",
    "solver": "midpoint and heun swapped",
    "s_noise": "s_noise left out",
    "no ratio": "h_k / h_{k-1} left out of C",
    "first kept": "the first estimate kept as history",
    "state kept": "the state before as history",
    "noise before": "the noise of another step",
    "noise after": "the noise of another step",
    "first level": "a first level of 1 - 0.001",
    "no shift": "a first level of 1 - 1e-4 whatever the shift",
    "s_noise as eta": "s_noise of 0 taken for eta of 0",
    "careless": "1 - exp(-z) in place of -expm1(-z)",
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_mistake_is_named_in_every_case_that_shows_it(
    bug: str, tmp_path: Path, capsys: Any
) -> None:
    code, _ = run(tmp_path, answers(bug))
    assert code == 1
    printed = capsys.readouterr().out.splitlines()
    failed = [line for line in printed if line.startswith("FAIL")]
    assert failed
    for line in failed:
        sure = "by the size of the error" if bug == "careless" else "known mistake"
        assert f"; {sure}: {PLANTED[bug]} (" in line
        assert "expected" in line
        assert "got" in line
        assert "step" in line
    if len(failed) > 1:
        assert printed[-1] == f"one mistake in all that fail: {PLANTED[bug]}"


def test_a_mistake_is_seen_through_the_rounding_of_float32(tmp_path: Path, capsys: Any) -> None:
    rounded = answers("sign")
    for case in rounded["cases"]:
        case["states"] = np.float32(case["states"]).astype(float).tolist()
    run(tmp_path, rounded, "--tolerance", "1e-5")
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert len(failed) >= 14
    assert all("known mistake: wrong sign of C" in line for line in failed)


def test_a_port_all_in_float32_is_told_so(tmp_path: Path, capsys: Any) -> None:
    with np.errstate(all="ignore"):
        found = answers("", np.float32, Single)
    listed = {case["name"]: case for case in found["cases"]}
    for case in found["cases"]:
        case["states"] = np.array(case["states"], dtype=float).tolist()
    code, file = run(tmp_path, found)
    assert code == 1
    assert "in float32 these levels are equal" in capsys.readouterr().err
    # The case that no float32 can pass aside, the size of the errors says what they are.
    listed["ve-short-steps"]["states"] = [[0.0] * 6] * 3
    file.write_text(json.dumps(found))
    assert main([str(file), "--only", "flow-*"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert failed
    assert all("float32 coefficients or states" in line for line in failed)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_each_known_mistake_shows_in_a_case_and_is_named_there(mistake: Any) -> None:
    shown = []
    for case in cases():
        made = mistake.states(case)
        if made is None:
            continue
        (verdict,) = check({case.name: made}, wanted=[case])
        if verdict.step is not None:
            shown.append(verdict)
            assert mistake.name in verdict.mistakes
    assert shown


def test_unlike_mistakes_are_told_apart_somewhere() -> None:
    for mistake in MISTAKES:
        if mistake.inexact is not None:
            continue
        made = {case.name: mistake.states(case) for case in cases()}
        finite = [case for case in cases() if made[case.name] is not None]
        verdicts = check({case.name: made[case.name] for case in finite}, wanted=finite)
        failed = [verdict.mistakes for verdict in verdicts if verdict.step is not None]
        # Where another one gives the same numbers, it would show in cases that pass.
        assert {names[0] for names in failed} == {mistake.name}
        common = {name for name in failed[0] if all(name in names for names in failed)}
        assert common == {mistake.name} or mistake.name == "s_noise of 0 taken for eta of 0"


def test_the_coefficients_that_a_port_used_are_solved_for() -> None:
    case = next(case for case in cases() if case.name == "ve-heun")
    wrong = next(m for m in MISTAKES if m.name == "wrong sign of C")
    states = wrong.states(case)
    assert states is not None
    (verdict,) = check({case.name: states}, wanted=[case])
    right, other = wrong.plan(case).rows[1].C * -1, wrong.plan(case).rows[1].C
    assert (
        f"factors that would explain the step: C = {other:.6g} where {right:.6g} is right;"
        in verdict.sentence
    )


def printed_for(tmp_path: Path, capsys: Any, bug: str, *options: str) -> dict[str, str]:
    assert run(tmp_path, answers(bug), *options)[0] == 1
    lines = capsys.readouterr().out.splitlines()
    cases_told = {line.split()[1]: line for line in lines if line.startswith("FAIL")}
    return {**cases_told, "last": lines[-1]}


@pytest.mark.parametrize("bug", ["state kept", "first kept"])
def test_no_wrong_factor_is_told_where_the_history_is_of_something_else(
    bug: str, tmp_path: Path, capsys: Any
) -> None:
    told = printed_for(tmp_path, capsys, bug)
    assert not [line for line in told.values() if "would explain the step" in line]
    assert any("what is multiplied by C or D may be wrong" in line for line in told.values())


def test_a_factor_off_by_more_than_rounding_is_not_taken_for_rounding(
    tmp_path: Path, capsys: Any
) -> None:
    # In short steps this C alone could be rounding; the other cases say that it is not.
    told = printed_for(tmp_path, capsys, "half the ratio")
    assert "C = 2.66667e-09 where 4e-09 is right; no known mistake" in told["ve-short-steps"]
    # As large an error of the state as rounding in C makes, but B twice as large.
    states = answers()
    place = NAMES.index("ve-short-steps")
    first = states["cases"][place]["states"][0]
    for i, estimate in enumerate(CASES[place]["denoised"][0]):
        first[i] += 2e-9 * estimate
    run(tmp_path, states, "--only", "ve-short-steps")
    assert "B = 4e-09 where 2e-09 is right; no known mistake" in capsys.readouterr().out


def test_a_vp_case_with_uneven_steps_shows_a_wrong_ratio(tmp_path: Path, capsys: Any) -> None:
    for bug in ("r", "no ratio", "half the ratio"):
        assert "vp-midpoint" in printed_for(tmp_path, capsys, bug)


def test_the_last_line_counts_the_commonest_mistake(tmp_path: Path, capsys: Any) -> None:
    mixed = answers("sign")
    for case, other in zip(mixed["cases"], answers("noise before")["cases"], strict=True):
        if case["name"].startswith("ve-comfyui"):
            case["states"] = other["states"]
    run(tmp_path, mixed)
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("FAIL")]
    signs = sum("known mistake: wrong sign of C" in line for line in failed)
    assert signs == len(failed) - 2
    assert lines[-1] == f"in {signs} of {len(failed)} that fail: wrong sign of C"
    assert printed_for(tmp_path, capsys, "half the ratio")["last"] == (
        "no known mistake in more than one that fails"
    )


def test_a_mistake_that_nobody_has_made_before_is_still_located() -> None:
    case = next(case for case in cases() if case.name == "flow-heun")
    states = case.states()
    states[3, 4] += 0.25
    (verdict,) = check({case.name: states}, wanted=[case])
    assert verdict.step == 3
    assert verdict.mistakes == ()
    assert f"step 3 (sigma {case.sigmas[3]:.4g} to {case.sigmas[4]:.4g}), element 4" in (
        verdict.sentence
    )
    assert "no known mistake gives these numbers" in verdict.sentence
    assert "is no sum of x, x0, x0 - x0_before and this step's noise" in verdict.sentence


# --- the bridge's numbers, from whole numbers and 50 digits ---------------------------------------


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds, in whole numbers of any size."""
    (a, b, c, d), (k, m) = counter, key
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k, q % 2**32, (p >> 32) ^ d ^ m, p % 2**32
        k, m = (k + 0x9E3779B9) % 2**32, (m + 0xBB67AE85) % 2**32
    return [a, b, c, d]


def normal(seed: int, node: int, element: int) -> Any:
    """The unit normal of a node for an element, to 50 digits."""
    quad, place = divmod(element, 4)
    counter = [quad % 2**32, node, 0, quad // 2**32]
    words = philox(counter, [seed % 2**32, seed // 2**32])
    u, v = ((word + MP.mpf(0.5)) / 2**32 for word in words[place // 2 * 2 : place // 2 * 2 + 2])
    turn = MP.sin if place % 2 else MP.cos
    return MP.sqrt(-2 * MP.log(u)) * turn(2 * MP.pi * v)


def time_of(process: str, eta: float, clock: str) -> Callable[[Any], Any]:
    """The clock, growing with lambda."""
    if clock == "tau":
        return lambda lam: MP.exp(2 * MP.mpf(eta) * lam) if eta else lam
    return {
        "ve": lambda lam: -MP.exp(-lam),
        "vp": lambda lam: -1 / MP.sqrt(1 + MP.exp(2 * lam)),
        "flow": lambda lam: -1 / (1 + MP.exp(lam)),
    }[process]


def path(lam: Any, time: Any, seed: int, element: int) -> Any:
    """The path since the start of the block: the halvings one by one, by the bridge's formula."""
    block = int(MP.floor(lam))
    name = (block + 32768) * 65536
    left, right = MP.mpf(block), MP.mpf(block + 1)
    at_left = MP.mpf(0)
    at_right = MP.sqrt(time(right) - time(left)) * normal(seed, name, element)

    def between(point: Any, node: int) -> Any:
        before, after = time(point) - time(left), time(right) - time(point)
        line = (after * at_left + before * at_right) / (before + after)
        spread = MP.sqrt(before * after / (before + after))
        return line + spread * normal(seed, name + node, element)

    node = 1
    for _ in range(11):
        middle = (left + right) / 2
        value = between(middle, node)
        if lam < middle:
            right, at_right, node = middle, value, 2 * node
        else:
            left, at_left, node = middle, value, 2 * node + 1
    return at_left if lam == left else between(lam, node)


@pytest.mark.parametrize("entry", NOISE["words"])
def test_the_words_are_philoxs(entry: dict[str, Any]) -> None:
    assert philox(entry["counter"], entry["key"]) == entry["words"]


def test_the_answers_that_philoxs_authors_published_are_among_them() -> None:
    listed = [" ".join(f"{word:08x}" for word in entry["words"]) for entry in NOISE["words"]]
    assert listed[:3] == [
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ]


@pytest.mark.parametrize("entry", NOISE["normals"])
def test_the_normals_of_nodes_are_what_50_digits_give(entry: dict[str, Any]) -> None:
    for j, value in enumerate(entry["normals"]):
        exact = normal(int(entry["seed"]), entry["node"], entry["element"] + j)
        assert abs(value - exact) < 4e-15


@pytest.mark.parametrize("entry", NOISE["path"])
def test_the_path_at_a_level_is_what_50_digits_give(entry: dict[str, Any]) -> None:
    time, lam = time_of(entry["process"], entry["eta"], entry["clock"]), MP.mpf(entry["lambda"])
    spread = MP.sqrt(time(lam) - time(MP.floor(lam)))
    for e, value in enumerate(entry["w"]):
        exact = path(lam, time, int(entry["seed"]), e)
        assert abs(value - (exact / spread if spread else exact)) < 1e-13


@pytest.mark.parametrize("entry", NOISE["runs"])
def test_the_normals_of_a_run_are_what_50_digits_give(entry: dict[str, Any]) -> None:
    time = time_of(entry["process"], entry["eta"], entry["clock"])
    sigmas = [MP.mpf(s) for s in entry["sigmas"] if s > 0]
    if sigmas[0] == 1 and entry["process"] == "flow":
        t = 1 - 1e-4
        sigmas[0] = MP.mpf(float(MP.mpf(t) / (t + (1 - MP.mpf(t)) / entry["shift"])))
    alpha = {"ve": lambda s: 1, "vp": lambda s: MP.sqrt(1 - s * s), "flow": lambda s: 1 - s}
    lam = [MP.log(alpha[entry["process"]](s) / s) for s in sigmas]
    assert len(entry["xi"]) == len(lam) - 1
    for k, (a, b) in enumerate(pairwise(lam)):
        blocks = range(int(MP.floor(a)), int(MP.floor(b)))
        for seed, row in zip(map(int, entry["seeds"]), entry["xi"][k], strict=True):
            for e, value in enumerate(row):
                moved = path(b, time, seed, e) - path(a, time, seed, e)
                for block in blocks:
                    span = MP.sqrt(time(MP.mpf(block + 1)) - time(MP.mpf(block)))
                    moved += span * normal(seed, (block + 32768) * 65536, e)
                # The levels' lambda is rounded to float64, and a path is steep in a leaf.
                assert abs(value - moved / MP.sqrt(time(b) - time(a))) < 1e-11


def test_the_runs_show_what_a_port_has_to_get_right() -> None:
    runs = NOISE["runs"]
    assert {(r["process"], r["clock"]) for r in runs} >= {
        ("ve", "tau"), ("ve", "sigma"), ("flow", "tau"), ("flow", "sigma"), ("vp", "sigma"),
    }  # fmt: skip
    assert any(int(seed) >= 2**63 for run in runs for seed in run["seeds"])
    # A level exactly at the start of a block, and one below lambda = 0.
    assert all(1.0 in run["sigmas"] and run["sigmas"][0] > 1.0 for run in runs[:4])


# --- bad input -----------------------------------------------------------------------------------


def edited(change: Callable[[list[dict[str, Any]]], Any]) -> dict[str, Any]:
    found = answers()
    change(found["cases"])
    return found


def states_of_first(change: Callable[[list[Any]], Any]) -> dict[str, Any]:
    return edited(lambda listed: change(listed[0]["states"]))


REFUSED = [
    ("{", "the file must be JSON: Expecting property name"),
    ("", "the file must be JSON: Expecting value"),
    ("[" * 100_000, "the file must be JSON: "),
    ("[]", 'the file must be an object with a list under "cases"'),
    ('{"cases": 3}', 'the file must be an object with a list under "cases"'),
    ('{"cases": [3]}', 'cases[0] must be an object with a "name", got 3'),
    ('{"cases": [{"name": 3}]}', 'cases[0] must be an object with a "name", got {"name": 3}'),
    ('{"cases": [{"name": "x"}]}', 'cases must have names from --cases, got "x"'),
    (edited(lambda c: c.pop(3)), "the file must have every case, and 've-no-noise' is missing"),
    (edited(lambda c: c.append(c[0])), "each case must be there once, got 've-gaussian' twice"),
    (edited(lambda c: c[2].pop("states")), "case 've-heun' must have the port's own states"),
    (
        edited(lambda c: c[2].update(states="no")),
        'must have 7 rows under "states", the state after',
    ),
    (states_of_first(lambda s: s.pop()), 'must have 7 rows under "states", the state after each'),
    (states_of_first(lambda s: s[1].pop()), "step 1: a state must have 6 numbers, got 5 numbers"),
    (states_of_first(lambda s: s.__setitem__(1, 5)), "step 1: a state must have 6 numbers, got 5"),
    (
        states_of_first(lambda s: s[1].__setitem__(2, "0.5")),
        'step 1, element 2: a state must hold finite numbers, got "0.5"',
    ),
    (states_of_first(lambda s: s[1].__setitem__(2, True)), "finite numbers, got true"),
    (states_of_first(lambda s: s[1].__setitem__(2, [0])), "finite numbers, got [0]"),
    (states_of_first(lambda s: s[1].__setitem__(2, 10**400)), "finite numbers, got 1000"),
    (states_of_first(lambda s: s[6].__setitem__(0, math.nan)), "NaN (h is infinite in a step to"),
    (states_of_first(lambda s: s[1].__setitem__(0, math.inf)), "got Infinity (the root of a"),
    (
        edited(lambda c: c[NAMES.index("flow-heun")]["states"][0].__setitem__(0, None)),
        "case 'flow-heun', step 0, element 0: a state must hold finite numbers, got null (lambda",
    ),
]


@pytest.mark.parametrize(("content", "sentence"), REFUSED)
def test_a_malformed_file_is_refused_in_one_sentence(
    content: Any, sentence: str, tmp_path: Path, capsys: Any
) -> None:
    code, _ = run(tmp_path, content)
    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert err.startswith("refused: ")
    assert sentence in err
    assert err.count("\n") == 1


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "states", "cases", "ve-heun"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(anything, st.sampled_from(NAMES), st.booleans())
def test_whatever_is_in_the_file_it_is_refused_with_a_sentence(
    content: Any, name: str, deep: bool
) -> None:
    whole = {"cases": [{"name": name, "states": content}]} if deep else {"cases": content}
    with pytest.raises(ValueError, match=r"^(the file|case|cases|each case)"):
        read_answers(json.dumps(whole))


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.lists(finite, min_size=6, max_size=6), min_size=4, max_size=4))
def test_every_finite_state_gets_a_verdict(states: list[list[float]]) -> None:
    case = next(case for case in cases() if case.name == "ve-part")
    answer = json.dumps({"cases": [{"name": case.name, "states": states}]})
    (verdict,) = check(read_answers(answer, [case]), wanted=[case])
    assert verdict.step == 0
    assert verdict.sentence.startswith("step 0 (sigma 3 to 2.1), element ")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["nowhere.json"], "'nowhere.json' must be a file that can be read: No such file"),
        (["."], "'.' must be a file that can be read: Is a directory"),
        ([], "FILE, --cases or --noise must be given"),
        (["x.json", "--tolerance", "-1"], "tolerance must be a finite number above 0, got -1.0"),
        (["x.json", "--tolerance", "few"], "tolerance must be a finite number above 0, got 'few'"),
        (["x.json", "--only", "edm-*"], "--only must match the name of a case, got 'edm-*'"),
        (["--cases", "no/where.json"], "'no/where.json' must be a file that can be written: No"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(
    options: list[str], sentence: str, capsys: Any
) -> None:
    assert main(options) == 1
    assert capsys.readouterr().err.startswith(f"refused: {sentence}")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "port.json"
    file.write_bytes(b"\xff\xfe\x00")
    assert main([str(file)]) == 1
    assert "must be a file that can be read: it is not UTF-8" in capsys.readouterr().err


def test_a_part_of_the_cases_can_be_asked_for(tmp_path: Path, capsys: Any) -> None:
    some = {"cases": [c for c in answers()["cases"] if c["name"].startswith("ve-")]}
    assert run(tmp_path, some)[0] == 1
    capsys.readouterr()
    assert run(tmp_path, some, "--only", "ve-*")[0] == 0
    assert capsys.readouterr().out.splitlines()[-1] == "12 of 12 cases pass"


# --- the command itself --------------------------------------------------------------------------


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "dpmpp_core.conformance", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("what", ["cases", "noise"])
def test_the_files_are_printed(what: str, capsys: Any) -> None:
    assert main([f"--{what}"]) == 0
    assert capsys.readouterr() == (text(f"{what}.json"), "")


def test_the_command_judges_the_file_of_the_cases_with_states_added(tmp_path: Path) -> None:
    found = json.loads(text())
    for case in found["cases"]:
        case["states"] = port(case)
    found["cases"][1]["states"][2][0] *= -1
    (tmp_path / "port.json").write_text(json.dumps(found), encoding="utf-8-sig")
    judged = command("port.json", folder=tmp_path)
    assert judged.returncode == 1
    assert judged.stdout.count("FAIL") == 1
    assert judged.stderr == ""


def test_the_cases_can_be_written_to_a_file(tmp_path: Path) -> None:
    to = {what: str(tmp_path / f"{what}.json") for what in ("cases", "noise")}
    assert main(["--cases", to["cases"], "--noise", to["noise"]]) == 0
    for what in to:
        assert Path(to[what]).read_text() == text(f"{what}.json")
