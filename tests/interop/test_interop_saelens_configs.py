"""Whatever stands in the place of a SAELens folder's cfg.json is refused in one line."""

import shutil
from pathlib import Path

import pytest

from toysae import ToysaeError
from toysae.interop import from_saelens

GOLDEN = Path(__file__).parents[1] / "golden" / "saelens"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("7", "is not a JSON object but 7"),
        ('"x"', "is not a JSON object but 'x'"),
        ("[]", r"is not a JSON object but \[\]"),
        pytest.param("[" * 100_000, "is nested too deep to be read", id="nested"),
        pytest.param(None, "is not a regular file", id="folder"),
    ],
)
def test_a_config_that_is_no_object_is_refused_in_one_line(tmp_path, text, said):
    shutil.copytree(GOLDEN / "topk", tmp_path, dirs_exist_ok=True)
    config = tmp_path / "cfg.json"
    config.unlink()
    if text is None:
        config.mkdir()
    else:
        config.write_text(text)
    with pytest.raises(ToysaeError, match=f"cfg.json {said}") as error:
        from_saelens(tmp_path)
    assert "\n" not in str(error.value)
