"""Pairs of prompts that differ in one word, and so in the right answer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from ...errors import require
from ..models.tokenizer import Tokenizer

FIRST_NAMES = (
    "Mary", "John", "James", "Anna", "Tom", "Kate", "Paul", "Sarah", "Mark", "Alice", "Peter",
    "Emma", "David", "Laura", "Simon", "Jane", "Robert", "Helen", "Adam", "Lucy", "George", "Ruth",
    "Daniel", "Rachel",
)  # fmt: skip
PLACES = ("store", "park", "school", "market", "station", "office", "garden", "library")
OBJECTS = ("book", "drink", "letter", "ball", "key", "flower", "ticket", "basket")
# Every name follows a space, so that it is the same token everywhere.
_TEMPLATES = (
    "When {A} and {B} went to the {place}, {S} gave a {object} to",
    "After {A} and {B} met at the {place}, {S} handed a {object} to",
    "While {A} and {B} were waiting at the {place}, {S} passed a {object} to",
    "Yesterday {A} and {B} walked to the {place}, and there {S} brought a {object} to",
    "Then {A} and {B} had a long talk at the {place}, and {S} offered a {object} to",
)


@dataclass(frozen=True)
class PromptPairs:
    """Clean and corrupted prompts of the same lengths, padded at their ends.

    Attributes:
        clean: `[n, n_ctx]` token ids.
        corrupted: `[n, n_ctx]`.
        lengths: `[n]` tokens of both prompts of a pair; the last token's prediction is scored.
        answer: `[n]` the right token after the clean prompt.
        wrong: `[n]` the right token after the corrupted prompt.
    """

    clean: Int[np.ndarray, "n n_ctx"]
    corrupted: Int[np.ndarray, "n n_ctx"]
    lengths: Int[np.ndarray, " n"]
    answer: Int[np.ndarray, " n"]
    wrong: Int[np.ndarray, " n"]

    def __post_init__(self) -> None:
        n = len(self.clean)
        require(n > 0, "there are no pairs")
        require(
            self.clean.shape == self.corrupted.shape,
            f"clean prompts are {list(self.clean.shape)}, corrupted ones "
            f"{list(self.corrupted.shape)}: pairs must be of the same lengths",
        )
        same = {len(array) for array in (self.lengths, self.answer, self.wrong)} == {n}
        require(same, f"{n} pairs need as many lengths, answers and wrong answers")
        require(
            self.lengths.min() >= 1 and self.lengths.max() <= self.clean.shape[1],
            f"lengths must be 1 to {self.clean.shape[1]}",
        )


def ioi_pairs(
    tokenizer: Tokenizer,
    n: int,
    seed: int = 0,
    *,
    names: Sequence[str] = FIRST_NAMES,
    bos: bool = False,
) -> PromptPairs:
    """Draws pairs of the indirect object task (Wang et al. 2022, arXiv 2211.00593): "When Mary and
    John went to the store, John gave a book to" asks for Mary. The corrupted prompt differs in one
    token: the other of the two is the giver, so that the answer is the other name.

    Args:
        tokenizer: of the model.
        n: pairs; which of the two names comes first is drawn too.
        seed: of what is drawn.
        names: to draw from; those that are not one token after a space are left out.
        bos: whether prompts start with the token that begins a text.

    Raises:
        ToysaeError: n below 1, fewer than two names that are single tokens, or no token that begins
            a text if one is needed.
    """
    require(n >= 1, f"n {n} must be at least 1")
    begin = tokenizer.begin if bos else None
    require(not bos or begin is not None, "no token of the tokenizer begins a text: use bos=False")
    ids = _single_tokens(tokenizer, names)
    require(
        len(ids) >= 2,
        f"{len(ids)} of the {len(names)} names are single tokens of this tokenizer, and a pair "
        "needs two: pass names that are",
    )
    rng = np.random.default_rng(seed)
    usable, texts, answers = list(ids), [], []
    for _ in range(n):
        pair = [usable[i] for i in rng.choice(len(usable), 2, replace=False)]
        answer, giver = rng.permutation(pair)
        template, place, thing = (str(rng.choice(kind)) for kind in (_TEMPLATES, PLACES, OBJECTS))
        words = {"A": pair[0], "B": pair[1], "place": place, "object": thing}
        texts += [template.format(S=giver, **words), template.format(S=answer, **words)]
        answers.append((ids[answer], ids[giver]))
    start = [] if begin is None else [begin]
    rows = [start + row for row in tokenizer.encode(texts)]
    lengths = np.array([len(row) for row in rows])
    unequal = [i for i in range(n) if lengths[2 * i] != lengths[2 * i + 1]]
    require(not unequal, f"the tokenizer cuts {texts[2 * unequal[0] if unequal else 0]!r} "
            "differently with another giver: pass other names")  # fmt: skip
    padded = np.zeros((2 * n, lengths.max()), np.int32)
    for row, tokens in zip(padded, rows, strict=True):
        row[: len(tokens)] = tokens
    answer, wrong = np.array(answers).T
    return PromptPairs(padded[::2], padded[1::2], lengths[::2], answer, wrong)


def _single_tokens(tokenizer: Tokenizer, names: Sequence[str]) -> dict[str, int]:
    """The id of each name that is one token after a space, within a text."""
    for name in names:
        require(re.fullmatch(r"\S+", name), f"name {name!r} must be one word")
    before, *rows = tokenizer.encode(["When", *(f"When {name}" for name in names)])
    return {name: row[-1] for name, row in zip(names, rows, strict=True) if row[:-1] == before}
