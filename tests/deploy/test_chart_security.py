"""The pods of the chart are as the restricted Pod Security Standard has them, field by field, unless told otherwise."""

from __future__ import annotations

import pytest

from tests.support.charts import VALUES_FILES, Object, load_values, merged, render

# Features that need more rights than the standard gives, and say so in their comments.
PRIVILEGED = {"daemonset", "extras"}
RESTRICTED = [
    name for name in (path.name.removesuffix("-values.yaml") for path in VALUES_FILES) if name not in PRIVILEGED
]
# Volumes that the standard allows; hostPath is none of them.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def pods(feature: str) -> list[Object]:
    """The specs of the workload's pods and of the test's."""
    release = render(load_values(feature))
    return [release.pod["spec"], *(pod["spec"] for pod in release.all("Pod"))]


@pytest.fixture(params=RESTRICTED)
def specs(request: pytest.FixtureRequest) -> list[Object]:
    return pods(request.param)


def containers(specs: list[Object]) -> list[Object]:
    return [container for spec in specs for key in ("initContainers", "containers") for container in spec.get(key, [])]


def test_no_container_may_become_root(specs: list[Object]):
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"].get("runAsUser", 1) != 0
    for container in containers(specs):
        assert container["securityContext"]["runAsNonRoot"] is True
        assert "runAsUser" not in container["securityContext"]


def test_no_container_gains_rights(specs: list[Object]):
    for container in containers(specs):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_no_container_is_privileged(specs: list[Object]):
    for container in containers(specs):
        assert container["securityContext"]["privileged"] is False


def test_every_capability_is_dropped_and_none_added(specs: list[Object]):
    for container in containers(specs):
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_root_file_system_is_read_only(specs: list[Object]):
    for container in containers(specs):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_system_calls_are_filtered(specs: list[Object]):
    for spec in specs:
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(specs):
        assert container["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_no_token_is_mounted(specs: list[Object]):
    for spec in specs:
        assert spec["automountServiceAccountToken"] is False


def test_no_service_of_the_namespace_is_in_the_environment(specs: list[Object]):
    for spec in specs:
        assert spec["enableServiceLinks"] is False


def test_nothing_of_the_node_is_shared(specs: list[Object]):
    for spec in specs:
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    for container in containers(specs):
        assert not any("hostPort" in port for port in container.get("ports", []))


def test_volumes_belong_to_the_agents_group():
    spec = pods("deployment")[0]

    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 65532
    assert (
        spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    )  # no chown of a million files at each start


@pytest.mark.parametrize("feature", [name for name in RESTRICTED if name != "volumes"])
def test_no_volume_is_of_a_kind_that_the_standard_refuses(feature: str):
    for spec in pods(feature):
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= VOLUMES, volume


def test_the_service_account_has_no_rights_and_no_token():
    release = render(load_values("deployment"))

    assert release.one("ServiceAccount")["automountServiceAccountToken"] is False
    assert not [found for found in release.objects if "Role" in found["kind"]]


def test_no_secret_is_in_an_argument_or_an_environment_variable():
    container = render(load_values("credentials")).container

    assert container["args"] == ["run"]
    assert [variable["name"] for variable in container["env"]] == [
        "JETSYNC_CONFIG",
        "NODE_NAME",
        "POD_NAME",
        "POD_NAMESPACE",
    ]


def test_openshift_gives_user_and_group_itself():
    context = pods("openshift")[0]["securityContext"]

    assert context == {
        "runAsNonRoot": True,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


# -- what needs more -------------------------------------------------------------------------------------------------


def test_the_one_container_that_runs_as_root_is_off_by_default_and_can_only_change_owners():
    assert "initContainers" not in pods("deployment")[0]
    (container,) = pods("daemonset")[0]["initContainers"]
    context = container["securityContext"]

    assert (context["runAsUser"], context["capabilities"]) == (0, {"add": ["CHOWN"], "drop": ["ALL"]})
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert container["command"] == ["chown"]
    assert container["args"] == ["65532:65532", "/data/outbox", "/var/lib/jetsync"]  # and nothing below them
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data/outbox", "/var/lib/jetsync"}


def test_the_agent_beside_it_has_no_more_rights_than_elsewhere():
    agent, usual = (
        next(container for container in pods(feature)[0]["containers"]) for feature in ("daemonset", "deployment")
    )

    assert agent["securityContext"] == usual["securityContext"]


def test_a_read_only_volume_is_not_given_to_anybody():
    values = merged(load_values("volumes"), {"volumePermissions": {"enabled": True}, "state": {}})
    values["state"] = {"hostPath": {"path": "/var/lib/jetsync"}}

    container = render(values).pod["spec"]["initContainers"][0]
    assert container["name"] == "volume-permissions"
    assert container["args"][1:] == ["/var/lib/jetsync"]
