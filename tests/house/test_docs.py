"""Do the pages speak of what exists? Their links, keys and files are compared with the disk and the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from shardwright.cli import main
from shardwright.jobs.fields import keys, section_types

LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
SECTION = re.compile(r"^### \[(\w+)\]\n(.*?)(?=^##|\Z)", re.M | re.S)
ROW = re.compile(r"^\| `(\w+)` \|", re.M)
PAGES = ("README.md", "CONTRIBUTING.md", "docs")


def pages(root: Path) -> list[Path]:
    """Every page of the project."""
    return sorted(
        page for name in PAGES for page in ([root / name] if name.endswith(".md") else (root / name).glob("*.md"))
    )


def test_every_link_to_a_file_leads_there(root: Path) -> None:
    links = {(page, link) for page in pages(root) for link in LINK.findall(page.read_text())}
    assert len(links) > 10
    assert not [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]


def test_the_page_on_the_job_file_names_every_key_and_no_other(root: Path) -> None:
    text = (root / "docs" / "job-file.md").read_text()
    written = {section: ROW.findall(body) for section, body in SECTION.findall(text)}
    assert written == {section: list(keys(section, options)) for section, options in section_types().items()}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_file_that_a_page_names_is_there(page: str, root: Path) -> None:
    named = re.findall(r"`((?:\w+/)+\w+\.(?:py|toml|md))`", (root / page).read_text())
    made_up = [name for name in named if "/NAME/" in name or "/highway/" in name]  # of an entry that somebody adds
    assert not [name for name in named if name not in made_up and not (root / name).exists()]


@pytest.mark.slow
def test_the_example_of_your_own_model_trains_as_it_stands(root: Path, tmp_path: Path) -> None:
    text = (root / "docs" / "bring-your-own.md").read_text()
    for language, name in (("python", "mine.py"), ("toml", "mine.toml")):
        (block,) = re.findall(rf"```{language}\n(.*?)```", text, re.S)
        (tmp_path / name).write_text(block)
    command = [Path(sys.executable).parent / "shardwright", "run", "mine.toml", "train.steps=3"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "runs" / "mine-1" / "checkpoints").glob("step-000000003/manifest.json"))
    assert list((tmp_path / "runs" / "mine-1" / "code").glob("*/mine.py"))


def test_the_table_names_every_verb_and_no_other(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = re.search(r"^\| verb \|.*?\n\n", (root / "README.md").read_text(), re.M | re.S)
    assert table
    written = {
        verb for row in table[0].strip().splitlines()[2:] for verb in re.findall(r"`([a-z]+)", row.split("|")[1])
    }
    with pytest.raises(SystemExit):
        main(["--help"])
    said = set(re.findall(r"^    ([a-z]+) ", capsys.readouterr().out, re.M))
    assert written == said


def test_the_page_on_the_run_folder_names_every_kind_of_event(root: Path) -> None:
    floors = (path for floor in ("trainers", "jobs", "cluster") for path in (root / floor).rglob("*.py"))
    told = {kind for path in floors for kind in re.findall(r'\b_?(?:tell|sink)\(\s*"(\w+)"', path.read_text())}
    assert {"start", "step", "death", "give_up"} <= told
    page = (root / "docs" / "run-folder.md").read_text()
    assert told <= {kind for row in re.findall(r"^\| (`.*?) \|", page, re.M) for kind in re.findall(r"`(\w+)`", row)}
