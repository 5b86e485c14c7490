"""What a run makes of the ends of the runs that it has handed out, without a server."""

from collections import Counter
from contextlib import nullcontext
from typing import Any
from uuid import uuid4

import pytest
from prefect.states import Completed, Crashed, State

from workers import dispatch


@pytest.mark.parametrize("second", [Completed(), Crashed()])
def test_workers_that_end_at_once_when_all_is_there_end_the_step(
    monkeypatch: pytest.MonkeyPatch, second: State[Any]
) -> None:
    handed_out = []

    def hand_out(*asked: Any) -> Any:
        handed_out.append(asked)
        return uuid4()

    monkeypatch.setattr(dispatch, "get_client", lambda **options: nullcontext())
    monkeypatch.setattr(dispatch, "_n_at_once", lambda client, n_left: 2)
    monkeypatch.setattr(dispatch, "_hand_out", hand_out)
    monkeypatch.setattr(
        dispatch, "_final_states", lambda client, waiting: list(zip(waiting, [Completed(), second], strict=True))
    )
    monkeypatch.setattr(dispatch, "_cancel_scheduled", lambda client, run_ids: [])
    monkeypatch.setattr(dispatch, "_cancel", lambda client, run_ids: None)
    monkeypatch.setattr(dispatch, "ASK_SECONDS", 0)
    with dispatch._gpu_workers({}) as make_all:
        make_all("extract_features-v2-0", [0, 1, 2], Counter(), lambda: 0)
    assert len(handed_out) == 2
