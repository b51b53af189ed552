import numpy as np
import pandas as pd
import pytest

from toysae.errors import ToysaeError
from toysae.recovery import best_coefficient

#    sparsity: scores at worlds 0, 1, 2
SCORES = {0.1: (0.90, 0.50, 0.50), 0.2: (0.60, 0.70, 0.80), 0.4: (0.99, 0.99, 0.99)}
L0 = {0.1: 8.0, 0.2: 5.0, 0.4: 60.0}  # truth 5: 0.4 scores best but is never within a factor 2


def _table(recipe="a"):
    rows = [
        dict(recipe=recipe, sparsity=l1, world_seed=s, mmcs=score, l0=L0[l1], true_l0=5.0)
        for l1, scores in SCORES.items()
        for s, score in enumerate(scores)
    ]
    return pd.DataFrame(rows).assign(diverged=False)


def _set(table, l1, seed, **values):
    table = table.copy()
    for name, value in values.items():
        table.loc[(table["sparsity"] == l1) & (table["world_seed"] == seed), name] = value
    return table


def _choices(table, **kwargs):
    got = best_coefficient(table, ["recipe"], **kwargs)
    return dict(zip(got["world_seed"], got["sparsity"], strict=True))


def test_each_seed_is_chosen_for_by_the_others():
    # For world 0: .2 has (.7 + .8)/2 over .5. For 1: .1 and .2 tie at .7, the smaller wins.
    # For 2: .1 has (.9 + .5)/2 = .7 over .65.
    got = best_coefficient(_table(), ["recipe"])
    assert _choices(_table()) == {0: 0.2, 1: 0.1, 2: 0.1}
    assert got["l0_matched"].all() and not got["selected_on_self"].any()
    assert list(got.columns) == [*_table().columns, "l0_matched", "selected_on_self"]
    assert got.loc[got["world_seed"] == 0, "mmcs"].item() == 0.60  # not the .90 of hindsight


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_seed_has_no_say_in_its_own_choice(seed):
    before = _choices(_table())
    altered = [
        _choices(_set(_table(), l1, seed, **values))
        for l1 in SCORES
        for values in (dict(mmcs=10.0), dict(mmcs=-10.0), dict(l0=1e4), dict(diverged=True))
    ]
    assert {after[seed] for after in altered} == {before[seed]}
    others = [s for s in before if s != seed]
    assert any(after[s] != before[s] for after in altered for s in others)  # but in theirs


def test_without_a_match_the_nearest_l0_is_taken_and_flagged():
    table = _table()
    table["l0"] = table["sparsity"].map({0.1: 50.0, 0.2: 1.0, 0.4: 24.0})
    got = best_coefficient(table, ["recipe"])
    # Ratios 10, 1/5 and 4.8: the last is nearest in log, though 1 is nearest in distance.
    assert set(got["sparsity"]) == {0.4} and not got["l0_matched"].any()
    assert best_coefficient(table, ["recipe"], l0_factor=5.0)["l0_matched"].all()


def test_diverged_rows_have_no_vote_but_are_reported():
    table = _set(_table(), 0.2, 1, mmcs=50.0, diverged=True)
    assert _choices(table)[2] == 0.1
    table = _set(_table(), 0.1, 2, diverged=True)
    got = best_coefficient(table, ["recipe"])
    assert got.loc[got["world_seed"] == 2, "diverged"].item()


def test_members_of_a_world_are_averaged_first():
    extra = _set(_table(), 0.1, 0, mmcs=0.9).query("sparsity == 0.1 and world_seed == 0")
    table = pd.concat([_table(), *[extra] * 9])  # ten members of world 0, at .1 only
    got = best_coefficient(_set(table, 0.2, 0, mmcs=0.85), ["recipe"])
    # For world 2 the worlds' means are .70 and .775; over rows .1 would win with .864.
    assert set(got.loc[got["world_seed"] == 2, "sparsity"]) == {0.2}


def test_one_seed_chooses_for_itself_and_says_so():
    table = pd.concat([_table("a"), _table("b").query("world_seed == 0")], ignore_index=True)
    got = best_coefficient(table, ["recipe"]).set_index("recipe")
    assert not got.loc["a", "selected_on_self"].any()
    assert got.loc["b", "sparsity"] == 0.1 and got.loc["b", "selected_on_self"]


def test_a_group_of_which_nothing_survived_is_not_lost():
    got = best_coefficient(_table().assign(diverged=True, mmcs=np.nan), ["recipe"])
    assert len(got) == 3 and not got["l0_matched"].any()


def test_only_coefficients_run_at_the_seed_are_candidates():
    table = _table().query("not (sparsity == 0.2 and world_seed == 0)")
    assert _choices(table)[0] == 0.1


def test_bad_tables_are_refused():
    with pytest.raises(ToysaeError, match="true_l0"):
        best_coefficient(_table().drop(columns="true_l0"), ["recipe"])
    with pytest.raises(ToysaeError, match="sparsity is empty in 3 rows"):
        best_coefficient(_table().replace({"sparsity": {0.1: np.nan}}), ["recipe"])
    with pytest.raises(ToysaeError, match="by has"):
        best_coefficient(_table(), ["sparsity"])


def test_a_coefficient_that_mostly_diverges_is_not_chosen():
    """One world of five survives at .2, and is the best of all."""
    rows = [
        {"sparsity": l1, "world_seed": seed, "mmcs": 0.99 if l1 == 0.2 else 0.9, "l0": 3.0,
         "true_l0": 3.0, "diverged": l1 == 0.2 and seed > 0}
        for l1 in (0.1, 0.2) for seed in range(5)
    ]  # fmt: skip
    assert set(best_coefficient(pd.DataFrame(rows), [])["sparsity"]) == {0.1}
