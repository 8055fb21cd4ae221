"""Random calls over slots (random_slots.c), by threads under ThreadSanitizer, and under valgrind; mutants are found."""

import subprocess

import pytest

from tests.builders import random_model
from tests.c_tools import c_bundle, compile_c, needs, needs_gcc

pytestmark = needs_gcc
MODELS = {
    "exact, unbounded": ({"positions": "none", "capacity": None}, {}),
    "exact, pool8, w8": ({"heads": 2, "hidden": 44}, {"pool_dtype": "int8", "scheme": "w8"}),
    "linear": ({"readout": "linear"}, {}),
}
COMMAND = ["gcc", "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-DCAUSALRN_REPRODUCIBLE", "-g"]
COMMAND += ["-Wall", "-Wextra", "-Werror"]
VALGRIND = ["valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=all"]
RACES, PLAIN = ["-O1", "-fsanitize=thread"], ["-O1", "-DCAUSALRN_NO_VECTORS"]
SOURCES = ["causalrn.c", "causalrn_api.c"]


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory):
    made = {}

    def bundle(name):
        if name not in made:
            model, options = MODELS[name]
            made[name] = c_bundle(random_model(**model), tmp_path_factory.mktemp("slots"), **options)
        return made[name]

    return bundle


def program_of(bundle, folder, flags, changes=None):
    """random_slots.c with a bundle's source, in which some texts are others."""
    sources = []
    for name in SOURCES:
        text = (bundle.path / name).read_text()
        for old, new in (changes or {}).items():
            if name == "causalrn_api.c":
                assert old in text
                text = text.replace(old, new)
        (folder / name).write_text(text)
        sources.append(folder / name)
    return compile_c([*COMMAND, *flags], ["tests/export/c99/random_slots.c", *sources], bundle, folder / "slots")


def outcome(command, bundle, folder, threads, calls):
    arguments = [bundle.path / "weights.bin", folder / "state", threads, calls, 0, 1]
    return subprocess.run([*map(str, [*command, *arguments])], capture_output=True, text=True, check=False)


def check(result, calls):
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    assert int(result.stdout.split(" threads, ")[1].split()[0]) >= calls
    assert int(result.stdout.split(" calls, ")[1].split()[0]) > 0


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", MODELS)
def test_threads_with_sessions_of_one_model_do_not_race(bundle_of, tmp_path, name):
    bundle = bundle_of(name)
    program = program_of(bundle, tmp_path, RACES)
    check(outcome([program], bundle, tmp_path, 4, 2000), 8000)
    assert {path.name for path in tmp_path.iterdir()} == {*SOURCES, "slots", "state"}  # nothing half-written


@pytest.mark.cases(0)
@needs("valgrind", packages="valgrind")
@pytest.mark.parametrize("name", MODELS)
def test_valgrind_finds_nothing_in_random_calls(bundle_of, tmp_path, name):
    bundle = bundle_of(name)
    program = program_of(bundle, tmp_path, ["-O1"])
    check(outcome([*VALGRIND, program], bundle, tmp_path, 1, 1000), 1000)


MUTANTS = {
    "a copy that forgets where it is": ("made->session.position = old->position;", "made->session.position = 0;"),
    "logits of another row": ("done->logits + (size_t)(done->time - 1) * CAUSALRN_VOCABULARY", "done->logits"),
    "memory that is not freed": ("    free(session->requests);\n", ""),
    "a session that follows the model's kernel": ("made, session->kernel);", "made, session->model->kernel);"),
    "one name for all that save": ("(unsigned long long)(uintptr_t)content", "(unsigned long long)(content == NULL)"),
}


@pytest.mark.cases(1)
@needs("valgrind", packages="valgrind")
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_what_is_wrong_is_found(bundle_of, tmp_path, mutant):
    bundle, (old, new) = bundle_of("linear"), mutant
    if "kernel" in old or "content" in old:
        program = program_of(bundle, tmp_path, RACES, {old: new})
        result = outcome([program], bundle, tmp_path, 4, 8000)
        assert "data race" in result.stderr or "save" in result.stdout or "not whole" in result.stdout
    else:
        program = program_of(bundle, tmp_path, PLAIN, {old: new})
        result = outcome([*VALGRIND, program], bundle, tmp_path, 1, 4000)
        assert "definitely lost" in result.stderr or "thread 0, call" in result.stdout
    assert result.returncode != 0
