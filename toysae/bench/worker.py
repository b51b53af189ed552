"""Our side, in a process of its own: `python -m toysae.bench.worker`."""

import time
from typing import Any

from .protocol import serve


class Worker:
    """Times a preset, or trains one group on request."""

    def time(self, name: str, seconds: float, rounds: int) -> dict[str, Any]:
        """A preset's row."""
        from .timers import TIMERS

        return TIMERS[name](name, seconds, rounds)

    def open(self, preset: dict[str, Any]) -> dict[str, float]:
        """Compiles a group, and says how long imports and the first step took."""
        begun = time.perf_counter()
        from .presets import Preset
        from .training import Trainer

        import_s = time.perf_counter() - begun
        self.trainer = Trainer(Preset(**preset), seconds=1.0)
        return {"import_s": import_s, "compile_s": self.trainer.compile_s}

    def train(self, n_steps: int) -> float:
        """Seconds of so many steps more."""
        return self.trainer.train(n_steps)

    def peak(self) -> int:
        """Bytes."""
        from .device import peak_bytes

        return peak_bytes()

    def save_world(self, preset: dict[str, Any], path: str) -> None:
        """Writes what the other side needs to draw from the same world."""
        import numpy as np

        from .presets import Preset, world_of

        world = world_of(Preset(**preset))
        bias = np.zeros(world.d_in, np.float32) if world.bias is None else world.bias
        np.savez(path, directions=world.rows, bias=bias)

    def to_mcc(self, **case: Any) -> dict[str, Any]:
        """Trains until the features are found, and says how long imports took."""
        begun = time.perf_counter()
        from .time_to_mcc import train_to_mcc

        return {"import_s": time.perf_counter() - begun, **train_to_mcc(**case)}


if __name__ == "__main__":
    worker = Worker()
    serve({name: getattr(worker, name) for name in vars(Worker) if not name.startswith("_")})
