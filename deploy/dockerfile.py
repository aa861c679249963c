"""What the targets of deploy/Dockerfile are made of, read from the file itself. It runs nothing."""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path

FILE = Path(__file__).with_name("Dockerfile")


@dataclass
class Target:
    """A stage of the Dockerfile together with the stages that it begins from."""

    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def __getitem__(self, keyword: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == keyword]

    @property
    def environment(self) -> dict[str, str]:
        pairs = [pair.split("=", 1) for line in self["ENV"] for pair in shlex.split(line)]
        return {name: value for name, value in pairs if name != "PATH"}

    @property
    def command(self) -> list[str]:
        """The entry point with its arguments."""
        return [*json.loads(self["ENTRYPOINT"][-1]), *json.loads(self["CMD"][-1])]

    @property
    def probe(self) -> list[str]:
        """The command of the health check."""
        found: list[str] = json.loads(self["HEALTHCHECK"][-1].split("CMD ")[1])
        return found

    @property
    def sources(self) -> list[str]:
        """What is copied of the repository, as paths in it."""
        copies = [shlex.split(line) for line in self["COPY"]]
        return [words[-2].removeprefix("/app/") for words in copies if "--from=source" in words]

    @property
    def environment_stage(self) -> str:
        """The stage that its virtual environment comes from."""
        (stage,) = [line.split("--from=")[1].split()[0] for line in self["COPY"] if "/opt/venv" in line]
        return stage


def stages(file: Path = FILE) -> dict[str, Target]:
    """Every named stage by its name."""
    found: dict[str, Target] = {}
    current = Target("")
    for line in file.read_text().replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            current = Target(name, list(found[base].instructions) if base in found else [])
            found[name] = current
        elif word and not word.startswith("#"):
            current.instructions.append((word, rest.strip()))
    return found


def images() -> dict[str, Target]:
    """The stages that are built to be run."""
    return {name: stage for name, stage in stages().items() if stage["CMD"]}


def lock(image: Target) -> Path:
    """The lock that an image's environment is installed from."""
    (copied,) = [line.split()[0] for line in stages()[image.environment_stage]["COPY"] if line.endswith(".lock .")]
    return FILE.parents[1] / copied
