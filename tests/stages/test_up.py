"""`sevila up`, as far as it needs no server; what it starts is tried in test_flows.py."""

import pytest
import torch

from stages.up import gpus


@pytest.mark.parametrize(
    ("visible", "n_gpus", "names"),
    [(None, 2, ["0", "1"]), ("2, 5", 2, ["2", "5"]), ("GPU-8a,7", 1, ["GPU-8a"]), ("", 0, []), (None, 0, [])],
)
def test_workers_get_no_gpu_that_was_kept_from_us(
    visible: str | None, n_gpus: int, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)  # what the driver says of such a machine
    assert gpus() == names
