"""Objects in a bucket of an S3 server. Plain S3 calls, so that it is the same with MinIO, Silo or a cloud's own store.

What the client library raises leaves this module as one of our own errors.
"""

import hashlib
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.client import IncompleteRead
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

from minio import Minio
from minio.error import MinioException, S3Error, ServerError
from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError, ProtocolError

from services.shared.objects.errors import ObjectCorrupt, ObjectMissing, StoreFull, StoreRefused, StoreUnavailable
from services.shared.objects.keys import KEY
from services.shared.objects.retrying import patiently
from services.shared.objects.settings import StoreSettings

# Larger objects are sent in parts of this size, each of which is tried again by itself.
PART_BYTES = 32 * 1024 * 1024
CONNECTIONS = 16
# Twice this is less than a call to a service may take.
TIMEOUT = Timeout(connect=5.0, read=10.0)
# Once, for a connection that the server has closed meanwhile. Whoever wants more waits, in `retrying`.
RETRIES = Retry(total=1, respect_retry_after_header=False)
START_SECONDS = 30.0

_NOT_MODIFIED = 304
_FULL = {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded"}
_FORBIDDEN = {301, 401, 403}
_TO_MEND = {
    "NoSuchBucket": "There is no such bucket. Create it, or set another HANDFUL_STORE",
    "InvalidAccessKeyId": "It does not know the access key. Check HANDFUL_S3_ACCESS_KEY",
    "SignatureDoesNotMatch": "The secret key is not the access key's. Check HANDFUL_S3_SECRET_KEY",
    "AccessDenied": "The access key may not do this. Check its policy",
    "AuthorizationHeaderMalformed": "The bucket is in another region. Set HANDFUL_S3_REGION",
    "PermanentRedirect": "The bucket is in another region. Set HANDFUL_S3_REGION and HANDFUL_S3_ENDPOINT",
    "RequestTimeTooSkewed": "Its clock and ours differ. Set this machine's clock",
}
# What a server that keeps checksums of its own answers where the bytes on its drives are not what they were.
_UNREADABLE = "SlowDownRead"


def open_bucket(settings: StoreSettings) -> "S3Store":
    """The store in a bucket that is there. A server that is away is waited for; StoreRefused and such at once."""
    store = S3Store(settings)
    patiently(store.check, min(START_SECONDS, settings.store_seconds))
    return store


def make_bucket(settings: StoreSettings) -> None:
    """Makes the bucket where it is not there. StoreUnavailable."""
    client = connect(settings)
    with translated(settings, settings.bucket):
        if not client.bucket_exists(settings.bucket):
            client.make_bucket(settings.bucket, settings.s3_region)


def connect(settings: StoreSettings) -> Minio:
    """A client that gives up in time; usable from any thread."""
    address = urlsplit(settings.s3_endpoint)
    return Minio(
        address.netloc,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        secure=address.scheme == "https",
        region=settings.s3_region,
        http_client=pool(),
    )


def pool() -> PoolManager:
    """Connections, so many at most. Certificates are those of the system, or of SSL_CERT_FILE."""
    return PoolManager(maxsize=CONNECTIONS, block=True, timeout=TIMEOUT, retries=RETRIES, cert_reqs="CERT_REQUIRED")


@contextmanager
def translated(settings: StoreSettings, key: str) -> Iterator[None]:
    """Turns what the client raises into our own errors."""
    where = f"{settings.store} at {settings.s3_endpoint}"
    try:
        yield
    except S3Error as problem:
        raise _answered(where, key, problem) from problem
    except ServerError as problem:
        raise _Unchanged(key) if problem.status_code == _NOT_MODIFIED else _away(where, problem) from problem
    except ProtocolError as problem:
        broken = problem.args[-1]
        if isinstance(broken, IncompleteRead):
            raise _BrokenOff(f"{key}: {broken}") from problem
        raise _away(where, problem) from problem
    except (MinioException, HTTPError, ParseError, ValueError) as problem:
        raise _away(where, problem) from problem


def _answered(where: str, key: str, problem: S3Error) -> Exception:
    if problem.code == "NoSuchKey":
        return ObjectMissing(key)
    if problem.code == _UNREADABLE:
        return _BrokenOff(f"{key}: {where} cannot read it")
    if problem.code in _FULL:
        return StoreFull(f"{key}: {where} is full ({problem.code})")
    if problem.code in _TO_MEND or problem.response.status in _FORBIDDEN:
        to_mend = _TO_MEND.get(problem.code or "", "Check HANDFUL_S3_ACCESS_KEY and HANDFUL_S3_SECRET_KEY")
        return StoreRefused(f"{where} refuses: {to_mend} ({problem.code}).")
    return StoreUnavailable(f"{key}: {where} cannot do it now ({problem.code})")


def _away(where: str, problem: Exception) -> StoreUnavailable:
    reason = getattr(problem, "reason", problem)
    return StoreUnavailable(
        f"{where} cannot be reached, or is no S3 server ({type(reason).__name__}). "
        "See that it runs, and check HANDFUL_S3_ENDPOINT."
    )


class _Unchanged(Exception):
    """The object is still the one whose tag was given."""


class _BrokenOff(StoreUnavailable):
    """The bytes ended before the object did; the message says after how many of them."""


class S3Store:
    """An ObjectStore below a prefix of a bucket."""

    def __init__(self, settings: StoreSettings) -> None:
        self._settings = settings
        self._client = connect(settings)

    def __reduce__(self) -> tuple[type["S3Store"], tuple[StoreSettings]]:
        """Another process opens connections of its own."""
        return S3Store, (self._settings,)

    def check(self) -> None:
        """StoreUnavailable where the bucket cannot be listed, which readers and writers alike may do."""
        with self._translated(self._settings.prefix):
            next(self._client.list_objects(self._settings.bucket, self._settings.prefix), None)

    def put(self, key: str, data: bytes) -> None:
        bucket, name = self._settings.bucket, self._name(key)
        with self._translated(key):
            # In parts it takes one at a time: after a failure no other is on its way, and what was sent is removed.
            written = self._client.put_object(
                bucket, name, io.BytesIO(data), len(data), part_size=PART_BYTES, num_parallel_uploads=1
            )
        if not written.etag:  # S3 may say 200 and then that the parts could not be joined
            raise StoreUnavailable(f"{key}: the parts were sent, and not joined")

    def get(self, key: str, sha256: str | None = None) -> bytes:
        try:
            data, _ = self._read(key)
        except _BrokenOff as first:
            data = self._read_again(key, first)
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise ObjectCorrupt(key)
        return data

    def get_if_changed(self, key: str, tag: str | None) -> tuple[bytes, str] | None:
        try:
            return self._read(key, tag)
        except _Unchanged:
            return None

    def keys(self, prefix: str) -> Iterator[str]:
        with self._translated(prefix):
            found = list(
                self._client.list_objects(self._settings.bucket, self._settings.prefix + prefix, recursive=True)
            )
        found.sort(key=lambda one: (one.last_modified, one.object_name))
        yield from (str(one.object_name).removeprefix(self._settings.prefix) for one in found)

    def delete(self, key: str) -> None:
        name = self._name(key)
        with self._translated(key):
            self._client.remove_object(self._settings.bucket, name)

    def _name(self, key: str) -> str:
        if not KEY.fullmatch(key):
            raise ValueError(f"not a key: {key!r}")
        return self._settings.prefix + key

    def _read(self, key: str, tag: str | None = None) -> tuple[bytes, str]:
        """The bytes and their ETag; _Unchanged where it is the given one."""
        name = self._name(key)
        conditions: dict[str, str | list[str] | tuple[str]] = {"If-None-Match": f'"{tag}"'} if tag else {}
        with self._translated(key):
            response = self._client.get_object(self._settings.bucket, name, request_headers=conditions)
            try:
                return response.read(), response.headers.get("ETag", "").strip('"')
            finally:
                response.close()
                response.release_conn()

    def _read_again(self, key: str, first: _BrokenOff) -> bytes:
        """A network breaks off anywhere; a server that has lost bytes breaks off where they are missing."""
        try:
            data, _ = self._read(key)
        except _BrokenOff as second:
            if str(second) != str(first):
                raise
            with self._translated(key):  # away, or short of drives, it could not say even that
                self._client.stat_object(self._settings.bucket, self._name(key))
            raise ObjectCorrupt(key) from second
        return data

    def _translated(self, key: str) -> AbstractContextManager[None]:
        return translated(self._settings, key)
