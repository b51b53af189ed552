"""Another library's side of the protocol, without the library: its clock is made up."""

import numpy as np

from toysae.bench.protocol import serve

WORLD: dict = {}


def open_(path: str, **told):
    with np.load(path) as file:
        WORLD.update(told, directions=file["directions"], bias=file["bias"])
    return {"import_s": 0.5, "device": "cpu", "versions": {}}


def train(n_steps: int, threads: int, sparse: bool, autocast: bool, autocast_data: bool) -> float:
    """A step is 10 ms; sparse tensors halve it, autocast of the data doubles it."""
    print("noise on standard output")
    return n_steps * 0.01 * (0.5 if sparse else 1) * (2 if autocast_data else 1)


def to_mcc(seed: int, most: int, target: float, **told):
    open_(**{key: value for key, value in told.items() if key not in ("every", "threads")})
    return {"steps": most, "mcc": 0.0, "import_s": 0.5}


def world():
    lengths = np.linalg.norm(WORLD["directions"], axis=1)
    told = {key: value for key, value in WORLD.items() if key not in ("directions", "bias")}
    return {**told, "shape": WORLD["directions"].shape, "off_unit": abs(lengths - 1).max()}


def fail():
    raise ValueError("on purpose")


if __name__ == "__main__":
    serve({
        "open": open_, "train": train, "to_mcc": to_mcc, "peak": lambda: 123_000_000,
        "world": world, "fail": fail, "end": lambda: exit(3),
    })  # fmt: skip
