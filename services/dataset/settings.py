"""What the dataset service can be told from outside."""

from dataclasses import dataclass, field

from services.shared.objects.settings import StoreSettings
from services.shared.settings import home, log_level, metrics_address, parent_pipe, setting


@dataclass(frozen=True)
class DatasetSettings:
    dataset_address: str = setting("127.0.0.1:7101", purpose="address the dataset service listens on")
    dataset_metrics_address: str = metrics_address()
    dataset_database: str = setting("", purpose="SQLite file or postgresql:// URL of the dataset service", secret=True)
    store: StoreSettings = field(default_factory=StoreSettings)
    decoders: int = setting(2, purpose="processes that decode uploads", minimum=1, maximum=64)
    reflection: bool = setting(default=False, purpose="whether gRPC reflection is served")
    parent_pipe: bool = parent_pipe()
    log_level: str = log_level()

    @property
    def database(self) -> str:
        return self.dataset_database or str(home() / "dataset.sqlite")
