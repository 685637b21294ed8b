"""Settings: flags before environment variables before defaults, and the table in the documentation."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from lieaudit_server import config
from lieaudit_server.config import WORKER_MIB, Config
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
        (("--listen", "127.0.0.1:99999"), "listen: the port of '127.0.0.1:99999' is not a number from 0 to 65535"),
        (("--listen", "127.0.0.1:http"), "listen: the port"),
        (("--listen", "127.0.0.1"), "listen: .* HOST:PORT or unix:/path"),
        (("--listen", "::1:50151"), "listen: .* HOST:PORT"),
        (("--listen", "unix:"), "listen: .* HOST:PORT"),
        (("--listen", "unix:/" + "s" * 107), "listen: the path of a unix socket has at most 107 bytes"),
        (("--metrics-listen", "127.0.0.1:65536"), "metrics_listen: the port"),
        (("--metrics-listen", "9090"), "metrics_listen: .* HOST:PORT"),
        (("--memory-mib", "64"), "memory_mib: 64 MiB are too few; a worker needs at least"),
        (("--gpu-memory-mib", "64"), "gpu_memory_mib: 64 MiB"),
        (("--probe-memory-mib", "0"), "probe_memory_mib: 0 MiB"),
    ],
)
def test_bad_settings_are_named(flags, says):
    with pytest.raises(ConfigError, match=says):
        config.read(parsed(*flags), {})


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:65535", "[::1]:50151", "unix:/run/lieaudit"])
def test_addresses_that_can_be_listened_on(listen):
    assert config.read(parsed("--listen", listen), {}).listen == listen


START = [sys.executable, "-m", "lieaudit_server", "serve", "--listen", "127.0.0.1:0"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--listen", "127.0.0.1:99999"), "listen: the port"),
        (("--memory-mib", "10"), "memory_mib: 10 MiB are too few"),
        (
            ("--torch-factories", "a=no_such_module:make"),
            "a=no_such_module:make cannot be imported: ModuleNotFoundError",
        ),
        (("--torch-factories", "a=json:no_such_name"), "a=json:no_such_name cannot be imported: AttributeError"),
        (("--torch-factories", "a=json:loads,b=json:__doc__"), "b=json:__doc__ is no function"),
    ],
)
def test_a_server_that_could_not_work_does_not_start(tmp_path, flags, says):
    run = [*START, "--data-dir", str(tmp_path / "data"), "--log-level", "error", *flags]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.startswith("lieaudit-server: ")
    assert done.stderr.count("\n") == 1


def test_memory_of_the_least_size_is_enough_for_a_small_audit(start, kit):
    least = str(WORKER_MIB + 16)
    server = start(memory_mib=least, probe_memory_mib=least)
    blobs = server.upload_model(kit.tiny_model()).sha256, server.upload_dataset(kit.tiny_dataset()).sha256
    audit = server.finish(server.create(*blobs, {**kit.FAST, "threads": 1}).id)
    assert (audit.state, audit.spec.budget_mib) == ("succeeded", 16)


def test_the_table_in_the_documentation_is_the_generated_one(repo_root):
    assert config.markdown_table() in (repo_root / "docs" / "operations.md").read_text()


def test_every_setting_is_used(repo_root):
    source = "".join(p.read_text() for p in (repo_root / "server" / "lieaudit_server").rglob("*.py"))
    for field in dataclasses.fields(Config):
        assert source.count(field.name) > 1, field.name
