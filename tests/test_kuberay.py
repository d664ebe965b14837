"""service/deploy/kuberay: its manifests against the schemas of Kubernetes and KubeRay, Ray's autoscaler, each other."""

import copy
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from typing import Any

import fresh_root
import pytest
import small_study
import yaml
from fresh_root import DOCKERFILE, ROOT
from kube_schemas import mistakes

from lncis.execution.cluster import TRIAL_DRIVER
from service.settings import OTHERS_VARIABLES, Settings, from_environment, variable

FOLDER = DOCKERFILE.parent
GUIDE = (ROOT / "docs" / "cluster.md").read_text()
OBJECTS: dict[str, Any] = {
    f"{each['kind']} {each['metadata'].get('name', 'one study')}": each
    for file in sorted(FOLDER.glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for each in yaml.safe_load_all(file.read_text())
}
CLUSTER = OBJECTS["RayCluster lncis"]
JOB = OBJECTS["RayJob one study"]["spec"]
DEPLOYMENTS = {name: each for name, each in OBJECTS.items() if each["kind"] == "Deployment"}
SETTINGS = OBJECTS["ConfigMap lncis"]["data"]
SECRETS = {
    "tokens": "anna:write:a-secret-of-anna",
    "service-database-url": "sqlite:////runs/service.db",
    "mlflow-database-url": "sqlite:////runs/mlflow.db",
    "auth_token": "0123456789abcdef" * 4,
}
RAYS = {"RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}


def templates(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the pods that an object makes, wherever they stand in it."""
    if isinstance(node, dict):
        if "containers" in node.get("spec", {}):
            yield node
        node = list(node.values())
    for each in node if isinstance(node, list) else ():
        yield from templates(each)


PODS = [(name, pod) for name, each in OBJECTS.items() for pod in templates(each)]


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    """Return a container's variables, with the settings and made-up secrets put in."""
    found = dict(SETTINGS) if container.get("envFrom") else {}
    for each in container.get("env", ()):
        secret = each.get("valueFrom", {}).get("secretKeyRef")
        found[each["name"]] = SECRETS[secret["key"]] if secret else each["value"]
    return found


@pytest.mark.parametrize("name", OBJECTS)
def test_kubernetes_and_kuberay_know_all_its_fields(name):
    assert mistakes(OBJECTS[name]) == []


@pytest.mark.parametrize(
    ("name", "path", "value", "said"),
    [
        ("RayCluster lncis", "spec.authOption", {"mode": "token"}, "'authOption' was unexpected"),
        ("RayCluster lncis", "spec.authOptions.mode", "tokens", "'tokens' is not one of ['disabled', 'token']"),
        ("RayCluster lncis", "spec.headGroupSpec.template.spec.toleration", [], "'toleration' was unexpected"),
        ("RayCluster lncis", "spec.workerGroupSpecs.0.maxReplicas", "4", "'4' is not of type 'integer'"),
        ("RayCluster lncis", "metadata.names", "a", "'names' was unexpected"),
        ("RayJob one study", "spec.rayClusterSpec.workerGroupSpecs.0.groupname", "", "was unexpected"),
        ("Deployment lncis-mlflow", "spec.template.spec.containers.0.startupProbe.failures", 3, "was unexpected"),
        ("Service lncis-service", "spec.ports.0.port", "http", "'http' is not of type 'integer'"),
        ("NetworkPolicy lncis-mlflow", "spec.ingres", [], "'ingres' was unexpected"),
    ],
)  # fmt: skip
def test_a_field_that_they_do_not_know_is_refused(name, path, value, said):
    document = copy.deepcopy(OBJECTS[name])
    *above, key = path.split(".")
    inner = document
    for step in above:
        inner = inner[int(step) if step.isdigit() else step]
    inner[key] = value
    assert said in "\n".join(mistakes(document))


def test_what_is_missing_or_of_another_kind_is_refused():
    document = copy.deepcopy(CLUSTER)
    del document["spec"]["headGroupSpec"]
    assert "'headGroupSpec' is a required property" in "\n".join(mistakes(document))
    assert "no schema" in mistakes({"apiVersion": "ray.io/v1", "kind": "RayClusters"})[0]


def derived(spec: dict[str, Any]) -> dict[str, Any]:
    """Return what Ray's autoscaler, beside the head, makes of a cluster."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    named = {"kind": "RayCluster", "metadata": {"name": "lncis", "namespace": "lncis"}, "spec": copy.deepcopy(spec)}
    found: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(named)
    return found


@pytest.mark.parametrize("spec", [CLUSTER["spec"], JOB["rayClusterSpec"]], ids=["RayCluster", "RayJob"])
def test_rays_autoscaler_reads_a_head_without_cpu_and_workers_from_nought(spec):
    found = derived(spec)
    resources = {name: node["resources"] for name, node in found["available_node_types"].items()}
    head = resources.pop(found["head_node_type"])
    assert (head["CPU"], head[TRIAL_DRIVER]) == (0, 1000) and "GPU" not in head
    assert {name: (each["CPU"], each.get("GPU", 0)) for name, each in resources.items()} == {
        "cpu": (2, 0),
        "gpu": (4, 1),
    }
    assert all(node["min_workers"] == 0 for node in found["available_node_types"].values())
    assert found["idle_timeout_minutes"] == 10


@pytest.mark.parametrize(
    ("gpus", "launched"), [([0, 0], {"cpu": 1}), ([1], {"gpu": 1}), ([1] * 3 + [0], {"gpu": 3}), ([], {})]
)
def test_rays_scheduler_starts_the_workers_that_trials_ask_for(gpus, launched):
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    config = AutoscalingConfig(derived(CLUSTER["spec"]), skip_content_hash=True)
    demands = [ResourceRequestUtil.make({"CPU": 1} | ({"GPU": gpu} if gpu else {})) for gpu in gpus]
    request = SchedulingRequest(
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(demands),
        disable_launch_config_check=True,
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    assert {one.instance_type: one.count for one in reply.to_launch} == launched


def test_the_one_shot_cluster_is_the_other_one_without_what_outlives_it():
    ours, once = copy.deepcopy(CLUSTER["spec"]), copy.deepcopy(JOB["rayClusterSpec"])
    del ours["gcsFaultToleranceOptions"]
    (tracking,) = once["headGroupSpec"]["template"]["spec"]["containers"][0].pop("env")
    assert tracking["name"] == "MLFLOW_TRACKING_URI"
    text = yaml.safe_dump(once).replace("your-registry/lncis:", "lncis-")
    assert yaml.safe_load(text) == ours


def test_no_volume_of_the_head_hides_the_one_that_kuberay_gives_it():
    (head,) = CLUSTER["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    mounted = {mount["mountPath"] for mount in head["volumeMounts"]}
    assert not {"/data", "/data/gcs"} & mounted, "KubeRay 1.7 mounts the head's state at /data/gcs"


def test_ray_is_that_of_the_lock():
    (locked,) = re.findall(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert [CLUSTER["spec"]["rayVersion"], JOB["rayClusterSpec"]["rayVersion"]] == [locked, locked]


@pytest.mark.parametrize(("name", "pod"), PODS, ids=[f"{n}-{name}" for n, (name, _) in enumerate(PODS)])
def test_a_pod_names_what_is_there_and_runs_as_nobody_special(name, pod):
    spec = pod["spec"]
    claims = {each["metadata"]["name"] for each in OBJECTS.values() if each["kind"] == "PersistentVolumeClaim"}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v} <= claims
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 1000
    assert pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "lncis"
    secrets = {CLUSTER["metadata"]["name"]: {"auth_token"}, "lncis-secrets": set(SECRETS) - {"auth_token"}}
    for container in spec["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert [each["configMapRef"]["name"] for each in container.get("envFrom", ())] in ([], ["lncis"])
        references = [e["valueFrom"]["secretKeyRef"] for e in container.get("env", ()) if "valueFrom" in e]
        assert all(reference["key"] in secrets[reference["name"]] for reference in references)
        for probe in (container[k]["httpGet"] for k in container if k.endswith("Probe")):
            assert probe["port"] in [port["name"] for port in container["ports"]]


@pytest.mark.parametrize("name", [name for name in OBJECTS if name.startswith("Service ")])
def test_a_service_leads_to_a_port_of_a_deployment(name):
    service = OBJECTS[name]["spec"]
    (found,) = (
        pod["spec"]["containers"][0]
        for each in DEPLOYMENTS.values()
        for pod in templates(each)
        if service["selector"].items() <= pod["metadata"]["labels"].items() and
        each["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    )  # fmt: skip
    assert {port["targetPort"] for port in service["ports"]} == {port["name"] for port in found["ports"]}


def test_addresses_are_those_of_services_and_mlflow_takes_them():
    (mlflow,) = OBJECTS["Service lncis-mlflow"]["spec"]["ports"]
    assert SETTINGS["MLFLOW_TRACKING_URI"] == f"http://lncis-mlflow:{mlflow['port']}"
    (server,) = (pod["spec"]["containers"][0] for pod in templates(OBJECTS["Deployment lncis-mlflow"]))
    assert f"lncis-mlflow:{mlflow['port']}" in environment_of(server)["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    (service,) = (pod["spec"]["containers"][0] for pod in templates(OBJECTS["Deployment lncis-service"]))
    head = CLUSTER["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    (dashboard,) = (port["containerPort"] for port in head["ports"] if port["name"] == "dashboard")
    # KubeRay names the head's service after the cluster, with all ports of the head's first container
    assert environment_of(service)["RAY_ADDRESS"] == f"http://{CLUSTER['metadata']['name']}-head-svc:{dashboard}"


@pytest.mark.filterwarnings("ignore:.*type hint:UserWarning")  # MLflow about itself, where its whole CLI is loaded
def test_the_variables_are_read_by_what_they_are_given_to(tmp_path):
    settings = {variable(name) for name in Settings.__dataclass_fields__}
    (service,) = (pod["spec"]["containers"][0] for pod in templates(OBJECTS["Deployment lncis-service"]))
    assert environment_of(service).keys() <= settings | OTHERS_VARIABLES | RAYS
    given = environment_of(service) | {"LNCIS_DATA_ROOTS": str(tmp_path), "LNCIS_RUNS": str(tmp_path / "runs")}
    found = from_environment(given)
    assert (found.host, found.ray_address) == ("0.0.0.0", environment_of(service)["RAY_ADDRESS"])
    from mlflow.cli import cli

    options = {str(option.envvar): option.opts for option in cli.commands["server"].params}
    (server,) = (pod["spec"]["containers"][0] for pod in templates(OBJECTS["Deployment lncis-mlflow"]))
    assert environment_of(server).keys() <= options.keys()
    known = {name for names in options.values() for name in names}
    assert {word for word in server["command"] if word.startswith("--")} <= known


def test_its_secret_is_the_one_of_the_guide():
    (command,) = re.findall(r"create secret generic lncis-secrets((?:.*\\\n)*.*)", GUIDE)
    assert set(re.findall(r"--from-literal=([\w-]+)=", command)) == set(SECRETS) - {"auth_token"}


def test_the_dockerfile_copies_what_is_there_installs_by_the_lock_and_ends_as_an_unprivileged_user():
    text = DOCKERFILE.read_text()
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(set(stages)) == 1 and f"python:{project['requires-python'].removeprefix('>=')}-slim" == stages[0]
    allowed = {
        line[1:] for line in DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().split() if line[0] == "!"
    }
    assert set(fresh_root.copied()) == allowed and all((ROOT / source).exists() for source in allowed)
    assert "--constraints requirements.lock" in text and "://" not in text and "index" not in text.lower()
    last = text.rpartition("\nFROM ")[2]
    assert not re.search(r"\b(pip|apt|apt-get|uv|gcc)\b", last)
    assert re.findall(r"^USER (.*)$", last, re.MULTILINE) == ["1000:1000"]


@pytest.mark.processes
def test_kustomize_puts_the_images_in():
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("kubectl is not installed")
    made = subprocess.run([kubectl, "kustomize", FOLDER], capture_output=True, text=True, check=True).stdout
    documents = list(yaml.safe_load_all(made))
    assert len(documents) == len(OBJECTS) - 1  # a RayJob is sent when there is a study
    images = {c["image"] for each in documents for pod in templates(each) for c in pod["spec"]["containers"]}
    assert images == {"your-registry/lncis:cpu", "your-registry/lncis:cuda"}
    assert all(mistakes(each) == [] and each["metadata"]["namespace"] == "lncis" for each in documents)


PROBED = """
import subprocess, sys, time, urllib.request
command, url, seconds = sys.argv[3:], sys.argv[1], float(sys.argv[2])
started = subprocess.Popen(command)
until = time.monotonic() + seconds
while True:
    try:
        # as the kubelet asks: by the pod's address
        answer = urllib.request.urlopen(urllib.request.Request(url, headers={"Host": "10.1.2.3:80"}), timeout=5)
        break
    except OSError as error:
        if started.poll() is not None or time.monotonic() > until:
            sys.exit(f"{url}: {error}")
        time.sleep(0.5)
print("answers", answer.status)
"""


SUBMITTED = """
import json, sys, time
from lncis.client import Client
from lncis.errors import ServiceError

with Client("http://127.0.0.1:8000", sys.argv[2]) as service:
    while True:
        try:
            study = service.submit(json.loads(sys.argv[1]), key="once")
            break
        except ServiceError as error:
            if error.status:
                raise
            time.sleep(0.5)  # it does not answer yet; how long this may take, the one who runs this says
    while not (study := service.get(study.id)).over:
        time.sleep(0.5)
    print("ended", study.state, study.reason, study.progress.trials_finished)
    print("".join(service.log(study.id)))
"""


@pytest.mark.slow
@pytest.mark.processes
def test_a_study_runs_where_the_head_and_the_service_run_as_an_unprivileged_user(tmp_path):
    """A Ray head as KubeRay starts it, the service beside it, and MLflow as the RayJob has it: a file."""
    if reason := fresh_root.why_not():
        pytest.skip(f"no root of its own: {reason}")
    ((service),) = (pod["spec"]["containers"][0] for pod in templates(DEPLOYMENTS["Deployment lncis-service"]))
    head, settings = CLUSTER["spec"]["headGroupSpec"], environment_of(service)
    (job,) = (each for each in templates(JOB["rayClusterSpec"]["headGroupSpec"]))
    (mlflow,) = (each for each in job["spec"]["containers"][0]["env"] if each["name"] == "MLFLOW_TRACKING_URI")
    options = [f"--{name}={value}" for name, value in head["rayStartParams"].items()]
    resources = f"--resources={json.dumps({TRIAL_DRIVER: int(head['resources'][TRIAL_DRIVER])})}"
    ray = ["ray", "start", "--head", "--block", "--port=6379", "--dashboard-host=0.0.0.0", "--num-cpus=1", resources]
    submit = ["python", "-c", SUBMITTED, json.dumps(small_study.STUDY), SECRETS["tokens"].rpartition(":")[2]]
    done = fresh_root.run(
        tmp_path,
        f"true\n{shlex.join([*ray, *options])} &\n{shlex.join(service['command'])} &\n{shlex.join(submit)}",
        settings | {"MLFLOW_TRACKING_URI": mlflow["value"]},
        names=[settings["RAY_ADDRESS"].split("/")[2].partition(":")[0]],
        writable=True,
        timeout=900,
    )
    assert "ended succeeded  2" in done.stdout, done.stdout
    assert "is sent nothing more" not in done.stdout


@pytest.mark.parametrize("name", DEPLOYMENTS)
@pytest.mark.processes
def test_its_command_runs_as_an_unprivileged_user_in_a_root_that_nobody_can_write(name, tmp_path):
    if reason := fresh_root.why_not():
        pytest.skip(f"no root of its own: {reason}")
    ((container),) = (pod["spec"]["containers"][0] for pod in templates(DEPLOYMENTS[name]))
    assert container["securityContext"]["readOnlyRootFilesystem"]
    (port,), probe = container["ports"], container["startupProbe"]["httpGet"]
    url = f"http://127.0.0.1:{port['containerPort']}{probe['path']}"
    done = fresh_root.run(
        tmp_path, ["python", "-c", PROBED, url, "200", *container["command"]], environment_of(container), timeout=280
    )
    assert "answers 200" in done.stdout, done.stdout
