"""What a process pays for an import: each part loads only what it needs."""

import subprocess
import sys

import pytest

TORCH = ("torch", "torchvision", "timm")


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("services.dataset.servicer", (*TORCH, "numpy", "soundfile", "onnxruntime", "sklearn")),
        (
            "services.trainer.servicer, services.trainer.worker_servicer, services.trainer.model_servicer",
            (*TORCH, "numpy", "onnxruntime", "sklearn"),
        ),
        ("services.trainer.exports.building, services.trainer.imports.taking", (*TORCH, "sqlalchemy", "sklearn")),
        ("services.inference.servicer", (*TORCH, "sqlalchemy", "sklearn")),
        ("services.trainer.worker.session", TORCH),
        ("handful.client", (*TORCH, "numpy", "PIL", "onnxruntime", "sqlalchemy")),
        ("handful.bundle.predictor", (*TORCH, "grpc", "sqlalchemy")),
        ("handful.bundle.images", (*TORCH, "grpc", "numpy", "onnxruntime")),
        ("handful.bundle.error_control", (*TORCH, "grpc", "google.protobuf", "numpy")),
    ],
)
def test_an_import_loads_only_what_it_needs(modules: str, absent: tuple[str, ...]) -> None:
    """Importing the modules in a new process leaves what it has no need of out of sys.modules."""
    program = f"import sys, {modules}; print(*(name for name in {absent!r} if name in sys.modules))"
    child = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert (child.returncode, child.stdout.split()) == (0, []), child.stderr
