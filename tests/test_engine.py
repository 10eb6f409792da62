"""The page's sampler against dpmpp_core, state by state, in a real browser."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from browser import run_js
from torch import Tensor

from dpmpp_core import VE, VP, Flow, Mesh, PhiloxBridge, Process, schedule, step_table, trajectory
from dpmpp_core.targets import GaussianMixture, point_cloud, triangle
from dpmpp_core.widgets.modules import join, module_source, scripts
from dpmpp_core.widgets.start import sample, start

SETTINGS = 50
PARTICLES = 48


@dataclass(frozen=True)
class Setting:
    """A run as both sides are told of it."""

    target: GaussianMixture
    process: Process
    schedule: str
    options: dict[str, float]
    steps: int
    eta: float
    s_noise: float
    solver: str
    seed: int
    clock: str

    @property
    def sigmas(self) -> Tensor:
        found: Tensor = getattr(schedule, self.schedule)(self.steps, **self.options)
        return found

    @property
    def for_the_page(self) -> dict[str, Any]:
        process = self.process
        shift = {"shift": process.shift} if isinstance(process, Flow) else {}
        return {
            "target": {
                "means": self.target.means.tolist(),
                "covariances": self.target.covariances.tolist(),
                "weights": self.target.weights.tolist(),
            },
            "process": {"name": process.name, **shift},
            "schedule": self.schedule,
            "options": {NAMES.get(name, name): value for name, value in self.options.items()},
            "steps": self.steps,
            "eta": self.eta,
            "sNoise": self.s_noise,
            "solverType": self.solver,
            "seed": self.seed,
            "n": PARTICLES,
            "clock": self.clock,
        }


NAMES = {
    "sigma_min": "sigmaMin",
    "sigma_max": "sigmaMax",
    "beta_d": "betaD",
    "beta_min": "betaMin",
    "eps_s": "epsS",
}


def random_target(chance: random.Random) -> GaussianMixture:
    kind = chance.randrange(6)
    draw = torch.Generator().manual_seed(chance.randrange(2**32))
    if kind == 0:
        return triangle()
    if kind == 1:
        return point_cloud(torch.randn(40, 2, generator=draw))
    k, d = chance.randint(1, 4), {2: 1, 3: 2, 4: 2, 5: 3}[kind]
    means = 2.0 * torch.randn(k, d, generator=draw, dtype=torch.float64)
    weights = torch.rand(k, generator=draw, dtype=torch.float64) + 0.1
    if kind == 3:
        return GaussianMixture(means, torch.rand(k, d, generator=draw) + 0.01, weights)
    if kind == 2:
        return GaussianMixture(means, torch.rand(k, generator=draw) + 0.01, weights)
    root = torch.randn(k, d, d, generator=draw, dtype=torch.float64)
    return GaussianMixture(means, 0.3 * root @ root.mT, weights)


def random_setting(number: int) -> Setting:
    chance = random.Random(number)
    process = chance.choice([VE(), VE(), VP(), Flow(), Flow(3.0)])
    low, high = {
        "ve": (chance.choice([0.01, 0.03, 0.1]), chance.uniform(5.0, 80.0)),
        "vp": (0.02, 0.998),
        "flow": (0.01, 0.99),
    }[process.name]
    levels = {"sigma_min": low, "sigma_max": high}
    choices: list[tuple[str, dict[str, float]]] = [
        ("karras", levels),
        ("karras", {**levels, "rho": 3.0}),
        ("exponential", levels),
        ("polyexponential", {**levels, "rho": 1.5}),
        ("kl_optimal", levels),
        ("laplace", {**levels, "mu": -0.5}),
        ("linear_quadratic", {"sigma_max": 1.0 if process.name == "flow" else high}),
    ]
    if process.name == "ve":
        choices.append(("vp", {}))
    if isinstance(process, Flow):
        choices += 3 * [("flow", {"shift": process.shift})]
    name, options = chance.choice(choices)
    return Setting(
        target=random_target(chance),
        process=process,
        schedule=name,
        options=options,
        steps=chance.randint(2, 40),
        eta=chance.choice([0.0, 0.5, 1.0, chance.uniform(0.0, 2.0)]),
        s_noise=chance.choice([0.0, 1.0, chance.uniform(0.8, 1.1)]),
        solver=chance.choice(["midpoint", "heun"]),
        seed=chance.choice([0, chance.randrange(2**20), chance.randrange(2**53 - 10**4)]),
        clock=chance.choice(["tau", "sigma"]),
    )


def engine(script: str, argument: Any = None) -> Any:
    """What ``(engine, argument) => ...`` returns, with engine.js as a widget gets it."""
    source = {"engine": module_source("engine.js")}
    return run_js(f"({{ engine }}, argument) => ({script})(engine, argument)", argument, source)


RUN = """(engine, settings) => settings.map(s => {
    const target = engine.mixture(s.target);
    const mesh = engine.makeMesh(engine.SCHEDULES[s.schedule](s.steps, s.options), s.process);
    const table = engine.stepTable(mesh, s);
    const x = engine.start(target, mesh, s.seed, s.n);
    const xi = engine.makeNoise(s.seed, s.n, target.d, s.clock)(mesh, s.eta);
    const result = engine.run({ target, mesh, table, x, xi });
    const lists = arrays => arrays.map(array => Array.from(array));
    const last = mesh.h.length - 1;
    return {
        sigma: Array.from(mesh.sigma), h: Array.from(mesh.h), alpha: Array.from(mesh.alpha),
        table: Object.fromEntries(Object.entries(table).map(([k, v]) => [k, Array.from(v)])),
        states: lists(result.states), estimates: lists(result.estimates),
        terms: [0, 1, last].map(k => Object.fromEntries(Object.entries(
            engine.terms(result, table, k, 5)).map(([name, v]) => [name, Array.from(v)]))),
        density: Array.from(target.logDensity(x, s.n, mesh.sigma[0], mesh.alpha[0],
            new Float64Array(s.n))),
        clean: Array.from(target.sample(s.seed, s.n)),
    };
})"""


def matrix(numbers: list[float], d: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64).reshape(-1, d)


# --- parity -------------------------------------------------------------------------------------


@pytest.mark.browser
def test_every_state_of_the_page_is_the_state_of_dpmpp_core() -> None:
    """For 50 random settings: starts, estimates, all states and terms, meshes and tables."""
    runs = [random_setting(number) for number in range(SETTINGS)]
    assert len({(run.process.name, run.schedule) for run in runs}) >= 10
    found = engine(RUN, [run.for_the_page for run in runs])
    worst = dict.fromkeys(("mesh", "table", "start", "state", "estimate", "term", "density"), 0.0)

    def compare(what: str, page: Any, ours: Any, scale: float) -> None:
        page, ours = np.asarray(page, float), np.asarray(ours, float)
        gap = float(np.abs(page - ours).max()) / scale
        worst[what] = max(worst[what], gap)
        assert gap < 1e-6, (what, gap, run)

    for run, page in zip(runs, found, strict=True):
        mesh = Mesh.from_sigmas(run.sigmas, run.process)
        table = step_table(mesh, run.eta, run.s_noise, run.solver)
        d = run.target.dim
        # The data's own size: what an error is to be small against.
        scale = float((run.target.covariance.trace() + run.target.mean.square().sum()).sqrt())
        compare("mesh", page["sigma"], mesh.sigma, mesh.sigma[0])
        compare("mesh", page["alpha"], mesh.alpha, 1.0)
        finite = [k for k, h in enumerate(mesh.h) if h < float("inf")]
        ratio = [page["h"][k] / mesh.h[k] for k in finite]
        compare("mesh", ratio, np.ones(len(finite)), 1.0)
        for name in "ABCD":
            ours = getattr(table, name)
            compare("table", page["table"][name], ours, max(1.0, *map(abs, ours)))

        x = start(run.target, mesh, run.seed, PARTICLES)
        compare("start", matrix(page["states"][0], d), x, scale + mesh.sigma[0])
        noise = PhiloxBridge(
            x, run.sigmas, run.seed, process=run.process, eta=run.eta, clock=run.clock
        )
        steps = list(
            trajectory(
                run.target.model(run.process), x, run.sigmas, eta=run.eta, s_noise=run.s_noise,
                solver_type=run.solver, process=run.process, noise_sampler=noise,
            )
        )  # fmt: skip
        assert len(steps) == len(page["estimates"])
        for step in steps:
            states, estimates = page["states"][step.k + 1], page["estimates"][step.k]
            compare("state", matrix(states, d), step.x_next, scale)
            compare("estimate", matrix(estimates, d), step.denoised, scale)
        for k, terms in zip((0, 1, len(steps) - 1), page["terms"], strict=True):
            for name in ("drift", "history", "noise"):
                compare("term", terms[name], getattr(steps[k], name)[5], scale)
        density = run.target.log_density(x, mesh.sigma[0], run.process)
        compare("density", page["density"], density, 1.0)
        clean = sample(run.target, run.seed, PARTICLES)
        compare("start", matrix(page["clean"], d), clean, scale)
    print(f"\nlargest difference between the page and dpmpp_core in {SETTINGS} runs:", worst)


@pytest.mark.browser
def test_the_page_refuses_what_the_mesh_and_the_table_refuse() -> None:
    refusals = engine(
        """(engine, _) => {
            const message = f => {
                try { f(); return null } catch (error) { return error.message }
            };
            const mesh = engine.makeMesh([2, 1, 0]);
            return [
                message(() => engine.makeMesh([1, 2, 0])),
                message(() => engine.makeMesh([1, 0, 0])),
                message(() => engine.makeMesh([1, 0.5], "vp")),
                message(() => engine.makeMesh([1, NaN])),
                message(() => engine.makeMesh([1, 0.5], "edm")),
                message(() => engine.stepTable(mesh, { eta: -1 })),
                message(() => engine.stepTable(mesh, { sNoise: NaN })),
                message(() => engine.stepTable(mesh, { solverType: "euler" })),
                message(() => engine.mixture({ means: [[0, 0]], covariances: [[[1, 2], [2, 1]]] })),
            ];
        }"""
    )
    for message, word in zip(
        refusals,
        ("decreasing", "sigmas[1]", "'vp'", "NaN", "edm", "eta", "sNoise", "euler", "covariances"),
        strict=True,
    ):
        assert message is not None
        assert word in message


@pytest.mark.browser
def test_the_spread_is_what_its_formula_says() -> None:
    x = torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
    found = engine("(engine, x) => engine.spread(Float64Array.from(x), 2)", x.ravel().tolist())
    assert found == pytest.approx(np.sqrt(x.var(axis=0).sum()), rel=1e-12)


LAWS = {
    "smooth": triangle(),
    "round": GaussianMixture(torch.tensor([[-2.0, 0.0], [0.0, 2.0]]), 0.02),
    "points": point_cloud(torch.tensor([[-1.0, 0.5], [0.0, 0.0], [2.0, 1.0]])),
}


def quantiles_along(law: GaussianMixture, unit: Any, n: int) -> Any:
    """Where the distribution function of u . x passes (i + 1/2) / n, by halving."""
    means = law.means.double().numpy() @ unit
    spreads = law.covariances.double().numpy()
    if spreads.ndim == 3:
        spreads = np.einsum("a,jab,b->j", unit, spreads, unit)
    spreads = np.sqrt(spreads)
    weights = law.weights.double().numpy()
    wanted = (np.arange(n) + 0.5) / n
    low, high = np.full(n, -20.0), np.full(n, 20.0)
    for _ in range(60):
        middle = (low + high) / 2
        z = (middle[:, None] - means) / np.maximum(spreads, 1e-12)
        above = np.vectorize(math.erf)(np.clip(z / 2**0.5, -9, 9)) @ weights / 2 + 0.5 > wanted
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return high


@pytest.mark.browser
@pytest.mark.parametrize("name", LAWS)
def test_the_distance_is_the_one_to_the_quantiles_of_the_law(name: str) -> None:
    law, n = LAWS[name], 40
    x = sample(law, 9000, n).numpy()
    described = {
        "means": law.means.tolist(),
        "covariances": law.covariances.tolist(),
        "weights": law.weights.tolist(),
    }
    found = engine(
        "(engine, [law, n, x]) => engine.slicedDistance(engine.mixture(law), n)"
        "(Float64Array.from(x))",
        [described, n, x.ravel().tolist()],
    )
    squares = []
    for angle in np.pi * np.arange(16) / 16:
        unit = np.array([np.cos(angle), np.sin(angle)])
        squares.append(np.mean((np.sort(x @ unit) - quantiles_along(law, unit, n)) ** 2))
    assert found == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-3)


@pytest.mark.browser
def test_exact_samples_come_nearer_to_the_law_as_they_grow() -> None:
    """Like n^(-1/2), with nothing left over that is the reference's own."""
    found = engine(
        """(engine, law) => [100, 400, 1600, 6400].map(n => {
            const distanceTo = engine.slicedDistance(engine.mixture(law), n);
            const squares = [1, 2, 3, 4, 5, 6].map(i =>
                distanceTo(engine.mixture(law).sample(10000 * i, n)) ** 2);
            return Math.sqrt(squares.reduce((a, b) => a + b) / 6);
        })""",
        {"means": [[0.0, 0.0]], "covariances": 1.0},
    )
    for coarse, fine in itertools.pairwise(found):
        assert 1.4 < coarse / fine < 2.8
    assert found[-1] < 0.03


# --- starts -------------------------------------------------------------------------------------


def test_a_start_is_an_exact_sample_of_the_law_at_its_noise_level() -> None:
    target, n = triangle(), 100_000
    mesh = Mesh.from_sigmas([0.7, 0.0], "vp")
    x = start(target, mesh, 3, n)
    alpha, sigma = mesh.alpha[0], mesh.sigma[0]
    mean = alpha * target.mean
    covariance = alpha**2 * target.covariance + sigma**2 * torch.eye(2, dtype=torch.float64)
    assert torch.allclose(x.mean(0), mean, atol=5.0 * float(covariance.max()) ** 0.5 / n**0.5)
    assert torch.allclose(torch.cov(x.T), covariance, atol=0.03)
    # The cumulative distribution along a line is a mixture's own.
    values = target.log_density(x, sigma, "vp").mean()
    fresh = target.sample(n, sigma, "vp", torch.Generator().manual_seed(0))
    assert float(values) == pytest.approx(
        float(target.log_density(fresh, sigma, "vp").mean()), abs=0.02
    )


def test_particle_i_of_a_seed_is_particle_0_of_the_seed_plus_i() -> None:
    mesh = Mesh.from_sigmas([10.0, 0.0])
    x = start(triangle(), mesh, 2**64 - 3, 6)
    for i in range(6):
        assert torch.equal(x[i : i + 1], start(triangle(), mesh, (2**64 - 3 + i) % 2**64, 1))


def test_the_starts_owe_nothing_to_the_path_or_to_the_reference_sample() -> None:
    mesh, n = Mesh.from_sigmas([10.0, 1.0]), 8_000
    target = GaussianMixture(torch.zeros(1), 1.0)
    x = start(target, mesh, 0, n)
    others = (
        sample(target, 0, n),
        PhiloxBridge(x, mesh.sigma, 0)(10.0, 1.0),
    )
    for other in others:
        correlation = torch.corrcoef(torch.stack([x[:, 0], other[:, 0]]))[0, 1]
        assert abs(float(correlation)) < 4.5 / n**0.5


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True])
def test_a_seed_that_is_no_64_bit_integer_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match=r"seed must be an integer from 0 to 2\^64 - 1"):
        sample(triangle(), seed, 3)


# --- one module from several --------------------------------------------------------------------


@pytest.mark.browser
def test_the_joined_engine_exports_what_the_file_exports() -> None:
    exports = engine("(engine, _) => Object.keys(engine).sort()")
    assert exports == sorted(
        [
            "SCHEDULES", "START", "TARGET", "makeMesh", "makeNoise", "mixture", "pointCloud",
            "quantiles", "run", "shiftTime", "slicedDistance", "spread", "start", "stepTable",
            "terms",
        ]
    )  # fmt: skip


@pytest.mark.browser
def test_modules_with_the_same_private_names_do_not_meet() -> None:
    texts = {
        "top.js": 'import * as low from "./low.js";\nimport { get as other,\n  unit } from'
        ' "./mid.js";\nconst hidden = 1;\n'
        "export default { sum: hidden + low.get() + other() + unit };",
        "mid.js": 'import { get as below } from "./low.js";\nconst hidden = 10;\n'
        "export const unit = 1000;\nexport function get() { return hidden + below(); }\n",
        "low.js": "const hidden = 100;\nexport function get() { return hidden; }\n",
    }
    joined = join("top.js", texts.__getitem__)
    assert joined.count("const hidden = 100") == 1
    assert run_js("({ top }) => top.default", None, {"top": joined}) == {"sum": 1211}


def test_a_page_gets_each_module_as_a_script_of_its_own() -> None:
    texts = {
        "top.js": 'import * as low from "./low.js";\nimport { get } from "./mid.js";\n'
        "export const own = 1;\nexport default { sum: low.get() + get() };\n",
        "mid.js": 'import { get as below } from "./low.js";\n'
        "export function get() { return 10 * below(); }\n",
        "low.js": "export function get() { return 1; }\n",
    }
    found = scripts("top.js", texts.__getitem__)
    assert list(found) == ["low.js", "mid.js", "top.js"]
    assert found["mid.js"] == (
        "(globalThis.liveModules ??= {}).mid = {\n"
        'needs: ["low"],\n'
        "make: ($low) => {\n"
        '"use strict";\n'
        "const { get: below } = $low;\n"
        "function get() { return 10 * below(); }\n\n"
        "return { get };\n"
        "},\n};\n"
    )
    assert "return { own, default: $default };" in found["top.js"]


@pytest.mark.parametrize(
    ("inner", "line"),
    [
        ('import "./other.js";', 'import "./other.js";'),
        ('import react from "react";', 'import react from "react";'),
        ("export default 1;", "export default 1;"),
        ("const a = 1;\nexport { a };", "export { a };"),
    ],
)
def test_an_import_or_export_in_another_form_is_refused(inner: str, line: str) -> None:
    texts = {"top.js": 'import { a } from "./inner.js";', "inner.js": inner}
    with pytest.raises(ValueError) as refusal:
        join("top.js", texts.__getitem__)
    assert str(refusal.value) == f"inner.js cannot be joined: it has the line {line!r}"


def test_modules_that_import_each_other_are_refused() -> None:
    texts = {
        "a.js": 'import { b } from "./b.js";',
        "b.js": 'import { a } from "./a.js";',
    }
    with pytest.raises(ValueError) as refusal:
        join("a.js", texts.__getitem__)
    assert str(refusal.value) == "modules must not import in a circle: a.js -> b.js -> a.js"


def test_the_formulas_are_typed_in_no_javascript_file() -> None:
    """They come from symbolic.py: engine.js has neither exponent of a coefficient."""
    source = module_source("engine.js")
    own = source[source.rindex("// The sampler in the page") :]
    table = own[own.index("export function stepTable") : own.index("// --- targets")]
    assert "exp" not in table.replace("export", "").replace("expressions", "")
    assert "Printed by dpmpp_core.symbolic.javascript()" in source
