"""The bucket's lifecycle rules are what S3 accepts, and can delete nothing that a committed run needs."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.infra.kuberay_rules import entrypoint_words
from tests.infra.kuberay_schema import load

session = pytest.importorskip("botocore.session", reason="the s3 extra is not installed")
validate = pytest.importorskip("botocore.validate", reason="the s3 extra is not installed")

ROOT = Path(__file__).resolve().parents[2]
Rules = dict[str, Any]


def lifecycle() -> Rules:
    rules: Rules = json.loads((ROOT / "infra" / "bucket-lifecycle.json").read_text(encoding="utf-8"))
    return rules


def s3_problems(rules: Rules) -> str:
    """What the AWS client's own model of the request says, before anything is sent."""
    model = session.get_session().get_service_model("s3")
    shape = model.operation_model("PutBucketLifecycleConfiguration").input_shape
    request = {"Bucket": "my-bucket", "LifecycleConfiguration": rules}
    return str(validate.ParamValidator().validate(request, shape).generate_report())


def expiring_prefixes(rules: Rules) -> list[str]:
    """Prefixes below which objects are deleted by age."""
    deleting = ("Expiration", "Transitions")
    return [rule["Filter"]["Prefix"] for rule in rules["Rules"] if any(action in rule for action in deleting)]


def output_prefix() -> str:
    words = entrypoint_words(load("rayjob-refer-corpus.yaml"))
    output = words[words.index("--output") + 1]
    return output.removeprefix("s3://").partition("/")[2].rstrip("/") + "/"


def test_s3_has_nothing_against_our_rules() -> None:
    assert s3_problems(lifecycle()) == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [("Statuses", "Enabled"), ("Expiration", {"Day": 3}), ("Expiration", {"Days": "3"}), ("Filter", "lake/")],
)
def test_s3_refuses_a_rule_with_a_fault(key: str, value: object) -> None:
    rules = lifecycle()
    rules["Rules"][1][key] = value
    assert s3_problems(rules) != ""


def test_every_rule_is_on_and_named_once() -> None:
    rules = lifecycle()["Rules"]
    assert [rule["Status"] for rule in rules] == ["Enabled"] * len(rules)
    assert len({rule["ID"] for rule in rules}) == len(rules)


def test_only_snapshots_of_the_manifests_lake_expire() -> None:
    assert expiring_prefixes(lifecycle()) == [output_prefix() + "_snapshots/"]


@pytest.mark.parametrize("kept", ["data/masks/", "_commits/", "_errors/", "_manifests/"])
def test_nothing_that_a_reader_needs_expires(kept: str) -> None:
    path = output_prefix() + kept
    assert not any(path.startswith(prefix) or prefix.startswith(path) for prefix in expiring_prefixes(lifecycle()))


def test_a_snapshot_outlives_every_retry_of_the_job_that_may_read_it() -> None:
    spec = load("rayjob-refer-corpus.yaml")["spec"]
    longest_seconds = spec["activeDeadlineSeconds"] * (spec["backoffLimit"] + 1)
    days = [rule["Expiration"]["Days"] for rule in lifecycle()["Rules"] if "Expiration" in rule]
    assert min(days) * 86_400 > longest_seconds


def test_uploads_that_nobody_finished_are_given_up_everywhere() -> None:
    rules = [rule for rule in lifecycle()["Rules"] if "AbortIncompleteMultipartUpload" in rule]
    assert [rule["Filter"]["Prefix"] for rule in rules] == [""]
