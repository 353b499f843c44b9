"""Every key of a configuration is documented, from one source, and the documents say what the code does."""

import dataclasses
import tomllib
from pathlib import Path

import pytest

from xaibench.run.config import RunConfig
from xaibench.run.reference import configuration_markdown, configuration_toml

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def keys():
    for name, value in RunConfig().to_dict().items():
        yield from (
            ((name, key, default) for key, default in value.items()) if isinstance(value, dict) else [("", name, value)]
        )


def test_the_written_file_is_the_default_configuration():
    assert RunConfig.parse(configuration_toml()) == RunConfig()
    raw = tomllib.loads(configuration_toml())
    assert set(raw) == {field.name for field in dataclasses.fields(RunConfig)}


def test_every_key_has_its_default_and_a_meaning():
    lines = configuration_toml().splitlines()
    assert max(map(len, lines)) <= 100
    rows = [row.split(" | ") for row in configuration_markdown().splitlines() if row.startswith("| `")]
    assert [row[0].strip("|` ") for row in rows] == [key for _, key, _ in keys()]
    for (_, key, default), (_, shown, meaning) in zip(keys(), rows, strict=True):
        assert len(meaning) > 15, key
        assert (shown == "not given") == (default is None), key
        written = [line for line in lines if line.startswith((f"{key} = ", f"# {key} = "))]
        assert len(written) >= 1, key
        assert lines[lines.index(written[0]) - 1].startswith("# "), key


@pytest.mark.skipif(not DOCUMENT.parent.is_dir(), reason="the documents are not installed")
def test_the_document_is_the_one_that_the_code_writes():
    assert DOCUMENT.read_text(encoding="utf-8") == configuration_markdown(), (
        "write docs/configuration.md again: "
        "python -c 'from xaibench.run.reference import *; print(configuration_markdown(), end=str())'"
    )
