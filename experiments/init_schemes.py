"""Do initialisations speed recovery up? Steps until mmcs reaches .9."""

from toysae import Experiment

experiment = Experiment(
    question="How many steps until mmcs is .9, and how much is found in the end, by "
    "initialisation: tied and untied, under- and overcomplete?",
    expected="The interim report's authors half remembered that orthogonal init helps. Over a "
    "random dictionary the singular vectors are just the PCA axes; only the hidden-layer world "
    "gives them a meaning. Inits that look at the data (samples, k-means, ICA, semi-NMF, spectral) "
    "start well above the random floor: plot step 0.",
    run_time="23 min on 2 CPU cores that did other work too",
    worlds=("sphere", "hidden-layer"),
    d_in=32,
    ratios=(0.5, 2),
    l0=3.0,
    recipes=("tied", "untied"),
    inits=(
        "random", "transpose", "kaiming", "orthogonal", "basis", "svd", "svd-data",
        "data-samples", "k-means", "ica", "semi-nmf", "spectral",
    ),
    ceiling=False,
    sizes=(1.0,),
    l1_coeff=(0.12, 0.25),
    world_seeds=5,
    firings_per_feature=40_000,
    lr=2e-3,
    lr_decay=0.0,
    curve_points=50,
    figures=("steps_to_threshold", "curves_by_init", "mcs_by_recipe", "scores_by_recipe"),
    smoke={
        "d_in": 8, "worlds": ("sphere",), "ratios": (2,), "recipes": ("untied",),
        "l1_coeff": (0.2,), "inits": ("random", "svd-data"),
        "world_seeds": 2, "firings_per_feature": 2000, "n_eval": 1024, "curve_points": 10,
    },
)  # fmt: skip
