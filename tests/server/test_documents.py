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


def test_the_workers_of_the_kubernetes_pod_fit_into_its_memory(repo_root):
    documents = list(yaml.safe_load_all((repo_root / "deploy" / "kubernetes.yaml").read_text()))
    container = next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["spec"]["containers"][0]
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    settings = config.read({"listen": "127.0.0.1:0"}, values)
    # As many audits of one thread as there are threads, whatever machine the pod lands on.
    audits = int(values["LIEAUDIT_CPU_THREADS"]) * settings.memory_mib
    needed = audits + settings.probes * settings.probe_memory_mib + 1024
    limits = container["resources"]["limits"]
    assert limits["memory"].endswith("Gi")
    assert needed <= int(limits["memory"].removesuffix("Gi")) * 1024
    assert "ephemeral-storage" in limits


def test_the_kubernetes_policy_opens_what_is_served_and_no_more(repo_root):
    documents = list(yaml.safe_load_all((repo_root / "deploy" / "kubernetes.yaml").read_text()))
    policy = next(d for d in documents if d["kind"] == "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    opened = {port["port"]: rule.get("from") for rule in policy["ingress"] for port in rule["ports"]}
    container = next(d for d in documents if d["kind"] == "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert set(opened) == {port["name"] for port in container["ports"]}
    assert opened["metrics"]  # from somewhere only
    assert all(rule["to"] for rule in policy["egress"])
