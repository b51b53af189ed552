"""Where in ratio x true L0 are features found, and where could they be?"""

from toysae import Experiment, axes

L0S = (1, 2, 3, 4, 6, 8)
FULL_L0S = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)

experiment = Experiment(
    question="Up to which ratio and true L0 does each recipe find the features, and how far is "
    "that from what the codes allow?",
    expected="Each recipe has a border that falls with the ratio. Compressed sensing with the "
    "dictionary known loses the codes at k = rho(d / N) d; an encoder of one matrix, and a "
    "dictionary to be learned as well, should give up earlier. FISTA codes and TopK, told the true "
    "L0, hold out longest.",
    run_time="TODO",
    worlds=("sphere",),
    d_in=16,
    ratios=(1, 1.5, 2, 3, 4, 6, 8),
    # TopK is told the truth; the others choose among three L1 on the other world seeds.
    axes=axes.zipped(l0=L0S, k=L0S),
    recipes=("tied", "untied", "topk", "fista"),
    ceiling=False,
    l1=(0.06, 0.15, 0.35),
    world_seeds=3,
    firings_per_feature=10_000,
    lr=3e-3,
    lr_decay=0.3,
    n_eval=16_384,
    curve_points=8,
    save_params=False,
    figures=("phase_diagram",),
    smoke={
        "d_in": 8, "ratios": (1, 2, 4), "axes": axes.zipped(l0=(1, 2, 4), k=(1, 2, 4)),
        "l1": (0.1, 0.3), "world_seeds": 2, "firings_per_feature": 400, "n_eval": 2048,
        "recipes": ("tied", "topk"),
    },
    full={
        "d_in": 64, "ratios": (1, 1.5, 2, 3, 4, 6, 8, 12, 16),
        "axes": axes.zipped(l0=FULL_L0S, k=FULL_L0S), "l1": (0.03, 0.06, 0.12, 0.25, 0.5),
        "world_seeds": 5, "firings_per_feature": 60_000, "n_eval": 65_536,
    },
)  # fmt: skip
