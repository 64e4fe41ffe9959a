import pytest
import torch

from engine.ranks import hardware
from engine.ranks.hardware import describe_hardware, processor


def test_family_and_model_tell_processors_of_one_name_apart() -> None:
    one = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"
    two = one.replace("processor\t: 0", "processor\t: 1")
    assert processor(f"{one}\n{two}\n") == "AMD EPYC (family 25, model 17)"
    assert processor(one.replace("17", "1")) == "AMD EPYC (family 25, model 1)"


def test_processors_of_two_kinds_are_both_told() -> None:
    assert processor("model name: A\n\nmodel name: B: C\n") == "A, B: C"


def test_a_file_without_names_tells_none() -> None:
    assert processor("processor\t: 0\nCPU part\t: 0xd40\n") == ""


def test_this_machine_has_a_processor_and_cores() -> None:
    found = describe_hardware()
    assert found["cpu"]
    assert found["cores"] >= 1


def test_where_there_is_a_gpu_it_is_told_whether_float32_is_multiplied_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "describe_gpus", lambda: {"gpus": []})
    assert "tf32" not in describe_hardware()
    monkeypatch.setattr(hardware, "describe_gpus", lambda: {"gpus": ["NVIDIA H200"]})
    told = []
    for precision in ("highest", "high"):
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda precision=precision: precision)
        told.append(describe_hardware()["tf32"])
    assert told == [False, True]
