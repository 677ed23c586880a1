"""Files for people who run clusters: valid, closed to the outside, and in step with the lock."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
import pytest
import yaml

from components.serving.addresses import is_local
from components.serving.params import ServeParams

KUBERAY = {
    "raycluster.yaml": ("kuberay-rayclusters-v1.json", ["spec"]),
    "rayjob.yaml": ("kuberay-rayjobs-v1.json", ["spec", "rayClusterSpec"]),
    "rayservice.yaml": ("kuberay-rayservices-v1.json", ["spec", "rayClusterConfig"]),
}
FILES = (
    "ray_cluster.yaml",
    "infra/Dockerfile",
    "infra/aws/account.yaml",
    "infra/mlflow/compose.yaml",
    "docs/cluster.md",
    *(f"infra/kuberay/{name}" for name in ("account.yaml", *KUBERAY)),
)


@pytest.fixture(scope="module")
def launcher(repository: Path) -> dict[str, Any]:
    return load(repository / "ray_cluster.yaml")


@pytest.fixture(scope="module")
def compose(repository: Path) -> dict[str, Any]:
    return load(repository / "infra/mlflow/compose.yaml")


@pytest.fixture(scope="module", params=KUBERAY)
def cluster_spec(request: pytest.FixtureRequest, repository: Path) -> dict[str, Any]:
    return kuberay_spec(repository, request.param)


def load(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def kuberay_spec(repository: Path, name: str) -> dict[str, Any]:
    spec = load(repository / "infra/kuberay" / name)
    for key in KUBERAY[name][1]:
        spec = spec[key]
    return dict(spec)


def pod_specs(cluster_spec: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster_spec["headGroupSpec"], *cluster_spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def locked(repository: Path, package: str) -> str:
    found = re.search(
        rf"^{package}==(\S+)", (repository / "requirements.lock").read_text(), re.MULTILINE
    )
    assert found, f"{package} is not in requirements.lock"
    return found[1]


# One version everywhere


def test_images_are_named_by_the_version_of_the_project(repository: Path) -> None:
    version = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    for name in FILES:
        text = (repository / name).read_text()
        assert set(re.findall(r"\bhdrface(?:-mlflow)?:([\w.]+)", text)) <= {version}, name


def test_python_ray_and_uv_are_those_of_the_project(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    lowest = re.match(r">=([\d.]+),", project["requires-python"])
    assert lowest
    wanted = {
        r"python:([\d.]+)-slim": lowest[1],
        r"--python (\d[\d.]+)": lowest[1],
        r"rayVersion: (\S+)": locked(repository, "ray"),
        r"'(uv[<>=][^']+)'": re.findall(r"'(uv[<>=][^']+)'", (repository / "Makefile").read_text())[
            0
        ],
    }
    found = dict.fromkeys(wanted, 0)
    for name in FILES:
        for pattern, value in wanted.items():
            matches = re.findall(pattern, (repository / name).read_text())
            assert set(matches) <= {value}, f"{name}: {pattern}"
            found[pattern] += len(matches)
    assert all(found.values()), found


def test_every_package_comes_from_the_lock(repository: Path, launcher: dict[str, Any]) -> None:
    installs = [
        step
        for step in (repository / "infra/Dockerfile").read_text().split("RUN ")
        if "uv pip install" in step
    ]
    assert len(installs) == 2
    for step in installs:
        assert "--constraints requirements.lock" in step
        assert "grep -vxF -f locked" in step
    assert any(
        "uv pip sync" in step and "--require-hashes" in step and step.endswith("requirements.lock")
        for step in launcher["setup_commands"]
    )
    assert launcher["head_setup_commands"] == [] == launcher["worker_setup_commands"]


# Valid


def test_the_launcher_takes_its_file(launcher: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(launcher))
    with pytest.raises(jsonschema.ValidationError, match="worker_nodez"):
        validate_config({**prepare_config(launcher), "worker_nodez": {}})


def test_aws_would_start_a_head_without_cpus_that_opens_ssh_to_one_address_alone(
    repository: Path, launcher: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account's stack, then the launcher's own steps before a machine, in moto's AWS."""
    moto = pytest.importorskip("moto")
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config

    (tmp_path / ".ssh").mkdir()
    secrets = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "none")
    monkeypatch.setenv("HOME", str(tmp_path))
    region = launcher["provider"]["region"]
    with mock.patch.dict(os.environ, secrets), moto.mock_aws():
        boto3.client("cloudformation", region_name=region).create_stack(
            StackName="hdrface",
            TemplateBody=(repository / "infra/aws/account.yaml").read_text(),
            Parameters=[
                {"ParameterKey": "Bucket", "ParameterValue": "faces"},
                {"ParameterKey": "SshFrom", "ParameterValue": "203.0.113.7/32"},
            ],
        )
        types = bootstrap_aws(prepare_config(launcher))["available_node_types"]
        groups = {id for node in types.values() for id in node["node_config"]["SecurityGroupIds"]}
        ec2 = boto3.resource("ec2", region_name=region)
        rules = [rule for id in groups for rule in ec2.SecurityGroup(id).ip_permissions]

    assert [name for name, node in types.items() if node["resources"].get("CPU") == 0] == ["head"]
    within, ssh = sorted(rules, key=lambda rule: rule["IpProtocol"])
    assert {pair["GroupId"] for pair in within["UserIdGroupPairs"]} == groups
    assert not within["IpRanges"]
    assert not within["Ipv6Ranges"]
    assert (ssh["FromPort"], ssh["ToPort"]) == (22, 22)
    assert not ssh["Ipv6Ranges"]
    assert [addresses["CidrIp"] for addresses in ssh["IpRanges"]] == ["203.0.113.7/32"]


def test_the_account_is_sound_cloudformation(repository: Path) -> None:
    api = pytest.importorskip("cfnlint.api")
    found = api.lint_all((repository / "infra/aws/account.yaml").read_text())
    wrong = [str(problem) for problem in found if problem.rule.severity != "informational"]
    assert not wrong


def test_the_launchers_machines_have_the_accounts_profiles(
    repository: Path, launcher: dict[str, Any]
) -> None:
    text = (repository / "infra/aws/account.yaml").read_text()
    made = set(re.findall(r"InstanceProfileName: (\S+)", text))
    nodes = [node["node_config"] for node in launcher["available_node_types"].values()]
    assert {node["IamInstanceProfile"]["Name"] for node in nodes} == made
    assert f"ray-cluster-name: {launcher['cluster_name']}" in text.replace('"', "").replace(
        "aws:ResourceTag/", ""
    )


@pytest.mark.shared
@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_takes_its_resources(shared_dir: Path, repository: Path, name: str) -> None:
    schema = jsonschema.Draft7Validator(
        json.loads((shared_dir / "schemas" / KUBERAY[name][0]).read_text())
    )
    resource = load(repository / "infra/kuberay" / name)
    schema.validate(resource)
    assert not schema.is_valid({**resource, "spec": {**resource["spec"], "unknown": 1}})


@pytest.mark.shared
def test_compose_takes_its_file(shared_dir: Path, compose: dict[str, Any]) -> None:
    schema = jsonschema.Draft7Validator(
        json.loads((shared_dir / "schemas/compose-spec.json").read_text())
    )
    schema.validate(compose)
    assert not schema.is_valid({**compose, "unknown": 1})


def test_the_three_kuberay_files_describe_one_cluster(repository: Path) -> None:
    specs = [kuberay_spec(repository, name) for name in KUBERAY]
    assert specs[0] == specs[1] == specs[2]


@pytest.mark.parametrize("name", ["infra/serve.yaml", "infra/kuberay/rayservice.yaml"])
def test_serve_takes_its_file_and_the_endpoint_its_arguments(repository: Path, name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = load(repository / name)
    if "spec" in config:
        config = yaml.safe_load(config["spec"]["serveConfigV2"])
    [application] = ServeDeploySchema.model_validate(config).applications
    assert application.import_path == "pipelines.serve:app"
    params = ServeParams.model_validate(application.args)
    host = (config.get("http_options") or {}).get("host", "0.0.0.0")
    assert params.keys is not None or is_local(host)


# Closed to the outside


def test_launcher_asks_for_the_token_on_every_node(launcher: dict[str, Any]) -> None:
    assert launcher["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for group in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in launcher[group] if "ray start" in command]
        assert len(starts) == 1
        assert "RAY_AUTH_MODE=token ray start" in starts[0]
    assert "--dashboard-host=127.0.0.1" in launcher["head_start_ray_commands"][-1]


def test_kuberay_asks_for_the_token_in_every_container(cluster_spec: dict[str, Any]) -> None:
    assert cluster_spec["authOptions"] == {"mode": "token"}
    for pod in pod_specs(cluster_spec):
        for container in pod["containers"]:
            assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]


def test_kuberay_gives_pods_no_more_than_they_need(cluster_spec: dict[str, Any]) -> None:
    containers = [container for pod in pod_specs(cluster_spec) for container in pod["containers"]]
    for holder in (cluster_spec["autoscalerOptions"], *containers):
        assert holder["securityContext"]["allowPrivilegeEscalation"] is False
        assert holder["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for pod in pod_specs(cluster_spec):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["serviceAccountName"] == "hdrface"


def test_the_network_policy_covers_every_pod(
    repository: Path, cluster_spec: dict[str, Any]
) -> None:
    documents = yaml.safe_load_all((repository / "infra/kuberay/account.yaml").read_text())
    policy = next(document for document in documents if document["kind"] == "NetworkPolicy")
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    for group in (cluster_spec["headGroupSpec"], *cluster_spec["workerGroupSpecs"]):
        assert chosen.items() <= group["template"]["metadata"]["labels"].items()


def test_kuberays_head_has_no_cpus_and_no_door(cluster_spec: dict[str, Any]) -> None:
    head = cluster_spec["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["serviceType"] == "ClusterIP"
    assert not head.get("enableIngress")
    assert "hostPort" not in json.dumps(cluster_spec)
    assert "hostNetwork" not in json.dumps(cluster_spec)


def test_compose_publishes_on_loopback_alone(compose: dict[str, Any]) -> None:
    published = {name: service.get("ports", []) for name, service in compose["services"].items()}
    assert published.pop("mlflow") == ["127.0.0.1:5000:5000"]
    assert not any(published.values())
    assert "network_mode" not in json.dumps(compose)


def test_compose_takes_every_password_from_an_env_file_that_git_ignores(
    repository: Path, compose: dict[str, Any]
) -> None:
    folder = repository / "infra/mlflow"
    example = dict(
        line.split("=", 1)
        for line in (folder / ".env.example").read_text().splitlines()
        if not line.startswith("#")
    )
    used = set()
    for name, value in environments(compose):
        if re.search("PASSWORD|SECRET", name):
            found = re.fullmatch(r"\$\{(\w+):\?.+\}", value)
            assert found, f"{name}: a secret, or one that may be empty"
            used.add(found[1])
    assert used == set(example)
    assert not any(example.values())
    ignored = subprocess.run(
        ["git", "check-ignore", "--quiet", "infra/mlflow/.env"], cwd=repository, check=False
    )
    assert not ignored.returncode


def environments(compose: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for service in compose["services"].values():
        yield from service.get("environment", {}).items()


def test_compose_waits_until_what_a_service_needs_is_healthy(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert [name for name, service in services.items() if "healthcheck" not in service] == [
        "bucket"
    ]
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            finished = "service_completed_successfully" if needed == "bucket" else "service_healthy"
            assert how == {"condition": finished}


def test_images_run_as_somebody_and_have_no_compilers(repository: Path) -> None:
    stages = re.split(r"(?m)^FROM ", (repository / "infra/Dockerfile").read_text())[1:]
    finals = [
        stage for stage in stages if "-slim" in stage.splitlines()[0] and "/opt/uv" not in stage
    ]
    assert len(finals) == 2
    for stage in finals:
        assert re.findall(r"(?m)^USER (\S+)", stage)[-1:] == ["1000"]
        assert not re.search(r"\b(gcc|g\+\+|build-essential|clang|make)\b", stage)


def test_the_build_context_has_no_data_and_no_credentials(repository: Path) -> None:
    rules = [
        line
        for line in (repository / ".dockerignore").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == {
        *("components", "pipelines", "pyproject.toml", "requirements.lock", "README.md", "LICENSE")
    }


def test_no_file_has_a_secret_or_the_host_of_a_registry(repository: Path) -> None:
    for name in (*FILES, "infra/mlflow/.env.example"):
        text = (repository / name).read_text()
        assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|://[^/\s:@]+:[^/\s@]+@", text), name
        assert not re.search(r"(?:image:|FROM) *[\w-]+\.[\w.-]+/", text), name


# Commands


def flags_of(command: Any) -> set[str]:
    return {flag for parameter in command.params for flag in parameter.opts}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of packages, at import
def test_ray_start_has_the_flags(repository: Path, launcher: dict[str, Any]) -> None:
    from ray.scripts.scripts import start

    commands = [*launcher["head_start_ray_commands"], *launcher["worker_start_ray_commands"]]
    commands += re.findall(r"ray start .*", (repository / "docs/cluster.md").read_text())
    used = {flag for command in commands for flag in re.findall(r"(?<=\s)--[a-z-]+", command)}
    for name in KUBERAY:
        spec = kuberay_spec(repository, name)
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            used |= {f"--{name}" for name in group["rayStartParams"]}
    assert used <= flags_of(start)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of packages, at import
def test_mlflow_server_has_the_flags(repository: Path, compose: dict[str, Any]) -> None:
    from mlflow.cli import server

    words = compose["services"]["mlflow"]["command"]
    assert words[:2] == ["mlflow", "server"]
    used = {word.partition("=")[0] for word in words[2:]}
    for command in re.findall(r"mlflow server .*", (repository / "docs/cluster.md").read_text()):
        used |= set(re.findall(r"(?<=\s)--[a-z-]+", command))
    assert used <= flags_of(server)


def test_uv_has_the_flags(repository: Path, launcher: dict[str, Any]) -> None:
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("needs uv beside Python: make install")
    text = "\n".join([(repository / "infra/Dockerfile").read_text(), *launcher["setup_commands"]])
    for command in ("pip install", "pip sync", "venv"):
        shown = subprocess.run(
            [uv, *command.split(), "--help"], capture_output=True, text=True, check=True
        ).stdout
        used = [
            flag
            for line in re.findall(rf"uv {command} ([^&\n]*)", text)
            for flag in re.findall(r"--[a-z-]+", line)
        ]
        assert set(used) <= set(re.findall(r"--[a-z][a-z-]+", shown)), command
