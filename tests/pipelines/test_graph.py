"""The graph does each step once, in order, in parallel where it can, and survives what happens to workers."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.display import PlainDisplay
from pipelines.graph import StepRun, plan, run_graph
from pipelines.step import Step
from recsys.errors import ConfigError, DataError, TrainingError

pytestmark = pytest.mark.usefixtures("local_ray")


def run(steps: list[Step], out: Path, said: io.StringIO | None = None) -> dict[str, StepRun]:
    display = PlainDisplay(Console(file=said or io.StringIO(), width=200))
    return run_graph(steps, out, dataset_hash="data", display=display)


def diamond(log: Path, left: int = 2) -> list[Step]:
    """1 → (2, 3) → 4; the result of the last is (1+2) + (1+3) + 4."""
    from graph_steps import Add

    return [
        Step("top", Add(1, log), {"number": 1}),
        Step("left", Add(left, log), {"number": left}, ("top",)),
        Step("right", Add(3, log), {"number": 3}, ("top",)),
        Step("bottom", Add(4, log), {"number": 4}, ("left", "right")),
    ]


def done_in(log: Path) -> list[str]:
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def test_each_step_sees_the_output_of_its_inputs(tmp_path: Path) -> None:
    runs = run(diamond(tmp_path / "log"), tmp_path / "out")
    assert runs["bottom"].result == {"total": 11}
    assert (runs["bottom"].path / "number").read_text() == "11"
    assert list(runs) == ["top", "left", "right", "bottom"]


def test_a_second_run_does_nothing_and_a_changed_setting_only_what_follows_from_it(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    run(diamond(log), out)
    assert sorted(done_in(log)) == ["add 1", "add 2", "add 3", "add 4"]
    assert all(step.cached for step in run(diamond(log), out).values())
    assert done_in(log) == []
    changed = run(diamond(log, left=20), out)
    assert done_in(log) == ["add 20", "add 4"]
    assert [name for name, step in changed.items() if step.cached] == ["top", "right"]
    assert changed["bottom"].result == {"total": 29}


def test_a_killed_worker_is_replaced_and_its_step_resumes_from_the_checkpoint(tmp_path: Path) -> None:
    from graph_steps import DieOnce

    log = tmp_path / "log"
    done = run([Step("fragile", DieOnce(log))], tmp_path / "out")["fragile"]
    assert done_in(log) == ["killed", "finished"]
    assert done.result == {"total": 42}
    assert sorted(path.name for path in done.path.iterdir()) == ["number", "step.json"]
    assert [path.name for path in done.path.parent.iterdir()] == [done.key], "nothing of the dead attempt is left"


def test_steps_that_need_nothing_of_each_other_run_at_the_same_time(tmp_path: Path) -> None:
    from graph_steps import Meet

    steps = [Step("a", Meet(tmp_path, "a", "b")), Step("b", Meet(tmp_path, "b", "a"))]
    runs = run(steps, tmp_path / "out")
    assert [runs[name].result for name in "ab"] == [{"met": 1}, {"met": 1}]


def test_an_error_of_the_project_arrives_as_it_was_raised(tmp_path: Path) -> None:
    from graph_steps import Fail

    with pytest.raises(DataError, match="line 7: item 'x' is not an integer"):
        run([Step("bad", Fail(expected=True))], tmp_path)


def test_any_other_error_names_the_step_and_what_was_done_before_stays_done(tmp_path: Path) -> None:
    from graph_steps import Fail

    log = tmp_path / "log"
    steps = [*diamond(log), Step("bad", Fail(expected=False), {}, ("bottom",))]
    with pytest.raises(TrainingError, match=r"step bad failed: ZeroDivisionError\('by nought'\)") as failure:
        run(steps, tmp_path)
    assert "graph_steps.py" in Path(str(failure.value).split("its traceback is in ")[1]).read_text()
    done_in(log)
    with pytest.raises(TrainingError):
        run(steps, tmp_path)
    assert done_in(log) == []


def test_an_output_without_its_marker_does_not_count(tmp_path: Path) -> None:
    log = tmp_path / "log"
    top = run(diamond(log), tmp_path)["top"]
    done_in(log)
    (top.path / "step.json").unlink()
    assert not run(diamond(log), tmp_path)["top"].cached
    assert done_in(log) == ["add 1"], "its output is the same, so what follows from it stands"


def test_a_plain_log_has_a_line_for_each_start_and_end(tmp_path: Path) -> None:
    said = io.StringIO()
    run(diamond(tmp_path / "log")[:1], tmp_path, said)
    run(diamond(tmp_path / "log")[:1], tmp_path, said)
    assert "top: done in" in said.getvalue()
    assert "top: done before" in said.getvalue()


def test_keys_depend_on_settings_data_and_inputs(tmp_path: Path) -> None:
    def keys(left: int, data: str) -> dict[str, str]:
        return plan(diamond(tmp_path, left), data)

    first = keys(2, "data")
    assert keys(2, "data") == first
    assert {name for name, key in keys(20, "data").items() if key != first[name]} == {"left", "bottom"}
    assert {name for name, key in keys(2, "other").items() if key != first[name]} == set(first)


def test_a_graph_that_does_not_hold_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'left' needs 'top', which no step before it gives"):
        plan(diamond(tmp_path)[1:], "data")
    with pytest.raises(ConfigError, match="two steps are called 'top'"):
        plan([diamond(tmp_path)[0]] * 2, "data")
