"""SAELens in a process of its own: `python -m toysae.bench.saelens`.

Its trainer and its generator are put together as its `train_toy_sae` does (6.54), but such that
training continues from one request to the next. torch is loaded here only, at the first request.
"""

# pyright: reportMissingImports=false
import os
import time
from typing import Any

from .protocol import peak_resident_bytes, serve


class SAELens:
    """A standard SAE that is trained on request, with a trainer for each choice of autocasts."""

    def open(
        self,
        world: str,
        path: str,
        d_sae: int,
        batch_size: int,
        l0: float,
        l1_coeff: float,
        lr: float,
    ) -> dict[str, Any]:
        """Builds the world and returns the seconds of the imports, versions and the device.

        Args:
            world: "sphere", or "synth-sae-bench-16k" with its published numbers.
            path: of its directions `[n_features, d_in]` and bias `[d_in]`.
            d_sae: latents.
            batch_size: samples a step.
            l0: mean number of features that fire, if they fire independently.
            l1_coeff: coefficient of sum |z| |W_dec row|.
            lr: of Adam.
        """
        os.environ.setdefault("TQDM_DISABLE", "1")
        begun = time.perf_counter()
        import sae_lens
        import torch

        import_s = time.perf_counter() - begun
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as JAX does
        self.dictionary, self.generator = _world(world, path, l0, self.device)
        self.d_sae, self.batch_size, self.l1_coeff, self.lr = d_sae, batch_size, l1_coeff, lr
        self.trainers: dict[tuple[bool, bool], Any] = {}
        versions = {"sae-lens": sae_lens.__version__, "torch": torch.__version__}
        return {"import_s": import_s, "versions": versions, "device": self.device}

    def train(
        self, n_steps: int, threads: int, sparse: bool, autocast: bool, autocast_data: bool
    ) -> float:
        """Trains this many steps more and returns their seconds.

        Args:
            n_steps: of the trainer of these two autocasts.
            threads: of torch, in one operation.
            sparse: whether the generator's activations are sparse tensors.
            autocast: bfloat16 products in the SAE.
            autocast_data: bfloat16 products in the generator.
        """
        import torch

        torch.set_num_threads(threads)
        self.generator.use_sparse_tensors = sparse
        trainer = self._trainer(autocast, autocast_data)
        self._synchronise()
        begun = time.perf_counter()
        trainer.cfg.total_training_samples = trainer.n_training_samples + n_steps * self.batch_size
        trainer.fit()
        self._synchronise()
        return time.perf_counter() - begun

    def to_mcc(
        self, seed: int, most: int, every: int, target: float, threads: int, **world: Any
    ) -> dict[str, Any]:
        """Trains from `seed` until the MCC, measured after `every` so many steps, reaches `target`,
        or for `most` steps."""
        opened = self.open(**world)
        import torch
        from sae_lens.synthetic.evals import mean_correlation_coefficient

        torch.manual_seed(seed)
        truth, steps, mcc = self.dictionary.feature_vectors.detach(), 0, 0.0
        while mcc < target and steps < most:
            self.train(every, threads, sparse=False, autocast=False, autocast_data=False)
            steps += every
            rows = self._trainer(False, False).sae.W_dec.detach()
            mcc = mean_correlation_coefficient(rows, truth)
        return {"steps": steps, "mcc": mcc, "import_s": opened["import_s"]}

    def peak(self) -> int:
        """The most memory taken in bytes: of the device, or on a CPU of this process."""
        import torch

        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return peak_resident_bytes()

    def _synchronise(self) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def _trainer(self, autocast: bool, autocast_data: bool) -> Any:
        if (autocast, autocast_data) not in self.trainers:
            self.trainers[autocast, autocast_data] = self._new_trainer(autocast, autocast_data)
        return self.trainers[autocast, autocast_data]

    def _new_trainer(self, autocast: bool, autocast_data: bool) -> Any:
        """A trainer as `sae_lens.synthetic.train_toy_sae` makes it."""
        from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.synthetic.training import SyntheticActivationIterator
        from sae_lens.training.sae_trainer import SAETrainer

        d_in = self.dictionary.feature_vectors.shape[1]
        sae = StandardTrainingSAE(
            StandardTrainingSAEConfig(
                d_in=d_in, d_sae=self.d_sae, l1_coefficient=self.l1_coeff, device=self.device
            )
        )
        batches = SyntheticActivationIterator(
            self.dictionary, self.generator, self.batch_size, autocast=autocast_data
        )
        config = SAETrainerConfig(
            n_checkpoints=0,
            checkpoint_path=None,
            save_final_checkpoint=False,
            total_training_samples=self.batch_size,
            device=self.device,
            autocast=autocast,
            lr=self.lr,
            lr_end=self.lr,
            lr_scheduler_name="constant",
            lr_warm_up_steps=0,
            adam_beta1=0.9,
            adam_beta2=0.999,
            lr_decay_steps=0,
            n_restart_cycles=1,
            train_batch_size_samples=self.batch_size,
            dead_feature_window=1000,
            feature_sampling_window=2000,
            logger=LoggingConfig(log_to_wandb=False, eval_every_n_wandb_logs=2**31 - 1),
            n_batches_for_norm_estimate=1000,
        )
        return SAETrainer(cfg=config, sae=sae, data_provider=batches)


def _world(world: str, path: str, l0: float, device: str) -> tuple[Any, Any]:
    """The dictionary and the generator of activations."""
    import numpy as np
    import torch
    from sae_lens.synthetic import ActivationGenerator, FeatureDictionary

    with np.load(path) as file:
        rows, bias = (torch.from_numpy(file[name]).float() for name in ("directions", "bias"))
    dictionary = FeatureDictionary(*rows.shape, initializer=None)
    dictionary.feature_vectors.data, dictionary.bias.data = rows, bias
    dictionary = dictionary.eval().to(device)
    if world != "sphere":
        return dictionary, _synth_sae_bench(dictionary, device)
    n_features = len(rows)
    generator = ActivationGenerator(
        n_features, l0 / n_features, std_firing_magnitudes=0.25, device=device
    )
    return dictionary, generator


def _synth_sae_bench(dictionary: Any, device: str) -> Any:
    """SynthSAEBench-16k's generator by its published numbers (arXiv 2602.14687)."""
    from sae_lens.synthetic import (
        FoldedNormalMagnitudeConfig,
        HierarchyConfig,
        LinearMagnitudeConfig,
        LowRankCorrelationConfig,
        SyntheticModel,
        SyntheticModelConfig,
        ZipfianFiringProbabilityConfig,
    )

    n_features, d_in = dictionary.feature_vectors.shape
    config = SyntheticModelConfig(
        num_features=n_features,
        hidden_dim=d_in,
        firing_probability=ZipfianFiringProbabilityConfig(0.5, max_prob=0.4, min_prob=5e-4),
        hierarchy=HierarchyConfig(
            total_root_nodes=128,
            branching_factor=4,
            max_depth=3,
            mutually_exclusive_portion=1.0,
            compensate_probabilities=True,
            scale_children_by_parent=True,
        ),
        correlation=LowRankCorrelationConfig(rank=25, correlation_scale=0.1),
        mean_firing_magnitudes=LinearMagnitudeConfig(start=5.0, end=4.0),
        std_firing_magnitudes=FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
        seed=0,
    )
    return SyntheticModel(config, feature_dict=dictionary, device=device).activation_generator


if __name__ == "__main__":
    peer = SAELens()
    serve({name: getattr(peer, name) for name in ("open", "train", "to_mcc", "peak")})
