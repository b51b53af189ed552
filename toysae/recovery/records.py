"""Records of each feature and latent of one SAE against the truth, and their summary scores.

A feature's latent is the one of the largest *signed* cosine; columns by |cos| have `abs` in their
names. Only the `best_feature` of a latent is by |cos|, as in SAELens, so that a latent that points
away from a feature still counts as its detector. A latent fires where z != 0.

Undefined values are NaN, as are whole columns that cannot be measured: the detection columns of a
world that is scored against other directions than fire in it (`World.truth`, meta-SAEs), and
`enc_dec_cos` of encoders without an own direction for each latent (tied, FISTA, pursuit, deep).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from ..errors import require
from ..lazy import pd
from .detections import Detections, aurocs, empty_detections
from .matching import partners

THRESHOLDS = (0.8, 0.9, 0.95)
_STILL = 1e-10  # variance / mean square below which float32 moments are rounding alone


@dataclass(frozen=True)
class Records:
    """Tables with one row a feature and one a latent, in the order of the dictionaries.

    Attributes:
        features: `mcs` (largest signed cosine) and its `best_latent`; `mcs_abs`; `partner`, the
            latent under one-to-one matching, and `partner_cos` (-1 and NaN without one), and the
            same under matching by \\|cos\\|, `partner_abs`, `partner_abs_cos` (absolute). `freq` of
            the feature. For `best_latent` as its detector: `precision` (NaN if the latent never
            fired), `recall` (NaN if the feature never fired), `f1` = 2 TP / (2 TP + FP + FN),
            `auroc` of z and the bound `auroc_error` on its error (:mod:`.auroc`), `slope` and `r2`
            of z times the length of the latent's decoder row on the feature's coefficient, over all
            samples: slope 1 is no shrinkage; r2 is 0 for a latent that never varies, both are NaN
            for a feature that never varies. For `partner` as its detector: `partner_precision`,
            `partner_recall`, `partner_f1`, also NaN without one.
        latents: `best_feature`, of the largest \\|cos\\|, and `cos`, the signed cosine with it;
            `mcs`, the largest signed one; `enc_dec_cos`; `freq`, `dead` (never fired in this
            sample); `precision`, `recall`, `f1` and `accuracy` as a detector of `best_feature`.
    """

    features: pd.DataFrame
    latents: pd.DataFrame


def match(cos: Float[np.ndarray, "n_features d_sae"]) -> Records:
    """Returns records with the columns that need no sample.

    Args:
        cos: signed cosines, from :func:`toysae.recovery.cosines`.

    Raises:
        ToysaeError: `cos` is not a non-empty matrix, or has a NaN.
    """
    partner, partner_abs = partners(cos), partners(cos, absolute=True)
    size = np.abs(cos)

    def at(values: NDArray, latent: NDArray) -> NDArray:
        picked = values[np.arange(len(values)), np.maximum(latent, 0)]
        return np.where(latent >= 0, picked, np.nan).astype(np.float64)

    features = pd.DataFrame(
        {
            "mcs": cos.max(1),
            "best_latent": cos.argmax(1),
            "mcs_abs": size.max(1),
            "partner": partner,
            "partner_cos": at(cos, partner),
            "partner_abs": partner_abs,
            "partner_abs_cos": at(size, partner_abs),
        }
    )
    best_feature = size.argmax(0)
    latents = pd.DataFrame(
        {"best_feature": best_feature, "cos": at(cos.T, best_feature), "mcs": cos.max(0)}
    )
    return Records(features, latents)


def no_detections(matched: Records) -> Detections:
    """Returns detections of no samples, for the pairs of these records."""
    features, latents = matched.features, matched.latents
    pairs = features["best_latent"], latents["best_feature"], features["partner"]
    return empty_detections(*(jnp.asarray(column.to_numpy(), jnp.int32) for column in pairs))


def measure(
    matched: Records,
    seen: Detections | None,
    latent_freq: Float[Array | np.ndarray, " d_sae"],
    lengths: Float[Array | np.ndarray, " d_sae"],
    enc_dec_cos: Float[Array | np.ndarray, " d_sae"] | None = None,
) -> Records:
    """Returns records with the columns that need samples too.

    Args:
        matched: from :func:`match`.
        seen: from :func:`no_detections` of the same records, with samples added; None where other
            features fire than are scored against.
        latent_freq: share of samples in which each latent fired.
        lengths: of the decoder rows.
        enc_dec_cos: see :func:`toysae.recovery.enc_dec_cosines`; None for none.

    Raises:
        ToysaeError: detections of other pairs.
    """
    d_sae = len(matched.latents)
    freq = np.asarray(latent_freq, np.float64)
    encoder = np.full(d_sae, np.nan) if enc_dec_cos is None else np.asarray(enc_dec_cos, float)
    latents = matched.latents.assign(enc_dec_cos=encoder, freq=freq, dead=freq == 0)
    if seen is None:
        names = ("freq", *_DETECTION, "auroc_error", *_LINE, *_PARTNER)
        nan = dict.fromkeys(names, np.nan)
        unknown = dict.fromkeys((*_DETECTION, "accuracy"), np.nan)
        return Records(matched.features.assign(**nan), latents.assign(**unknown))
    best_latent = matched.features["best_latent"].to_numpy()
    best_feature = matched.latents["best_feature"].to_numpy()
    partner = matched.features["partner"].to_numpy()
    require(
        np.array_equal(best_latent, seen.best_latent)
        and np.array_equal(best_feature, seen.best_feature)
        and np.array_equal(partner, seen.partner),
        "the detections are of other pairs: start them with no_detections of these records",
    )
    area, error = jax.device_get(aurocs(seen))
    n, n_on, hits, partner_hits, fired, latent_hits = (
        np.asarray(count, np.int64)
        for count in jax.device_get((seen.n_samples, seen.n_on, seen.hits, seen.partner_hits,
                                     seen.latent_firings, seen.latent_hits))
    )  # fmt: skip
    slope, r2 = _line(seen, np.asarray(lengths, np.float64))
    own = _detection(hits, fired[best_latent], n_on)
    of_partner = _detection(partner_hits, fired[partner], n_on)  # of the last latent without one
    of_partner = {f"partner_{k}": np.where(partner < 0, np.nan, v) for k, v in of_partner.items()}
    others = _detection(latent_hits, fired, n_on[best_feature])
    wrong = fired + n_on[best_feature] - 2 * latent_hits
    features = matched.features.assign(
        freq=n_on / n, **own, auroc=area, auroc_error=error, slope=slope, r2=r2, **of_partner
    )
    return Records(features, latents.assign(**others, accuracy=1 - wrong / n))


_DETECTION = ("precision", "recall", "f1")
_LINE = ("auroc", "slope", "r2")
_PARTNER = tuple(f"partner_{name}" for name in _DETECTION)


def _detection(hits: NDArray, fired: NDArray, on: NDArray) -> dict[str, NDArray]:
    """Returns precision, recall and F1 from true positives, positives called, and positives."""
    with np.errstate(invalid="ignore"):
        values = (hits / fired, hits / on, 2 * hits / (fired + on))
    return dict(zip(_DETECTION, values, strict=True))


def _line(seen: Detections, lengths: NDArray) -> tuple[NDArray, NDArray]:
    """Slope and R² of z_j‖d_j‖ on a_g over all samples, from moments over those with g on.

    With p the share of samples with g on, ``var a = p var_on + p (1 - p) m²`` and
    ``cov = p cov_on + p (1 - p) m (E[z | on] - E[z | off])``: no term is a difference of larger
    ones, so that a feature that is always on loses no digits.
    """
    latent = np.asarray(seen.best_latent)
    n_on, m, act_variance, on_covariance, z_mean, z_mean_off, latent_mean, latent_variance = (
        np.asarray(moment, np.float64)
        for moment in jax.device_get((seen.n_on, seen.act_mean, seen.act_variance, seen.covariance,
                                      seen.z_mean, seen.z_mean_off, seen.latent_mean,
                                      seen.latent_variance))
    )  # fmt: skip
    p = n_on / int(seen.n_samples)
    variance = p * act_variance + p * (1 - p) * m**2
    covariance = p * on_covariance + p * (1 - p) * m * (z_mean - z_mean_off)
    still = variance <= _STILL * p * (act_variance + m**2)
    z_variance = latent_variance[latent]
    constant = z_variance <= _STILL * latent_mean[latent] ** 2
    slope = covariance / np.where(still, np.nan, variance)
    r2 = slope * covariance / np.where(constant, 1, z_variance)
    r2 = np.where(constant & ~still, 0.0, np.minimum(r2, 1.0))
    return slope * lengths[latent], r2


def direction_scores(records: Records) -> dict[str, float]:
    """Summarises the dictionaries: `mmcs`, `mmcs_abs`, `mmcs_latents` (over all latents, dead ones
    too), `mcs_above_` each threshold, `mcc`, `mcc_abs`."""
    features = records.features
    return {
        "mmcs": float(features["mcs"].mean()),
        "mmcs_abs": float(features["mcs_abs"].mean()),
        "mmcs_latents": float(records.latents["mcs"].mean()),
        **{f"mcs_above_{t:g}": float((features["mcs"] > t).mean()) for t in THRESHOLDS},
        "mcc": float(features["partner_cos"].mean()),
        "mcc_abs": float(features["partner_abs_cos"].mean()),
    }


def detection_scores(records: Records) -> dict[str, float]:
    """Summarises the columns that need samples, as means over the defined values.

    Over features that fired (`unseen_features` did not): `precision`, `recall`, `f1`, `auroc`,
    `slope`, `r2` of each feature's best latent. Where that latent is dead (`features_on_dead` of
    them) recall, f1, slope and r2 are 0 and auroc is 1/2. Over those with a one-to-one partner,
    which serves no second feature: `partner_precision`, `partner_recall`, `partner_f1`. Over living
    latents: `mmcs_latents_alive`, `enc_dec_cos_alive`, `precision_latents_alive`,
    `recall_latents_alive`, `f1_latents_alive`. NaN where nothing is left to average.
    """
    measured = bool(records.features["freq"].notna().all())
    on = records.features[records.features["freq"] > 0]
    alive = records.latents[~records.latents["dead"]]
    dead = records.latents["dead"].to_numpy()
    return {
        "unseen_features": len(records.features) - len(on) if measured else np.nan,
        "features_on_dead": int(dead[on["best_latent"]].sum()) if measured else np.nan,
        **{name: float(on[name].mean()) for name in (*_DETECTION, *_LINE, *_PARTNER)},
        "mmcs_latents_alive": float(alive["mcs"].mean()),
        "enc_dec_cos_alive": float(alive["enc_dec_cos"].mean()),
        **{f"{name}_latents_alive": float(alive[name].mean()) for name in _DETECTION},
    }
