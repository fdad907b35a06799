"""KubeRay's RayCluster and RayJob as JSON schemas, condensed; pod templates have Kubernetes' own schema.

The names are those of the Go types of the API group ray.io/v1 (raycluster_types.go and rayjob_types.go
below ray-operator/apis/ray/v1 of KubeRay, in the version that brought `priority` and `secretName`). A
field that is not listed there is refused by the API server, and so here. No Python or npm package ships
the definitions themselves.
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string"}
FLAG = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
ANY_OBJECT: dict[str, Any] = {"type": "object"}
ANY_LIST: dict[str, Any] = {"type": "array"}


def _choice(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


def _fields(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


AUTOSCALER = _fields(
    resources=_fields(requests=TEXTS, limits=TEXTS),
    image=TEXT,
    imagePullPolicy=_choice("Always", "IfNotPresent", "Never"),
    securityContext=ANY_OBJECT,
    idleTimeoutSeconds=COUNT,
    upscalingMode=_choice("Default", "Aggressive", "Conservative"),
    version=_choice("v1", "v2"),
    env=ANY_LIST,
    envFrom=ANY_LIST,
    volumeMounts=ANY_LIST,
    command={"type": "array", "items": TEXT},
    args={"type": "array", "items": TEXT},
)
AUTHENTICATION = _fields(enableK8sTokenAuth=FLAG, secretName=TEXT, mode=_choice("disabled", "token"))
HEAD = _fields(
    ("template",),
    template=ANY_OBJECT,
    headService=ANY_OBJECT,
    enableIngress=FLAG,
    ingressOptions=ANY_OBJECT,
    resources=TEXTS,
    labels=TEXTS,
    rayStartParams=TEXTS,
    serviceType=_choice("ClusterIP", "NodePort", "LoadBalancer"),
)
WORKERS = _fields(
    ("groupName", "minReplicas", "maxReplicas", "template"),
    suspend=FLAG,
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    idleTimeoutSeconds=COUNT,
    priority={"type": "integer"},
    resources=TEXTS,
    labels=TEXTS,
    rayStartParams=TEXTS,
    template=ANY_OBJECT,
    scaleStrategy=_fields(workersToDelete={"type": "array", "items": TEXT}),
    numOfHosts=COUNT,
)
CLUSTER_SPEC = _fields(
    ("headGroupSpec",),
    upgradeStrategy=_fields(type=_choice("Recreate", "None")),
    authOptions=AUTHENTICATION,
    suspend=FLAG,
    managedBy=TEXT,
    autoscalerOptions=AUTOSCALER,
    headServiceAnnotations=TEXTS,
    enableInTreeAutoscaling=FLAG,
    gcsFaultToleranceOptions=ANY_OBJECT,
    historyServerOptions=ANY_OBJECT,
    networkPolicy=ANY_OBJECT,
    tlsOptions=_fields(enabled=FLAG),
    headGroupSpec=HEAD,
    rayVersion=TEXT,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
JOB_SPEC = _fields(
    ("entrypoint",),
    activeDeadlineSeconds=COUNT,
    backoffLimit=COUNT,
    rayClusterSpec=CLUSTER_SPEC,
    submitterPodTemplate=ANY_OBJECT,
    metadata=TEXTS,
    clusterSelector=TEXTS,
    submitterConfig=_fields(backoffLimit=COUNT),
    managedBy=TEXT,
    deletionStrategy=ANY_OBJECT,
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    submissionMode=_choice("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    entrypointResources=TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    ttlSecondsAfterFinished=COUNT,
    shutdownAfterJobFinishes=FLAG,
    suspend=FLAG,
)
METADATA = _fields(("name",), name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)


def _object(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return _fields(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion=_choice("ray.io/v1"),
        kind=_choice(kind),
        metadata=METADATA,
        spec=spec,
    )


RAY_CLUSTER = _object("RayCluster", CLUSTER_SPEC)
RAY_JOB = _object("RayJob", JOB_SPEC)
