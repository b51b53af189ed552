"""An HTML file that shows latents of an SAE: what they write, when they fire, in which contexts.

It loads nothing from elsewhere; whatever comes from a text or a name is escaped.
"""

from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from unicodedata import category

import numpy as np
from jaxtyping import Int

from ..effects.latents import Effects, Facts
from ..models.tokenizer import Tokenizer
from .contexts import Contexts, Example

_HALF = "\ufffd"  # written by decoders for a part of a character
_NOTHING = "·"  # a token that only continues a character
_JOINER = "\u200d"  # between the parts of an emoji
_SHOWN = {"\n": "↵", "\r": "␍", "\t": "⇥"}
_WIDTH, _HEIGHT = 360, 72


def render(
    title: str,
    header: Mapping[str, str],
    facts: Sequence[Facts],
    contexts: Sequence[Contexts],
    tokenizer: Tokenizer,
) -> str:
    """Renders the page.

    Args:
        title: of the page.
        header: facts at the top, e.g. the model, by name.
        facts: of the latents, in the order of the page.
        contexts: of the same latents.
        tokenizer: of the model.
    """
    latents = list(zip(facts, contexts, strict=True))
    return _PAGE.substitute(
        title=escape(title),
        header="".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in header.items()),
        contents="".join(_entry(f, c, tokenizer) for f, c in latents),
        sections="".join(_section(f, c, tokenizer) for f, c in latents),
    )


def token_texts(tokenizer: Tokenizer, ids: Sequence[int] | Int[np.ndarray, " n"]) -> list[str]:
    """What each token adds to the text before it. A token alone may decode to something else: many
    tokenizers drop the space before it, and a character may be spread over several tokens; it
    belongs to the first of these, and the others may add nothing."""
    text, first_of = "", []  # the first token of each character
    for i in range(len(ids)):
        before, text = text, tokenizer.decode(list(map(int, ids[: i + 1])))
        unlike = (i for i, (a, b) in enumerate(zip(before, text, strict=False)) if a != b)
        same = next(unlike, min(len(before), len(text)))
        first_of = first_of[: same + 1][: len(text)]  # a part of the next character was there
        first_of += [i] * (len(text) - len(first_of))
    out = [""] * len(ids)
    for i, letter in zip(first_of, text, strict=True):
        out[i] += letter
    return out


def visible(text: str) -> str:
    """The text escaped, with invisible characters made visible."""
    return escape("".join(_SHOWN.get(c, c if _can_be_seen(c) else _HALF) for c in text))


def _can_be_seen(c: str) -> bool:
    return c.isprintable() or c == _JOINER or category(c) == "Zs"


def _alone(tokenizer: Tokenizer, token: int) -> str:
    """A token as it is after others, its leading space made visible."""
    start = tokenizer.encode(["a"])[0]
    text = token_texts(tokenizer, [*start, token])[-1] or _HALF
    return visible("␣" * (len(text) - len(text.lstrip(" "))) + text.lstrip(" "))


def _entry(facts: Facts, contexts: Contexts, tokenizer: Tokenizer) -> str:
    strongest = [_token_of(e, tokenizer) for e in contexts.examples if e.band == 0][:3]
    tokens = " ".join(f'<span class="tok">{token}</span>' for token in strongest)
    return (
        f'<tr><td><a href="#latent-{facts.latent}">{facts.latent}</a></td>'
        f"<td>{_share(contexts.share)}</td><td>{contexts.largest:.3g}</td><td>{tokens}</td></tr>"
    )


def _token_of(example: Example, tokenizer: Tokenizer) -> str:
    own = example.pos - example.start
    text = token_texts(tokenizer, example.tokens)[own]
    return visible(text.strip(" ") or text.replace(" ", "␣") or _NOTHING)


def _section(facts: Facts, contexts: Contexts, tokenizer: Tokenizer) -> str:
    numbers = {
        "fires at": f"{_share(contexts.share)} of tokens ({contexts.count:,})",
        "largest activation": f"{contexts.largest:.4g}",
        "nearest axis": f"|cos| {facts.axis_cos:.2f} with coordinate {facts.axis}",
        "nearest other latent": "none lives" if facts.nearest is None
        else f"cos {facts.nearest_cos:.2f} with {facts.nearest}",
        "encoder and decoder": "no encoder directions" if facts.enc_dec_cos is None
        else f"cos {facts.enc_dec_cos:.2f}",
    }  # fmt: skip
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in numbers.items())
    bands = "".join(
        _band(contexts, band, tokenizer) for band in (0, *range(len(contexts.band_counts), 0, -1))
    )
    return (
        f'<section id="latent-{facts.latent}"><h2>Latent {facts.latent}</h2>'
        f'<div class="about"><dl>{rows}</dl>{_histogram(contexts)}</div>'
        f"{_effects('promotes', facts.promoted, tokenizer)}"
        f"{_effects('suppresses', facts.suppressed, tokenizer)}"
        f"{bands if contexts.count else '<p>It never fires in these tokens.</p>'}"
        '<p><a href="#top">back to the list</a></p></section>'
    )


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


def _effects(name: str, effects: Effects, tokenizer: Tokenizer) -> str:
    if not effects:
        return ""
    tokens = " ".join(
        f'<span class="effect"><span class="tok" title="token {token}">'
        f"{_alone(tokenizer, token)}</span><small>{effect:+.2g}</small></span>"
        for token, effect in effects
    )
    return f'<p class="effects"><b>{name}</b> {tokens}</p>'


def _band(contexts: Contexts, band: int, tokenizer: Tokenizer) -> str:
    """The examples of one interval of activation; band 0 is for the strongest."""
    examples = [e for e in contexts.examples if e.band == band]
    n = len(contexts.band_counts)
    name = "strongest"
    if band:
        low, high = ((band - i) / n * contexts.largest for i in (1, 0))
        name = (
            f"interval {band}/{n} <small>{low:.3g} to {high:.3g}: "
            f"{contexts.band_counts[band - 1]:,} tokens</small>"
        )
    rows = "".join(_example(e, contexts.largest, tokenizer) for e in examples)
    none = "" if examples else '<p class="none">none in other sequences</p>'
    return f"<h3>{name}</h3>{rows}{none}"


def _example(example: Example, largest: float, tokenizer: Tokenizer) -> str:
    own = example.pos - example.start
    spans = []
    for i, (text, z) in enumerate(
        zip(token_texts(tokenizer, example.tokens), example.window_z, strict=True)
    ):
        lit = f' style="--a:{min(z / largest, 1):.2f}" title="{z:.3g}"' if z > 0 else ""
        if i == own:
            spans.append(f'<b class="it"{lit}>{visible(text)}</b>')
        else:
            spans.append(f"<span{lit}>{visible(text)}</span>" if lit else visible(text))
    where = f"sequence {example.seq}, position {example.pos}"
    return (
        f'<div class="example"><span class="z" title="{where}">{example.activation:.3g}</span>'
        f'<span class="text">{"".join(spans)}</span></div>'
    )


def _histogram(contexts: Contexts) -> str:
    """Bars on a logarithmic axis: nearly all latents fire weakly far more often than strongly."""
    counts = contexts.histogram
    heights = np.log1p(counts) / max(np.log1p(counts.max(initial=0)), 1e-9) * (_HEIGHT - 14)
    step, base = _WIDTH / len(counts), _HEIGHT - 12
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{base - h:.1f}" width="{step - 1:.1f}" height="{h:.1f}">'
        f"<title>{count:,}</title></rect>"
        for i, (count, h) in enumerate(zip(counts, heights, strict=True))
        if count
    )
    n = len(contexts.band_counts)
    ticks = "".join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 3}"/>'
        for x in (i * _WIDTH / n for i in range(n + 1))
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="histogram of activations">'
        f'{bars}<line x1="0" x2="{_WIDTH}" y1="{base}" y2="{base}"/>{ticks}'
        f'<text x="0" y="{_HEIGHT}">0</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT}" text-anchor="end">{contexts.largest:.3g}</text></svg>'
    )


_PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #666; --paper: #fff; --line: #ddd;
  --chip: #f1f1ef; --lit: 255, 140, 0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --soft: #9a9a9a; --paper: #17181a;
  --line: #3a3a3c; --chip: #26282b; --lit: 220, 110, 0; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; } h2 { font-size: 1.15rem; margin: 0 0 .5rem; }
h3 { font-size: .9rem; margin: .9rem 0 .2rem; }
small, .none, .z, dt { color: var(--soft); font-weight: normal; }
a { color: inherit; }
section { border-top: 1px solid var(--line); padding-top: 1.2rem; margin-top: 1.6rem; }
dl { display: grid; grid-template-columns: max-content auto; gap: .1rem 1rem; margin: 0; }
dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin-top: 1rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .1rem 1.2rem .1rem 0; }
.about { display: flex; flex-wrap: wrap; gap: 1rem 3rem; align-items: flex-end; }
svg { width: ${width}px; max-width: 100%; font-size: 10px; fill: currentColor;
  stroke: none; } svg line { stroke: var(--soft); } svg rect { fill: rgb(var(--lit)); }
.effects { margin: .5rem 0 0; line-height: 1.8; }
.effect { white-space: nowrap; margin-right: .3em; }
.tok { background: var(--chip); border-radius: 3px; padding: 0 .25em; white-space: pre;
  margin-right: .2em; font: 13px ui-monospace, monospace; }
.example { display: flex; gap: .8rem; padding: .1rem 0; }
.z { flex: 0 0 3.2rem; text-align: right; font-variant-numeric: tabular-nums; }
.text { font: 13px/1.6 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.text [style] { background: rgba(var(--lit), var(--a)); }
.text :empty::before { content: "·"; }
.it { display: inline-block; outline: 1.5px solid var(--ink); border-radius: 2px; }
.none { margin: 0; font-size: .85rem; }
</style>
</head>
<body id="top">
<h1>$title</h1>
<dl>$header</dl>
<p><small>Activations are in units of the SAE's normalised input. The token of an example is
outlined; the shade is the latent's activation as a share of its largest. Effects on logits are
direct: the decoder row through the final norm's weight and the unembedding, less their mean over
the vocabulary; what later layers make of it is left out. Histograms count on a logarithmic
axis.</small></p>
<table><tr><th>latent</th><th>fires</th><th>largest</th><th>strongest at</th></tr>$contents</table>
$sections
</body>
</html>
""".replace("${width}", str(_WIDTH))
)
