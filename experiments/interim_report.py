"""The interim report's 512-feature, 256-dimensional world: L1 x dictionary size."""

from toysae import Experiment

experiment = Experiment(
    question="On the interim report's data, which L1 and dictionary size recover the features?",
    expected="MMCS near 1 in a band of middling L1 once d_sae >= n_features; dead latents appear "
    "at larger L1 and size (Sharkey, Braun and Millidge 2022).",
    run_time="17 x 9 grid, 20,000 steps: a GPU. On 2 CPU cores under an hour: --sizes 0.25 0.5 1 2 "
    "--l1-coeff 0.0316 0.1 0.316 1 3.16 --n-steps 5000",
    worlds=("interim-report",),
    d_in=256,
    ratios=(2,),
    l0=5.0,
    recipes=("interim-report-2022",),
    ceiling=False,
    sizes=tuple(2.0**i for i in range(-3, 6)),
    l1_coeff=tuple(10 ** (i / 4) for i in range(-8, 9)),
    l1_convention="interim-report",
    world_seeds=3,
    n_steps=20_000,
    lr_decay=0.0,
    save_params=False,
    figures=("sparsity_by_size", "mcs_histograms", "mcs_by_frequency", "learning_curves"),
    smoke={
        "d_in": 16, "sizes": (1.0,), "l1_coeff": (0.03, 0.3), "world_seeds": 2,
        "l0": 3.0, "n_steps": 100, "n_eval": 1024, "curve_points": 8,
    },
)  # fmt: skip
