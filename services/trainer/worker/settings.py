"""What a worker can be told from outside."""

import platform
from dataclasses import dataclass, field, replace

from services.shared import cores
from services.shared.objects.nearby import Cache
from services.shared.objects.settings import StoreSettings
from services.shared.settings import BadSettings, home, log_level, parent_pipe, setting
from services.trainer.architectures import DEFAULT_ARCHITECTURE


@dataclass(frozen=True)
class WorkerSettings:
    worker_trainer: str = setting("127.0.0.1:7112", purpose="address of the trainer, for workers")
    worker_name: str = setting("", purpose="what the worker's id begins with; default: the machine's name")
    worker_kind: str = setting("warm", purpose="whether it is always there, or a job", choices=("warm", "job"))
    worker_idle_seconds: float = setting(0.0, purpose="seconds without work after which it ends; 0: never", minimum=0)
    worker_max_seconds: float = setting(0.0, purpose="seconds after which it takes no more work; 0: never", minimum=0)
    worker_health_address: str = setting("", purpose="address that answers health checks of the worker; empty: none")
    worker_threads: int = setting(0, purpose="threads to compute on; 0: one per usable core", minimum=0, maximum=256)
    worker_cache_bytes: int = setting(
        1_000_000_000, purpose="bytes of features kept beside a store that is a bucket; 0: none", minimum=0
    )
    worker_features_kept: int = setting(
        200_000, purpose="features of a project that stay in the store, the newest; 0: all", minimum=0
    )
    default_architecture: str = setting(DEFAULT_ARCHITECTURE, purpose="architecture that is prepared at the start")
    weights: str = setting("", purpose="folder or s3://bucket/prefix of pretrained weights; default: in the store")
    weights_download: bool = setting(default=True, purpose="whether weights are downloaded from their official source")
    weights_source: str = setting("", purpose="https address of a mirror to download weights from instead")
    store: StoreSettings = field(default_factory=StoreSettings)
    parent_pipe: bool = parent_pipe()
    log_level: str = log_level()

    @property
    def name(self) -> str:
        return self.worker_name or platform.node()

    @property
    def weights_store(self) -> StoreSettings:
        """Where weights are kept. BadSettings."""
        store = (self.store.store if self.store.is_s3 else self.store.folder).rstrip("/")
        try:
            return replace(self.store, store=self.weights or f"{store}/weights")
        except BadSettings as problem:
            raise BadSettings(str(problem).replace("HANDFUL_STORE=", "HANDFUL_WEIGHTS=")) from None

    @property
    def cache(self) -> Cache | None:
        """Where features are kept on this machine; None where the store is on it already."""
        if not self.worker_cache_bytes or not self.store.is_s3:
            return None
        return Cache(home() / "cache", self.worker_cache_bytes)

    @property
    def threads(self) -> int:
        # The cores this process may use, which in a container are fewer than the machine has.
        return self.worker_threads or cores.usable()
