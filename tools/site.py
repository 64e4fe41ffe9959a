"""Gathers the documentation for the site that `make docs` builds.

    python -m tools.site build/site-pages

Takes README.md and every page and file that it and they link to, at the same places as in the project, so that every
link leads where it leads there. A folder that is linked to comes with the files in it and a page that lists them. Start
from the project's root.

Exit codes: 0 done, 2 a link that leads nowhere, or a folder that cannot be written (one line on stderr says which).
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from engine.command_line import Parser
from tools.command import answer

STYLE = Path("docs/site.css")

_CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(\s*([^)\s]+)\s*\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def links_of(text: str) -> list[str]:
    """The relative links and pictures of a page in Markdown, with what stands behind ``#``."""
    found = _LINK.findall(_CODE.sub(lambda code: "" if code[0].startswith("```") else "`", text))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors_of(text: str) -> set[str]:
    """What its headings are called in links."""
    headings = _HEADING.findall(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def linked(root: Path) -> list[Path]:
    """README.md, and every file and folder that it, or a page that it leads to, links to: relative to ``root``, sorted.

    Raises:
        FileNotFoundError: a link that leads nowhere; the message names it and its page.
        ValueError: a link that leads out of the project.
    """
    found, waiting = set[Path](), [Path("README.md")]
    while waiting:
        page = waiting.pop()
        found.add(page)
        if page.suffix != ".md":
            continue
        for link in links_of((root / page).read_text()):
            target = (root / page).parent / link.partition("#")[0] if not link.startswith("#") else root / page
            if not target.exists():
                raise FileNotFoundError(f"{page} links to {link}, and there is no such file")
            if not target.resolve().is_relative_to(root.resolve()):
                raise ValueError(f"{page} links to {link}, which is no file of the project")
            inside = target.resolve().relative_to(root.resolve())
            if inside not in found:
                waiting.append(inside)
    return sorted(found)


def gather(root: Path, out: Path) -> int:
    """Copy what is ``linked`` of the project at ``root``, and the site's style, into the new folder ``out``.

    Returns the number of files. Raises what ``linked`` raises, ValueError where ``out`` holds something, and OSError
    where it cannot be written.
    """
    places = [*linked(root), STYLE]
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there and not empty; name a new folder, or delete it")
    for place in places:
        files = [place]
        if (root / place).is_dir():
            files = sorted(one.relative_to(root) for one in (root / place).iterdir() if one.is_file())
            (out / place).mkdir(parents=True, exist_ok=True)
            (out / place / "index.md").write_text(_listing(place, files))
        for name in files:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, out / name)
    return sum(one.is_file() for one in out.rglob("*"))


def _listing(folder: Path, files: list[Path]) -> str:
    return f"# {folder}\n\n" + "".join(f"- [{file.name}]({file.name})\n" for file in files)


def main(arguments: Sequence[str] | None = None) -> int:
    """Gather the pages, and say how many files there are."""
    parser = Parser.of("tools.site", __doc__)
    parser.add_argument("out", type=Path, metavar="DIR", help="a new folder, or an empty one")
    return answer(lambda: parser.parse_args(arguments).out, lambda out: f"{gather(Path(), out)} files are in {out}")


if __name__ == "__main__":
    raise SystemExit(main())
