"""Feeds the training loop from a stream of rows: windows on the device, loaded one ahead."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ... import pytree
from ...worlds import Batch
from ..capture.stream import Stream

WINDOW_BYTES = 64 * 2**20


@pytree.dataclass
class Window:
    """Activations on the device that stand for a world in the training loop: the rows of some
    steps, a sample of all rows for initialisations and resampling, and held-out rows for scores.

    Attributes:
        rows: `[n_rows, d_in]` in the order of training.
        first: the step of the first rows.
        drawn: `[n_drawn, d_in]` a sample of the rows that are trained on, from the whole stream.
        pool: `[n_pool, d_in]` held-out rows.
        mean: `[d_in]` subtracted from each row.
        scale: each row is then multiplied by it.
        generating_matrix: `[d_in, d_hidden]` what :class:`toysae.sae.inits.SvdWeights` starts from.
        name: of the site.
    """

    rows: Float[Array, "*lead n_rows d_in"]
    first: Int[Array, "*lead"]
    drawn: Float[Array, "*lead n_drawn d_in"]
    pool: Float[Array, "*lead n_pool d_in"]
    mean: Float[Array, "*lead d_in"]
    scale: Float[Array, "*lead"]
    generating_matrix: Float[Array, "*lead d_in d_hidden"]
    name: str = pytree.field(pytree_node=False, default="")

    @property
    def directions(self) -> Float[Array, "*lead 0 d_in"]:
        """None: no true feature is known."""
        return jnp.zeros((*self.rows.shape[:-2], 0, self.d_in), jnp.float32)

    target = directions

    @property
    def n_features(self) -> int:
        """0: no true feature is known."""
        return 0

    @property
    def d_in(self) -> int:
        return self.rows.shape[-1]

    def batch(self, key: PRNGKeyArray, step: Int[Array, ""], n: int) -> Batch:
        """The rows of a step, normalised."""
        start = (step - self.first) * n
        return self._batch(jax.lax.dynamic_slice_in_dim(self.rows, start, n))

    def sample(self, key: PRNGKeyArray, n: int) -> Batch:
        """Draws rows of `drawn` with replacement, normalised."""
        return self._batch(self.drawn[jax.random.randint(key, (n,), 0, self.drawn.shape[0])])

    def normalised(self, rows: Float[Array, "n d_in"]) -> Float[Array, "n d_in"]:
        """The rows as the SAEs read them: less the mean, times the scale."""
        return (rows.astype(jnp.float32) - self.mean) * self.scale

    def _batch(self, rows: Float[Array, "n d_in"]) -> Batch:
        x = self.normalised(rows)
        nothing = jnp.zeros((x.shape[0], 0))
        return Batch(x, nothing.astype(jnp.int32), nothing, 0, in_order=True)


Windows = Callable[[Float[Array, "1 n_rows d_in"], Int[Array, "1"]], Window]
"""From rows and their first step to a stacked window."""


class SiteFeed:
    """Gives the training loop the window of a step, and loads the next one meanwhile.

    Args:
        stream: of rows.
        window: makes a window of rows `[1, n_rows, d_in]` and their first step `[1]`. All is
            stacked, with a leading axis of 1, so that only the rows are copied for a window.
        batch_size: rows a step.
        n_steps: of the training; nothing is loaded beyond them.
        n_bytes: about the size of a window; two are held.
    """

    def __init__(
        self,
        stream: Stream,
        window: Windows,
        batch_size: int,
        n_steps: int,
        n_bytes: int = WINDOW_BYTES,
    ):
        self._stream, self._window, self._batch_size = stream, window, batch_size
        self._steps = max(1, min(n_steps, n_bytes // (batch_size * stream.row_bytes)))
        self._n_windows = -(-n_steps // self._steps)
        self._thread = ThreadPoolExecutor(1)
        self._loading: dict[int, Future] = {}
        self.waited = 0.0
        """Seconds for which training waited for a window."""

    def __call__(self, step: int) -> tuple[Window, int]:
        """Returns the window of a step, stacked, and the step at which it ends."""
        i = step // self._steps
        for wanted in (i, i + 1):
            if wanted < self._n_windows and wanted not in self._loading:
                self._loading[wanted] = self._thread.submit(self._load, wanted)
        self._loading = {k: future for k, future in self._loading.items() if k >= i}
        since = perf_counter()
        window = self._loading[i].result()
        self.waited += perf_counter() - since
        return window, (i + 1) * self._steps

    def close(self) -> None:
        """Stops loading."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _load(self, i: int) -> Window:
        first = i * self._steps
        rows = self._stream.rows(first * self._batch_size, self._steps * self._batch_size)
        return jax.block_until_ready(self._window(jnp.asarray(rows)[None], jnp.int32([first])))
