"""`python -m services.shared.objects.provision`: the bucket and two identities on a MinIO or Silo server.

One identity writes, for dataset, trainer and workers; one only reads, for inference. It may be run again. Clouds have
ways of their own to make identities; what ours may do stands in `policies/`, in the words that all of them understand.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException
from minio.minioadmin import MinioAdmin

from services.shared import start
from services.shared.objects import s3
from services.shared.objects.errors import StoreUnavailable
from services.shared.objects.retrying import patiently
from services.shared.objects.settings import StoreSettings
from services.shared.settings import CannotStart, log_level, setting

log = structlog.get_logger()

POLICIES = Path(__file__).parent / "policies"
_ALREADY = "XMinioAdminPolicyChangeAlreadyApplied"
# It answers, and has buckets, before it has identities.
_NOT_YET = "XMinioServerNotInitialized"


@dataclass(frozen=True)
class ProvisionSettings:
    """The keys in `store` are an administrator's; the others are what the two identities shall have."""

    s3_write_access_key: str = setting(secret=True, purpose="access key that may write")
    s3_write_secret_key: str = setting(secret=True, purpose="secret key of the access key that may write")
    s3_read_access_key: str = setting(secret=True, purpose="access key that may only read")
    s3_read_secret_key: str = setting(secret=True, purpose="secret key of the access key that may only read")
    store: StoreSettings = field(default_factory=StoreSettings)
    log_level: str = log_level()


def provision(settings: ProvisionSettings) -> None:
    """Makes what is not there. StoreUnavailable, or CannotStart where the server makes no identities."""
    if not settings.store.is_s3:
        raise CannotStart("HANDFUL_STORE is a folder, which needs no identities.")
    patiently(lambda: s3.make_bucket(settings.store), settings.store.store_seconds)
    address = urlsplit(settings.store.s3_endpoint)
    admin = MinioAdmin(
        endpoint=address.netloc,
        credentials=StaticProvider(settings.store.s3_access_key, settings.store.s3_secret_key),
        secure=address.scheme == "https",
        http_client=s3.pool(),
    )
    patiently(lambda: _identities(admin, settings), settings.store.store_seconds)


def _identities(admin: MinioAdmin, settings: ProvisionSettings) -> None:
    bucket = settings.store.bucket
    with s3.translated(settings.store, bucket):
        _identity(admin, bucket, "write", settings.s3_write_access_key, settings.s3_write_secret_key)
        _identity(admin, bucket, "read", settings.s3_read_access_key, settings.s3_read_secret_key)


def _identity(admin: MinioAdmin, bucket: str, may: str, access_key: str, secret_key: str) -> None:
    text = (POLICIES / f"{may}.json").read_text().replace(":::handful", f":::{bucket}")
    policy = f"{bucket}-{may}"
    _try(lambda: admin.policy_add(policy, policy=json.loads(text)))
    _try(lambda: admin.user_add(access_key, secret_key))
    _try(lambda: admin.attach_policy([policy], user=access_key))
    log.info("identity made", may=may, bucket=bucket)


def _try(step: Callable[[], object]) -> None:
    try:
        step()
    except MinioAdminException as problem:
        if _NOT_YET in str(problem):
            raise StoreUnavailable(f"The S3 server has no identities yet: {problem}") from problem
        if _ALREADY not in str(problem):
            raise CannotStart(f"The S3 server makes no identities for us: {problem}") from problem


if __name__ == "__main__":
    start.run("provision", ProvisionSettings, provision)
