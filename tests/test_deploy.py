"""What deploy/ starts is of the version that is tested, and asks what the command line knows."""

import re
import shlex
from pathlib import Path

import yaml

from localize.cli.program import _parser

ROOT = Path(__file__).parents[1]
JOB = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text())
CLUSTER = JOB["spec"]["rayClusterSpec"]


def pods() -> list[dict]:
    groups = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_job_asks_what_the_command_line_understands_and_can_be_tried_again() -> None:
    program, *words = shlex.split(JOB["spec"]["entrypoint"])
    parsed = _parser().parse_args(words)
    assert program == "localize"
    assert parsed.ray == "auto"
    assert parsed.resume
    assert JOB["spec"]["backoffLimit"] > 0


def test_all_its_workers_have_a_place_and_none_is_on_the_head() -> None:
    parsed = _parser().parse_args(shlex.split(JOB["spec"]["entrypoint"])[1:])
    (group,) = CLUSTER["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    cores = int(container["resources"]["limits"]["cpu"])
    assert parsed.ray_workers == group["replicas"] * cores
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_every_pod_sees_the_same_files_and_runs_the_same_image() -> None:
    mounted = [
        (container["image"], container["volumeMounts"], pod["volumes"], container["env"])
        for pod in pods()
        for container in pod["containers"]
    ]
    assert len(mounted) == 2
    assert mounted[0] == mounted[1]


def test_ray_is_of_the_version_that_is_tested() -> None:
    constraints = (ROOT / "constraints.txt").read_text()
    tested = re.search(r"^ray==(.+)$", constraints, re.M)[1]
    assert CLUSTER["rayVersion"] == tested
    assert f"FROM rayproject/ray:{tested}-" in (ROOT / "deploy" / "Dockerfile").read_text()
