"""`causalrn-export serve --http`: one line per mistake, and nothing that goes on running."""

import contextlib
import socket

import pytest

from causalrn.serving.http.models import named_paths
from tests.serving.servers import KEYS


@pytest.fixture
def serve(call, bundles, tmp_path):
    """Calls the command with the linear bundle, for mistakes that end it before it listens."""

    def run(*arguments: object) -> str:
        code, output, errors = call("serve", bundles["linear"], *arguments)
        assert (code, output) == (2, "")
        assert len(errors.splitlines()) == 1, errors
        return str(errors)

    return run


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--keys", "nowhere.txt"), "--keys means nothing to a page: add --http"),
        (("--max-slots", 3), "--max-slots means nothing to a page: add --http"),
        (("other",), "a page is of one bundle: name one, or add --http"),
        ((), "is a bundle for onnx"),
        (("--http", "--keys", "nowhere.txt"), "nowhere.txt: no such file: name a file with an API key a line"),
        (("--http", "--host", "0.0.0.0"), "--host 0.0.0.0 can be reached from elsewhere: give API keys (--keys, or"),
        (("nowhere", "--http"), "nowhere"),
        (("--http", "--runtime", "native"), "--runtime native does not run"),
        (("linear=other", "--http"), "two bundles are called linear: say NAME=PATH"),
        (("b@d=other", "--http"), "'b@d' is no name for a model"),
    ],
)
def test_mistakes_are_one_line(serve, arguments, reason) -> None:
    assert reason in serve(*arguments)


def test_port_in_use_is_one_line(serve) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        errors = serve("--http", "--port", taken.getsockname()[1])
    assert "cannot be used (Address already in use): choose another --port" in errors


def test_unknown_address_is_one_line(serve, tmp_path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEYS[0])
    errors = serve("--http", "--host", "192.0.2.1", "--keys", keys, "--port", 0)
    assert "192.0.2.1 port 0 cannot be used" in errors


def test_state_dir_that_is_a_file_is_one_line(serve, tmp_path) -> None:
    place = tmp_path / "file"
    place.touch()
    assert "no folder for states" in serve("--http", "--port", 0, "--state-dir", place)


def test_paths_have_names(tmp_path) -> None:
    folder = tmp_path / "a-model"
    folder.mkdir()
    named = named_paths([str(folder), f"small={folder}", f"{tmp_path}/x=y/b"])
    assert {name: str(path) for name, path in named.items()} == {
        "a-model": str(folder),
        "small": str(folder),
        "b": f"{tmp_path}/x=y/b",
    }
