"""The types of the flows' parameters, from which Prefect generates its forms and validates values before a run starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from cache.names import NAME
from pipeline.benchmarks.matrix import available_matrices as matrices
from pipeline.engine.recipe import available as recipes
from stages.all import STAGES

# Field titles are the names that `-p` takes.
FORM = ConfigDict(extra="forbid", field_title_generator=lambda name, field: name)


def _name_or_file(names: Iterable[str]) -> str:
    """Return a pattern that matches these names, or the path of a .toml file."""
    return rf"^({'|'.join(names)}|.+[.]toml)$"


Device = Annotated[str, Field(pattern="^(auto|cpu|cuda(:[0-9]+)?)$")]
TokenCount = Annotated[int, Field(ge=1, le=1 << 22)]


class Places(BaseModel):
    """Locations on the workers; empty: as set there by SEVILA_... or sevila.toml."""

    model_config = FORM

    annotations: str = Field(default="", description="file or folder: PATH or NAME=PATH, several separated by `:`")
    videos: str = Field(default="", description="folder of the videos, likewise")
    weights: str = Field(default="", description="folder or file of the weights, likewise")
    scores: str = Field(default="", description="frame scores made elsewhere, likewise")
    store: str = Field(
        default="", description="folder of the artifacts, the same on every worker; empty: SEVILA_STORE, or .sevila"
    )


class Execution(BaseModel):
    """How and where to run; never part of an artifact's identity."""

    model_config = FORM

    dispatch: Literal["workers", "ray", "here"] = Field(
        default="workers",
        description="where models run: on the workers of pool gpu, with one flow run per worker that builds shard after shard; "
        "on a Ray cluster, with one task and one GPU per shard; or on the worker of this run",
    )
    ray_address: str = Field(
        default="auto",
        pattern=r"^(auto|[^\s/:]+:[0-9]+)$",
        description="with ray: host:port of the cluster's head; auto: RAY_ADDRESS, or the cluster whose node this worker is on",
    )
    device: Device = Field(default="auto", description="auto: the first GPU, else the CPU")
    batch_tokens: TokenCount | None = Field(
        default=None, description="tokens in a forward pass, padding included; empty: what suits the device"
    )
    decode_workers: int = Field(
        default=2, ge=1, le=256, description="processes that decode videos, of each run of a worker, which has several"
    )
    shard_megabytes: float = Field(default=1024.0, gt=0, le=65536, description="size at which a shard is cut")
    processes: int = Field(
        default=0, ge=0, le=64, description="processes of a training; 0: one for each GPU of its worker"
    )
    server_requests: int = Field(
        default=4, ge=1, le=256, description="concurrent requests to a model server ([answer_with_vlm] served)"
    )
    server_requests_per_minute: int | None = Field(
        default=None, ge=1, description="limit of requests that a process sends it per minute, retries included"
    )
    download: bool = Field(
        default=False,
        description="let each machine download missing weights from the Hugging Face Hub",
    )


# Parameters of several flows. Prefect reads their descriptions from the flows' docstrings, and rejects a value that does not
# match its pattern before it creates a run.
Seed = Annotated[int | None, Field(ge=0)]
RecipeName = Annotated[str, Field(pattern=_name_or_file(recipes()))]
Setting = Annotated[str, Field(pattern=r"^ *\w+[.]\w+ *=")]
Settings = tuple[Setting, ...]
StageName = Annotated[str, Field(json_schema_extra={"enum": list(STAGES)})]
RunName = Annotated[str, Field(pattern=f"^({NAME.pattern})?$")]
MatrixName = Annotated[str, Field(pattern=_name_or_file(matrices()))]
