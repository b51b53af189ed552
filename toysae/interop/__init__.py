"""SAEs of other libraries: SAELens in and out, dictionary_learning and sparsify in."""

from ..door import guard
from .dictionary_learning import from_dictionary_learning
from .load import load_any, score
from .saelens import from_saelens, to_saelens
from .sparsify import from_sparsify

__all__ = [
    "from_dictionary_learning", "from_saelens", "from_sparsify", "load_any", "score", "to_saelens",
]  # fmt: skip

guard(globals())
