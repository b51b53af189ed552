"""Does rounding the factors of the large products to bfloat16 cost recovery?"""

from toysae import Experiment, points

experiment = Experiment(
    question="Does a training step whose large products round their factors to bfloat16 recover "
    "fewer features than one in float32?",
    expected="No difference beyond that between seeds: the state, the sums and the scores stay in "
    "float32, and minibatch noise is far larger than 2^-9.",
    run_time="5 to 12 min on 2 cores (150 SAEs)",
    worlds=("sphere",),
    d_in=64,
    ratios=(1, 2, 4),
    l0=3.0,
    points=points.grid(arithmetic=("float32", "bfloat16")),
    recipes=("tied", "untied", "topk"),
    ceiling=False,
    l1_coeff=(0.2, 0.4),
    k=(3.0,),
    world_seeds=5,
    firings_per_feature=30_000,
    lr=3e-3,
    n_eval=16_384,
    curve_points=10,
    save_params=False,
    figures=("mmcs_by_ratio",),
    smoke={
        "d_in": 8,
        "ratios": (2,),
        "recipes": ("untied",),
        "l1_coeff": (0.2,),
        "world_seeds": 2,
        "n_steps": 100,
        "n_eval": 1024,
    },
)
