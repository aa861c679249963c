"""What the trainer can be told from outside."""

from dataclasses import dataclass, field

from services.shared.objects.settings import StoreSettings
from services.shared.settings import home, log_level, metrics_address, parent_pipe, setting
from services.trainer.architectures import DEFAULT_ARCHITECTURE


@dataclass(frozen=True)
class TrainerSettings:
    trainer_address: str = setting("127.0.0.1:7102", purpose="address the trainer listens on")
    worker_address: str = setting("127.0.0.1:7112", purpose="address the trainer listens on for workers")
    trainer_metrics_address: str = metrics_address()
    dataset: str = setting("127.0.0.1:7101", purpose="address of the dataset service")
    trainer_database: str = setting("", purpose="SQLite file or postgresql:// URL of the trainer", secret=True)
    store: StoreSettings = field(default_factory=StoreSettings)
    workers: int = setting(1, purpose="workers started beside the trainer", minimum=0, maximum=64)
    default_architecture: str = setting(
        DEFAULT_ARCHITECTURE, purpose="architecture of recipes that name none, where their preset has it"
    )
    model_memory_mib: int = setting(3072, purpose="memory for one export or import, in MiB", minimum=512, maximum=2**20)
    reflection: bool = setting(default=False, purpose="whether gRPC reflection is served")
    parent_pipe: bool = parent_pipe()
    log_level: str = log_level()

    @property
    def database(self) -> str:
        return self.trainer_database or str(home() / "trainer.sqlite")
