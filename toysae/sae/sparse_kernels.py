"""Products with a sparse factor, compiled by Numba and called from inside compiled programs.

XLA's typed foreign function interface hands each function one address, that of a call frame; what
is read from it here is laid out in `xla/ffi/api/c_api.h`, in the folder that
:func:`jax.ffi.include_dir` names. Shapes come from the buffers, so that one function serves all.
Each runs on the thread that calls it.

Every array may have leading axes, as vmap adds them; where another array has n entries along one of
them it may have a single one.
"""

# Intrinsics take a context too.
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false

import ctypes

import jax
import numba as nb
import numpy as np
from llvmlite import ir
from numba import carray, cfunc, types

_FAST = {"reassoc", "contract", "nsz"}
"""Sums in any order; but NaN and infinity stay what they are, or a diverged SAE is not seen."""
_VERSION = (0, 3)
"""Of the interface that the functions below say they were built for."""


def _load(bits, result):
    @nb.extending.intrinsic
    def load(context, address):
        def generate(context, builder, signature, args):
            return builder.load(builder.inttoptr(args[0], ir.IntType(bits).as_pointer()))

        return result(types.int64), generate

    return load


_load64, _load32 = _load(64, types.int64), _load(32, types.int32)


@nb.extending.intrinsic
def _store32(context, address, value):
    def generate(context, builder, signature, args):
        where = builder.inttoptr(args[0], ir.IntType(32).as_pointer())
        builder.store(builder.trunc(args[1], ir.IntType(32)), where)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@nb.extending.intrinsic
def _floats(context, address):
    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.int64), generate


@nb.njit(inline="always")
def _answers_a_question(frame):
    """Whether the call asks which version of the interface this is; then it is answered."""
    extension = _load64(frame + 8)
    if extension == 0 or _load32(extension + 8) != 1:
        return False
    metadata = _load64(extension + 24)
    _store32(metadata + 24, _VERSION[0])
    _store32(metadata + 28, _VERSION[1])
    _store32(metadata + 32, 0)  # no traits
    return True


@nb.njit(inline="always")
def _argument(frame, i):
    return _load64(_load64(frame + 72) + 8 * i)


@nb.njit(inline="always")
def _result(frame, i):
    return _load64(_load64(frame + 112) + 8 * i)


@nb.njit(inline="always")
def _rank(buffer):
    return _load64(buffer + 32)


@nb.njit(inline="always")
def _size(buffer, axis):
    return _load64(_load64(buffer + 40) + 8 * axis)


@nb.njit
def _n_matrices(buffer):
    n = 1
    for axis in range(_rank(buffer) - 2):
        n *= _size(buffer, axis)
    return n


@nb.njit
def _matrix(buffer, like, i):
    """The matrix of an array that goes with matrix `i` of the array `like`."""
    rank = _rank(buffer)
    rows, columns = _size(buffer, rank - 2), _size(buffer, rank - 1)
    stride, offset = rows * columns, 0
    for axis in range(rank - 3, -1, -1):
        n = _size(like, axis)
        if _size(buffer, axis) > 1:
            offset += i % n * stride
            stride *= n
        i //= n
    return carray(_floats(_load64(buffer + 24) + 4 * offset), (rows, columns))


@nb.njit(fastmath=_FAST, boundscheck=False)
def _some(row, at):
    """Lists where a row is not 0, and returns how many there are."""
    n = 0
    for j in range(row.shape[0]):  # without a branch
        at[n] = j
        n += row[j] != 0
    return n


@nb.njit(fastmath=_FAST, boundscheck=False)
def _decode(z, W, x_hat):
    at = np.empty(z.shape[1] + 1, np.int32)
    for b in range(z.shape[0]):
        n = _some(z[b], at)
        for i in range(W.shape[1]):
            x_hat[b, i] = 0
        for a in range(n):
            j, scale = at[a], z[b, at[a]]
            for i in range(W.shape[1]):
                x_hat[b, i] += scale * W[j, i]


@nb.njit(fastmath=_FAST, boundscheck=False)
def _decode_back(z, live, W, r, dz, dW):
    at = np.empty(z.shape[1] + 1, np.int32)
    dz[:] = 0
    dW[:] = 0
    for b in range(z.shape[0]):
        n = _some(live[b], at)
        for a in range(n):
            j, scale, inner = at[a], z[b, at[a]], np.float32(0)
            for i in range(W.shape[1]):
                inner += r[b, i] * W[j, i]
                dW[j, i] += scale * r[b, i]
            dz[b, j] = inner


@nb.njit(fastmath=_FAST, boundscheck=False)
def _outer(x, g, dW):
    at = np.empty(g.shape[1] + 1, np.int32)
    dW[:] = 0
    for b in range(g.shape[0]):
        n = _some(g[b], at)
        for a in range(n):
            j, scale = at[a], g[b, at[a]]
            for i in range(x.shape[1]):
                dW[j, i] += scale * x[b, i]


@nb.njit(fastmath=_FAST, boundscheck=False)
def _plain(x, z, W, c, cost, loss, dE, db, dW, dc, used):
    d_in, share = x.shape[1], np.float32(1 / x.shape[0])
    at, r = np.empty(z.shape[1] + 1, np.int32), np.empty(d_in, np.float32)
    dE[:] = 0
    db[:] = 0
    dW[:] = 0
    dc[:] = 0
    used[:] = 0
    total = 0.0
    for b in range(x.shape[0]):
        n = _some(z[b], at)
        for i in range(d_in):
            r[i] = c[0, i] - x[b, i]
        for a in range(n):
            j, scale = at[a], z[b, at[a]]
            for i in range(d_in):
                r[i] += scale * W[j, i]
        square = np.float32(0)
        for i in range(d_in):
            square += r[i] * r[i]
            r[i] *= 2 * share
            dc[0, i] += r[i]
        total += square
        for a in range(n):
            j, scale = at[a], z[b, at[a]]
            sign = np.float32(1) if scale > 0 else np.float32(-1)
            slope = sign * cost[0, j] * share
            for i in range(d_in):
                slope += r[i] * W[j, i]
                dW[j, i] += scale * r[i]
            used[0, j] += sign * scale
            db[0, j] += slope
            for i in range(d_in):
                dE[j, i] += slope * x[b, i]
    total *= share
    for j in range(W.shape[0]):
        used[0, j] *= share
        total += cost[0, j] * used[0, j]
    loss[0, 0] = total


@cfunc(types.int64(types.int64), cache=True)
def _decode_call(frame):
    if _answers_a_question(frame):
        return 0
    z, W, x_hat = _argument(frame, 0), _argument(frame, 1), _result(frame, 0)
    for i in range(_n_matrices(x_hat)):
        _decode(_matrix(z, x_hat, i), _matrix(W, x_hat, i), _matrix(x_hat, x_hat, i))
    return 0


@cfunc(types.int64(types.int64), cache=True)
def _decode_back_call(frame):
    if _answers_a_question(frame):
        return 0
    z, live = _argument(frame, 0), _argument(frame, 1)
    W, r = _argument(frame, 2), _argument(frame, 3)
    dz, dW = _result(frame, 0), _result(frame, 1)
    for i in range(_n_matrices(dz)):
        _decode_back(
            _matrix(z, dz, i), _matrix(live, dz, i), _matrix(W, dz, i), _matrix(r, dz, i),
            _matrix(dz, dz, i), _matrix(dW, dz, i),
        )  # fmt: skip
    return 0


@cfunc(types.int64(types.int64), cache=True)
def _outer_call(frame):
    if _answers_a_question(frame):
        return 0
    x, g, dW = _argument(frame, 0), _argument(frame, 1), _result(frame, 0)
    for i in range(_n_matrices(dW)):
        _outer(_matrix(x, dW, i), _matrix(g, dW, i), _matrix(dW, dW, i))
    return 0


@cfunc(types.int64(types.int64), cache=True)
def _plain_call(frame):
    if _answers_a_question(frame):
        return 0
    like = _result(frame, 1)
    x, z, W = _argument(frame, 0), _argument(frame, 1), _argument(frame, 2)
    c, cost, loss = _argument(frame, 3), _argument(frame, 4), _result(frame, 0)
    db, dW = _result(frame, 2), _result(frame, 3)
    dc, used = _result(frame, 4), _result(frame, 5)
    for i in range(_n_matrices(like)):
        _plain(
            _matrix(x, like, i), _matrix(z, like, i), _matrix(W, like, i), _matrix(c, like, i),
            _matrix(cost, like, i), _matrix(loss, like, i), _matrix(like, like, i),
            _matrix(db, like, i), _matrix(dW, like, i), _matrix(dc, like, i),
            _matrix(used, like, i),
        )  # fmt: skip
    return 0


_CALLS = {
    "decode": _decode_call, "decode_back": _decode_back_call, "outer": _outer_call,
    "plain": _plain_call,
}  # fmt: skip
_HELD = []  # what C calls must outlive every program


def register() -> None:
    """Makes the functions known to jax as `toysae_sparse_NAME`."""
    for name, call in _CALLS.items():
        _HELD.append(ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(call.address))
        capsule = jax.ffi.pycapsule(_HELD[-1])
        jax.ffi.register_ffi_target(f"toysae_sparse_{name}", capsule, platform="cpu")
