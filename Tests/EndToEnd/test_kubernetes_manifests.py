"""config/kubernetes: built by kubectl, valid by the published schemas, and with no right too many or too few."""

import pathlib
import subprocess

import admin
import kube_api
import kubernetes_validate
import processes
import pytest
import yaml
from kube_api import SLICE, endpoint, pod, slice_of
from scripted_backend import answer_ok
from waiting import wait_until

ROOT = processes.REPOSITORY / "config" / "kubernetes"
MODES = {
    "modes/slices": {SLICE},
    "modes/endpoints": {"endpoints"},
    "modes/pods": {SLICE, "pods"},
    "modes/nodes": {SLICE, "pods", "nodes"},
    "modes/inference-pool": {"inferencepools", "pods"},
    "sidecar": {SLICE, "pods"},
}
# The oldest whose fields the manifests use (preStop.sleep, sidecars), and the newest there are schemas for.
VERSIONS = ("1.30", kubernetes_validate.latest_version())


def built(folder):
    made = subprocess.run(["kubectl", "kustomize", ROOT / folder], capture_output=True, text=True, timeout=30, check=False)
    assert made.returncode == 0, made.stderr
    return [document for document in yaml.safe_load_all(made.stdout) if document]


def of_kind(documents, *kinds):
    return [document for document in documents if document["kind"] in kinds]


def configuration(documents, tmp_path):
    maps = of_kind(documents, "ConfigMap")
    assert len(maps) == 1
    file = tmp_path / "swiftlet.yaml"
    file.write_text(maps[0]["data"]["swiftlet.yaml"])
    return maps[0]["metadata"]["name"], file


def test_every_folder_is_looked_at():
    folders = {str(file.parent.relative_to(ROOT)) for file in ROOT.rglob("kustomization.yaml")}
    assert {f for f in folders if not f.startswith("rbac/")} == set(MODES) | {"gateway", "engines"}


@pytest.mark.parametrize("folder", [*MODES, "engines"])
def test_manifests_are_valid(folder):
    documents = built(folder)
    assert documents
    for document in documents:
        assert document["metadata"].get("namespace") == "inference" or document["kind"].startswith("Cluster")
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize(("folder", "resources"), MODES.items())
def test_rights_are_the_least_and_reach_whom_they_should(folder, resources):
    documents = built(folder)
    rules = [rule for role in of_kind(documents, "Role", "ClusterRole") for rule in role["rules"]]
    assert {plural for rule in rules for plural in rule["resources"]} == resources
    assert all(rule["verbs"] == ["list", "watch"] for rule in rules)
    clusterwide = {plural for role in of_kind(documents, "ClusterRole") for rule in role["rules"] for plural in rule["resources"]}
    assert clusterwide == resources & {"nodes"}
    workload = of_kind(documents, "Deployment")[0]["spec"]["template"]["spec"]
    account = workload["serviceAccountName"]
    assert [document["metadata"]["name"] for document in of_kind(documents, "ServiceAccount")] == [account]
    bindings = of_kind(documents, "RoleBinding", "ClusterRoleBinding")
    assert len(bindings) == len(resources)
    roles = {(role["kind"], role["metadata"]["name"]) for role in of_kind(documents, "Role", "ClusterRole")}
    for binding in bindings:
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "inference"}]
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in roles


@pytest.mark.parametrize("folder", MODES)
def test_the_pod_fits_its_configuration(folder, tmp_path):
    documents = built(folder)
    name, file = configuration(documents, tmp_path)
    checked = processes.run("check", "--config", file)
    assert checked.returncode == 0, checked.stderr
    config = yaml.safe_load(checked.stdout)
    template = of_kind(documents, "Deployment")[0]["spec"]["template"]
    workload = template["spec"]
    containers = workload["containers"] + workload.get("initContainers", [])
    container = next(c for c in containers if c["name"] == "swiftlet")
    assert container["image"] == "registry.example.com/swiftlet:latest"
    assert {volume.get("configMap", {}).get("name") for volume in workload["volumes"]} - {None} == {name}
    mount = next(mount for mount in container["volumeMounts"] if mount["name"] == "config")
    assert container["args"] == ["serve", "--config", f"{mount['mountPath']}/swiftlet.yaml"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert str(config["admin"]).rsplit(":", 1)[1] == str(ports["admin"])
    probes = [container[key] for key in ("readinessProbe", "livenessProbe", "startupProbe") if key in container]
    assert probes and all(probe["httpGet"]["port"] == "admin" for probe in probes)
    snapshot = config["discovery"].get("snapshot_file")
    if snapshot:
        assert str(pathlib.Path(snapshot).parent) in {mount["mountPath"] for mount in container["volumeMounts"]}
        drain = int(config["timeouts"]["drain"].removesuffix("s")) + container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert workload["terminationGracePeriodSeconds"] > drain
    for service in of_kind(documents, "Service"):
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)


@pytest.mark.parametrize("folder", [folder for folder in MODES if folder.startswith("modes/")])
def test_replicas_find_one_another_and_share_a_key(folder, tmp_path):
    documents = built(folder)
    deployment = of_kind(documents, "Deployment")[0]["spec"]
    # A new pod asks within seconds, those that have begun 5 s ago answer, and a full index takes some seconds more: until then the old one stays.
    assert deployment["minReadySeconds"] >= 15 and deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    config = yaml.safe_load(configuration(documents, tmp_path)[1].read_text())["replicas"]
    template = of_kind(documents, "Deployment")[0]["spec"]["template"]
    workload = template["spec"]
    container = next(c for c in workload["containers"] if c["name"] == "swiftlet")
    port = next(port for port in container["ports"] if port["name"] == "replicas")
    assert port["protocol"] == "UDP" and config["listen"] == f"0.0.0.0:{port['containerPort']}"
    # The key is of whoever installs it: none is in the repository.
    volume = next(volume for volume in workload["volumes"] if "secret" in volume)
    mount = next(mount for mount in container["volumeMounts"] if mount["name"] == volume["name"])
    assert config["key_file"] == f"{mount['mountPath']}/key" and mount["readOnly"]
    assert not of_kind(documents, "Secret")
    assert f"secret generic {volume['secret']['secretName']} --from-literal=key=" in (ROOT / "gateway" / "kustomization.yaml").read_text()
    # Readable for the group that the pod runs in, and for nobody else.
    assert volume["secret"]["defaultMode"] == 0o440 and workload["securityContext"]["fsGroup"]
    service = next(service for service in of_kind(documents, "Service") if service["spec"].get("clusterIP") == "None")
    assert config["peers"] == [f"{service['metadata']['name']}:{port['containerPort']}"]
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert [(p["port"], p["targetPort"], p["protocol"]) for p in service["spec"]["ports"]] == [(7946, "replicas", "UDP")]
    policy = of_kind(documents, "NetworkPolicy")[0]["spec"]
    labels = template["metadata"]["labels"].items()
    assert policy["podSelector"]["matchLabels"].items() <= labels and policy["policyTypes"] == ["Ingress"]
    allowed = {port["port"]: rule.get("from") for rule in policy["ingress"] for port in rule["ports"]}
    assert set(allowed) == {port["name"] for port in container["ports"]}
    assert allowed["http"] is None and allowed["admin"] is None
    (peer,) = allowed["replicas"]
    assert peer["podSelector"]["matchLabels"].items() <= labels and "namespaceSelector" not in peer


def permitted(documents):
    """By plural: the names that the roles allow to list and watch, None for all of them."""
    rules = [rule for role in of_kind(documents, "Role", "ClusterRole") for rule in role["rules"]]
    return {plural: set(rule["resourceNames"]) if "resourceNames" in rule else None for rule in rules for plural in rule["resources"]}


@pytest.mark.parametrize("folder", MODES)
def test_the_rights_suffice_for_the_configuration(folder, hub, serve, scripted, tmp_path):
    """The configuration of the manifest against an API server that allows what its roles do and nothing else."""
    backend = scripted(answer_ok)
    documents = built(folder)
    file = configuration(documents, tmp_path)[1]
    config = yaml.safe_load(file.read_text())
    for key in ("listeners", "admin", "replicas"):
        config.pop(key, None)
    config["discovery"].pop("snapshot_file", None)
    file.write_text(yaml.safe_dump(config))
    server = kube_api.KubeAPI(hub)
    try:
        server.unserved = set()
        server.permitted = permitted(documents)
        server.put("pods", pod("p", labels={"app": "llama"}, ip="127.0.0.1"))
        server.put(SLICE, slice_of("vllm", endpoint("127.0.0.1", "p"), port=backend.port))
        server.put("nodes", {"metadata": {"name": "node-a"}, "spec": {}})
        address = {"ip": "127.0.0.1", "targetRef": {"kind": "Pod", "namespace": "llm", "name": "p", "uid": "uid-p"}}
        server.put("endpoints", {
            "metadata": {"name": "vllm", "namespace": "llm"},
            "subsets": [{"addresses": [address], "ports": [{"name": "http", "port": backend.port}]}],
        })  # fmt: skip
        server.put("inferencepools", {
            "metadata": {"name": "llama", "namespace": "llm"},
            "spec": {"selector": {"matchLabels": {"app": "llama"}}, "targetPorts": [{"number": backend.port}]},
        })  # fmt: skip
        kubeconfig = server.kubeconfig(tmp_path / "kubeconfig")
        program = serve(admin=True, arguments=("--config", file, "--kubeconfig", kubeconfig))
        wait_until(lambda: admin.leaders(program) == {f"127.0.0.1:{backend.port}"}, 10, what="the group")
        asked = {path.rsplit("/", 1)[1] for path, _ in server.requests}
        wait_until(lambda: {path.rsplit("/", 1)[1] for path, _ in server.requests} == MODES[folder], what=f"all watches; asked {asked}")
        assert not server.refused
    finally:
        server.stop()
