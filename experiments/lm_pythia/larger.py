"""Tests whether the features of a dictionary are found in a larger one."""

from itertools import pairwise

import numpy as np
import pandas as pd

from toysae.lm.cards.site_study import SideBySide
from toysae.recovery.label_free import found_in
from toysae.runs.results import Results


def found_in_larger(saes: SideBySide, results: Results) -> pd.Series:
    """MMCS with the next larger dictionary (Sharkey et al. 2022): the mean over an SAE's living
    latents of the largest cosine with a living latent of the next size and the next seed, since one
    seed starts dictionaries of all sizes from the same rows. NaN for the largest size, a lone seed,
    and SAEs that diverged.

    Returns:
        One number for each row of the table of a site.
    """
    table = saes.table
    alive = {
        place: np.asarray(arrays["firing_freq"])[i] > 0
        for rows, arrays in saes.cells
        for i, place in enumerate(rows.index)
    }
    shared = pd.Series(np.nan, table.index)
    for _, rows in table[~table["diverged"]].groupby("l1_coeff"):
        for size, next_size in pairwise(sorted(rows["d_sae"].unique())):
            large = rows[rows["d_sae"] == next_size]
            large = large.assign(place=large.index).set_index("sae_seed")
            for i, row in rows[rows["d_sae"] == size].iterrows():
                others = [s for s in large.index if s != row["sae_seed"]]
                if not others:
                    continue
                later = [s for s in others if s > row["sae_seed"]]
                there = int(large.loc[min(later or others), "place"])
                mine, larger = (results.sae(int(str(at))).W_dec for at in (i, there))
                shared[i] = float(found_in(mine, larger, alive[i], alive[there]))
    return shared
