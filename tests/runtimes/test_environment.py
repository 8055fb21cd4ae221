"""The environment of a report: versions and processor, and nothing that names machine or user."""

import getpass
import json
import platform
import socket
from pathlib import Path

import numpy as np
import pytest

from causalrn import __version__
from causalrn.runtimes import environment
from causalrn.runtimes.environment import describe_environment, processor_name


def test_environment_has_versions_and_names_nobody():
    found = describe_environment()
    assert (found["packages"]["numpy"], found["packages"]["causalrn"]) == (np.__version__, __version__)
    assert found["python"] == platform.python_version()
    assert found["cpu_count"] >= 1
    text = json.dumps(found)
    assert socket.gethostname() not in text.split('"')
    assert getpass.getuser() not in text.split('"')


def test_package_that_is_missing_is_none(monkeypatch):
    monkeypatch.setattr(environment, "_PACKAGES", ["no-such-package"])
    assert describe_environment()["packages"] == {"no-such-package": None}


@pytest.mark.parametrize(
    ("content", "name"), [("flags : x\nmodel name\t: A CPU\n", "A CPU"), ("flags : x\n", "spare"), (None, "spare")]
)
def test_processor_is_named_with_and_without_proc(monkeypatch, content, name):
    def read(path, encoding):
        if content is None:
            raise FileNotFoundError(path)
        return content

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(platform, "processor", lambda: "spare")
    assert processor_name() == name
