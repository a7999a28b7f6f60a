"""The files of deploy/ and the Dockerfile keep what the service promises: nobody public reaches admin, nothing is killed
before it has stopped, nothing runs as root."""

import base64
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from media_callbacks.commands.check.vendor import QUESTIONS
from media_callbacks.config.settings import load_settings
from media_callbacks.config.sources import SOURCE_MODELS
from media_callbacks.model.errors import ConfigError

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CLUSTER = (DEPLOY / "media-callbacks-cluster.toml").read_text("utf-8")
# Settings that the cluster's configuration uses and this version does not have yet.
DEFAULT_DRAIN_S = 5
# Between the end of the service's own stopping and the kill.
MARGIN_S = 10
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef" * 2).decode()
PINNED = re.compile(r"[a-z0-9./-]+:[0-9]+\.[0-9]+(\.[0-9]+)?(-[a-z0-9.-]+)?")


def load_yaml(path: str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text("utf-8"))


def manifests() -> Iterator[dict[str, Any]]:
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text("utf-8"))


def manifest(kind: str, name: str = "media-callbacks") -> dict[str, Any]:
    (found,) = (each for each in manifests() if each["kind"] == kind and each.get("metadata", {}).get("name") == name)
    return found


def pods() -> dict[str, dict[str, Any]]:
    return {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in manifests()
        if each["kind"] in ("StatefulSet", "Job")
    }


def stop_time_s(server: dict[str, Any]) -> float:
    return float(server.get("drain_s", DEFAULT_DRAIN_S) + server.get("stop_timeout_s", 20))


def seconds(duration: str) -> int:
    found = re.fullmatch(r"([0-9]+)s", duration)
    assert found, duration
    return int(found[1])


# Configurations


def test_the_clusters_configuration_is_right(tmp_path: Path):
    secrets = {
        "store_url": "postgresql://media_callbacks:secret@postgres/media_callbacks",
        "admin_token": "0123456789abcdef",
        "jobs_token": "fedcba9876543210",
        "vod_key": "Example1Key",
        "orders_secret": WEBHOOK_SECRET,
        "aliyun_id": "ExampleId",
        "aliyun_secret": "ExampleSecret",
    }
    assert set(re.findall(r"file:/run/secrets/(\w+)", CLUSTER)) == set(secrets)
    for name, value in secrets.items():
        (tmp_path / name).write_text(value)
    path = tmp_path / "media-callbacks.toml"
    path.write_text(CLUSTER.replace("/run/secrets", str(tmp_path)))
    try:
        problems = load_settings(path, environ={}).warnings
    except ConfigError as error:
        problems = error.problems
    assert problems == ()


def test_kubernetes_has_the_same_configuration():
    assert manifest("ConfigMap")["data"] == {"media-callbacks.toml": CLUSTER}


def test_secrets_that_the_configuration_reads_are_given():
    names = set(re.findall(r"file:/run/secrets/(\w+)", CLUSTER))
    assert set(manifest("Secret")["stringData"]) == names
    compose = load_yaml("compose/compose.yaml")
    script = (DEPLOY / "compose/make-secrets.sh").read_text("utf-8")
    assert set(re.findall(r"^make (\w+)", script, re.MULTILINE)) == set(compose["secrets"])
    for name, service in compose["services"].items():
        if name.startswith("media-callbacks"):
            assert set(service["secrets"]) == names
    assert {each["file"] for each in compose["secrets"].values()} == {f"secrets/{name}" for name in compose["secrets"]}
    assert "secrets/" in (DEPLOY / "compose/.gitignore").read_text("utf-8").splitlines()


@pytest.mark.parametrize("name", ["media-callbacks.toml", "media-callbacks-cluster.toml"])
def test_configurations_ask_the_vendor_and_read_a_queue(name: str):
    settings = tomllib.loads((DEPLOY / name).read_text("utf-8"))
    assert {"vendor", "jobs"} <= settings.keys()
    assert {"token", "jobs_token"} <= settings["admin"].keys(), (
        "without token every other pod of the machine is trusted"
    )
    transports = {source["transport"] for source in settings["sources"].values()}
    # A minted URL is for one task of one application, and has no place in an example for several instances.
    assert transports >= SOURCE_MODELS.keys() - ({"token-url"} if "cluster" in name else set())
    (queue,) = (source for source in settings["sources"].values() if source["transport"] == "mns-queue")
    # Otherwise what the policy for egress opens, 443 alone, does not reach it.
    assert queue["endpoint"].startswith("https://")


# Rights at the vendor


def test_the_ram_policy_allows_what_is_asked_and_nothing_else():
    policy = json.loads((DEPLOY / "ram-policy.json").read_text("utf-8"))
    assert policy["Version"] == "1"
    jobs, queue = policy["Statement"]
    assert {each["Effect"] for each in (jobs, queue)} == {"Allow"}
    asked = set()
    for module, api in (("vod", "vod"), ("ims", "ice"), ("mts", "mts"), ("multimediaai", "multimediaai")):
        code = (ROOT / f"service/media_callbacks/healing/queries/{module}.py").read_text("utf-8")
        asked |= {f"{api}:{action}" for action in re.findall(r'"((?:Get|List|Query)[A-Z]\w+)"', code)}
    assert asked == set(jobs["Action"])
    assert {f"{query.api}:{query.action}" for query in QUESTIONS.values()} <= asked, "check could not ask"
    # A callback's key is in what these give back; nothing that reads jobs may read that.
    assert not any("Callback" in action or "*" in action for action in jobs["Action"])
    assert set(queue["Action"]) == {"mns:ReceiveMessage", "mns:DeleteMessage", "mns:ChangeMessageVisibility"}
    source = next(s for s in tomllib.loads(CLUSTER)["sources"].values() if s["transport"] == "mns-queue")
    owner, _, region, *_ = source["endpoint"].removeprefix("https://").split(".")
    assert queue["Resource"] == f"acs:mns:{region}:{owner}:/queues/{source['queue']}/messages"


# Compose


def test_compose_publishes_nginx_alone():
    services = load_yaml("compose/compose.yaml")["services"]
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "nginx": ["0.0.0.0:8080:8080"]
    }
    assert not any("network_mode" in service for service in services.values())


def test_compose_has_two_instances_that_stop_in_their_time_and_own_their_journal():
    compose = load_yaml("compose/compose.yaml")
    instances = [service for name, service in compose["services"].items() if name.startswith("media-callbacks-")]
    assert len(instances) == 2
    server = tomllib.loads(CLUSTER)["server"]
    journals = set()
    for instance in instances:
        assert seconds(instance["stop_grace_period"]) >= stop_time_s(server) + MARGIN_S
        assert instance["read_only"] is True
        assert instance["user"] == "10001:10001"
        assert instance["cap_drop"] == ["ALL"]
        assert instance["security_opt"] == ["no-new-privileges:true"]
        assert "/health/ready" in instance["healthcheck"]["test"][-1]
        (volume,) = instance["volumes"]
        name, _, folder = volume.partition(":")
        assert name in compose["volumes"]
        assert Path(server["journal_path"]).is_relative_to(folder)
        journals.add(name)
    assert len(journals) == 2
    config = DEPLOY / "compose" / compose["configs"]["media-callbacks"]["file"]
    assert config.resolve() == DEPLOY / "media-callbacks-cluster.toml"


def test_composes_nginx_knows_the_instances():
    compose = load_yaml("compose/compose.yaml")
    nginx = (DEPLOY / "nginx/media-callbacks.conf").read_text("utf-8")
    servers = set(re.findall(r"^    server (\S+):8080 ", nginx, re.MULTILINE))
    assert servers == {name for name in compose["services"] if name.startswith("media-callbacks-")}
    addresses = {compose["services"][name]["networks"]["front"]["ipv4_address"] for name in servers}
    assert len(addresses) == 2
    assert "front" in compose["services"]["nginx"]["networks"]
    assert "postgres" not in {name for name, each in compose["services"].items() if "out" in each["networks"]}


def test_composes_applications_reach_the_instances_and_nothing_else():
    compose = load_yaml("compose/compose.yaml")
    jobs = {name: each["networks"]["jobs"] for name, each in compose["services"].items() if "jobs" in each["networks"]}
    assert jobs == {name: {"aliases": ["media-callbacks"]} for name in ("media-callbacks-1", "media-callbacks-2")}
    # Others join it by this name; it leads nowhere else.
    assert compose["networks"]["jobs"] == {"name": "media-callbacks-jobs", "internal": True}
    # The way to the vendor.
    assert all("out" in compose["services"][name]["networks"] for name in jobs)


def test_composes_images_are_pinned_and_watched():
    for name, service in load_yaml("compose/compose.yaml")["services"].items():
        assert PINNED.fullmatch(service["image"]), name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped", name


# Kubernetes


@pytest.mark.parametrize("name", ["media-callbacks", "media-callbacks-migrate"])
def test_pods_can_do_nothing_that_they_need_not(name: str):
    pod = pods()[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    (container,) = pod["containers"]
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"].keys() == container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert PINNED.fullmatch(container["image"])
    mounted = {volume["name"] for volume in container["volumeMounts"]}
    claimed = {"journal"} if name == "media-callbacks" else set()
    assert mounted == {volume["name"] for volume in pod["volumes"]} | claimed


def test_there_is_a_manifest_for_every_pod_that_is_tested():
    assert pods().keys() == {"media-callbacks", "media-callbacks-migrate"}


def test_probes_ask_what_they_should():
    (container,) = pods()["media-callbacks"]["containers"]
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
    # The service gives its store five seconds before it says that it is not ready.
    assert container["readinessProbe"]["timeoutSeconds"] > 5
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"callbacks": 8080, "admin": 8081}
    assert all(container[f"{kind}Probe"]["httpGet"]["port"] == "callbacks" for kind in paths)


def test_pods_have_time_to_stop_and_keep_their_journal():
    statefulset, server = manifest("StatefulSet"), tomllib.loads(CLUSTER)["server"]
    assert statefulset["spec"]["replicas"] >= 2
    pod = statefulset["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= stop_time_s(server) + MARGIN_S
    (claim,) = statefulset["spec"]["volumeClaimTemplates"]
    size = re.fullmatch(r"([0-9]+)Gi", claim["spec"]["resources"]["requests"]["storage"])
    assert size
    assert int(size[1]) << 30 > server["journal_max_bytes"]
    mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert Path(server["journal_path"]).is_relative_to(mounts[claim["metadata"]["name"]]["mountPath"])
    assert set(statefulset["spec"]["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}


def test_one_pod_at_a_time_may_be_taken_away():
    budget = manifest("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    labels = manifest("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()


def test_admin_is_never_public_in_kubernetes():
    for service in (each for each in manifests() if each["kind"] == "Service"):
        assert service["spec"]["type"] == "ClusterIP"
        targets = {port["targetPort"] for port in service["spec"]["ports"]}
        if "admin" in targets:
            assert targets == {"admin"}
    for ingress in (each for each in manifests() if each["kind"] == "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                assert path["path"].startswith("/callbacks/")
                assert path["backend"]["service"] == {"name": "media-callbacks", "port": {"name": "callbacks"}}
    policy = manifest("NetworkPolicy")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    labels = manifest("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    for rule in policy["ingress"]:
        # A rule without either would let everyone in.
        assert rule["from"]
        assert rule["ports"]
    namespace = "kubernetes.io/metadata.name"
    to_admin = [
        each
        for rule in policy["ingress"]
        if {"protocol": "TCP", "port": "admin"} in rule["ports"]
        for each in rule["from"]
    ]
    assert to_admin == [
        {"namespaceSelector": {"matchLabels": {namespace: "monitoring"}}},
        # Of the applications' namespace those pods alone that say so.
        {
            "namespaceSelector": {"matchLabels": {namespace: "media-jobs"}},
            "podSelector": {"matchLabels": {"media-callbacks/registers-jobs": "true"}},
        },
    ]


def test_operators_see_each_instance_and_applications_those_that_are_ready():
    operators, applications = (manifest("Service", f"media-callbacks-{who}")["spec"] for who in ("admin", "jobs"))
    assert (operators["clusterIP"], operators["publishNotReadyAddresses"]) == ("None", True)
    assert not {"clusterIP", "publishNotReadyAddresses"} & applications.keys()
    assert [port["targetPort"] for port in applications["ports"]] == ["admin"]


def test_pods_reach_the_vendor_and_no_giver_of_credentials():
    (rule,) = (
        rule
        for rule in manifest("NetworkPolicy")["spec"]["egress"]
        if {"protocol": "TCP", "port": 443} in rule["ports"]
    )
    assert rule["to"] == [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16", "100.100.100.200/32"]}}]


def test_kustomization_names_the_manifests_that_are_no_examples():
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    plain = {name for name in files if ".example." not in name} - {"kustomization.yaml"}
    assert set(load_yaml("kubernetes/kustomization.yaml")["resources"]) == plain


# Dockerfile


def dockerfile() -> list[list[str]]:
    """The instructions of each stage."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    instructions = [line for line in text.splitlines() if line and not line.startswith("#")]
    stages: list[list[str]] = [[]]
    for instruction in instructions:
        if instruction.startswith("FROM "):
            stages.append([])
        stages[-1].append(instruction)
    return stages


def test_the_image_is_built_from_pinned_things():
    arguments, *stages = dockerfile()
    (base,) = arguments
    assert PINNED.fullmatch(base.removeprefix("ARG PYTHON="))
    assert [stage[0] for stage in stages] == ["FROM ${PYTHON} AS build", "FROM ${PYTHON}"]
    (locked,) = (line for line in stages[0] if "requirements/service.txt" in line and line.startswith("RUN"))
    # All that is needed is listed: what a pip would look for besides differs from one to the next.
    assert "--require-hashes" in locked
    assert "--no-deps" in locked
    # Published as source alone: an installation of nothing but wheels would stop there.
    (source_only,) = re.findall(r"--no-binary (\S+)", locked)
    installed = re.findall(r"^([\w.-]+)==", (ROOT / "requirements/service.txt").read_text("utf-8"), re.MULTILINE)
    locked_packages = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))["package"]
    no_wheel = [each["name"] for each in locked_packages if each["name"] in installed and "wheels" not in each]
    assert no_wheel == source_only.split(",")
    (built,) = (line for line in stages[0] if " wheel " in line)
    assert "--build-constraint requirements/tools.txt" in built
    assert re.search(r"^uv-build==", (ROOT / "requirements/tools.txt").read_text("utf-8"), re.MULTILINE)
    lock = (ROOT / "requirements/service.txt").read_text("utf-8")
    assert re.search(r"^asyncpg==", lock, re.MULTILINE), "the image serves both stores"
    copied = {name for stage in stages for line in stage if line.startswith("COPY ") for name in line.split()[1:-1]}
    for name in copied - {"--from=build", "/opt/media-callbacks"}:
        assert f"!{name.removeprefix('./')}" in (ROOT / ".dockerignore").read_text("utf-8").splitlines()


def test_the_image_serves_with_the_configuration_that_is_mounted():
    *_, final = dockerfile()
    assert final[-2:] == ['ENTRYPOINT ["media-callbacks"]', 'CMD ["serve"]']
    (path,) = re.findall(r"MEDIA_CALLBACKS_CONFIG=(\S+)", " ".join(final))
    instance = load_yaml("compose/compose.yaml")["services"]["media-callbacks-1"]
    assert [config["target"] for config in instance["configs"]] == [path]
    mounts = {mount["name"]: mount["mountPath"] for mount in pods()["media-callbacks"]["containers"][0]["volumeMounts"]}
    assert f"{mounts['config']}/{next(iter(manifest('ConfigMap')['data']))}" == path


def test_the_image_runs_as_a_number_and_watches_itself():
    *_, final = dockerfile()
    (user,) = (line for line in final if line.startswith("USER "))
    assert user == "USER 10001:10001"
    assert not any(line.startswith("RUN ") for line in final[final.index(user) :])
    assert [line for line in final if line.startswith("EXPOSE ")] == ["EXPOSE 8080"]
    assert "STOPSIGNAL SIGTERM" in final
    (check,) = (line for line in final if line.startswith("HEALTHCHECK "))
    assert '["python", "-c"' in check
    assert "/health/live" in check


# systemd


def unit() -> dict[str, list[str]]:
    settings: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd/media-callbacks.service").read_text("utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            settings.setdefault(key, []).append(value)
    return settings


def test_the_unit_has_time_to_stop_and_the_state_where_the_configuration_wants_it():
    example = tomllib.loads((DEPLOY / "media-callbacks.toml").read_text("utf-8"))
    assert int(unit()["TimeoutStopSec"][0]) >= stop_time_s(example["server"]) + MARGIN_S
    assert example["store"]["url"].removeprefix("sqlite:///").startswith(f"/var/lib/{unit()['StateDirectory'][0]}/")
    assert example["admin"]["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    "setting, value",
    [
        ("DynamicUser", "yes"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("PrivateDevices", "yes"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("SystemCallArchitectures", "native"),
        ("UMask", "0077"),
        ("Restart", "always"),
        ("KillSignal", "SIGTERM"),
    ],
)
def test_the_unit_is_hardened(setting: str, value: str):
    assert unit()[setting] == [value]


def test_it_is_said_which_secrets_the_configuration_reads():
    example = (DEPLOY / "media-callbacks.toml").read_text("utf-8")
    page = (ROOT / "docs/operate/install.md").read_text("utf-8")
    for name in re.findall(r"\$\{([A-Z_]{2,})\}", example.partition("\n\n")[2]):
        assert re.search(rf"\b{name}=", page), name


def test_the_unit_runs_the_service():
    (command,) = unit()["ExecStart"]
    assert shlex.split(command)[1:] == ["serve", "--config", "/etc/media-callbacks/media-callbacks.toml"]
