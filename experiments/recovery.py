"""The main job: where does recovery break as features outnumber dimensions?"""

from toysae import Experiment

experiment = Experiment(
    question="Do tied and untied SAEs find the true features as n_features / d_in grows, and does "
    "the initialisation matter?",
    expected="Untied SAEs recover nearly everything at ratios 1 and 2 for a middling L1. At equal "
    "firings per feature, what breaks at 4 and beyond is interference, not starvation.",
    run_time="about 10 min on 2 CPU cores; full size (--d-in 64 --ratios 1 2 4 8 16 "
    "--firings-per-feature 100000) for a GPU or overnight",
    worlds=("sphere",),
    d_in=32,
    ratios=(1, 2, 4),
    l0=3.0,
    recipes=("tied", "untied"),
    inits=("random", "orthogonal", "svd"),
    sizes=(1.0,),
    l1_coeff=(0.06, 0.12, 0.2, 0.35, 0.6),
    world_seeds=3,
    firings_per_feature=40_000,
    lr=3e-3,
    lr_decay=0.3,
    figures=("mcs_histograms", "mmcs_by_ratio", "learning_curves", "mcs_over_training"),
    smoke={
        "d_in": 16, "ratios": (1, 2), "inits": ("random", "svd"), "l1_coeff": (0.06, 0.25),
        "world_seeds": 2, "firings_per_feature": 800, "n_eval": 2048, "curve_points": 8,
    },
)  # fmt: skip
