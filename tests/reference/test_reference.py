"""docs/reference/ says what the code says."""

import pytest

from tests.reference.pages import FOLDER, PARTS, render_page, replace_part


@pytest.mark.parametrize("name", PARTS)
def test_the_page_is_today_s(name: str):
    assert (FOLDER / name).read_text("utf-8") == render_page(name), "run: make reference"


def test_what_is_written_by_hand_stays():
    before = "# Title\n\n<!-- a -->\n\nold\n\n<!-- /a -->\n\nmore\n"
    assert replace_part(before, "a", "new") == before.replace("old", "new")
    assert replace_part(before.replace("\nold\n", ""), "a", "old") == before
    with pytest.raises(ValueError, match="expected <!-- b -->"):
        replace_part(before, "b", "new")
