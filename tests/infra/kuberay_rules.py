"""The rules for our KubeRay manifests that no schema states, each a function from a manifest to its problems."""

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

Manifest = dict[str, Any]

SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
RESOURCE_NAMES = re.compile(r"cpu|memory|ephemeral-storage|nvidia\.com/gpu|hugepages-\w+")
SECRET_NAMES = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", re.IGNORECASE)
SHELL_CHARACTERS = re.compile(r"[;&|<>$`\\\"'(){}*?#!~\n]")
SPOT_NOTICE_SECONDS = 120
"""AWS tells a spot node two minutes ahead that it goes; Kubernetes cannot grant a pod more than that."""
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One group of pods: the head, or a group of workers."""

    name: str
    spec: Mapping[str, Any]

    @property
    def pod(self) -> Mapping[str, Any]:
        pod: Mapping[str, Any] = self.spec["template"]["spec"]
        return pod

    @property
    def container(self) -> Mapping[str, Any]:
        """Ray's container: KubeRay takes the first."""
        container: Mapping[str, Any] = self.pod["containers"][0]
        return container


def rule_problems(manifest: Manifest) -> list[str]:
    """Everything the rules say against a manifest that the schema has already passed; empty when nothing."""
    return [problem for rule in RULES for problem in rule(manifest)]


def cluster_of(manifest: Manifest) -> Mapping[str, Any]:
    """The RayClusterSpec of either kind."""
    cluster: Mapping[str, Any] = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    return cluster


def groups(manifest: Manifest) -> Iterator[Group]:
    """The head, then the worker groups."""
    cluster = cluster_of(manifest)
    yield Group(name="head", spec=cluster["headGroupSpec"])
    for spec in cluster.get("workerGroupSpecs", []):
        yield Group(name=spec["groupName"], spec=spec)


def workers(manifest: Manifest) -> list[Group]:
    return list(groups(manifest))[1:]


def bytes_of(quantity: object) -> int:
    """A Kubernetes quantity of memory in bytes; ValueError when it is none."""
    match = re.fullmatch(r"(\d+)(Ki|Mi|Gi|Ti|k|M|G|)", str(quantity))
    if match is None:
        raise ValueError(f"{quantity!r}: expected a whole number of bytes, Ki, Mi, Gi, Ti, k, M or G")
    return int(match[1]) * _UNITS[match[2]]


def job_submission(manifest: Manifest) -> Iterator[str]:
    """submissionMode is a plain string in the CRD; a job that may be retried and cleaned up says how."""
    if manifest["kind"] != "RayJob":
        return
    spec = manifest["spec"]
    if spec.get("submissionMode") not in SUBMISSION_MODES:
        yield f"submissionMode {spec.get('submissionMode')!r}: expected one of {', '.join(SUBMISSION_MODES)}"
    if spec.get("backoffLimit", 0) < 1:
        yield "backoffLimit: a run goes on after what it committed, so let it be tried again"
    if spec.get("activeDeadlineSeconds", 0) < 1:
        yield "activeDeadlineSeconds: without one a job that hangs keeps its GPUs"
    if not spec.get("shutdownAfterJobFinishes"):
        yield "shutdownAfterJobFinishes: false leaves the cluster running"


def entrypoint_is_one_plain_line(manifest: Manifest) -> Iterator[str]:
    """The operator pastes the entrypoint into a shell command of its own."""
    entrypoint = manifest["spec"].get("entrypoint", "")
    if manifest["kind"] == "RayJob" and (found := SHELL_CHARACTERS.search(entrypoint)):
        yield f"entrypoint: the shell would read {found[0]!r}"


def runtime_env_is_yaml(manifest: Manifest) -> Iterator[str]:
    """runtimeEnvYAML is YAML inside a string: Ray sees it only on the cluster."""
    from ray.runtime_env import RuntimeEnv

    text = manifest["spec"].get("runtimeEnvYAML")
    if text is None:
        return
    try:
        runtime_env = yaml.safe_load(text)
        if not isinstance(runtime_env, dict):
            raise TypeError(f"a {type(runtime_env).__name__}, expected a mapping")
        if unknown := set(runtime_env) - set(RuntimeEnv.known_fields):
            yield f"runtimeEnvYAML: Ray knows no {', '.join(sorted(unknown))}"
        RuntimeEnv(**runtime_env)
    except (yaml.YAMLError, TypeError, ValueError) as error:
        yield f"runtimeEnvYAML: {error}"


def resources_are_known_and_guaranteed(manifest: Manifest) -> Iterator[str]:
    """A misspelt resource name is a valid one nobody offers; GPUs and memory cannot be overcommitted."""
    for group in groups(manifest):
        limits, requests = (group.container["resources"].get(part, {}) for part in ("limits", "requests"))
        for name in {*limits, *requests}:
            if not RESOURCE_NAMES.fullmatch(name):
                yield f"{group.name}: no node offers a resource {name!r}"
            if limits.get(name) != requests.get(name):
                yield f"{group.name}: {name} limit {limits.get(name)!r} differs from request {requests.get(name)!r}"


def workers_have_a_gpu(manifest: Manifest) -> Iterator[str]:
    for group in workers(manifest):
        if str(group.container["resources"].get("limits", {}).get("nvidia.com/gpu")) != "1":
            yield f"{group.name}: one actor and its engine own one GPU, so a worker pod has nvidia.com/gpu: 1"


def shared_memory_holds_the_object_store(manifest: Manifest) -> Iterator[str]:
    """Ray falls back to the disk under /tmp when /dev/shm is smaller than the object store."""
    for group in groups(manifest):
        mounts = {mount["mountPath"]: mount["name"] for mount in group.container.get("volumeMounts", [])}
        volumes = {volume["name"]: volume for volume in group.pod.get("volumes", [])}
        if missing := set(mounts.values()) - set(volumes):
            yield f"{group.name}: mounts {', '.join(sorted(missing))}, which is no volume of the pod"
        memory = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
        if memory.get("medium") != "Memory" or "sizeLimit" not in memory:
            yield f"{group.name}: /dev/shm is not an emptyDir in memory with a sizeLimit"
            continue
        size, store = bytes_of(memory["sizeLimit"]), int(group.spec["rayStartParams"]["object-store-memory"])
        if size < store:
            yield f"{group.name}: /dev/shm of {size} bytes is smaller than the object store of {store}"
        if size >= bytes_of(group.container["resources"]["limits"]["memory"]):
            yield f"{group.name}: /dev/shm counts against the memory limit and leaves nothing of it"


def head_runs_no_actor(manifest: Manifest) -> Iterator[str]:
    if cluster_of(manifest)["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        yield 'head: rayStartParams num-cpus is not "0", so actors may land beside the driver'


def groups_can_scale(manifest: Manifest) -> Iterator[str]:
    names = Counter(group.name for group in groups(manifest))
    yield from (f"two groups are named {name}" for name, count in names.items() if count > 1)
    for group in workers(manifest):
        low, now, high = (group.spec.get(key, 0) for key in ("minReplicas", "replicas", "maxReplicas"))
        if not 0 <= low <= now <= high:
            yield f"{group.name}: replicas {now} is not within {low}..{high}"
    if not cluster_of(manifest).get("enableInTreeAutoscaling"):
        yield "enableInTreeAutoscaling: without it the worker groups stay at their replicas"


def autoscaler_v2_owns_restarts(manifest: Manifest) -> Iterator[str]:
    if cluster_of(manifest).get("autoscalerOptions", {}).get("version") != "v2":
        return
    for group in groups(manifest):
        if group.pod.get("restartPolicy") != "Never":
            yield f"{group.name}: autoscaler v2 wants restartPolicy Never, not {group.pod.get('restartPolicy')!r}"


def spot_pods_fit_spot_nodes(manifest: Manifest) -> Iterator[str]:
    for group in workers(manifest):
        if "spot" not in group.name:
            continue
        tolerations = group.pod.get("tolerations", [])
        if "SPOT" not in group.pod.get("nodeSelector", {}).values():
            yield f"{group.name}: no nodeSelector holds it to spot nodes"
        if not {"spot", "nvidia.com/gpu"} <= {toleration.get("key") for toleration in tolerations}:
            yield f"{group.name}: the taints of spot and of GPU nodes are not both tolerated"
        if group.pod.get("terminationGracePeriodSeconds", 30) > SPOT_NOTICE_SECONDS:
            yield f"{group.name}: a spot node grants at most {SPOT_NOTICE_SECONDS} s of grace"


def words_are_of_their_lists(manifest: Manifest) -> Iterator[str]:
    """Strings in Kubernetes' published schema whose few values only the server knows."""
    for group in groups(manifest):
        for toleration in group.pod.get("tolerations", []):
            if toleration.get("operator", "Equal") not in ("Exists", "Equal"):
                yield f"{group.name}: toleration operator {toleration['operator']!r}"
            if toleration.get("effect", "") not in ("", "NoSchedule", "PreferNoSchedule", "NoExecute"):
                yield f"{group.name}: toleration effect {toleration['effect']!r}"
        if group.container.get("imagePullPolicy") not in ("Always", "IfNotPresent", "Never"):
            yield f"{group.name}: imagePullPolicy {group.container.get('imagePullPolicy')!r}"


def secrets_come_by_reference(manifest: Manifest) -> Iterator[str]:
    for group in groups(manifest):
        for variable in group.container.get("env", []):
            if SECRET_NAMES.search(variable["name"]) and "value" in variable:
                yield f"{group.name}: {variable['name']} is written out; take it from a secret"
    text = manifest["spec"].get("runtimeEnvYAML", "")
    yield from (f"runtimeEnvYAML: {name[0]} is no place for a secret" for name in SECRET_NAMES.finditer(text))


def pods_run_without_privileges(manifest: Manifest) -> Iterator[str]:
    for group in groups(manifest):
        if group.pod.get("securityContext", {}).get("runAsNonRoot") is not True:
            yield f"{group.name}: runAsNonRoot is not true"
        if group.container.get("securityContext", {}).get("allowPrivilegeEscalation") is not False:
            yield f"{group.name}: allowPrivilegeEscalation is not false"


def cluster_asks_for_a_token(manifest: Manifest) -> Iterator[str]:
    if cluster_of(manifest).get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode is not token: whoever reaches the dashboard could run code"


def entrypoint_words(manifest: Manifest) -> list[str]:
    """The entrypoint as the shell splits it."""
    return shlex.split(manifest["spec"]["entrypoint"])


RULES: tuple[Callable[[Manifest], Iterator[str]], ...] = (
    job_submission,
    entrypoint_is_one_plain_line,
    runtime_env_is_yaml,
    resources_are_known_and_guaranteed,
    workers_have_a_gpu,
    shared_memory_holds_the_object_store,
    head_runs_no_actor,
    groups_can_scale,
    autoscaler_v2_owns_restarts,
    spot_pods_fit_spot_nodes,
    words_are_of_their_lists,
    secrets_come_by_reference,
    pods_run_without_privileges,
    cluster_asks_for_a_token,
)
