"""The package's front door: its public names, found without loading torch."""

import subprocess
import sys

import pytest

import localize


def test_dir_and_completion_know_the_public_names_before_their_first_use():
    code = (
        "import localize, rlcompleter, sys\n"
        "assert set(localize.__all__) <= set(dir(localize)), dir(localize)\n"
        "completer = rlcompleter.Completer({'localize': localize})\n"
        "assert completer.complete('localize.Localizer', 0) is not None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_looking_at_the_names_loads_no_torch():
    code = "import localize, sys; dir(localize); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", localize.__all__)
def test_every_public_name_is_there(name):
    assert getattr(localize, name).__name__ == name
