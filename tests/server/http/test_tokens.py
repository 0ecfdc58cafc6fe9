from __future__ import annotations

import pytest
import torch
from pydantic import SecretStr
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.errors import UnauthorizedError
from comfy_gpu_offload.server.http.tokens import Tokens, token_digest

SETTING = SecretStr("the-token-of-the-settings")


def test_without_a_token_everybody_is_let_in() -> None:
    tokens = Tokens()
    assert not tokens.are_required
    assert tokens.allow(None)
    assert tokens.allow("Bearer anything")


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("Bearer the-token-of-the-settings", True),
        ("bearer  the-token-of-the-settings ", True),
        ("Bearer issued", True),
        ("Basic the-token-of-the-settings", False),
        ("the-token-of-the-settings", False),
        ("Bearer the-token-of-the-setting", False),
        ("Bearer", False),
        ("Bearer \udcff", False),
        ("", False),
        (None, False),
    ],
)
def test_any_of_the_tokens_is_accepted_and_nothing_else(header: str | None, allowed: bool) -> None:
    tokens = Tokens(SETTING, lambda: {token_digest("other"), token_digest("issued")})
    assert tokens.are_required
    assert tokens.allow(header) is allowed


def test_with_all_issued_tokens_revoked_nobody_is_let_in() -> None:
    tokens = Tokens(None, lambda: ())
    assert tokens.are_required
    assert not tokens.allow(None)
    assert not tokens.allow("Bearer ")


def test_no_token_is_in_the_representation() -> None:
    assert SETTING.get_secret_value() not in repr(vars(Tokens(SETTING)))


def test_a_token_that_is_revoked_ends_with_the_next_request_of_an_open_connection() -> None:
    issued = {token_digest("one"), token_digest("two")}
    with (
        ThreadWorker(FunctionBackend(), tokens=Tokens(None, lambda: issued)) as worker,
        connect(worker.url, "one") as first,
        connect(worker.url, "two") as second,
    ):
        for session in (first, second):
            assert torch.equal(session.model("double")(torch.ones(2)), torch.full((2,), 2.0))
        issued.remove(token_digest("one"))
        assert torch.equal(second.model("double")(torch.ones(2)), torch.full((2,), 2.0))
        with pytest.raises(UnauthorizedError):
            first.model("double")(torch.ones(2))
