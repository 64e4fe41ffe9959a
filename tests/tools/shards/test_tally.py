from jpeg_files import addressable_jpeg

from pipeline.jpeg.addressable import units_of
from tools.shards.addressable import Transcoded
from tools.shards.tally import Tally, describe_tally, sum_tallies


def tallied(*images: Transcoded) -> dict:
    tally = Tally()
    for image in images:
        tally.add(image)
    return tally.as_json()


def test_images_are_counted_by_what_came_of_them_and_counts_add_up() -> None:
    data = addressable_jpeg(0)
    ready, made = Transcoded(data, units_of(data)), Transcoded(data, units_of(data), bytes_before=1000)
    others = [Transcoded(b"", None, reason) for reason in ("is grey", "is blue", "is grey")]
    together = tallied(ready, made, made, *others)
    assert together == {
        "num_addressable": 3,
        "not_addressable": {"is blue": 1, "is grey": 2},
        "num_transcoded": 2,
        "bytes_before": 2000,
        "bytes_after": 2 * len(data),
    }
    assert sum_tallies([tallied(others[0], made), tallied(ready), tallied(made, *others[1:])]) == together
    assert list(together["not_addressable"]) == ["is blue", "is grey"]  # in one order, whichever came first


def test_words_leave_out_what_did_not_happen() -> None:
    data = addressable_jpeg(0)
    assert describe_tally(tallied(Transcoded(data, units_of(data)))) == [("addressable", "1 of 1 images")]
    tally = {"num_addressable": 1200, "not_addressable": {"it is PNG, not JPEG": 3}, "num_transcoded": 1000}
    assert describe_tally({**tally, "bytes_before": 50_000_000, "bytes_after": 51_250_000}) == [
        ("addressable", "1,200 of 1,203 images; 1,000 of them transcoded, 50.0 MB before and 51.2 MB after (+2.5%)"),
        ("not addressable", "3: it is PNG, not JPEG"),
    ]
