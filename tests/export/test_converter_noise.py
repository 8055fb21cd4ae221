"""Converters of other packages make no noise, and what they raise is one line."""

import logging
import os
import subprocess
import sys
import warnings

import pytest

from causalrn.errors import ConfigError, InputError
from causalrn.export.converter_noise import quiet_converter
from causalrn.library_output import silenced_libraries


def test_nothing_appears_from_python_logs_warnings_or_libraries(capfd):
    with quiet_converter("a converter"):
        print("progress")
        print("progress", file=sys.stderr)
        logging.getLogger("converter").error("noise")
        warnings.warn("an old torch", UserWarning, stacklevel=1)
        os.write(2, b"I0000 a library in C++\n")
    print("after", file=sys.stderr)
    os.write(2, b"and after\n")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "after\nand after\n")
    assert logging.root.manager.disable == logging.NOTSET


def test_what_a_converter_raises_is_one_line():
    words = r"^a converter cannot convert this model \(ValueError: no such operator\): "
    with pytest.raises(ConfigError, match=words), quiet_converter("a converter"):
        raise ValueError("no such\n operator")


@pytest.mark.parametrize(
    "error", [InputError("ours"), MemoryError(), OSError(28, "No space left"), KeyboardInterrupt()]
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, quiet_converter("a converter"):
        raise error
    assert caught.value is error


def test_a_closed_standard_error_is_no_obstacle():
    code = "import os; os.close(2)\nfrom causalrn.library_output import silenced_libraries\n"
    code += "with silenced_libraries(): pass\nprint('fine')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "fine\n"
    with silenced_libraries():
        pass
