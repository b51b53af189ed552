"""What is found where a user looks for it, and how it shows itself."""

import re
from pathlib import Path

import pytest

import toysae
from toysae import Experiment, ToysaeError, make_spec, make_world, train
from toysae.sae import MLP, SAESpec, Untied
from toysae.sae.encoders import Encoder


def test_a_recipe_keeps_the_encoder_that_it_is_named_for():
    with pytest.raises(ToysaeError, match="recipe 'tied' is an SAE with a Tied encoder"):
        make_spec("tied", 4, 8, encoder=Untied())
    with pytest.raises(ToysaeError, match="unknown axis 'encodr': did you mean 'encoder'"):
        make_spec("untied", 4, 8, encodr=1)
    make_spec("untied", 4, 8, encoder=MLP())


def test_what_a_remedy_names_can_be_imported():
    """`use encoder=Untied()` and the like, in any message or docstring."""
    axes = "decoder|encoder|activation|penalty|objective|init|resample"
    named = set()
    for file in (Path(__file__).parents[1] / "toysae").rglob("*.py"):
        named |= set(re.findall(rf"\b(?:{axes})=([A-Z]\w+)\(", file.read_text(encoding="utf-8")))
    assert len(named) > 10
    assert [name for name in sorted(named) if not hasattr(toysae.sae, name)] == []


def test_the_package_shows_its_faces():
    for name in ("recovery", "sae", "plot", "interop", "lm", "worlds", "save_sae", "load_any"):
        assert name in dir(toysae)
        getattr(toysae, name)
    with pytest.raises(ToysaeError, match="Encoder is abstract: give one of FISTA, .*Untied"):
        SAESpec(4, 8, encoder=Encoder())
    world = make_world("sphere", d_in=4, n_features=6, l0=1.0)
    assert repr(world) == "World('sphere', directions 6x4, Bernoulli, Uniform)"
    result = train(world, "topk", k=1, n_steps=2, batch_size=4, n_eval=64, quiet=True)
    assert len(repr(result)) < 100 and repr(result.sae(0)).startswith("SAE(d_in 4, d_sae 6, ")
    with pytest.raises(
        ToysaeError, match=r"\(a TrainResult\) is not a Results: make it with an Experiment"
    ):
        toysae.plot.draw(result, "mcs_histograms", "figures")
    for wrong, hint in (("steps", "n_steps"), ("learning_rate", "lr"), ("seeds", "sae_seeds")):
        with pytest.raises(ToysaeError, match=f"unknown argument '{wrong}': write {hint}"):
            train(world, "topk", k=1, **{wrong: 1})
    assert Experiment("Why?", recipes="untied", l1_coeff=0.1).recipes == ("untied",)
