"""Weights that timm publishes, without a network. Nothing here asks for one."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from engine.models import published
from engine.models.published import published_weights, why_unreachable

NAME = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


class Session:
    """The hub's client: answers as it is told to."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def head(self, url: str, timeout: float) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """timm with an empty cache and a network that fails: for each time it is asked, whether without network."""
    asked: list[bool] = []

    def create_model(name: str, pretrained: bool) -> Any:
        asked.append(constants.HF_HUB_OFFLINE)
        if constants.HF_HUB_OFFLINE:
            raise LocalEntryNotFoundError("not in the cache")
        raise OSError("404: no such file\nand much more")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(timm, "create_model", create_model)
    yield asked
    assert constants.HF_HUB_OFFLINE is False


def test_the_cache_is_asked_first_and_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: torch.nn.Linear(2, 1))
    monkeypatch.setattr(published, "get_session", lambda: pytest.fail("the network was asked"))
    assert list(published_weights(NAME)) == ["weight", "bias"]


def test_without_a_network_one_line_says_so_and_timm_does_not_try(
    monkeypatch: pytest.MonkeyPatch, asked: list[bool]
) -> None:
    monkeypatch.setattr(published, "get_session", lambda: Session(OSError("Name or service not known")))
    with pytest.raises(ValueError, match=r"^the weights of .* cannot be reached: Name or service not known; .*file$"):
        published_weights(NAME)
    assert asked == [True]


def test_with_a_network_timm_fetches_and_says_in_one_line_what_went_wrong(
    monkeypatch: pytest.MonkeyPatch, asked: list[bool]
) -> None:
    monkeypatch.setattr(published, "get_session", lambda: Session("an answer"))
    with pytest.raises(ValueError, match=r"could not fetch the weights of '.*': 404: no such file \(without"):
        published_weights(NAME)
    assert asked == [True, False]


def test_an_answer_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(published, "get_session", lambda: Session(never.wait))
    assert why_unreachable("https://hub", within_s=0.05) == "no answer within 0.05 s"
    never.set()


def test_who_asked_for_no_network_is_told_of_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert why_unreachable("https://hub") == "HF_HUB_OFFLINE is set"
