"""Tables at any width: nothing that they hold is cut off."""

import re

import pandas as pd
import pytest

from toysae.cli.show import print_frame

FRAME = pd.DataFrame(
    {
        "world": "sphere",
        "SAE": ["tied, random", "untied, orthogonal"],
        "mmcs": ["0.511 ± 0.205 (3)", "0.467 ± 0.086 (3)"],
        "true l0": [3.01, 2.98765],
        "note": ["", "no L0 match"],
    }
)


@pytest.mark.parametrize("width", [30, 50, 80, 160])
def test_every_word_is_printed(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # as on a terminal
    print_frame(FRAME, "arms")
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed and "world sphere" in printed  # constant: said once
    for letters in ("0.511", "0.205", "(3)", "3.01", "2.988"):
        assert letters in printed, letters
    whole = "0.467 ± 0.086 (3)" in printed and "untied, orthogonal" in printed
    assert whole == (width >= 80)


def test_a_pipe_is_wide(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "30")
    print_frame(FRAME, "arms")
    assert "untied, orthogonal" in capsys.readouterr().out


def test_a_number_that_some_rows_lack_is_shown_row_by_row(capsys):
    table = pd.DataFrame({"arm": ["a", "b"], "mse": [float("nan"), 0.25]})
    print_frame(table, "arms")
    printed = capsys.readouterr().out
    assert "0.25" in printed and "mse nan" not in printed
