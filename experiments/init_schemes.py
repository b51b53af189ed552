"""Do initialisations speed recovery up? Steps until mmcs reaches .9."""

from toysae import Experiment

experiment = Experiment(
    question="How many steps until mmcs is .9, by initialisation, tied and untied?",
    expected="The interim report's authors half remembered that orthogonal init helps. Over a "
    "random dictionary the singular vectors are just the PCA axes; only the hidden-layer world "
    "gives them a meaning.",
    run_time="about 10 min on 2 CPU cores",
    worlds=("sphere", "hidden-layer"),
    d_in=32,
    ratios=(2,),
    l0=3.0,
    recipes=("tied", "untied"),
    inits=("random", "transpose", "orthogonal", "svd", "svd-data"),
    ceiling=False,
    sizes=(1.0,),
    l1=(0.12, 0.2, 0.35),
    world_seeds=5,
    firings_per_feature=60_000,
    lr=2e-3,
    lr_decay=0.0,
    curve_points=80,
    figures=("steps_to_threshold", "learning_curves", "mcs_histograms"),
    smoke={
        "d_in": 16, "l1": (0.12,), "world_seeds": 2, "firings_per_feature": 3000,
        "n_eval": 4096, "curve_points": 12,
    },
)  # fmt: skip
