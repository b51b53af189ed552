"""Trees of two classes are two trees: jax runs one program for trees that it takes for equal."""

import dataclasses
import itertools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import make_world, pytree
from toysae.worlds.firing import Active
from toysae.worlds.magnitudes import MAGNITUDES


@pytree.dataclass
class Tree:
    x: jax.Array
    inner: object = None
    n: int = pytree.field(pytree_node=False, default=1)


def many_laws(decorator, n):
    """Laws of one field whose coefficients are 0, 1, 2, ..., and as many."""

    def law(i):
        class Law:
            value: float = 0.0

            def sample(self, key, active):
                return jnp.full(i, float(i))

        Law.__annotations__ = {"value": float}
        return decorator(Law)()

    return [law(i) for i in range(n)]


@pytest.mark.parametrize("decorator", [pytree.dataclass, flax.struct.dataclass])
def test_each_law_is_drawn_by_its_own_program(decorator):
    """Of a hundred that jax takes for equal, ten to twenty were drawn by another's program; it is
    traced for the other, so that the shape shows it, and not every program need be compiled."""
    world = make_world("sphere", d_in=2, n_features=2, l0=1.0)
    active = Active(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))
    drawn = jax.jit(lambda world: world.magnitude.sample(None, active))
    worlds = [dataclasses.replace(world, magnitude=law) for law in many_laws(decorator, 100)]
    assert [drawn.eval_shape(world).shape for world in worlds] == [(i,) for i in range(100)]
    assert [float(drawn(world).mean()) for world in worlds[1:5]] == [1, 2, 3, 4]


@pytest.mark.parametrize("held", [tuple, lambda law: {"a": [*law]}, lambda law: Tree(0.0, *law)])
def test_what_holds_a_law_is_told_by_it_too(held):
    one, two = (Tree(0.0, held((law,))) for law in many_laws(flax.struct.dataclass, 2))
    assert jax.tree.structure(one) != jax.tree.structure(two)


def test_trees_of_two_classes_are_never_equal():
    worlds = [
        make_world("sphere", d_in=2, n_features=4, magnitude=law, l0=1.0) for law in MAGNITUDES
    ]
    kinds = {type(world.magnitude): jax.tree.structure(world) for world in worlds}
    for one, two in itertools.combinations(kinds.values(), 2):
        assert one != two
    for one, two in itertools.combinations(many_laws(pytree.dataclass, 3), 2):
        assert jax.tree.structure(one) != jax.tree.structure(two)


def test_every_tree_of_ours_is_told_by_its_class():
    """Also those that no test draws."""
    import importlib
    import pkgutil

    import toysae

    trees = set()
    for module in pkgutil.walk_packages(toysae.__path__, "toysae."):
        if not module.name.endswith("__main__") and ".bench" not in module.name:
            trees |= {
                value
                for value in vars(importlib.import_module(module.name)).values()
                if isinstance(value, type) and value.__module__.startswith("toysae")
            }
    assert sum("_toysae_pytree" in vars(tree) for tree in trees) > 50
    assert not [tree for tree in trees if "_flax_dataclass" in vars(tree)]


def test_a_tree_is_as_flaxs():
    tree = Tree(jnp.arange(2.0), {"a": 1.0}, 3)
    leaves, structure = jax.tree.flatten(tree)
    assert len(leaves) == 2 and jax.tree.unflatten(structure, leaves).n == 3
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    assert paths == [".x", ".inner['a']"]
    assert jax.tree.structure(tree) != jax.tree.structure(tree.replace(n=2))
    doubled = jax.jit(jax.vmap(lambda t: t.replace(x=2 * t.x), in_axes=(Tree(0, None, 3),)))(tree)
    np.testing.assert_array_equal(doubled.x, [0, 2])
    with pytest.raises(dataclasses.FrozenInstanceError):
        tree.n = 2


def test_what_stands_for_a_leaf_is_no_part_of_the_structure():
    @dataclasses.dataclass
    class Shown:
        shape: tuple

    tree = Tree(jnp.arange(2.0), Tree(jnp.arange(3.0)))
    shown = jax.tree.map(lambda x: Shown(x.shape), tree)
    assert jax.tree.structure(shown) == jax.tree.structure(tree)
    lowered = jax.jit(lambda t: t.x + t.inner.x[0]).lower(tree)
    assert lowered.in_tree == jax.tree.structure(((tree,), {}))
