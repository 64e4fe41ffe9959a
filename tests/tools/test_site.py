from pathlib import Path
from typing import Any

import pytest

from benchmarks.shared.shell import ROOT
from tools.site import anchors_of, gather, linked, links_of, main


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A README that links to a page, which links to a file, to a folder and back, and a file that nothing links to."""
    files = {
        "README.md": "[page](docs/page.md#a-heading) [out](https://example.org) [here](#top)",
        "docs/page.md": "# A heading\n[raw](../results/a.json) [all](../results/) ![](picture.png) [up](../README.md)",
        "docs/picture.png": "",
        "docs/site.css": "",
        "docs/alone.md": "",
        "results/a.json": "{}",
        "results/b.json": "{}",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_what_is_linked_is_followed_from_page_to_page(project: Path) -> None:
    found = [str(place) for place in linked(project)]
    assert found == ["README.md", "docs/page.md", "docs/picture.png", "results", "results/a.json"]


def test_what_is_gathered_lies_where_it_lies_in_the_project_and_a_folder_gets_a_page(project: Path) -> None:
    out = project / "build" / "pages"
    assert gather(project, out) == 7
    for name in ("README.md", "docs/page.md", "docs/site.css", "results/b.json"):
        assert (out / name).read_text() == (project / name).read_text()
    assert (out / "results" / "index.md").read_text() == "# results\n\n- [a.json](a.json)\n- [b.json](b.json)\n"
    assert not (out / "docs" / "alone.md").exists()


def test_a_link_that_leads_nowhere_or_out_of_the_project_is_named(project: Path) -> None:
    page = project / "docs" / "page.md"
    page.write_text("[gone](nowhere.md)")
    with pytest.raises(FileNotFoundError, match=r"docs/page.md links to nowhere.md, and there is no such file"):
        linked(project)
    page.write_text("[out](../../)")
    with pytest.raises(ValueError, match=r"docs/page.md links to ../../, which is no file of the project"):
        linked(project)


def test_nothing_is_written_into_a_folder_that_holds_something(project: Path) -> None:
    with pytest.raises(ValueError, match="docs is there and not empty; name a new folder, or delete it"):
        gather(project, project / "docs")


def test_links_in_code_and_to_other_sites_are_none_of_the_project() -> None:
    text = "[a](a.md) `[b](b.md)` [`c`](c.md#d)\n```bash\nls [e](e.md)\n```\n![f](f.png) [](https://g.org) [](mailto:h)"
    assert links_of(text) == ["a.md", "c.md#d", "f.png"]


def test_headings_are_called_as_on_github() -> None:
    text = "# One, two?\n## `data.augment`\n```bash\n# no heading\n```\n### Is it all there? `verify`, `stats`\n"
    assert anchors_of(text) == {"one-two", "dataaugment", "is-it-all-there-verify-stats"}


def test_the_projects_own_pages_are_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(ROOT)
    assert main([str(tmp_path / "pages")]) == 0
    assert capsys.readouterr().out.endswith(f" files are in {tmp_path / 'pages'}\n")
    assert (tmp_path / "pages" / "docs" / "configuration.md").exists()
    assert main([str(tmp_path / "pages")]) == 2
