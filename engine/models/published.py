"""The weights that timm publishes: out of its cache, else from the network, if that is there."""

from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Thread

import timm
from huggingface_hub import constants, get_session
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from torch import Tensor

REACH_S = 8.0  # for the hub to answer; without an answer its client would try for minutes
ELSEWHERE = "download them elsewhere and set pretrained to the file"


def published_weights(name: str) -> dict[str, Tensor]:
    """The state dict of a timm name, at the sizes in which it was published.

    Raises:
        ValueError: timm publishes none for the name, or they are not in its cache and cannot be fetched.
    """
    if not timm.is_model_pretrained(name):
        tags = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        hint = f"it has weights for {', '.join(tags)}" if tags else "set pretrained to a file, or leave it out"
        raise ValueError(f"timm publishes no weights for '{name}'; {hint}")
    try:
        with _without_network():
            return timm.create_model(name, pretrained=True).state_dict()
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        pass
    except Exception as error:  # what is in the cache is damaged in many ways
        raise ValueError(f"the weights of '{name}' in timm's cache cannot be used: {reason_of(error)}") from error
    unreachable = why_unreachable(constants.ENDPOINT)
    if unreachable is not None:
        raise ValueError(
            f"the weights of '{name}' are not in timm's cache, and {constants.ENDPOINT} cannot be reached: "
            f"{unreachable}; {ELSEWHERE}"
        )
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # network and hub failures come in many classes
        raise ValueError(
            f"timm could not fetch the weights of '{name}': {reason_of(error)} (without a network, {ELSEWHERE})"
        ) from error


def why_unreachable(url: str, within_s: float = REACH_S) -> str | None:
    """What keeps the hub's client from an answer of ``url``, whatever it be; None where there is one in time."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    found: SimpleQueue[str | None] = SimpleQueue()

    def ask() -> None:
        try:
            get_session().head(url, timeout=within_s)
        except Exception as error:  # of the network, of proxies, of certificates
            found.put(reason_of(error))
        else:
            found.put(None)

    # On a thread of its own: no timeout ends the look-up of a name.
    Thread(target=ask, daemon=True).start()
    try:
        return found.get(timeout=within_s)
    except Empty:
        return f"no answer within {within_s:g} s"


def reason_of(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@contextmanager
def _without_network() -> Iterator[None]:
    was = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was
