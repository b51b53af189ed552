"""toysae in a process of its own: `python -m toysae.bench.worker`."""

import time
from dataclasses import replace
from typing import Any

from ..devices import use_all_cores
from .protocol import serve


class Worker:
    """Times a preset, or trains one ensemble on request."""

    def time(
        self, name: str, seconds: float, rounds: int, arithmetic: str | None = None
    ) -> dict[str, Any]:
        """A preset's row."""
        from .timers import TIMERS

        return TIMERS[name](name, seconds, rounds, *([arithmetic] if arithmetic else []))

    def open(self, preset: dict[str, Any]) -> dict[str, Any]:
        """Compiles an ensemble in each arithmetic and returns the seconds of the imports and of the
        first step in float32, and the arithmetics."""
        begun = time.perf_counter()
        from ..sae.sparse import missing
        from .presets import Preset
        from .training import Trainer

        import_s = time.perf_counter() - begun
        self.trainers = {
            arithmetic: Trainer(replace(Preset(**preset), arithmetic=arithmetic), seconds=1.0)
            for arithmetic in ("float32", "bfloat16", *(["sparse"] if not missing() else []))
        }
        compile_s = self.trainers["float32"].compile_s
        return {"import_s": import_s, "compile_s": compile_s, "arithmetics": list(self.trainers)}

    def train(self, n_steps: int, arithmetic: str = "float32") -> float:
        """Trains this many steps more and returns their seconds."""
        return self.trainers[arithmetic].train(n_steps)

    def peak(self) -> int:
        """The most memory taken, in bytes."""
        from .device import peak_bytes

        return peak_bytes()

    def save_world(self, preset: dict[str, Any], path: str) -> None:
        """Writes what SAELens needs to draw from the same world."""
        import numpy as np

        from .presets import Preset, preset_world

        world = preset_world(Preset(**preset))
        bias = np.zeros(world.d_in, np.float32) if world.bias is None else world.bias
        np.savez(path, directions=world.rows, bias=bias)

    def to_mcc(self, **case: Any) -> dict[str, Any]:
        """Trains until the features are found; with the seconds of the imports."""
        begun = time.perf_counter()
        from .time_to_mcc import train_to_mcc

        return {"import_s": time.perf_counter() - begun, **train_to_mcc(**case)}


if __name__ == "__main__":
    use_all_cores()
    worker = Worker()
    serve({name: getattr(worker, name) for name in vars(Worker) if not name.startswith("_")})
