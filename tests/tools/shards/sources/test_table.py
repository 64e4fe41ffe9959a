import pkgutil
from pathlib import Path

import pytest

from tools.shards import sources
from tools.shards.sources.table import KINDS, allowed_forms, open_source, sources_help


def test_unknown_sources_are_told_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown source 'folder:x'; allowed are fashion-mnist"):
        open_source("folder:x", tmp_path)
    with pytest.raises(ValueError, match="'csv' needs a place after a colon"):
        open_source("csv", tmp_path)


def test_every_file_of_the_folder_is_a_kind_of_source() -> None:
    files = {module.name for module in pkgutil.iter_modules(sources.__path__)} - {
        "source",
        "table",
        "split_map",
        "junk",
    }
    assert {kind.open.__module__.rpartition(".")[2] for kind in KINDS.values()} == files
    assert [kind.name for kind in KINDS.values()] == list(KINDS)


def test_help_and_errors_name_every_form_in_one_order() -> None:
    forms = [form for kind in KINDS.values() for form in kind.forms]
    assert allowed_forms() == ", ".join(forms)
    assert forms[:3] == ["fashion-mnist", "fashion-mnist:DIR", "imagefolder:DIR"]
    assert [sources_help().index(form) for form in forms] == sorted(sources_help().index(form) for form in forms)
    assert "csv:FILE (columns path,label), parquet:DIR (columns image,label)" in sources_help()
