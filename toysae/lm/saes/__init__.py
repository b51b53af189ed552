"""SAEs of captured activations: trained, saved, loaded, and when their latents fire.

>>> trained = train_site(folder, Training(recipes=("topk",), k=(32,)), out)
>>> sae = load_site_sae(out, row=0)
>>> z = sae.latents(acts)
"""

from .bench import Bench, open_bench
from .firing import LatentFiring, latent_firing, sample_latents
from .normalise import Normalisation, normalisation
from .scores import SiteScores
from .seeds import shared_by_seeds
from .site_sae import (
    SiteSAE,
    Spliced,
    export_site_sae,
    fold,
    load_site_sae,
    sae_of_run,
    save_site_sae,
    spliced,
)
from .train import TrainedSite, Training, prepare_site, site_cells, train_site

__all__ = [
    "Bench", "LatentFiring", "Normalisation", "SiteSAE", "SiteScores", "Spliced", "TrainedSite",
    "Training", "export_site_sae", "fold", "latent_firing", "load_site_sae", "normalisation",
    "open_bench", "prepare_site", "sae_of_run", "sample_latents", "save_site_sae",
    "shared_by_seeds", "site_cells", "spliced", "train_site",
]  # fmt: skip
