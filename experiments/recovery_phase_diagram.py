"""Where in ratio x true L0 are features found, and where could they be?"""

from toysae import Experiment, points


def sweep(*l0s: float) -> points.Points:
    """The points of the given L0s: TopK gets the true L0 as its k; an L1 is chosen on the other
    world seeds, from only two for FISTA, which costs more than all others together."""
    fista = points.grid(recipe="fista", l1_coeff=(0.35, 0.7))
    encoders = points.grid(recipe=("tied", "untied", "topk")) + fista
    return points.zipped(l0=l0s, k=l0s) * encoders


experiment = Experiment(
    question="Up to which ratio and true L0 does each recipe find the features, and how far is "
    "that from what the codes allow?",
    expected="Each recipe has a border that falls with the ratio. Compressed sensing with the "
    "dictionary known loses the codes at k = rho(d / N) d; an encoder of one matrix, and a "
    "dictionary to be learned as well, should give up earlier. FISTA codes and TopK, told the true "
    "L0, should hold out longest. (Seen: not so. FISTA, and mostly untied, find the dictionary "
    "beyond where the codes are lost; TopK gives up first at high L0, and is poor at L0 1.)",
    run_time="25 to 40 min on 2 cores (1,386 SAEs); --full, for a GPU, has 5,850",
    worlds=("sphere",),
    d_in=16,
    ratios=(1, 1.5, 2, 3, 4, 6, 8),
    points=sweep(1, 2, 3, 4, 6, 8),
    ceiling=False,
    l1_coeff=(0.2, 0.4, 0.8, 1.6),
    world_seeds=3,
    n_steps=6_000,  # at equal firings, easy cells would end after some hundred
    batch_size=128,
    lr=3e-3,
    lr_decay=0.3,
    n_eval=16_384,
    curve_points=8,
    save_params=False,
    figures=("phase_diagram",),
    smoke={
        "d_in": 8, "ratios": (2,),
        "points": points.zipped(l0=(2,), k=(2,)) * points.grid(recipe=("tied", "topk")),
        "l1_coeff": (0.35,), "world_seeds": 2, "n_steps": 100, "n_eval": 1024,
    },
    full={
        "d_in": 64, "ratios": (1, 1.5, 2, 3, 4, 6, 8, 12, 16),
        "points": sweep(1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
        "l1_coeff": (0.03, 0.06, 0.12, 0.25, 0.5), "world_seeds": 5, "n_steps": 50_000,
        "n_eval": 65_536,
    },
)  # fmt: skip
