"""JSON schemas of the custom resources in deploy/k8s: the fields that we use, in the types that their makers give them.

They are written from the makers' Go types, and know no other field, so that a misspelt one is found. They are not the
whole definitions: https://github.com/kedacore/keda/tree/v2.20.2/apis/keda/v1alpha1,
https://github.com/kubernetes-sigs/kueue/tree/v0.19.2/apis/kueue/v1beta2,
https://github.com/kubernetes-sigs/gateway-api/tree/main/apis/v1,
https://github.com/external-secrets/external-secrets/tree/main/apis/externalsecrets/v1.
"""

from typing import Any

Schema = dict[str, Any]


def _object(required: dict[str, Schema] | None = None, optional: dict[str, Schema] | None = None) -> Schema:
    needed = required or {}
    return {
        "type": "object",
        "properties": {**needed, **(optional or {})},
        "required": list(needed),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def _one_of(*words: str) -> Schema:
    return {"enum": list(words)}


_TEXT: Schema = {"type": "string", "minLength": 1}
_TEXTS: Schema = {"type": "object", "additionalProperties": _TEXT}
_WHOLE: Schema = {"type": "integer", "minimum": 0}
_PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
_LABELS = _object({"matchLabels": _TEXTS})
_NAME = _object({"name": _TEXT})

_SCALED_JOB = _object(
    {
        # Its template is validated as a Job's.
        "jobTargetRef": _object({"template": {"type": "object"}}, {"backoffLimit": _WHOLE}),
        "triggers": _list(
            _object(
                {"type": _TEXT, "metadata": _object({"query": _TEXT, "targetQueryValue": _TEXT})},
                {"authenticationRef": _NAME},
            )
        ),
    },
    {
        "pollingInterval": _WHOLE,
        "minReplicaCount": _WHOLE,
        "maxReplicaCount": _WHOLE,
        "successfulJobsHistoryLimit": _WHOLE,
        "failedJobsHistoryLimit": _WHOLE,
        "rollout": _object({"strategy": _one_of("default", "gradual")}),
    },
)
_TRIGGER_AUTHENTICATION = _object(
    {"secretTargetRef": _list(_object({"parameter": _TEXT, "name": _TEXT, "key": _TEXT}))}
)

_CLUSTER_QUEUE = _object(
    {
        "namespaceSelector": _LABELS,
        "resourceGroups": _list(
            _object(
                {
                    "coveredResources": _list(_TEXT),
                    "flavors": _list(
                        _object({"name": _TEXT, "resources": _list(_object({"name": _TEXT, "nominalQuota": _TEXT}))})
                    ),
                }
            )
        ),
    }
)

_GATEWAY = _object(
    {
        "gatewayClassName": _TEXT,
        "listeners": _list(
            _object(
                {"name": _TEXT, "port": _PORT, "protocol": _one_of("HTTP", "HTTPS", "TLS", "TCP", "UDP")},
                {
                    "hostname": _TEXT,
                    "tls": _object({"mode": _one_of("Terminate", "Passthrough"), "certificateRefs": _list(_NAME)}),
                },
            )
        ),
    }
)
_ROUTE = _object(
    {
        "parentRefs": _list(_NAME),
        "hostnames": _list(_TEXT),
        "rules": _list(
            _object(
                {
                    "matches": _list(_object({"method": _object({"service": _TEXT})})),
                    "backendRefs": _list(_object({"name": _TEXT, "port": _PORT})),
                }
            )
        ),
    }
)

_EXTERNAL_SECRET = _object(
    {
        "refreshInterval": {"type": "string", "pattern": r"^\d+[smh]$"},
        "secretStoreRef": _object({"kind": _one_of("SecretStore", "ClusterSecretStore"), "name": _TEXT}),
        "target": _NAME,
        "dataFrom": _list(_object({"extract": _object({"key": _TEXT})})),
    }
)
_SECRET_STORE = _object(
    {
        "provider": _object(
            {
                "yandexlockbox": _object(
                    {
                        "auth": _object({"authorizedKeySecretRef": _object({"name": _TEXT, "key": _TEXT})}),
                        "fetching": _object({"byName": _object({"folderID": _TEXT})}),
                    }
                )
            }
        )
    }
)

SCHEMAS: dict[tuple[str, str], Schema] = {
    ("keda.sh/v1alpha1", "ScaledJob"): _SCALED_JOB,
    ("keda.sh/v1alpha1", "TriggerAuthentication"): _TRIGGER_AUTHENTICATION,
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"): _object(),
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"): _CLUSTER_QUEUE,
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): _object({"clusterQueue": _TEXT}),
    ("gateway.networking.k8s.io/v1", "Gateway"): _GATEWAY,
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): _ROUTE,
    ("external-secrets.io/v1", "ExternalSecret"): _EXTERNAL_SECRET,
    ("external-secrets.io/v1", "SecretStore"): _SECRET_STORE,
}
