import pytest

from engine.evaluation.evaluate import Accuracy, Reconstruction
from engine.result import summarise, table

LINES = [
    {
        "event": "train",
        "step": 10 * (i + 1) - 1,
        "keep_rate": rate,
        "num_kept": kept,
        "step_s": step_s,
        "cpu_s": 0.8 * step_s,
        "loader_wait_s": 0.0,
        "images_per_s": 100 / step_s,
        "bytes_per_image": 1.0,
        "interval_steps": 10,
    }
    for i, (rate, kept, step_s) in enumerate([(0.2, 9, 0.25), (1.0, 49, 1.0)])
]
ACCURACIES = [Accuracy(1.0, 49, 0.85, 0.99, 0.4, 1000), Accuracy(0.6, 29, 0.8, 0.98, 0.5, 1000)]


def test_the_summary_compares_with_full_patches_in_the_same_run() -> None:
    summary = summarise(LINES, ACCURACIES, steps=20, global_batch_size=100, digest="abc")
    assert summary["top1"] == {"1.0": 0.85, "0.6": 0.8}
    assert summary["train_wall_s"] == pytest.approx(12.5)
    assert summary["train_cpu_s"] == pytest.approx(10.0)
    assert summary["full_patches_train_wall_s"] == pytest.approx(20.0)
    assert summary["mean_keep_rate"] == pytest.approx(0.6)
    assert summary["images_per_s"] == pytest.approx(160.0)
    assert (summary["steps"], summary["weights_digest"]) == (20, "abc")


def test_the_table_shows_every_rate_trained_or_validated() -> None:
    text = table(summarise(LINES, ACCURACIES, steps=20, global_batch_size=100, digest="abc"))
    assert "85.00%" in text
    assert "not trained at this rate" in text
    assert "this run took 62% of that" in text


def test_without_a_full_patch_stage_there_is_nothing_to_compare_with() -> None:
    summary = summarise(LINES[:1], ACCURACIES, steps=10, global_batch_size=100, digest="abc")
    assert summary["full_patches_train_wall_s"] is None
    assert "nothing to compare with" in table(summary)


def test_no_processor_time_is_told_where_a_part_of_the_run_did_not_measure_it() -> None:
    old = {key: value for key, value in LINES[0].items() if key != "cpu_s"}
    assert summarise([old, LINES[1]], ACCURACIES, steps=20, global_batch_size=100, digest="abc")["train_cpu_s"] is None


def test_pretraining_is_told_by_its_reconstruction_loss() -> None:
    evaluations = [Reconstruction(0.4, 19, 0.5123, 1000), Reconstruction(0.2, 9, 0.6, 1000)]
    summary = summarise(LINES[:1], evaluations, steps=10, global_batch_size=100, digest="abc")
    assert summary["reconstruction_loss"] == {"0.4": 0.5123, "0.2": 0.6}
    assert not {"top1", "top5"} & summary.keys()
    text = table(summary)
    assert "0.5123" in text
    assert "top-1" not in text


def test_the_table_of_a_run_on_a_gpu_tells_how_long_it_was_idle() -> None:
    first = {**LINES[0], "device_busy_s": 0.2, "device_idle_s": 0.05}
    summary = summarise([first, LINES[1]], ACCURACIES, steps=20, global_batch_size=100, digest="abc")
    assert "idle" not in table(summary)
    head, *rows = table(summary | {"hardware": {"gpus": ["NVIDIA H100"]}}).splitlines()[1:]
    assert head.endswith("loader wait   idle")
    told = {row.split()[0]: row.split()[-1] for row in rows[:3]}
    assert told == {"1": "-", "0.6": "rate", "0.2": "20%"}  # the first and the last were trained
