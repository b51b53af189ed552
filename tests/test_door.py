"""Arguments at the face of a package: taken as they are meant, or refused in a sentence."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

import toysae
from toysae.door import guarded
from toysae.errors import ToysaeError


def of_arrays(
    a: Float[Array, "n d"], b: Float[Array, "m d"], *, on: Bool[Array, " n"] | None = None
):
    return a, b, on


def of_plain(
    n: int, share: float = 0.5, name: str = "x", flag: bool = False, by: Sequence[str] = (),
    kind: Literal["a", "b"] = "a", where: Path | str = "here",
    fn: Callable[[int], int] | None = None, table: Mapping[str, float] | None = None,
    values: ArrayLike = (), pair: tuple[int, float] = (1, 2.0),
):  # fmt: skip
    return n, share, name, flag, by, kind, where, fn, table, values, pair


ARRAYS, PLAIN = guarded(of_arrays), guarded(of_plain)


def test_arrays_become_what_is_asked_for():
    a, b, on = ARRAYS([[1, 2], [3, 4]], np.ones((3, 2)), on=[True, False])
    assert isinstance(a, jax.Array) and a.dtype == b.dtype == jnp.float32
    assert on.dtype == bool and a.shape == (2, 2)


def test_plain_values_become_what_is_asked_for():
    found = PLAIN(np.int64(3), 1, by="world", where=Path("x"), values=[1.0, 2.0])
    assert found[0] == 3 and type(found[0]) is int and type(found[1]) is float
    assert list(found[4]) == ["world"] and found[6] == Path("x")
    assert PLAIN(jnp.int32(3))[0] == 3 and PLAIN(3, jnp.float32(0.25))[1] == 0.25
    assert list(PLAIN(3, by=("a", "b"))[4]) == ["a", "b"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ARRAYS(np.ones((2, 3)), np.ones((2, 4))),
         r"of_arrays: b float64\[2,4\] is not a float array \[m, d\] with .*d 3"),
        (lambda: ARRAYS(np.ones(2), np.ones((2, 4))), r"a float64\[2\] is not a float array"),
        (lambda: ARRAYS("x", np.ones((2, 4))), "of_arrays: a 'x' is not an array of numbers"),
        (lambda: ARRAYS([[1, 2], [3]], np.ones((2, 4))), "with rows of one length"),
        (lambda: ARRAYS([[1j]], np.ones((2, 4))), "a ..1j.. is not a float array"),
        (lambda: ARRAYS(np.ones((2, 2)), np.ones((2, 2)), on=[1.0, 0.0]), "on .* is not a bool"),
        (lambda: ARRAYS(np.ones((2, 2))), r"missing a required argument: 'b'.*of_arrays\(a, b"),
        (lambda: PLAIN(3.5), "of_plain: n 3.5 is not a whole number"),
        (lambda: PLAIN(True), "n True is not a whole number"),
        (lambda: PLAIN(10**30), "n .* is out of range"),
        (lambda: PLAIN(3, float("nan")), "share nan is not finite"),
        (lambda: PLAIN(3, flag=1), "flag 1 is neither true nor false"),
        (lambda: PLAIN(3, name=4), "name 4 is not a text"),
        (lambda: PLAIN(3, by=4), "by 4 is not a list of texts"),
        (lambda: PLAIN(3, by=["a", 4]), r"by\[1\] 4 is not a text"),
        (lambda: PLAIN(3, kind="aa"), "unknown kind 'aa': did you mean 'a'"),
        (lambda: PLAIN(3, where=5), "where 5 is not a path or a text"),
        (lambda: PLAIN(3, fn=5), "fn 5 is not a function"),
        (lambda: PLAIN(3, table=[1]), r"table \[1\] is not a mapping"),
        (lambda: PLAIN(3, values={"a": 1}), "values .* is not an array of numbers"),
        (lambda: PLAIN(3, pair=(1,)), r"pair \(1,\) is not 2 values"),
        (lambda: PLAIN(3, shre=1.0), "unknown argument of of_plain 'shre': did you mean 'share'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(call, words):
    with pytest.raises(ToysaeError, match=words) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_inside_compiled_code_nothing_changes():
    W = jnp.eye(3)
    assert float(jax.jit(toysae.recovery.mmcs)(W, W)) == 1
    assert jax.vmap(toysae.recovery.mmcs, (0, None))(jnp.stack([W, -W]), W).shape == (2,)
    assert jax.grad(lambda W: toysae.recovery.mmcs(W, jnp.eye(3)))(2 * W).shape == (3, 3)
    assert toysae.recovery.cosines.lower(W, W).as_text()
    assert toysae.recovery.mmcs.__doc__.startswith("Mean over features")


def test_numpy_and_lists_score_as_jax_arrays_do():
    rows = np.random.default_rng(0).normal(size=(4, 3))
    found = toysae.recovery.mmcs(rows, rows[::-1].tolist())
    assert float(found) == pytest.approx(1, abs=1e-6)


def of_ints(x: Int[Array, " n"]):
    return x


def test_whole_numbers_are_not_made_of_fractions():
    assert guarded(of_ints)([1, 2]).dtype == jnp.int32
    with pytest.raises(ToysaeError, match=r"x .1.0, 2.5. is not an int array"):
        guarded(of_ints)([1.0, 2.5])


def test_in_compiled_code_what_is_not_traced_is_taken_as_outside():
    W = jnp.eye(3)
    found = jax.jit(lambda b: toysae.recovery.mmcs(W.tolist(), b))(W)
    assert float(found) == 1
    share = jax.jit(lambda t: toysae.recovery.fraction_above([0.1, 0.95], t))(0.9)
    assert float(share) == 0.5
    with pytest.raises(ToysaeError, match="mcs: missing a required argument: 'W_dec'"):
        jax.jit(toysae.recovery.mcs)(W)


def test_an_sae_takes_lists_and_tables_and_refuses_the_rest():
    world = toysae.make_world("sphere", d_in=jnp.int32(4), n_features=np.int64(6), l0=1.5)
    result = toysae.train(world, "untied", l1_coeff=(x for x in (0.1, 0.2)), n_steps=1,
                          batch_size=4, n_eval=64, quiet=True)  # fmt: skip
    assert len(result.table) == 2
    sae, x = result.sae(0), np.ones((3, 4))
    for given in (x, x.tolist(), x.astype(int)):
        np.testing.assert_allclose(sae.encode(given), sae.encode(jnp.float32(x)), atol=1e-6)
    assert sae.decode(np.ones((2, 6)).tolist()).shape == (2, 4)
    for call, words in (
        (lambda: sae.encode(np.ones((2, 5))), r"x of shape \[2, 5\] must be \[..., 4\]"),
        (lambda: sae.decode(np.ones((2, 5))), r"z of shape \[2, 5\] must be \[..., 6\]"),
        (lambda: sae.encode([[1, 2], [3]]), "SAE: x .* with rows of one length"),
    ):
        with pytest.raises(ToysaeError, match=words):
            call()


def test_names_are_near_in_any_case():
    with pytest.raises(ToysaeError, match="unknown recipe 'TopK': did you mean 'topk'"):
        toysae.make_spec("TopK", 4, 8)
