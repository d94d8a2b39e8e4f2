"""What the documents say holds: their commands run, their links lead somewhere, and the house rules on files are kept.

Every command of a ```bash block is run for two steps on a small corpus, in a folder of its own. Commands that need
the network, a GPU or a path of the reader's stand in ```console blocks, after a `$`, and are not run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pydoc_data.topics import topics

import processes
import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGLISH, JAPANESE = ROOT / "README.md", ROOT / "README.ja.md"
PAGES = [ENGLISH, JAPANESE, *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALL_PREPARE = {"source": "[topics]", "tokenizer.vocabulary": "600"}
SMALL_TRAIN = {
    "model.layers": "1",
    "model.width": "32",
    "model.heads": "2",
    "data.context": "32",
    "data.batch_tokens": "256",
    "data.micro_batch": "4",
    "data.held_out_tokens": "512",
    "trainer.compile": "false",
    "trainer.accelerator": "cpu",
    "trainer.threads": "1",
    "stop_steps": "2",
}
SMALL_SWEEP = {
    **{key: value for key, value in SMALL_TRAIN.items() if key != "stop_steps"},
    "data.batch_tokens": "4096",
    "trainer.validate_every": "null",
    "callback": "[checkpoint]",
}
SMALL_EVALUATE = {"evaluation.limit": "4", "tokens": "8", "trainer.accelerator": "cpu", "trainer.threads": "1"}
FORCED_SWEEP = {"tokens": "65536", "sweep.trials": "1"}
"""A trial must reach its end, so it is not stopped but short."""
FINISHED = "python train.py tokens=512 stop_steps=null callback=none"
"""A run that reaches its end, unlike those of the documents."""
SHOWING = {"--help", "-h", "--cfg"}


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The fenced blocks of a page in these languages."""
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield text


def commands(page: Path, *languages: str) -> list[str]:
    """The commands in a page's blocks, continued lines joined, comments and output left out."""
    found: list[str] = []
    for language in languages:
        for text in blocks(page, language):
            lines = text.replace("\\\n", " ").splitlines()
            if language == "console":
                lines = [line.removeprefix("$") for line in lines if line.startswith("$ ")]
            for line in lines:
                words = shlex.split(line, comments=True)
                if words:
                    found.append(shlex.join(words))
    return found


RUN = sorted({command for page in PAGES if page.exists() for command in commands(page, "bash")})


def shortened(command: str, folder: Path, data: Path, run: Path) -> list[str]:
    """A command with what makes it small: settings it does not state itself, and places of its own."""
    words = shlex.split(command)
    if SHOWING & set(words):
        return words
    given = {word.split("=", 1)[0].lstrip("+~") for word in words}
    if "evaluate.py" in words:
        small, forced = SMALL_EVALUATE, {"run": str(run), "out": str(folder / "evaluation")}
    elif "prepare.py" in words:
        small, forced = SMALL_PREPARE, {"path": str(folder / "data")}
        if "tokenizer" in given:
            small = {"source": "[topics]"}
    elif "train.py" in words:
        small, forced = SMALL_TRAIN, {"runs": str(folder / "runs"), "data.path": str(data)}
        if any(word.startswith("sweep=") for word in words):
            small, forced = SMALL_SWEEP, {**forced, **FORCED_SWEEP}
            words = [word for word in words if word.split("=")[0] not in FORCED_SWEEP]
        if "sweep=optimizer" in words:
            forced = {**forced, "sweep.pruner.every_tokens": "16384"}
        if "model=ngram" in words:
            small = {key: value for key, value in small.items() if not key.startswith("model.")}
    else:
        return words
    return [*words, *(f"{k}={v}" for k, v in small.items() if k not in given), *(f"{k}={v}" for k, v in forced.items())]


def execute(words: list[str], place: Path, forked: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command line as a shell in this environment would; a program of ours also without Python's own start."""
    if forked and words[:2] in (["python", "train.py"], ["python", "prepare.py"], ["python", "evaluate.py"]):
        started = processes.start(place / words[1], words[2:], {"OMP_NUM_THREADS": "1"}, place)
        return subprocess.CompletedProcess(words, started.wait(300), said := started.output(), said)
    variables = {}
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words[0].partition("=")
        variables[name] = value
        words = words[1:]
    if words[0] == "python":
        words = [sys.executable, *words[1:]]
    if words[0] == "torchrun":
        words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the repository's root, with a reader's own texts in it."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("train.py", "prepare.py", "evaluate.py", "conf", "examples"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "texts").mkdir()
    for name, text in sorted(topics.items())[:40]:
        (folder / "texts" / f"{name.replace('/', '-')}.txt").write_text(f"On {name}\n\n{text}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def outcomes(place: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    """Every command run once, two at a time; the first trains the model that others evaluate.

    Each program's first in the README starts as it stands there, others from a process that has imported all they need.
    """
    data = place / "data" / "embedded"
    first = execute(
        shlex.split(f"python prepare.py path={data}") + [f"{k}={v}" for k, v in SMALL_PREPARE.items()], place
    )
    assert first.returncode == 0, first.stderr
    runs = place / "job-0" / "runs" / "nano"
    done = {FINISHED: execute(shortened(FINISHED, place / "job-0", data, runs), place)}
    jobs = [command for command in RUN if not command.startswith("make")]
    lines = [shortened(command, place / f"job-{number}", data, runs) for number, command in enumerate(jobs, 1)]
    firsts = {shlex.split(command)[1]: command for command in reversed(commands(ENGLISH, "bash"))}
    forked = [command not in firsts.values() for command in jobs]
    with ThreadPoolExecutor(2) as pool:
        return done | dict(zip(jobs, pool.map(execute, lines, [place] * len(jobs), forked), strict=True))


@pytest.mark.parametrize("command", [command for command in RUN if not command.startswith("make")])
def test_a_documented_command_runs(command: str, outcomes: dict[str, subprocess.CompletedProcess[str]]) -> None:
    done = outcomes[command]
    assert done.returncode == 0, f"{shlex.join(done.args)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_the_documented_way_to_use_a_finished_model_works(
    place: Path, outcomes: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    done = outcomes[FINISHED]
    assert done.returncode == 0, done.stderr
    (folder,) = (place / "job-0" / "runs" / "nano").iterdir()
    (code,) = (block for block in blocks(ROOT / "docs" / "guide" / "train.md", "python") if "sample(" in block)
    assert code.count("runs/nano/0123456789abcdef") == 1
    used = execute(["python", "-c", code.replace("runs/nano/0123456789abcdef", str(folder))], place)
    assert used.returncode == 0, used.stderr
    assert used.stdout


@pytest.mark.parametrize("command", [command for command in RUN if command.startswith("make")])
def test_a_documented_make_target_exists(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in shlex.split(command)[1:] if "=" not in word]
    assert targets
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"the Makefile has no target {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_fenced_block_says_what_it_is(page: Path) -> None:
    known = {"bash", "console", "python", "yaml", "text", "json", "diff"}
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") % 2 == 0, "a block is not closed"
    assert {language for language, _ in BLOCK.findall(text)} <= known
    for code in blocks(page, "python"):
        compile(code, str(page), "exec")


def test_the_readme_fits_on_two_hundred_lines() -> None:
    assert len(ENGLISH.read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("language", ["bash", "console"])
def test_the_japanese_readme_has_the_same_commands_in_the_same_order(language: str) -> None:
    assert commands(ENGLISH, language)
    assert commands(JAPANESE, language) == commands(ENGLISH, language)


def test_the_japanese_readme_has_the_same_headings_and_links() -> None:
    def outline(page: Path) -> list[int]:
        text = BLOCK.sub("", page.read_text(encoding="utf-8"))
        return [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]

    def links(page: Path) -> list[str]:
        found = [link for link in targets(page) if not link.startswith("README")]
        return sorted(found)

    assert outline(JAPANESE) == outline(ENGLISH)
    assert links(JAPANESE) == links(ENGLISH)


def targets(page: Path) -> list[str]:
    """What the links and pictures of a page point to."""
    return re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_a_relative_link_leads_to_a_file(page: Path) -> None:
    for target in targets(page):
        if not re.match(r"[a-z]+:", target) and not target.startswith("#"):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target} leads nowhere"


def repository() -> list[Path]:
    """The files that are, or would be, under version control; all but folders of tools where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    mine = ["src", "tests", "conf", "docs", "examples", "benchmarks"]
    return [path for name in mine for path in (ROOT / name).rglob("*") if path.is_file()] + list(ROOT.glob("*.*"))


def test_no_file_is_longer_than_four_hundred_lines() -> None:
    kept = {".py", ".yaml", ".toml", ".sh"}
    long = [
        f"{path.relative_to(ROOT)}: {lines}"
        for path in repository()
        if path.relative_to(ROOT).parts[0] in ("src", "tests", "benchmarks", "conf", "examples")
        and path.suffix in kept
        and (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    ]
    assert not long


def test_a_decision_record_is_short_and_has_its_three_parts() -> None:
    for page in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 40, page.name
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequence"], page.name
        assert text.startswith(f"# {page.name[:4]}: "), page.name


def test_only_tests_and_benchmarks_know_files_beside_the_repository() -> None:
    beside = "../" + "shared"
    for path in repository():
        if path.relative_to(ROOT).parts[0] not in ("tests", "benchmarks") and path.suffix != ".png":
            text = path.read_text(encoding="utf-8", errors="replace")
            assert beside not in text, f"{path.relative_to(ROOT)} mentions {beside}"
