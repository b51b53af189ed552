"""Whatever a public function is given, of wrong kind, size or meaning: a result or a ToysaeError,
which is one line; nothing else."""

import inspect
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import toysae
from toysae import ToysaeError, make_spec, make_world, points
from toysae.evaluation.measure import RecoveryScores
from toysae.recovery import (
    add_batch,
    add_detections,
    cosines,
    empty_ratio,
    empty_totals,
    match,
    measure,
    no_detections,
)
from toysae.runs import Cell, Options, Worlds
from toysae.runs.plan import plan
from toysae.sae import (
    InitData,
    finished,
    init_params,
    init_stats,
    resolve,
    resolve_hypers,
    save_sae,
)
from toysae.worlds import WORLDS, sample, save_world, world_panel

FACES = (toysae, toysae.recovery, toysae.worlds, toysae.sae, toysae.evaluation, toysae.sweeps,
         toysae.interop, toysae.plotting, toysae.lm, toysae.runs, points)  # fmt: skip
D, N, S = 4, 6, 6
KEY = jax.random.key(0)


def public() -> dict[str, object]:
    """Every function of every face, by the name of the face and its own."""
    found, seen = {}, set()
    for face in FACES:
        for name in face.__all__:
            made = getattr(face, name)
            if inspect.isroutine(made) or hasattr(made, "lower"):
                if id(made) not in seen:
                    found[f"{face.__name__}.{name}".removeprefix("toysae.")] = made
                seen.add(id(made))
    return found


@cache
def parts() -> dict:
    world = make_world("sphere", d_in=D, n_features=N, l0=1.5)
    batch = sample(world, KEY, 32)
    spec = make_spec("untied", D, S)
    numbers = resolve_hypers(spec.hypers(), {"l1_coeff": 0.1})
    hypers = {name: jnp.float32(value) for name, value in numbers.items()}
    data = InitData(batch.x, world.generating_matrix, world.directions)
    params = init_params(spec, KEY, data, hypers)
    run = {**init_stats(spec), "progress": jnp.float32(1)}
    sae = finished(spec, params, run, hypers)
    f = sae(batch.x)
    matched = match(np.asarray(cosines(world.directions, sae.W_dec)))
    detections = add_detections(no_detections(matched), batch, f.z)
    totals = add_batch(empty_totals(D, S), batch.x, f.x_hat, f.z)
    freq = np.full(S, 0.5)
    rows = [
        {"recipe": recipe, "init": init, "world": "sphere", "ratio": 1.5, "d_in": D,
         "n_features": N, "d_sae": S, "size": 1.0, "cell": "sphere", "setting": "-",
         "n_steps": 10, "batch_size": 4, "lr": 1e-3,
         "sparsity": 0.1, "knob": "l1_coeff", "world_seed": w, "sae_seed": 0,
         "mmcs": 0.9 + 0.01 * w, "mcs_above_0.9": 0.5 + 0.1 * w, "eval_loss": 1.0 + w, "l0": 2.0,
         "true_l0": 2.0, "ev": 0.9, "verdict": "optimiser", "diverged": False,
         "unmeasured": np.nan, "words": "x",
         "left_truth": 0.5, "floor": 0.2, "dead_fraction": 0.0, "mcc": 0.5}
        for recipe in ("tied", "untied") for init in ("random", "truth") for w in range(3)
    ]  # fmt: skip
    return dict(
        world=world, batch=batch, spec=spec, hypers=hypers, data=data, params=params, run=run,
        sae=sae, x=batch.x, x_hat=f.x_hat, z=f.z, matched=matched, detections=detections,
        totals=totals, freq=freq, records=measure(matched, detections, freq, np.ones(S)),
        table=pd.DataFrame(rows), panel=world_panel(world, 4096), W=sae.W_dec, t=world.directions,
        weights=resolve(spec, params), cos=np.asarray(cosines(world.directions, sae.W_dec)),
    )  # fmt: skip


def arguments(folder: Path) -> dict[str, dict]:
    """A valid call of every public function. Starred ones are under "*"."""
    p = parts()
    world, table, cos = p["world"], p["table"], p["cos"]
    both = {"directions": p["t"], "W_dec": p["W"]}
    tiny = toysae.Experiment("Why?", d_in=D, ratios=1.5, l0=1.5, recipes="untied", n_steps=1,
                             batch_size=4, n_eval=64, curve_points=1, world_seeds=1,
                             ceiling=False, figures=())  # fmt: skip
    saved, sae_file = folder / "world.safetensors", folder / "sae.safetensors"
    experiment = folder / "tiny.py"
    if not experiment.exists():
        save_world(world, saved)
        save_sae(p["sae"], sae_file)
        experiment.write_text("from toysae import Experiment\nexperiment = Experiment('Why?')\n")
    steps, curve = np.arange(5), np.linspace(0, 1, 5)
    few = {"n_samples": 256, "seed": 0}
    pairs = {"cos": cos, "absolute": False}
    return {
        "use_all_cores": {},
        "recovery.add_batch": {k: p[k] for k in ("totals", "x", "x_hat", "z")},
        "recovery.add_detections": {"seen": p["detections"], "batch": p["batch"], "z": p["z"]},
        "recovery.add_ratio": {"ratio": empty_ratio(), "x": p["x"], "x_hat": p["x_hat"]},
        "recovery.aurocs": {"seen": p["detections"]},
        "recovery.bad_minima": {"table": table, "by": ["recipe"], "confidence": 0.95},
        "recovery.best_coefficient": {"table": table, "by": ["recipe", "init"],
                                      "coefficient": "sparsity", "score": "mmcs", "l0_factor": 2.0},
        "recovery.clopper_pearson": {"successes": 3, "n": 5, "confidence": 0.95},
        "recovery.cosine_cdf": {"t": 0.5, "d_in": D},
        "recovery.cosines": both, "recovery.mcs": both, "recovery.mcs_latents": both,
        "recovery.mmcs": both, "recovery.mmcs_abs": both, "recovery.mmcs_latents": both,
        "recovery.detection_scores": {"records": p["records"]},
        "recovery.direction_scores": {"records": p["records"]},
        "recovery.distinct_matches": {"cos": cos, "threshold": 0.5},
        "recovery.empty_detections": {"best_latent": jnp.zeros(N, int), "partner":
                                      jnp.zeros(N, int), "best_feature": jnp.zeros(S, int)},
        "recovery.empty_ratio": {},
        "recovery.empty_totals": {"d_in": D, "d_sae": S},
        "recovery.enc_dec_cosines": {"W_enc": p["W"].T, "W_dec": p["W"]},
        "recovery.fista_codes": {"x": p["x"], "directions": p["t"], "l1_coeff": 0.1,
                                 "n_iterations": 3},
        "recovery.fista_oracle": {"x": p["x"], "directions": p["t"], "l1_coeffs": [0.1],
                                  "n_iterations": 3},
        "recovery.fraction_above": {"scores": cos[0], "threshold": 0.5},
        "recovery.limits": {"world": world, **few},
        "recovery.linear_probes": {"world": world, "fit_key": KEY, "score_key": KEY,
                                   "n_fit": 64, "n_score": 64},
        "recovery.make_baseline": {"name": "pca", "x": p["x"], "d_sae": S, "seed": 0},
        "recovery.match": {"cos": cos},
        "recovery.mcc": pairs, "recovery.partners": pairs,
        "recovery.measure": {"matched": p["matched"], "seen": p["detections"],
                             "latent_freq": p["freq"], "lengths": np.ones(S),
                             "enc_dec_cos": np.ones(S)},
        "recovery.no_detections": {"matched": p["matched"]},
        "recovery.over_seeds": {"table": table, "by": ["recipe"], "value": "mmcs",
                                "confidence": 0.95},
        "recovery.paired": {"table": table, "by": ["init"], "arm": "recipe", "a": "tied",
                            "b": "untied", "value": "mmcs", "confidence": 0.95},
        "recovery.phase_transition": {"n_features": N, "d_in": D},
        "recovery.polarisation": {"scores": cos[0], "floor": 0.1},
        "recovery.random_floor": {"d_in": D, "n_latents": S, "absolute": False},
        "recovery.resolvable": {"sd": 0.1, "n": 5, "power": 0.8, "confidence": 0.95},
        "recovery.saelens_scores": {"records": p["records"], "totals": p["totals"],
                                    "ratio": empty_ratio()},
        "recovery.seed_spread": {"table": table, "by": ["recipe"], "value": "mmcs"},
        "recovery.sparsity_limit": {"n_features": N, "d_in": D},
        "recovery.steps_by_feature": {"curve_steps": steps, "n_features": 8,
                                      "recovered": np.ones((2, 5), int)},
        "recovery.steps_to": {"curve_steps": steps, "curve": curve[None], "threshold": 0.5},
        "recovery.share_interval": {"values": curve, "n_each": 8, "confidence": 0.95},
        "recovery.student_t": {"values": curve, "confidence": 0.95},
        "recovery.summarise": {"totals": p["totals"]},
        "recovery.survival": {"steps": steps, "censored": np.zeros(5, bool), "at": steps},
        "recovery.verdicts": {"table": table, "margin": 0.01, "recovered": 0.9,
                              "score": "mcs_above_0.9", "coefficient": "sparsity"},
        "worlds.assemble": {"directions": p["t"], "firing": np.full(N, 0.2), "magnitude":
                            "uniform", "generating_matrix": p["t"].T, "bias": np.zeros(D),
                            "noise_sd": 0.1, "rectify": False, "name": "mine"},
        "worlds.batches": {"world": world, "key": KEY, "n": 8, "size": 8},
        "worlds.compare_panels": {"*": (p["panel"], p["panel"])},
        "load_world": {"path": saved}, "save_world": {"world": world, "path": folder / "w"},
        "make_world": {"name": "sphere", "seed": 0, "d_in": D, "n_features": N, "l0": 1.5},
        "worlds.panel_of": {"batches": [p["x"], p["x"]]},
        "worlds.sample": {"world": world, "key": KEY, "n": 8},
        "worlds.stack": {"worlds": [world, world]},
        "worlds.world_card": {"world": world, **few},
        "worlds.world_fields": {"name": "sphere"},
        "worlds.world_panel": {"world": world, "n_samples": 4096, "seed": 0},
        "sae.decoder_rows": {"sae": p["sae"], "truth": p["t"], "latent_freq": p["freq"]},
        "sae.finished": {"spec": p["spec"], "params": p["params"], "run": p["run"],
                         "h": p["hypers"]},
        "sae.forward": {"spec": p["spec"], "w": p["weights"], "run": p["run"], "h": p["hypers"],
                        "x": p["x"]},
        "sae.init_params": {"spec": p["spec"], "key": KEY, "data": p["data"], "h": p["hypers"]},
        "sae.init_stats": {"spec": p["spec"]},
        "load_sae": {"path": sae_file}, "save_sae": {"sae": p["sae"], "path": folder / "s"},
        "make_spec": {"recipe": "untied", "d_in": D, "d_sae": S, "init": None},
        "sae.recipe_row": {"recipe": "untied"},
        "sae.resolve": {"spec": p["spec"], "params": p["params"]},
        "sae.resolve_hypers": {"declared": p["spec"].hypers(), "given": {"l1_coeff": 0.1}},
        "sweeps.load_experiment": {"path": experiment},
        "sweeps.plan": {"e": tiny, "out": folder / "plan", "split": axes_split()},
        "run": {"experiment": tiny, "out": folder / "run", "fresh": False, "quiet": True,
                "checkpoint_seconds": 60.0, "split": axes_split()},
        "runs.run": {"cells": [cell_of(p["spec"])], "out": folder / "cells", "options":
                     Options(quiet=True), "launch": None, "settings": None, "about": None},
        "sweeps.status": {"path": folder},
        "evaluation.at_l0": {"table": table.assign(method="truth"), "l0": 2.0},
        "evaluation.ceilings": {"world": world, "d_sae": S, "n_samples": 1024, "seed": 0,
                                "cache": False, "methods": ["random"], "l1_coeff": [0.1],
                                "n_steps": 1},
        "evaluation.score_sae": {"sae": p["sae"], "world": world, "n_samples": 1024, "seed": 0,
                                 "matched": None, "modes": False},
        "evaluation.summarise_minima": {"table": table},
        "evaluation.summarise_runs": {"table": table},
        "train": {"world": world, "recipe": "untied", "d_sae": S, "init": None, "n_steps": 1,
                  "batch_size": 4, "sae_seeds": (0,), "data_seed": 0, "n_eval": 64,
                  "curve_points": 1, "quiet": True, "settings": "toy", "arithmetic": "float32",
                  "split": axes_split(), "points": None, "l1_coeff": 0.1},
        "interop.from_dictionary_learning": {"folder": folder},
        "interop.from_saelens": {"folder": folder, "input_scale": None},
        "interop.from_sparsify": {"folder": folder},
        "load_any": {"path": sae_file}, "open_results": {"path": folder},
        "interop.score": {"path_or_sae": p["sae"], "world": world, "n_samples": 1024, "seed": 0},
        "interop.to_saelens": {"sae": p["sae"], "folder": folder / "lens", "model_name": "toy",
                               "hook_name": "x"},
        "plotting.draw": {"results": toysae.Results(folder / "none"), "names": ["frontier"],
                          "out_dir": folder},
        "plotting.save": {"fig": Figure((1, 1)), "frame": table.head(2), "out_dir": folder,
                          "name": "figure"},
        "lm.forward": {}, "lm.load_model": {"source": folder}, "lm.load_tokenizer":
        {"source": folder},
        "points.chain": {"*": (points.grid(a=1), points.grid(a=2))},
        "points.grid": {"a": [1, 2]}, "points.zipped": {"a": [1, 2]},
        "points.linear": {"low": 0.0, "high": 1.0, "n": 3},
        "points.log_spaced": {"low": 0.1, "high": 1.0, "n": 3},
        "points.uniform": {"low": 0.0, "high": 1.0},
        "points.log_uniform": {"low": 0.1, "high": 1.0},
        "points.random": {"n": 2, "seed": 0, "a": [1, 2]},
    }  # fmt: skip


def cell_of(spec):
    return Cell(
        "tiny", Worlds("sphere", (("d_in", D), ("n_features", N), ("l0", 1.5)), (0,)), spec,
        points.grid(l1_coeff=0.1, lr=1e-3), (0,), 1, 4, RecoveryScores(64, 1),
    )  # fmt: skip


def axes_split():
    from toysae.training.devices import UNSPLIT

    return UNSPLIT


REFUSED_ANYWAY = {
    "open_results",
    "sweeps.status",
    "interop.from_dictionary_learning",
    "interop.from_saelens",
    "lm.load_tokenizer",
    "interop.from_sparsify",
    "plotting.draw",
    "lm.load_model",
    "lm.forward",
}
"""What is given them here holds nothing that they read."""

FREE = {"interop.to_saelens", "points.grid", "points.random", "points.zipped"}
"""Take arguments of any name."""

HOSTILE = {
    "none": None, "true": True, "zero": 0, "minus one": -1, "three": 3, "half": 0.5, "nan": np.nan,
    "infinity": np.inf, "minus infinity": -np.inf, "endless": 10**30, "2^63": 2**63, "huge": 1e300,
    "tiny": 1e-300, "empty text": "", "text": "x", "nul": "a\0b", "bytes": b"x", "empty list": [],
    "list": [1], "texts": ["a", "b"], "nested": [[1], [1, 2]], "dict": {}, "named": {"a": 1},
    "empty tuple": (), "set": {1}, "object": object(), "function": lambda *a, **k: 0, "type": int,
    "nowhere": Path(__file__) / "at" / "all", "complex": 1j, "empty": np.zeros(0), "no rows":
    np.zeros((0, D)), "rows": np.ones((2, 3)), "cube": np.ones((2, 3, 4)), "scalar": np.array(2.0),
    "nans": np.full((N, D), np.nan), "negative": -np.ones((N, D)), "whole": np.ones((N, D), int),
    "bools": np.ones((N, D), bool), "complexes": np.ones((N, D), complex), "objects":
    np.array([None, "x"], object), "letters": np.array(["a", "b"]), "no table": pd.DataFrame(),
    "other table": pd.DataFrame({"a": [1, "x"]}), "series": pd.Series([1.0, 2.0]), "device":
    jnp.ones((2, 3)), "key": KEY, "virtual": np.broadcast_to(np.float32(0), (10**6, 10**6)),
    "generator": "generator", "world": "world", "sae": "sae", "spec": "spec", "records": "records",
    "worlds": sorted(WORLDS)[:2], "column": "mmcs", "words": "words", "unmeasured": "unmeasured",
}  # fmt: skip


def hostile(name: str):
    value = HOSTILE[name]
    if name == "generator":
        return (i for i in range(3))
    return parts()[name] if name in ("world", "sae", "spec", "records") else value


def outcome(name: str, given_: dict) -> object:
    """What comes of a call: a result, or a refusal in a line."""
    given_ = dict(given_)
    try:
        found = public()[name](*given_.pop("*", ()), **given_)
        return list(found) if name == "worlds.batches" else found
    except ToysaeError as error:
        assert str(error) and "\n" not in str(error), str(error)
        return error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("public")


@pytest.fixture(autouse=True)
def _quietly(monkeypatch, folder):
    monkeypatch.chdir(folder)
    with np.errstate(all="ignore"):
        yield


def test_every_public_function_is_searched(folder):
    assert set(arguments(folder)) == set(public())


@pytest.mark.parametrize("name", sorted(public()))
def test_a_valid_call_gives_a_result(name, folder):
    found = outcome(name, arguments(folder)[name])
    assert isinstance(found, ToysaeError) == (name in REFUSED_ANYWAY), found


NAMES = sorted(public())


@settings(max_examples=250, deadline=None, derandomize=True, phases=[Phase.generate],
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(st.data())
@pytest.mark.filterwarnings("ignore")
def test_hostile_arguments_are_refused_or_used(folder, data):
    name = data.draw(
        st.sampled_from([n for n in NAMES if n not in ("run", "runs.run", "use_all_cores")])
    )
    call = arguments(folder)[name]
    for argument in data.draw(st.sets(st.sampled_from(sorted(call) or ["x"]), max_size=2)):
        value = hostile(data.draw(st.sampled_from(sorted(HOSTILE))))
        call[argument] = (value,) if argument == "*" else value
    outcome(name, call)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_every_hostile_argument_of_every_function(name, folder, record_property):
    """One argument at a time: each value, and left out; then one that there is not."""
    call, failures, n = arguments(folder)[name], [], 0
    calls = [(a, v) for a in call for v in HOSTILE] + [(a, None) for a in call]
    for argument, value in calls:
        changed = dict(call)
        if value is None:
            del changed[argument]
        else:
            changed[argument] = (hostile(value),) if argument == "*" else hostile(value)
        n += 1
        try:
            outcome(name, changed)
        except BaseException as error:
            failures.append(f"{argument} = {value}: {type(error).__name__}: {str(error)[:120]}")
    if call and "*" not in call and name not in FREE:
        assert isinstance(outcome(name, {**call, "no_such_argument": 1}), ToysaeError)
    record_property("calls", n)
    assert not failures, f"{len(failures)} of {n} calls:\n" + "\n".join(failures)


@pytest.mark.parametrize(
    ("of", "field"), [(kind, f.name) for kind in (Cell, Worlds) for f in fields(kind)],
    ids=lambda value: getattr(value, "__name__", value),
)  # fmt: skip
def test_every_hostile_field_of_a_cell(of, field, folder):
    """Whoever makes a cell by hand is told what is wrong with it before anything trains, or it is
    planned; nothing else."""
    failures, cell = [], cell_of(parts()["spec"])
    for value in HOSTILE:
        try:
            changed = {field: hostile(value)}
            if of is Worlds:
                changed = {"data": replace(cell.data, **changed)}
            plan([replace(cell, **changed)], folder / "cells")
        except ToysaeError as error:
            assert str(error) and "\n" not in str(error), str(error)
        except BaseException as error:
            failures.append(f"{field} = {value}: {type(error).__name__}: {str(error)[:120]}")
    assert not failures, f"{len(failures)} values:\n" + "\n".join(failures)
