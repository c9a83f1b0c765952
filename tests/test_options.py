"""Options refuse what makes no sense, naming the option and its range."""

import pytest

from localize import Options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scales", (0.0,)),
        ("scales", (float("nan"),)),
        ("scales", (float("inf"),)),
        ("stride", 0),
        ("stride", 1.5),
        ("stride", float("nan")),
        ("threshold", -0.1),
        ("threshold", float("nan")),
        ("batch_size", 0),
        ("budget", 0),
        ("negatives", ("sky", " ")),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        Options(**{name: value})


def test_the_defaults_are_accepted():
    assert Options().stride == 0.75
