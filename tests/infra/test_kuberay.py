"""The KubeRay manifests pass a strict schema and our rules, and a manifest with one thing wrong is refused."""

import copy
import re
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.infra.kuberay_rules import (
    Manifest,
    bytes_of,
    cluster_of,
    entrypoint_words,
    groups,
    rule_problems,
    workers,
)
from tests.infra.kuberay_schema import (
    KUBERAY,
    ROOT,
    has_kubernetes_definitions,
    kubernetes_problems,
    load,
    loose_objects,
    schema_problems,
)

JOB = "rayjob-refer-corpus.yaml"
CLUSTER = "raycluster.yaml"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

needs_definitions = pytest.mark.skipif(
    not has_kubernetes_definitions(), reason="kubernetes-validate, of the dev extra, is not installed"
)


@needs_definitions
@pytest.mark.parametrize("name", [JOB, CLUSTER])
def test_the_schema_has_nothing_against_our_manifests(name: str) -> None:
    assert schema_problems(load(name)) == []


@pytest.mark.parametrize("name", [JOB, CLUSTER])
def test_the_rules_have_nothing_against_our_manifests(name: str) -> None:
    assert rule_problems(load(name)) == []


def test_the_schema_refuses_unknown_fields_everywhere() -> None:
    schema = yaml.safe_load((KUBERAY / "ray-v1.schema.yaml").read_text(encoding="utf-8"))
    assert list(loose_objects(schema)) == []


def test_the_job_and_the_standing_cluster_have_one_cluster_spec() -> None:
    assert load(JOB)["spec"]["rayClusterSpec"] == load(CLUSTER)["spec"]


def head(manifest: Manifest) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]
    return spec


def worker(manifest: Manifest) -> dict[str, Any]:
    spec: dict[str, Any] = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    return spec


def container(group: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = group["template"]["spec"]["containers"][0]
    return first


Change = Callable[[Manifest], object]

SHAPE_FAULTS: dict[str, tuple[Change, str]] = {
    "a misspelt field of the job": (lambda m: m["spec"].update(backofLimit=2), "backofLimit"),
    "a misspelt field of the cluster": (lambda m: m["spec"]["rayClusterSpec"].update(headGroupSpecs={}), "headGroup"),
    "a misspelt field of a worker group": (lambda m: worker(m).update(maxReplica=3), "maxReplica"),
    "a misspelt field of a pod": (lambda m: head(m)["template"]["spec"].update(nodeSelectors={}), "nodeSelectors"),
    "a misspelt field of a container": (lambda m: container(worker(m)).update(volumeMount=[]), "volumeMount"),
    "a misspelt field of a volume": (
        lambda m: worker(m)["template"]["spec"]["volumes"][0]["emptyDir"].update(sizelimit="1Gi"),
        "sizelimit",
    ),
    "a number where a string belongs": (lambda m: head(m)["rayStartParams"].update({"num-cpus": 0}), "num-cpus"),
    "a string where a number belongs": (lambda m: worker(m).update(maxReplicas="8"), "maxReplicas"),
    "a number beyond 32 bits": (lambda m: m["spec"].update(activeDeadlineSeconds=2**31), "activeDeadlineSeconds"),
    "an unknown upscaling mode": (
        lambda m: m["spec"]["rayClusterSpec"]["autoscalerOptions"].update(upscalingMode="Fast"),
        "upscalingMode",
    ),
    "an unknown autoscaler": (
        lambda m: m["spec"]["rayClusterSpec"]["autoscalerOptions"].update(version="v3"),
        "version",
    ),
    "an unknown way to authenticate": (
        lambda m: m["spec"]["rayClusterSpec"]["authOptions"].update(mode="open"),
        "mode",
    ),
    "a head without a template": (lambda m: head(m).pop("template"), "template"),
    "a worker without a template": (lambda m: worker(m).pop("template"), "template"),
    "a template without a pod": (lambda m: worker(m)["template"].pop("spec"), "spec"),
    "a pod without containers": (lambda m: worker(m)["template"]["spec"].pop("containers"), "containers"),
    "a cluster without a head": (lambda m: m["spec"]["rayClusterSpec"].pop("headGroupSpec"), "headGroupSpec"),
    "another API": (lambda m: m.update(apiVersion="ray.io/v1alpha1"), "apiVersion"),
    "another kind": (lambda m: m.update(kind="RayServe"), "kind"),
}


@needs_definitions
@pytest.mark.parametrize("fault", SHAPE_FAULTS)
def test_the_schema_refuses(fault: str) -> None:
    change, told = SHAPE_FAULTS[fault]
    manifest = copy.deepcopy(load(JOB))
    change(manifest)
    problems = schema_problems(manifest)
    assert problems
    assert any(told in problem for problem in problems), problems


def _drop(items: list[dict[str, Any]], **like: str) -> None:
    items[:] = [item for item in items if not like.items() <= item.items()]


RULE_FAULTS: dict[str, tuple[Change, str]] = {
    "an unknown submission mode": (lambda m: m["spec"].update(submissionMode="K8SJobMode"), "submissionMode"),
    "no retry": (lambda m: m["spec"].pop("backoffLimit"), "backoffLimit"),
    "no deadline": (lambda m: m["spec"].pop("activeDeadlineSeconds"), "activeDeadlineSeconds"),
    "a cluster that stays": (lambda m: m["spec"].update(shutdownAfterJobFinishes=False), "shutdownAfterJobFinishes"),
    "two commands": (lambda m: m["spec"].update(entrypoint="cd /x && python y.py"), "entrypoint"),
    "two lines": (lambda m: m["spec"].update(entrypoint="python y.py\n--a b"), "entrypoint"),
    "a runtime environment that is no YAML": (lambda m: m["spec"].update(runtimeEnvYAML="a: [1"), "runtimeEnvYAML"),
    "a runtime environment that is a list": (lambda m: m["spec"].update(runtimeEnvYAML="- env_vars"), "a list"),
    "a misspelt runtime environment": (lambda m: m["spec"].update(runtimeEnvYAML="env_var: {A: b}"), "env_var"),
    "a number in env_vars": (lambda m: m["spec"].update(runtimeEnvYAML="env_vars: {A: 1}"), "env_vars"),
    "a secret in env_vars": (
        lambda m: m["spec"].update(runtimeEnvYAML="env_vars: {AWS_SECRET_ACCESS_KEY: x}"),
        "no place for a secret",
    ),
    "a secret written out": (
        lambda m: container(worker(m))["env"].append({"name": "HF_TOKEN", "value": "x"}),
        "HF_TOKEN",
    ),
    "a misspelt GPU": (
        lambda m: [
            container(worker(m))["resources"][p].update({"nvidia.com/gpus": "1"}) for p in ("limits", "requests")
        ],
        "nvidia.com/gpus",
    ),
    "no GPU": (
        lambda m: [part.pop("nvidia.com/gpu") for part in container(worker(m))["resources"].values()],
        "nvidia.com/gpu: 1",
    ),
    "more GPUs as limit than as request": (
        lambda m: container(worker(m))["resources"]["limits"].update({"nvidia.com/gpu": "2"}),
        "differs from request",
    ),
    "a GPU that is limited but not requested": (
        lambda m: container(worker(m))["resources"]["requests"].pop("nvidia.com/gpu"),
        "differs from request",
    ),
    "an object store larger than /dev/shm": (
        lambda m: worker(m)["rayStartParams"].update({"object-store-memory": str(2**32)}),
        "smaller than the object store",
    ),
    "a /dev/shm on disk": (
        lambda m: worker(m)["template"]["spec"]["volumes"][0]["emptyDir"].pop("medium"),
        "not an emptyDir in memory",
    ),
    "no /dev/shm": (
        lambda m: _drop(container(head(m))["volumeMounts"], mountPath="/dev/shm"),
        "not an emptyDir in memory",
    ),
    "a /dev/shm as large as the pod": (
        lambda m: worker(m)["template"]["spec"]["volumes"][0]["emptyDir"].update(sizeLimit="28Gi"),
        "leaves nothing",
    ),
    "a mount of no volume": (lambda m: worker(m)["template"]["spec"]["volumes"].pop(), "scratch"),
    "a head that takes actors": (lambda m: head(m)["rayStartParams"].pop("num-cpus"), "num-cpus"),
    "replicas below the minimum": (lambda m: worker(m).update(minReplicas=1), "not within"),
    "a group named twice": (
        lambda m: m["spec"]["rayClusterSpec"]["workerGroupSpecs"].append(worker(m)),
        "two groups are named gpu-spot",
    ),
    "no autoscaling": (lambda m: m["spec"]["rayClusterSpec"].pop("enableInTreeAutoscaling"), "enableInTree"),
    "a kubelet that restarts": (lambda m: head(m)["template"]["spec"].pop("restartPolicy"), "restartPolicy"),
    "spot pods on any node": (lambda m: worker(m)["template"]["spec"].pop("nodeSelector"), "nodeSelector"),
    "spot taints not tolerated": (
        lambda m: _drop(worker(m)["template"]["spec"]["tolerations"], key="spot"),
        "not both tolerated",
    ),
    "more grace than a spot node has": (
        lambda m: worker(m)["template"]["spec"].update(terminationGracePeriodSeconds=600),
        "grace",
    ),
    "an unknown toleration": (
        lambda m: worker(m)["template"]["spec"]["tolerations"][0].update(effect="Noschedule"),
        "effect",
    ),
    "an unknown pull policy": (lambda m: container(head(m)).update(imagePullPolicy="Sometimes"), "imagePullPolicy"),
    "a pod that may be root": (lambda m: head(m)["template"]["spec"].pop("securityContext"), "runAsNonRoot"),
    "a container that may gain rights": (
        lambda m: container(worker(m))["securityContext"].pop("allowPrivilegeEscalation"),
        "allowPrivilegeEscalation",
    ),
    "an open cluster": (lambda m: m["spec"]["rayClusterSpec"].pop("authOptions"), "authOptions"),
}


@pytest.mark.parametrize("fault", RULE_FAULTS)
def test_the_rules_refuse(fault: str) -> None:
    change, told = RULE_FAULTS[fault]
    manifest = copy.deepcopy(load(JOB))
    change(manifest)
    problems = rule_problems(manifest)
    assert any(told in problem for problem in problems), problems


@pytest.mark.parametrize(("quantity", "expected"), [("2Gi", 2147483648), ("512Mi", 536870912), ("3G", 3000000000)])
def test_a_quantity_of_memory_is_read_in_bytes(quantity: str, expected: int) -> None:
    assert bytes_of(quantity) == expected


def test_a_quantity_with_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="2GB"):
        bytes_of("2GB")


def test_the_ray_of_the_manifests_is_the_ray_of_the_lock() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = re.search(r"^ray==(\S+)", lock, re.MULTILINE)
    assert locked is not None
    assert {cluster_of(load(name))["rayVersion"] for name in (JOB, CLUSTER)} == {locked[1]}


@pytest.mark.parametrize("name", [JOB, CLUSTER])
def test_every_image_is_of_this_version(name: str) -> None:
    images = {group.container["image"] for group in groups(load(name))}
    assert images == {f"masklake:{VERSION}-cpu", f"masklake:{VERSION}-cuda"}


def test_the_entrypoint_is_a_job_of_ours_with_options_it_knows() -> None:
    from pipeline.cluster.config import CorpusJob, parse_job

    python, script, *flags = entrypoint_words(load(JOB))
    assert python == "python"
    assert (ROOT / "jobs" / script.removeprefix("/opt/masklake/jobs/")).is_file()
    job = parse_job(CorpusJob, flags, prog="refer_corpus")
    assert job.manifest.startswith("s3://")
    assert job.output.startswith("s3://")
    assert job.device == "cuda"


def test_the_cluster_can_grow_to_the_actors_that_the_entrypoint_asks_for() -> None:
    from pipeline.cluster.config import CorpusJob, parse_job

    manifest = load(JOB)
    job = parse_job(CorpusJob, entrypoint_words(manifest)[2:], prog="refer_corpus")
    pods = workers(manifest)
    assert sum(group.spec["maxReplicas"] for group in pods) >= job.num_actors
    assert all(int(group.container["resources"]["limits"]["cpu"]) >= job.cpus_per_actor for group in pods)
    assert job.scratch_dir in {mount["mountPath"] for group in pods for mount in group.container["volumeMounts"]}


DEFINITIONS = {
    "Namespace": "io.k8s.api.core.v1.Namespace",
    "ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
    "Role": "io.k8s.api.rbac.v1.Role",
    "RoleBinding": "io.k8s.api.rbac.v1.RoleBinding",
}


def accounts() -> list[Manifest]:
    return list(yaml.safe_load_all((KUBERAY / "service-account.yaml").read_text(encoding="utf-8")))


@needs_definitions
def test_kubernetes_has_nothing_against_the_service_accounts() -> None:
    assert [problem for a in accounts() for problem in kubernetes_problems(a, DEFINITIONS[a["kind"]])] == []


@needs_definitions
def test_kubernetes_refuses_a_misspelt_role() -> None:
    role = next(account for account in accounts() if account["kind"] == "Role")
    role["rules"][0]["verb"] = role["rules"][0].pop("verbs")
    assert kubernetes_problems(role, DEFINITIONS["Role"])


def test_every_service_account_of_a_pod_exists_and_only_the_heads_has_rights() -> None:
    made = {account["metadata"]["name"] for account in accounts() if account["kind"] == "ServiceAccount"}
    binding = next(account for account in accounts() if account["kind"] == "RoleBinding")
    by_group = {group.name: group.pod["serviceAccountName"] for group in groups(load(JOB))}
    assert set(by_group.values()) == made
    assert [subject["name"] for subject in binding["subjects"]] == [by_group["head"]]
    assert {load(name)["metadata"]["namespace"] for name in (JOB, CLUSTER)} == {"masklake"}
