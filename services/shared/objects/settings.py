"""Where objects lie, the same for every service: a folder, or a bucket of an S3 server and the keys to it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from services.shared.objects.keys import KEY
from services.shared.settings import BadSettings, home, setting

S3 = "s3://"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_REGION = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class StoreSettings:
    """BadSettings where they do not go together."""

    store: str = setting("", purpose="folder or s3://bucket/prefix; default: a folder in HANDFUL_HOME")
    store_seconds: float = setting(60.0, purpose="seconds to bear a store that is away", minimum=0, maximum=3600)
    s3_endpoint: str = setting("", purpose="address of the S3 server, http(s)://host:port")
    s3_region: str = setting("us-east-1", purpose="region of the bucket")
    s3_access_key: str = setting("", secret=True, purpose="access key for the S3 server")
    s3_secret_key: str = setting("", secret=True, purpose="secret key for the S3 server")

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise BadSettings("\n".join(problems))

    @property
    def is_s3(self) -> bool:
        return self.store.startswith(S3)

    @property
    def folder(self) -> str:
        """Where there is no bucket."""
        return self.store.removeprefix("file://") or str(home() / "store")

    @property
    def bucket(self) -> str:
        return self.store.removeprefix(S3).partition("/")[0]

    @property
    def prefix(self) -> str:
        """What stands before every key in the bucket: nothing, or something that ends with a slash."""
        prefix = self.store.removeprefix(S3).partition("/")[2].removesuffix("/")
        return f"{prefix}/" if prefix else ""

    def _problems(self) -> Iterator[str]:
        if not self.is_s3:
            if "://" in self.store and not self.store.startswith("file:///"):
                yield f"HANDFUL_STORE={self.store!r}: must be a folder, file:///folder or s3://bucket/prefix"
            return
        if not _BUCKET.fullmatch(self.bucket) or (self.prefix and not KEY.fullmatch(self.prefix.removesuffix("/"))):
            yield f"HANDFUL_STORE={self.store!r}: must be s3://bucket or s3://bucket/prefix"
        if not _is_address(self.s3_endpoint):
            yield f"HANDFUL_S3_ENDPOINT={self.s3_endpoint!r}: must be http(s)://host:port, the address of the S3 server"
        if not _REGION.fullmatch(self.s3_region):
            yield f"HANDFUL_S3_REGION={self.s3_region!r}: must be letters, digits and hyphens, such as us-east-1"
        for name in ("s3_access_key", "s3_secret_key"):
            if not getattr(self, name):
                variable = f"HANDFUL_{name.upper()}"
                yield f"{variable} is not set, nor {variable}_FILE: a store that is s3:// needs it"


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        bare = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and text.lower() == bare
