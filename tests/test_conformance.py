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
from browser import run_js
from conftest import golden_cases
from hypothesis import given
from hypothesis import strategies as st

from dpmpp_core.conformance import MISTAKES, cases, check, read_answers
from dpmpp_core.conformance.__main__ import main
from dpmpp_core.conformance.cases import text
from dpmpp_core.widgets.modules import module_source

ROOT = Path(__file__).parent.parent
CASES = json.loads(text())["cases"]
NAMES = [case["name"] for case in CASES]
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

    def estimate(x: Any, s: Any, k: int, i: int) -> Any:
        a = alpha_of(s)
        if case["denoiser"] == "given":
            return number(case["denoised"][k][i])
        if case["denoiser"] == "gaussian":
            return a * x / (a * a + s * s)
        v = a * a / 4 + s * s
        return (a * x / 4 + s * s * m.tanh(a * x / v)) / v

    sigmas = [number(s) for s in case["sigmas"]]
    if case["process"] == "flow" and sigmas[0] >= 1:
        sigmas[0] = number(0.999 if bug == "first level" else 1 - 1e-4)
    eta, s_noise = number(case["eta"]), number(case["s_noise"])
    if bug == "s_noise":
        s_noise = number(1)
    heun = (case["solver_type"] == "heun") != (bug == "solver")
    x, before, h_before, states = [number(v) for v in case["x"]], None, None, []
    for k, (s, t) in enumerate(pairwise(sigmas)):
        x0 = [estimate(v, s, k, i) for i, v in enumerate(x)]
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


def test_the_committed_file_is_what_the_tool_writes(tmp_path: Path) -> None:
    tool = scripts.load("tools/conformance_cases.py")
    ours, made = json.loads(text()), json.loads(tool.as_text(tool.build()))
    assert made["about"] == ours["about"]
    for case, again in zip(ours["cases"], made["cases"], strict=True):
        assert list(case) == list(again)
        for key, value in case.items():
            # Another processor may round an exponential otherwise.
            if key in ("sigmas", "x", "noise", "denoised", "expected"):
                assert np.allclose(value, again[key], rtol=1e-14, atol=1e-15)
            else:
                assert value == again[key]


def test_every_process_solver_and_kind_of_end_has_a_case() -> None:
    kinds = {(case.process, case.solver_type) for case in cases()}
    assert kinds == {(p, s) for p in ("ve", "vp", "flow") for s in ("midpoint", "heun")}
    assert {case.eta for case in cases()} >= {0.0, 0.5, 1.0}
    assert {case.sigmas[-1] == 0.0 for case in cases()} == {True, False}
    assert {case.sigmas[0] >= 1.0 for case in cases() if case.process == "flow"} == {True, False}


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
      const mesh = engine.makeMesh(c.sigmas, c.process);
      const table = engine.stepTable(
        mesh, { eta: c.eta, sNoise: c.s_noise, solverType: c.solver_type });
      let k = 0;
      const denoise = (x, n, sigma, alpha, out) => {
        const s = alpha ** 2 / 4 + sigma ** 2;
        for (let i = 0; i < x.length; i++) {
          out[i] = c.denoiser === "given" ? c.denoised[k][i]
            : c.denoiser === "gaussian" ? alpha * x[i] / (alpha ** 2 + sigma ** 2)
            : (alpha * x[i] / 4 + sigma ** 2 * Math.tanh(alpha * x[i] / s)) / s;
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
        common = {name for name in failed[0] if all(name in names for names in failed)}
        assert common == {mistake.name}


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
        ([], "FILE or --cases must be given"),
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
    some = edited(lambda listed: listed.__delitem__(slice(8, None)))
    assert run(tmp_path, some)[0] == 1
    capsys.readouterr()
    assert (
        run(tmp_path, edited(lambda c: [c.pop(i) for i in range(14, 7, -1)]), "--only", "ve-*")[0]
        == 0
    )
    assert capsys.readouterr().out.splitlines()[-1] == "10 of 10 cases pass"


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


def test_the_cases_are_printed(capsys: Any) -> None:
    assert main(["--cases"]) == 0
    assert capsys.readouterr() == (text(), "")


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
    assert main(["--cases", str(tmp_path / "out.json")]) == 0
    assert (tmp_path / "out.json").read_text() == text()
