"""The launcher's cluster file passes Ray's own checks, and one with a fault is refused by them or by ours."""

import copy
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
Config = dict[str, Any]


def launcher() -> Config:
    config: Config = yaml.safe_load((ROOT / "infra" / "ray-cluster.yaml").read_text(encoding="utf-8"))
    return config


def schema_problems(config: Config) -> list[str]:
    import ray.autoscaler

    path = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    validator = jsonschema.Draft7Validator(json.loads(path.read_text(encoding="utf-8")))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(config)]


def ours(config: Config) -> list[str]:
    """What Ray does not ask: no actor on the head, spot workers, a token at every start, images of this version."""
    head, *workers = (config["available_node_types"][name] for name in _head_first(config))
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [command for command in starts if "ray start" in command]
    markets = [worker["node_config"].get("InstanceMarketOptions", {}).get("MarketType") for worker in workers]
    asked = {
        "the head offers CPUs": head["resources"].get("CPU") == 0 and "--num-cpus=0" in starts[0],
        "a worker is not spot": markets == ["spot"] * len(workers),
        "a worker has no GPU": all(worker["resources"].get("GPU", 0) >= 1 for worker in workers),
        "a start without a token": all("RAY_AUTH_MODE=token" in command for command in starts),
        "an open dashboard": all("--dashboard-host=0.0.0.0" not in command for command in starts),
        "another image": {config["docker"]["head_image"], config["docker"]["worker_image"]}
        == {f"masklake:{VERSION}-cpu", f"masklake:{VERSION}-cuda"},
        "something is installed on a node": not config["setup_commands"],
    }
    return [problem for problem, holds in asked.items() if not holds]


def _head_first(config: Config) -> list[str]:
    return sorted(config["available_node_types"], key=lambda name: name != config["head_node_type"])


def test_rays_schema_has_nothing_against_our_cluster_file() -> None:
    assert schema_problems(launcher()) == []


def test_ray_prepares_our_cluster_file_as_ray_up_would_begin() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(launcher())
    validate_config(prepared)
    # Ray's defaults for AWS would install Ray from the network: ours must have taken their place.
    assert prepared["setup_commands"] == []
    assert prepared["worker_setup_commands"] == []
    assert prepared["available_node_types"]["gpu-spot"]["max_workers"] == 8


def test_our_rules_have_nothing_against_our_cluster_file() -> None:
    assert ours(launcher()) == []


Change = Callable[[Config], object]

SCHEMA_FAULTS: dict[str, tuple[Change, str]] = {
    "a misspelt field": (lambda c: c.update(idle_timeout_minute=5), "idle_timeout_minute"),
    "a misspelt field of docker": (lambda c: c["docker"].update(worker_images="x"), "worker_images"),
    "a misspelt field of a node type": (lambda c: c["available_node_types"]["head"].update(resource={}), "resource"),
    "a wrong type": (lambda c: c.update(max_workers="eight"), "max_workers"),
    "half a GPU": (lambda c: c["available_node_types"]["gpu-spot"]["resources"].update(GPU=0.5), "GPU"),
    "no provider": (lambda c: c.pop("provider"), "provider"),
    "no node_config": (lambda c: c["available_node_types"]["head"].pop("node_config"), "node_config"),
}


@pytest.mark.parametrize("fault", SCHEMA_FAULTS)
def test_rays_schema_refuses(fault: str) -> None:
    change, told = SCHEMA_FAULTS[fault]
    config = copy.deepcopy(launcher())
    change(config)
    assert any(told in problem for problem in schema_problems(config))


def test_ray_refuses_a_head_of_no_node_type() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = {**launcher(), "head_node_type": "heat"}
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(prepare_config(config))


OUR_FAULTS: dict[str, tuple[Change, str]] = {
    "a head with CPUs": (lambda c: c["available_node_types"]["head"]["resources"].update(CPU=4), "head offers"),
    "a worker on demand": (
        lambda c: c["available_node_types"]["gpu-spot"]["node_config"].pop("InstanceMarketOptions"),
        "not spot",
    ),
    "a worker without a GPU": (lambda c: c["available_node_types"]["gpu-spot"]["resources"].pop("GPU"), "no GPU"),
    "a worker that shows no token": (
        lambda c: c.update(worker_start_ray_commands=["ray start --address=$RAY_HEAD_IP:6379"]),
        "without a token",
    ),
    "a dashboard for everyone": (
        lambda c: c["head_start_ray_commands"].append("RAY_AUTH_MODE=token ray start --dashboard-host=0.0.0.0"),
        "open dashboard",
    ),
    "the newest image": (lambda c: c["docker"].update(head_image="masklake:latest"), "another image"),
    "an installation on the node": (lambda c: c["setup_commands"].append("pip install x"), "installed on a node"),
}


@pytest.mark.parametrize("fault", OUR_FAULTS)
def test_our_rules_refuse(fault: str) -> None:
    change, told = OUR_FAULTS[fault]
    config = copy.deepcopy(launcher())
    change(config)
    assert any(told in problem for problem in ours(config))
