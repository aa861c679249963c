"""What the inference service can be told from outside."""

from dataclasses import dataclass, field

from services.inference.runtimes import RUNTIMES
from services.inference.runtimes.choosing import AUTO
from services.shared import cores
from services.shared.objects.settings import StoreSettings
from services.shared.settings import log_level, metrics_address, parent_pipe, setting


@dataclass(frozen=True)
class InferenceSettings:
    inference_address: str = setting("127.0.0.1:7103", purpose="address the inference service listens on")
    inference_metrics_address: str = metrics_address()
    store: StoreSettings = field(default_factory=StoreSettings)
    inference_memory_mib: int = setting(
        1024, purpose="memory for loaded models and the networks they share, in MiB", minimum=64
    )
    inference_private_memory_mib: int = setting(
        1024, purpose="memory for loaded networks that were trained for one model, in MiB", minimum=64
    )
    inference_threads: int = setting(0, purpose="threads that predict; 0: one per usable core", minimum=0, maximum=256)
    inference_queue: int = setting(
        16, purpose="pictures that may wait for each thread, and as many for each private network", minimum=1
    )
    inference_batch: int = setting(8, purpose="pictures in one forward pass, at most", minimum=1, maximum=64)
    inference_runtime: str = setting(
        AUTO, purpose="what runs networks; auto: the fastest of those installed", choices=(AUTO, *RUNTIMES)
    )
    reflection: bool = setting(default=False, purpose="whether gRPC reflection is served")
    parent_pipe: bool = parent_pipe()
    log_level: str = log_level()

    @property
    def threads(self) -> int:
        return self.inference_threads or cores.usable()
