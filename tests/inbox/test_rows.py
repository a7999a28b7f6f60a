from datetime import UTC, datetime

import pytest

from media_callbacks.inbox.rows import from_milliseconds, to_milliseconds


@pytest.mark.parametrize("milliseconds", [0, 1_079_337_347_472, 1_767_323_045_001, 2_165_497_250_430])
def test_no_millisecond_is_lost_on_the_way_to_a_row(milliseconds):
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)
    assert to_milliseconds(moment) == milliseconds
    assert from_milliseconds(milliseconds) == moment
