"""What decides whether a feature is found: its frequency, its strength or its neighbours?"""

from toysae import Experiment

experiment = Experiment(
    question="What decides whether a feature is found: how often it fires, how strongly, or how "
    "near its nearest neighbour is?",
    expected="Frequency first, and a threshold rather than a slope: features below a number of "
    "firings are missed whatever their magnitude. Neighbours matter little on random directions.",
    run_time="about 10 min on 2 CPU cores",
    worlds=("sphere",),
    d_in=24,
    ratios=(2, 4),
    l0=3.0,
    probs="log-uniform",
    firing="exactly-k",
    magnitude="log-normal",
    # Besides the tail, the norm, the magnitude and the probability of each feature vary.
    dials={"decades": 1.5, "asymmetry": 0.4},
    recipes=("untied", "batchtopk"),
    at_truth=True,
    l1_coeff=(0.05, 0.1, 0.2, 0.4),
    k=(2.0, 3.0, 4.0, 6.0),
    world_seeds=5,
    firings_per_feature=40_000,
    lr=3e-3,
    lr_decay=0.3,
    n_eval=32_768,
    figures=("recovery_surface", "frontier", "mcs_by_frequency", "mcs_over_training"),
    smoke={
        "d_in": 8, "ratios": (2,), "l1_coeff": (0.2,), "recipes": ("untied",), "l0": 2.0,
        "world_seeds": 2, "firings_per_feature": 400, "n_eval": 1024, "curve_points": 8,
    },
)  # fmt: skip
