"""The threat model names tests that exist, and the deployment files agree with the server."""

from __future__ import annotations

import ast
import re

import yaml
from lieaudit_server import config


def test_the_threat_model_names_tests_that_exist(repo_root):
    rows = [
        line
        for line in (repo_root / "docs" / "security.md").read_text().partition("## Threats")[2].splitlines()
        if line.startswith("| ") and not line.startswith(("| **", "| threat"))
    ]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`([\w/.]+\.py)(?:::(\w+))?`", row)
        assert named, row
        for file, function in named:
            path = repo_root / file if file.startswith("tests/") else repo_root / "tests" / "server" / file
            tree = ast.parse(path.read_text())
            functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert not function or function in functions, f"{file}::{function}"


def test_the_deployment_files_set_only_what_the_server_knows(repo_root):
    known = set(re.findall(r"`(LIEAUDIT_\w+)`", config.markdown_table()))
    documents = list(yaml.safe_load_all((repo_root / "deploy" / "kubernetes.yaml").read_text()))
    container = next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["spec"]["containers"][0]
    names = {entry["name"] for entry in container["env"]}
    names |= set(re.findall(r"LIEAUDIT_\w+", (repo_root / "Dockerfile").read_text()))
    assert names <= known
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    compose = yaml.safe_load((repo_root / "compose.yaml").read_text())["services"]["lieaudit"]
    assert compose["read_only"] is True
    assert compose["ports"] == ["127.0.0.1:50151:50151"]
