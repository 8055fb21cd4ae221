"""Which cases of long tests run by default."""

import subprocess
import sys

import pytest

from tests.builders import ROOT

_TESTS = """
import pytest

@pytest.mark.cases({count})
@pytest.mark.parametrize("case", range(9))
def test_long(case):
    pass

@pytest.mark.parametrize("case", range(3))
def test_short(case):
    pass
"""


@pytest.mark.cases(3)
@pytest.mark.parametrize(
    ("count", "arguments", "cases"),
    [
        (1, [], "0"),
        (2, [], "08"),
        (3, [], "048"),
        (20, [], "012345678"),
        (0, [], ""),
        (2, ["--every-case"], "012345678"),
        (2, ["test_it.py::test_long"], "012345678"),
    ],
)
def test_cases_are_spread_evenly_unless_all_are_wanted(tmp_path, count, arguments, cases):
    (tmp_path / "test_it.py").write_text(_TESTS.format(count=count))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = cases(n): as in this project\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.case_sampling", "--rootdir", tmp_path, "--strict-markers"]
    command += ["-c", tmp_path / "pytest.ini", "--collect-only", "-q", *arguments]
    result = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    found = "".join(line[-2] for line in result.stdout.splitlines() if line.startswith("test_it.py::test_long["))
    assert found == cases, result.stdout
    assert result.stdout.count("::test_short[") == (0 if "::" in "".join(arguments) else 3)
