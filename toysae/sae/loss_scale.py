"""From each paper's sparsity coefficient to ours.

Ours is lambda in: squared error summed over d_in + lambda * (|z| summed over latents), averaged
over samples. A paper that averages either sum means another lambda by the same number.
"""

from collections.abc import Callable

from ..errors import unknown


def internal(alpha: float, d_in: int, d_sae: int) -> float:
    """Ours already; also Towards Monosemanticity if its squared error is summed."""
    return alpha


def interim_report(alpha: float, d_in: int, d_sae: int) -> float:
    """Sharkey et al. 2022: error averaged over d_in, alpha * ||c||_1 / d_sae."""
    return alpha * d_in / d_sae


def mean_error(alpha: float, d_in: int, d_sae: int) -> float:
    """Error averaged over d_in, L1 summed: the 2023 ensembles (HoagyC), Cunningham's code, and
    Towards Monosemanticity if its squared error is averaged (sources disagree)."""
    return alpha * d_in


CONVENTIONS: dict[str, Callable[[float, int, int], float]] = {
    "internal": internal,
    "interim-report": interim_report,
    "cunningham-code": mean_error,
    "cunningham-equation": internal,
    "monosemanticity-sum": internal,
    "monosemanticity-mean": mean_error,
}


def to_internal(convention: str, alpha: float, d_in: int, d_sae: int) -> float:
    """Our l1_coeff for a paper's coefficient.

    Raises:
        ToysaeError: no convention of that name.
    """
    if convention not in CONVENTIONS:
        raise unknown("L1 convention", convention, CONVENTIONS)
    return CONVENTIONS[convention](alpha, d_in, d_sae)
