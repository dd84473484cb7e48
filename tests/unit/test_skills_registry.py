"""The skill registry: what the shipped skills say, and refusal of wrong files and calls."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from policies.bundle import load_bundle
from policies.objects import load_objects
from policies.skills import ErrorCode, Pose, SkillError, World, load_skill, load_skills
from policies.skills.registry import FOLDER
from sim import tasks

OBJECTS = load_objects()
SKILLS = load_skills()


def world(peg: Pose, width_m: float = 0.08, home_error_rad: float = 0.0) -> World:
    return World(
        parts={"square_peg": peg},
        sockets={"socket_a": Pose((0.5, 0.2, 0.01)), "socket_b": Pose((0.56, 0.2, 0.01))},
        tool_position_m=(0.5, 0.0, 0.4),
        gripper_width_m=width_m,
        home_error_rad=home_error_rad,
        objects=OBJECTS,
    )


ON_TABLE, IN_SOCKET = Pose((0.4, -0.2, 0.0)), Pose((0.5, 0.2, 0.01))
INSERT = {"part": "square_peg", "socket": "socket_a"}


LEARNED = {"insert_peg": "peg_insert", "place_nut": "nut_on_post", "screw_leg": "leg_screw"}


def test_shipped_skills_load() -> None:
    assert set(SKILLS) == {*LEARNED, "go_home", "recover", "load_product", "feed_part"}
    insert = SKILLS["insert_peg"]
    assert (insert.bundle, insert.controller) == ("peg_resip", "")
    assert (insert.timeout_s, insert.retries) == (15.0, 3)
    assert ErrorCode.PART_TOPPLED in insert.error_codes
    for skill in SKILLS.values():
        assert (skill.controller == "") == (skill.kind == "learned")


def test_each_learned_skill_has_the_bundle_and_the_parameters_of_its_task() -> None:
    learned = {name: skill.task for name, skill in SKILLS.items() if skill.kind == "learned"}
    assert learned == LEARNED
    for name, task in learned.items():
        env = tasks.make(task, 1, nthread=1)
        bundle = load_bundle(SKILLS[name].bundle, hardware_hash=env.hardware_hash)
        assert (bundle.manifest.task, bundle.spec) == (task, env.spec)
        env.reset(np.array([3]))
        arguments = {"part": str(env.part[0]), "socket": str(env.socket[0])}
        arguments |= {key: str(value) for key, value in env.skill_parameters(0).items()}
        assert set(SKILLS[name].read_arguments(arguments, OBJECTS)) == set(arguments)
        # The robot gets no less time than an episode has.
        assert SKILLS[name].timeout_s >= env.max_steps / env.spec.rate_hz


def test_insertion_before_and_after() -> None:
    insert = SKILLS["insert_peg"]
    before, after = world(ON_TABLE), world(IN_SOCKET)
    assert insert.unmet_preconditions(before, INSERT) == ()
    assert not insert.succeeded(before, INSERT)
    assert [str(c) for c in insert.unmet_effects(before, INSERT)] == [
        "seated(part, socket)",
        "not socket_empty(socket)",
    ]
    assert insert.succeeded(after, INSERT)
    assert insert.unmet_effects(after, INSERT) == ()
    assert [str(c) for c in insert.unmet_preconditions(after, INSERT)] == [
        "part_free(part)",
        "socket_empty(socket)",
    ]


def test_insertion_into_a_socket_of_another_kind_is_not_started() -> None:
    wrong = {"part": "square_peg", "socket": "socket_b"}
    unmet = SKILLS["insert_peg"].unmet_preconditions(world(ON_TABLE), wrong)
    assert [str(c) for c in unmet] == ["fits(part, socket)"]


def test_success_waits_for_the_fingers_to_let_go() -> None:
    state = World(
        parts={"square_peg": IN_SOCKET},
        sockets={"socket_a": Pose((0.5, 0.2, 0.01))},
        tool_position_m=(0.5, 0.2, 0.075),
        gripper_width_m=0.02,
        home_error_rad=0.5,
        objects=OBJECTS,
    )
    assert not SKILLS["insert_peg"].succeeded(state, INSERT)


def test_scripted_and_cell_skills() -> None:
    away = world(ON_TABLE, home_error_rad=1.0)
    assert not SKILLS["go_home"].succeeded(away, {})
    assert SKILLS["recover"].succeeded(world(ON_TABLE), {})
    unmet = SKILLS["feed_part"].unmet_preconditions(away, {"part": "square_peg"})
    assert [str(c) for c in unmet] == ["at_home()"]
    assert SKILLS["load_product"].succeeded(world(ON_TABLE), {})
    assert not SKILLS["load_product"].succeeded(world(IN_SOCKET), {})


def test_arguments_are_read_by_type() -> None:
    texts = {"seed": "7", "index": "0", "level": "med"}
    assert SKILLS["load_product"].read_arguments(texts, OBJECTS) == {
        "seed": 7,
        "index": 0,
        "level": "med",
    }
    assert SKILLS["insert_peg"].read_arguments(INSERT, OBJECTS) == INSERT
    assert SKILLS["go_home"].read_arguments({}, OBJECTS) == {}


@given(st.floats(-1.0, 1.0))
def test_a_length_is_read_however_python_writes_it(length_m: float) -> None:
    nut = {"part": "square_nut", "socket": "square_post", "grasp_shift_m": repr(length_m)}
    read = SKILLS["place_nut"].read_arguments(nut, OBJECTS)["grasp_shift_m"]
    assert read == length_m


@pytest.mark.parametrize(
    ("skill", "texts", "message"),
    [
        (
            "insert_peg",
            {"part": "square_peg"},
            "insert_peg:socket: got nothing, expected one of soc",
        ),
        ("insert_peg", INSERT | {"part": "nut"}, "insert_peg:part: got 'nut', expected one of squ"),
        ("insert_peg", INSERT | {"part": "socket_a"}, "insert_peg:part: got 'socket_a', expected"),
        ("insert_peg", INSERT | {"speed": "1"}, "insert_peg:speed: got an unknown parameter"),
        ("go_home", {"part": "square_peg"}, "go_home:part: got an unknown parameter, expected no"),
        (
            "load_product",
            {"seed": "-1", "index": "0", "level": "med"},
            "load_product:seed: got '-1', expected a whole number",
        ),
        (
            "load_product",
            {"seed": "1", "index": "0", "level": "easy"},
            "load_product:level: got 'easy', expected one of low, med, high",
        ),
    ],
)
def test_bad_arguments_are_refused(skill: str, texts: dict[str, str], message: str) -> None:
    with pytest.raises(SkillError) as error:
        SKILLS[skill].read_arguments(texts, OBJECTS)
    assert message in str(error.value)


BAD: list[tuple[str, dict[str, object], str]] = [
    (
        "insert_peg",
        {"kind": "taught"},
        "kind: got 'taught', expected one of learned, scripted, cell",
    ),
    (
        "insert_peg",
        {"name": "insert"},
        "name: got 'insert', expected 'insert_peg', the name of the",
    ),
    ("insert_peg", {"timeout_s": "15"}, "timeout_s: got '15', expected a finite number above 0"),
    ("insert_peg", {"retries": True}, "retries: got True, expected a whole number, at least 0"),
    ("insert_peg", {"bundle": None}, "bundle: got None, expected a lower-case name"),
    ("insert_peg", {"controller": "pid"}, "controller: got an unknown key, expected one of bundle"),
    ("go_home", {"bundle": "peg_beso"}, "bundle: got an unknown key, expected one of controller"),
    ("insert_peg", {"parameters": {"part": "peg"}}, "parameters.part: got 'peg', expected one of"),
    ("insert_peg", {"parameters": {"Part": "part"}}, "parameters.Part: got a parameter's name"),
    ("insert_peg", {"success": []}, "success: got [], expected at least one condition"),
    ("insert_peg", {"success": "seated"}, "success: got 'seated', expected a list of texts"),
    (
        "insert_peg",
        {"success": ["seated part"]},
        "success[0]: got 'seated part', expected a condition like part_free(part)",
    ),
    (
        "insert_peg",
        {"effects": ["glued(part)"]},
        "effects[0]: got predicate 'glued', expected one of part_free, toppled",
    ),
    (
        "insert_peg",
        {"effects": ["seated(socket, part)"]},
        "effects[0]: got 'seated(socket, part)', expected parameters of the skill of the types",
    ),
    (
        "insert_peg",
        {"preconditions": ["part_free(peg)"]},
        "preconditions[0]: got 'part_free(peg)', expected parameters of the skill of the types",
    ),
    (
        "go_home",
        {"effects": ["at_home(part)"]},
        "effects[0]: got 'at_home(part)', expected parameters of the skill of the types: none",
    ),
    ("go_home", {"error_codes": ["OK"]}, "error_codes[0]: got 'OK', expected each once of REFUSED"),
    ("go_home", {"error_codes": ["STALE", "STALE"]}, "error_codes[1]: got 'STALE', expected each"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD, ids=[row[2][:40] for row in BAD])
def test_bad_file_is_refused(
    tmp_path: Path, name: str, change: dict[str, object], message: str
) -> None:
    data = yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) | change
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(SkillError) as error:
        load_skill(path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "key", ["name", "kind", "parameters", "preconditions", "effects", "retries"]
)
def test_missing_key_is_refused(tmp_path: Path, key: str) -> None:
    data = yaml.safe_load((FOLDER / "insert_peg.yaml").read_text())
    del data[key]
    path = tmp_path / "insert_peg.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(SkillError, match=f"insert_peg.yaml:{key}: got nothing, expected"):
        load_skill(path)


def test_problems_of_all_files_are_named_at_once(tmp_path: Path) -> None:
    for name in ("go_home", "recover"):
        path = tmp_path / f"{name}.yaml"
        shutil.copy(FOLDER / f"{name}.yaml", path)
        path.write_text(path.read_text().replace("timeout_s", "timeout"))
    with pytest.raises(SkillError) as error:
        load_skills(tmp_path)
    assert "go_home.yaml:timeout_s: got nothing" in str(error.value)
    assert "recover.yaml:timeout_s: got nothing" in str(error.value)
