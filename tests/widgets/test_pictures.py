import re

import pytest

from xaibench.widgets.pictures import colour_bar


@pytest.mark.parametrize(
    ("limit", "percent", "end"),
    [
        (0.00752, True, "0.75%"),
        (0.008, True, "0.8%"),
        (1.0, True, "100%"),
        (12.3, False, "12"),
        (0.00012, False, "0.00012"),
        (3.2e-9, False, "3.2e-09"),
        (123456.0, False, "1.2e+05"),
    ],
)
def test_the_ends_of_a_scale_have_two_digits_and_no_needless_exponent(limit, percent, end):
    assert re.findall(r"<span>([^<]+)</span>", colour_bar(limit, "share", percent)) == [f"≤ −{end}", "0", f"≥ +{end}"]
