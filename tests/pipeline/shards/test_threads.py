import threading
from functools import partial

import pytest

from pipeline.shards.threads import Helpers


def test_results_come_in_the_order_of_the_calls_whoever_is_done_first() -> None:
    helpers, last_has_begun = Helpers(2, "helper under test"), threading.Event()

    def first() -> str:
        assert last_has_begun.wait(10)
        return "first"

    def last() -> str:
        last_has_begun.set()
        return "last"

    assert helpers.run([first, last]) == ["first", "last"]
    assert helpers.run([]) == []
    helpers.close()


def test_more_calls_than_threads_are_all_made() -> None:
    helpers = Helpers(3, "helper that counts")
    assert helpers.run([partial(pow, number, 2) for number in range(20)]) == [number**2 for number in range(20)]
    assert sum(thread.name == "helper that counts" for thread in threading.enumerate()) == 3
    helpers.close()


def test_an_error_comes_back_once_all_calls_have_ended_and_the_next_calls_are_made() -> None:
    helpers, done = Helpers(2, "helper under test"), []
    calls = [partial(int, "no number"), *[partial(done.append, number) for number in range(5)]]
    with pytest.raises(ValueError, match="no number"):
        helpers.run(calls)
    assert sorted(done) == list(range(5))
    assert helpers.run([partial(int, "7")]) == [7]
    helpers.close()


def test_threads_start_when_needed_end_on_closing_and_start_anew() -> None:
    helpers = Helpers(2, "helper that ends")
    for _ in range(2):
        helpers.run([threading.get_ident, threading.get_ident])
        threads = [thread for thread in threading.enumerate() if thread.name == "helper that ends"]
        assert len(threads) == 2
        assert all(thread.daemon for thread in threads)
        helpers.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
