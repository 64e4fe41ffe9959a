"""What goes wrong with a store, told apart and in people's words.

The packages that speak with stores raise what their servers answer, each in its own way. ``understood`` makes one of
the classes here of it, by the code of the answer where there is one.
"""

import errno
from collections.abc import Iterator

from pipeline.addresses import Address


class StoreError(ValueError):
    """A store, or the cache on the host's disk, cannot be used. The message is for people."""


class StoreGoneError(StoreError):
    """The store does not answer, or says that it cannot now. Asked again later it may."""


class StoreRefusedError(StoreError):
    """The store does not let this user read, or write, what was asked for."""


class NotInStoreError(StoreError):
    """There is no such file, or no such bucket."""


class NoBucketError(NotInStoreError):
    """There is not even the bucket."""


class ChangedFileError(StoreError):
    """A file in the store is not what the index says of it."""


class BeyondTheEndError(ChangedFileError):
    """A file ends before the bytes that were asked for."""


class CacheFullError(StoreError):
    """The host's disk has no room for a file."""


_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or the machine's service account",
    "http": "a .netrc file, which NETRC names",
    "https": "a .netrc file, which NETRC names",
}
# By the number of an answer in HTTP, which all stores speak; 4xx means that to ask again is of no use, but for these.
_LATER = frozenset({408, 409, 425, 429})
_REFUSED = frozenset({401, 403, 407})
_ABSENT = frozenset({404, 410})
_BEYOND_THE_END = 416
# By the name that a store gives to an error.
_CODES = {
    **dict.fromkeys(("NoSuchBucket", "NoSuchKey", "404"), 404),
    **dict.fromkeys(("AccessDenied", "403", "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"), 403),
    **dict.fromkeys(("RequestTimeTooSkewed", "AllAccessDisabled", "InvalidToken"), 403),
    **dict.fromkeys(("InvalidRange", "416"), _BEYOND_THE_END),
    **dict.fromkeys(("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling"), 503),
}
# By the class of what was raised, or of one of its bases.
_REFUSED_CLASSES = frozenset(
    {
        "PermissionError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "TokenRetrievalError",
        "RefreshError",
        "DefaultCredentialsError",
    }
)
_GONE_CLASSES = frozenset(
    {
        *("TimeoutError", "ConnectionError", "gaierror", "HTTPClientError", "ClientConnectionError"),
        *("ClientPayloadError", "FSTimeoutError", "IncompleteRead", "ResponseParserError", "TransportError"),
    }
)
_GONE_NUMBERS = frozenset(
    {errno.EBUSY, errno.EREMOTEIO, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EPIPE}
)


def understood(error: BaseException, address: Address) -> StoreError:
    """What an error of a store's package means for a file at ``address``; one that is not known says all it knows."""
    if isinstance(error, StoreError):
        return error
    chain = list(_chain(error))
    names = {base.__name__ for one in chain for base in type(one).__mro__}
    answers = [number for one in chain if (number := _answer(one)) is not None]
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    if any(_code(one) == "NoSuchBucket" for one in chain):
        return NoBucketError(f"{address}: there is no such bucket as {address.bucket}")
    if _ABSENT & set(answers):
        return NotInStoreError(f"{address}: is not there")
    if _REFUSED & set(answers) or _REFUSED_CLASSES & names:
        return StoreRefusedError(
            f"{address}: no rights to it ({said}); credentials come from the environment: "
            f"{_CREDENTIALS[address.scheme]}"
        )
    if _BEYOND_THE_END in answers:
        return BeyondTheEndError(f"{address}: ends before the bytes that the index says are there")
    if any(number in _LATER or number >= 500 for number in answers):
        return StoreGoneError(f"{address}: the store answers {max(answers)} ({said})")
    if _GONE_CLASSES & names or any(isinstance(one, OSError) and one.errno in _GONE_NUMBERS for one in chain):
        return StoreGoneError(f"{address}: the store cannot be reached ({said})")
    if "FileNotFoundError" in names:  # last: a package says so of whatever keeps it from a file
        return NotInStoreError(f"{address}: is not there")
    return StoreError(f"{address}: cannot be read ({said})")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def _code(error: BaseException) -> str:
    """The name that S3 gave to an error; empty where it gave none."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _answer(error: BaseException) -> int | None:
    """The number of the server's answer."""
    if (code := _code(error)) in _CODES:
        return _CODES[code]
    response = getattr(error, "response", None)
    told = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    status = getattr(error, "status", None)  # of aiohttp; what gcsfs raises has a code
    for number in (told, getattr(error, "code", None) if status is None else status):
        if isinstance(number, int) and number >= 400:
            return number
    return None
