"""`backstay demo` as a user runs it: real processes, a real kill -9, and nothing left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

WITHIN = 240.0  # seconds; about 15 on an idle machine of two cores


class Demo:
    """One run of the demo, with a temporary folder of its own to look into."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BACKSTAY_", "OPENAI_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "backstay", "demo", *arguments],
            env=kept | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            start_new_session=True,
        )
        self.text = ""

    def finish(self) -> int:
        rest, _ = self.process.communicate(timeout=WITHIN)
        self.text += rest
        return self.process.returncode

    def read_until(self, words: str) -> None:
        deadline = time.monotonic() + WITHIN
        assert self.process.stdout is not None
        while words not in self.text:
            piece = self.process.stdout.readline()
            assert piece, f"it ended before it said {words!r}:\n{self.text}"
            assert time.monotonic() < deadline, self.text
            self.text += piece

    def left(self) -> list[str]:
        """What is still there of it: processes that work in its folder, and folders."""
        found = [path.name for path in self.folder.iterdir() if path.name.startswith("backstay-demo-")]
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to(self.folder) and process.pid != os.getpid():
                    found.append(f"{process.pid} {' '.join(process.cmdline())}")
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where temporary folders go; its path is short, as such paths are."""
    with tempfile.TemporaryDirectory(prefix="bs-") as place:
        yield Path(place)


@pytest.fixture
def demo(folder: Path) -> Iterator[object]:
    made: list[Demo] = []

    def make(*arguments: str, **environment: str) -> Demo:
        made.append(Demo(folder, *arguments, **environment))
        return made[-1]

    yield make
    for one in made:
        if one.process.poll() is None:
            one.process.terminate()
            one.process.communicate(timeout=60)


def test_the_demo_answers_survives_a_kill_and_proves_it(demo):
    run = demo()
    code = run.finish()
    assert code == 0, run.text
    text = run.text
    assert "not a language model" in text, "the simulator has to be labelled"
    assert text.count("\n  Q ") == 3
    assert re.search(r"kill -9 \d+: the worker is dead in the middle of the answer", text)
    assert re.search(r"search +step +finished +once +completed", text)
    assert re.search(r"model +step +under way +2 times +completed", text)
    assert re.search(r"store +transaction +not begun +once +completed", text)
    assert re.search(r"^ +ask +3 ", text, re.MULTILINE)
    assert re.search(r"(\d+) provider calls: \1 audit entries of a start", text)
    assert "\x1b[" not in text, "no colours where nobody sees them"
    assert run.left() == []


def test_it_reports_as_json_about_documents_and_questions_of_the_users_own(demo, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "tea.md").write_text(
        "# Tea\n\nGreen tea is steeped for two minutes at eighty degrees. Black tea is steeped for four minutes, "
        "with water that has just boiled. Whoever forgets the pot for ten minutes will drink something bitter."
    )
    run = demo("--docs", str(docs), "--ask", "For how many minutes is black tea steeped?", "--json", "--keep")
    assert run.finish() == 0, run.text
    report = json.loads(run.text)
    assert report["failures"] == []
    assert report["documents"] == 1
    assert "four minutes" in report["answers"][0]["text"]
    assert report["resumed_run"] == report["answers"][0]["run"]
    assert {step["name"]: step["attempt"] for step in report["steps"]} == {"search": 1, "model": 2, "store": 1}
    kept = Path(report["folder"])
    assert (kept / "worker-1.log").exists()
    assert run.left() == [kept.name], "the folder was to be kept, the processes were not"


@pytest.mark.parametrize("moment", ["Backstay demo", "answers after", "\n  Q "])
def test_ctrl_c_at_any_moment_leaves_nothing_and_no_traceback(demo, moment):
    run = demo()
    run.read_until(moment)
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 130, run.text
    assert "Traceback" not in run.text
    assert "stopped" in run.text
    assert run.left() == []


def test_a_folder_without_documents_is_one_line_with_the_mend(demo, tmp_path):
    run = demo("--docs", str(tmp_path / "nowhere"))
    assert run.finish() == 1
    assert run.text.strip().splitlines() == [
        f"backstay: {tmp_path}/nowhere is not a folder; --docs wants a folder of Markdown or text"
    ]


def test_a_model_that_does_not_exist_fails_clearly_and_leaves_nothing(demo):
    run = demo("--model", "sim:nobody", "--ask", "Why?")
    assert run.finish() == 1
    assert "there is no model sim:nobody" in run.text
    assert "Traceback" not in run.text
    assert run.left() == []
