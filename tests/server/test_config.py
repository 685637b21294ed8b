"""Settings: flags before environment variables before defaults, and the table in the documentation."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pytest
from lieaudit_server import config
from lieaudit_server.config import Config
from lieaudit_server.errors import ConfigError


def parsed(*flags):
    parser = argparse.ArgumentParser()
    config.add_arguments(parser)
    return vars(parser.parse_args(flags))


def test_flags_win_over_the_environment_and_that_over_defaults():
    environment = {"LIEAUDIT_MAX_QUEUED": "5", "LIEAUDIT_GPUS": "0,2", "LIEAUDIT_INSECURE": "1", "LIEAUDIT_TLS_KEY": ""}
    read = config.read(parsed("--max-queued", "7", "--otel", "--data-dir", "/d"), environment)
    assert (read.max_queued, read.gpus, read.insecure, read.otel) == (7, (0, 2), True, True)
    assert (read.data_dir, read.tls_key) == (Path("/d"), None)
    assert config.read(parsed(), {}) == Config()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--max-queued", "many"), "max_queued"),
        (("--max-queued", "-1"), "max_queued"),
        (("--deadline-seconds", "nan"), "deadline_seconds"),
        (("--gpus", "0,x"), "gpus"),
        (("--log-level", "loud"), "log_level"),
        (("--log-format", "xml"), "log_format"),
        (("--tls-cert", "c"), "tls_key"),
        (("--tls-client-ca", "c"), "tls_cert"),
        (("--torch-factories", "os.system"), "torch_factories"),
        (("--listen", "0.0.0.0:1"), "insecure"),
    ],
)
def test_bad_settings_are_named(flags, says):
    with pytest.raises(ConfigError, match=says):
        config.read(parsed(*flags), {})


def test_the_table_in_the_documentation_is_the_generated_one(repo_root):
    assert config.markdown_table() in (repo_root / "docs" / "operations.md").read_text()


def test_every_setting_is_used(repo_root):
    source = "".join(p.read_text() for p in (repo_root / "server" / "lieaudit_server").rglob("*.py"))
    for field in dataclasses.fields(Config):
        assert source.count(field.name) > 1, field.name
