"""The assembly's behaviour tree on a scripted port: order, retries, recovery, feeding, counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from dovetail_scheduler.evaluation import Episodes, EpisodeStart, EpisodeTruth, run_episodes
from dovetail_scheduler.journal import Journal, SkillOutcome
from dovetail_scheduler.recipe import FOLDER, RecipeError, load_recipe
from dovetail_scheduler.summary import progress_lines
from dovetail_scheduler.tree import Assembly
from py_trees.behaviour import Behaviour
from py_trees.common import Status

from policies.objects import load_objects
from policies.skills.registry import Argument, Skill, load_skills
from policies.skills.world import Pose, World

OBJECTS, SKILLS = load_objects(), load_skills()
RECIPE = load_recipe(FOLDER / "peg_board.yaml", OBJECTS)
SOCKETS = {name: Pose((0.5 + 0.06 * i, 0.2, 0.01)) for i, name in enumerate(OBJECTS.sockets)}
TABLE = {name: Pose((0.4 + 0.15 * i, -0.2, 0.0)) for i, name in enumerate(OBJECTS.parts)}
LYING = Pose((0.4, -0.1, 0.01), (0.7071, 0.0, 0.0, 0.7071))


@dataclass
class ScriptedCall:
    """Ends at the second poll."""

    outcome: SkillOutcome
    polls: int = 0
    cancelled: bool = False

    def poll(self) -> SkillOutcome | None:
        self.polls += 1
        return self.outcome if self.polls > 1 else None

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class ScriptedCell:
    """A cell where skills do at once what they promise, unless the script says otherwise.

    Attributes:
        script: outcomes of the next calls of insert_peg; OK when it is used up.
        calls: names of the skills called.
        blind: whether nothing is perceived.
    """

    script: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    started: list[ScriptedCall] = field(default_factory=list)
    blind: bool = False
    time_s: float = 0.0
    seen: World = field(
        default_factory=lambda: World(TABLE, SOCKETS, (0.4, 0.0, 0.3), 0.08, 0.0, OBJECTS)
    )

    def now_s(self) -> float:
        self.time_s += 0.05
        return self.time_s

    def world(self) -> World | None:
        return None if self.blind else self.seen

    def start(
        self, skill: Skill, arguments: Mapping[str, Argument], seed: int | None = None
    ) -> ScriptedCall:
        self.calls.append(skill.name)
        outcome = SkillOutcome(True, "OK", seconds=1.0)
        parts = dict(self.seen.parts)
        if skill.name == "load_product":
            parts = dict(TABLE)
        elif skill.name == "feed_part":
            parts[str(arguments["part"])] = TABLE[str(arguments["part"])]
        elif skill.name == "insert_peg":
            part, socket = str(arguments["part"]), str(arguments["socket"])
            code = self.script.pop(0) if self.script else "OK"
            if code in ("OK", "LATE"):
                parts[part] = SOCKETS[socket]
            elif code == "PART_TOPPLED":
                parts[part] = LYING
            if code != "OK":
                outcome = SkillOutcome(False, code, "as scripted", 2.0)
        self.seen = replace(self.seen, parts=parts)
        self.started.append(ScriptedCall(outcome))
        return self.started[-1]


def run(cell: ScriptedCell, count: int = 1) -> tuple[Journal, Behaviour]:
    """Ticks an assembly to its end."""
    journal = Journal(lambda line: None)
    tree = Assembly(cell, journal, SKILLS, RECIPE).tree(count, seed=5, level="low")
    for _ in range(2000):
        tree.tick_once()
        if tree.status != Status.RUNNING:
            return journal, tree
    raise AssertionError("the tree does not end")


def test_two_products_in_order() -> None:
    cell = ScriptedCell()
    journal, tree = run(cell, count=2)
    product = ["load_product", "insert_peg", "go_home", "insert_peg", "go_home"]
    assert cell.calls == product * 2
    assert tree.status == Status.SUCCESS
    assert journal.completed == 2
    report = journal.to_dict()
    assert report["skills"]["insert_peg"]["successes"] == 4
    assert {name: skill["kind"] for name, skill in report["skills"].items()} == {
        "load_product": "cell",
        "insert_peg": "learned",
        "go_home": "scripted",
    }


def test_failed_insertion_is_recovered_and_retried() -> None:
    cell = ScriptedCell(script=["TIMEOUT"])
    journal, _ = run(cell)
    assert cell.calls[:5] == ["load_product", "insert_peg", "recover", "insert_peg", "go_home"]
    assert journal.completed == 1
    insert = journal.to_dict()["skills"]["insert_peg"]
    assert (insert["attempts"], insert["successes"]) == (3, 2)
    assert insert["error_codes"] == {"TIMEOUT": 1}


def test_toppled_part_is_fed_anew_and_counted() -> None:
    cell = ScriptedCell(script=["PART_TOPPLED"])
    journal, _ = run(cell)
    assert cell.calls[1:5] == ["insert_peg", "recover", "feed_part", "insert_peg"]
    assert journal.completed == 1
    assert journal.to_dict()["parts_refed"] == 1
    assert journal.products[0].refed == ["round_peg"]


def test_part_found_seated_after_a_failure_is_not_inserted_again() -> None:
    cell = ScriptedCell(script=["LATE"])
    journal, _ = run(cell)
    assert cell.calls == ["load_product", "insert_peg", "recover", "insert_peg", "go_home"]
    assert journal.completed == 1


def test_attempts_are_bounded_and_the_next_product_is_tried() -> None:
    attempts = 1 + SKILLS["insert_peg"].retries
    cell = ScriptedCell(script=["TIMEOUT"] * attempts)
    journal, _ = run(cell, count=2)
    assert [product.completed for product in journal.products] == [False, True]
    assert journal.products[0].attempts["insert_peg"] == attempts


def test_false_success_is_found_out() -> None:
    class Boaster(ScriptedCell):
        def start(self, skill: Skill, arguments: Mapping[str, Argument], seed=None):  # type: ignore[no-untyped-def]
            before = self.seen
            call = super().start(skill, arguments, seed)
            if skill.name == "insert_peg":
                self.seen = before
            return call

    cell = Boaster()
    journal, _ = run(cell)
    assert journal.completed == 0
    assert set(journal.skills["insert_peg"].codes) == {"POSTCONDITION"}


def test_nothing_moves_without_a_view_of_the_world() -> None:
    cell = ScriptedCell(blind=True)
    journal, _ = run(cell)
    assert cell.calls == []
    assert journal.skills["recover"].codes["STALE"] == 1 + SKILLS["recover"].retries


def test_stopping_the_tree_cancels_the_running_skill() -> None:
    cell = ScriptedCell()
    tree = Assembly(cell, Journal(lambda line: None), SKILLS, RECIPE).tree(1, 0, "low")
    while not cell.started:
        tree.tick_once()
    tree.stop(Status.INVALID)
    assert cell.started[-1].cancelled


@dataclass
class Ready:
    """An answer that is there at once."""

    value: object

    def poll(self) -> object:
        return self.value


class EpisodeCell(ScriptedCell):
    """Adds evaluation episodes: odd seeds never end by themselves and are not inserted."""

    def reset(self, task: str, seed: int, level: str) -> Ready:
        self.now_seed = seed
        return Ready(EpisodeStart("round_peg", "socket_b", 1.0))

    def start(self, skill: Skill, arguments: Mapping[str, Argument], seed: int | None = None):  # type: ignore[no-untyped-def]
        call = super().start(skill, arguments, seed)
        if self.now_seed % 2:
            poll = call.poll
            cancelled = SkillOutcome(False, "CANCELLED")
            call.poll = lambda: cancelled if call.cancelled else (poll(), None)[1]  # type: ignore[method-assign]
        return call

    def truth(self, part: str, socket: str) -> Ready:
        depths_m = (2e-5,) * 20 if self.now_seed == 4 else (1e-5,)
        return Ready(EpisodeTruth(self.now_seed % 2 == 0, depths_m, self.now_seed))

    def machine_s(self) -> float:
        return self.now_s()


def test_episodes_are_judged_by_the_truth_and_limited_in_time() -> None:
    cell, journal, episodes = EpisodeCell(), Journal(lambda line: None), Episodes()
    skill = SKILLS["insert_peg"]
    list(run_episodes(cell, journal, skill, "peg_insert", range(4, 7), "low", episodes))
    assert [(e["seed"], e["success"]) for e in episodes.results] == [
        (4, True),
        (5, False),
        (6, True),
    ]
    assert episodes.results[1]["error_code"] == "TIMEOUT"
    assert episodes.successes == 2
    assert [e["penetration_p95_mm"] for e in episodes.results] == [0.02, 0.01, 0.01]
    # Of all ticks in contact together, as the direct run has it, not of the worst episode.
    measures = {"penetration_p95_mm": 0.02, "peak_force_p95_n": 5.9, "peak_force_max_n": 6}
    assert episodes.measures() == measures
    assert set(Episodes().measures().values()) == {None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {part: round_peg, socket: socket_a}", "steps[0].socket: got 'socket_a', expected"),
        (
            "- {part: square_peg, socket: socket_a}\n- {part: square_peg, socket: socket_c}",
            "steps[1].part: got 'square_peg', expected a part that no other step has",
        ),
        ("- {part: anvil, socket: socket_a}", "steps[0].part: got 'anvil', expected"),
    ],
)
def test_bad_recipe(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"name: bad\nsteps:\n{text}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, OBJECTS)
    assert message in str(caught.value)


def test_what_a_person_reads_is_as_wide_as_a_terminal_beside_the_prefix_of_launch() -> None:
    text = "insert_peg square_peg, socket_a TIMEOUT: after 15 s not true: seated(part, socket)"
    lines = progress_lines(19.84, text)
    assert lines[0].startswith("  19.8 s  insert_peg") and all(len(line) <= 66 for line in lines)
    assert " ".join(line.strip() for line in lines) == f"19.8 s  {text}"
    assert all(line.startswith(" " * 10) for line in lines[1:])
