"""Every kind of SAE at the same L0, on an easy and a strongly interfering world."""

from toysae import Experiment

experiment = Experiment(
    question="Which kind of SAE recovers the true features, when all fire as many latents as "
    "there are features?",
    expected="On the easy world most kinds recover nearly all. The ones that hold their decoder "
    "orthogonal cannot, and Matryoshka's nested losses make early latents hold several features. "
    "Iterative encoders (FISTA, OMP) pay no amortisation gap, so they lead where features "
    "interfere. Rows of the table that differ from one of these in numbers alone are left out.",
    run_time="50 min on 2 CPU cores that did other work too",
    worlds=("sphere",),
    d_in=20,
    ratios=(1.5, 4),
    l0=3.0,
    recipes=(
        "tied", "tied-gain", "untied", "untied-similar", "interim-report-2022", "svd",
        "untied-resampled", "held-orthogonal", "held-orthogonal-tied", "frequency-aware",
        "p-annealing-2024", "anthropic-april-2024", "anthropic-january-2025", "gated", "jumprelu",
        "topk", "abstopk", "batchtopk", "ortsae-2025", "matryoshka", "mlp", "lista", "mp-sae-2025",
        "omp", "fista",
    ),
    ceiling=False,
    sizes=(1.0,),
    l1_coeff=(0.05, 0.15, 0.4),
    l0_target=(2.0, 3.0, 5.0),
    match_l0=True,
    world_seeds=3,
    n_steps=5000,
    lr=3e-3,
    lr_decay=0.3,
    n_eval=16_384,
    curve_points=8,
    figures=("scores_by_recipe", "mcs_by_recipe", "recovery_by_l0"),
    smoke={
        "d_in": 8, "ratios": (2,), "recipes": ("untied", "topk"), "l1_coeff": (0.2,),
        "l0_target": (2.0,), "l0": 2.0, "world_seeds": 2, "n_steps": 400, "n_eval": 1024,
    },
)  # fmt: skip
