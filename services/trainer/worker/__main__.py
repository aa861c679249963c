"""`python -m services.trainer.worker`: claims runs and trains them, until it is told to stop."""

from services.shared import start
from services.trainer.worker.claiming import work
from services.trainer.worker.settings import WorkerSettings

if __name__ == "__main__":
    start.run("worker", WorkerSettings, work)
