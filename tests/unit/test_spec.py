"""The spec: round trips, and refusal of what does not follow it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.spec import Field, Spec, SpecError

SPEC = Spec(
    observation=(
        Field("observation.state", (2,), "rad", "none", ("a", "b")),
        Field("observation.images.front", (2, 3), "1", "front"),
    ),
    goal=(Field("goal.point", (1,), "m", "base"),),
    action=(Field("action", (7,), "m,rad,m", "tool"),),
    rate_hz=10.0,
)


def fields(group: str) -> st.SearchStrategy[list[Field]]:
    """Lists of fields of a group with names of their own."""
    shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3)
    words = st.from_regex(r"[a-z0-9_]{1,6}", fullmatch=True)

    def build(word: str, shape: list[int], named: bool) -> Field:
        names = tuple(f"c{i}" for i in range(int(np.prod(shape)))) if named else ()
        return Field(f"{group}.{word}", tuple(shape), "m", "base", names)

    return st.lists(
        st.builds(build, words, shapes, st.booleans()),
        min_size=0 if group == "goal" else 1,
        max_size=4,
        unique_by=lambda field: field.name,
    )


specs = st.builds(
    lambda observation, goal, action, rate_hz: Spec(
        tuple(observation), tuple(goal), tuple(action), rate_hz
    ),
    fields("observation"),
    fields("goal"),
    fields("action"),
    st.floats(0.1, 1000.0),
)


@given(specs)
def test_survives_json(spec: Spec) -> None:
    assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@given(specs, st.integers(0, 3), st.randoms())
def test_flattening_is_undone_by_splitting_in_any_order_of_the_input(
    spec: Spec, batch: int, random: Any
) -> None:
    rng = np.random.default_rng(random.randrange(1000))
    values = {
        field.name: rng.standard_normal((batch, *field.shape)).astype(np.float32)
        for field in spec.input_fields
    }
    shuffled = list(values.items())
    random.shuffle(shuffled)
    flat = spec.flatten_observation(dict(shuffled))
    assert flat.shape == (batch, spec.input_size)
    assert flat.dtype == np.float32
    for name, array in spec.split_observation(flat).items():
        np.testing.assert_array_equal(array, values[name])


def test_sizes_and_order() -> None:
    assert (SPEC.observation_size, SPEC.goal_size, SPEC.input_size) == (8, 1, 9)
    assert SPEC.action_size == 7
    flat = SPEC.flatten_observation(
        {
            "goal.point": [[9]],
            "observation.images.front": np.arange(3, 9).reshape(1, 2, 3),
            "observation.state": [[1.0, 2.0]],
        }
    )
    np.testing.assert_array_equal(flat, np.arange(1, 10)[None])


GOOD: dict[str, Any] = {
    "observation.state": np.zeros((4, 2)),
    "observation.images.front": np.zeros((4, 2, 3)),
    "goal.point": np.zeros((4, 1)),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goal.point": None}, "spec:goal.point: got nothing, expected shape (4, 1)"),
        ({"goal.pose": np.zeros((4, 1))}, "spec:goal.pose: got an unknown field, expected one of"),
        (
            {"observation.state": np.zeros((4, 3))},
            "spec:observation.state: got shape (4, 3), expected shape (N, 2)",
        ),
        ({"goal.point": np.zeros(4)}, "spec:goal.point: got shape (4,), expected shape (4, 1)"),
        (
            {"observation.images.front": np.zeros((4, 3, 2))},
            "spec:observation.images.front: got shape (4, 3, 2), expected shape (4, 2, 3)",
        ),
        (
            {"goal.point": np.zeros((3, 1))},
            "spec:goal.point: got shape (3, 1), expected shape (4, 1)",
        ),
        (
            {"goal.point": np.array([[0], [0], [np.nan], [0]])},
            "spec:goal.point[2,0]: got nan, expected a finite value",
        ),
        ({"goal.point": np.full((4, 1), 1e39)}, "spec:goal.point[0,0]: got inf, expected a finite"),
        (
            {"goal.point": np.zeros((4, 1), bool)},
            "spec:goal.point: got type bool, expected numbers",
        ),
        ({"goal.point": [["1"]] * 4}, "spec:goal.point: got type <U1, expected numbers"),
    ],
)
def test_values_that_do_not_follow_the_spec_are_refused(
    change: dict[str, Any], message: str
) -> None:
    values = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(SpecError) as error:
        SPEC.flatten_observation(values)
    assert message in str(error.value)


@pytest.mark.parametrize("shape", [(9,), (2, 8), (1, 3, 3)])
def test_splitting_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match=r"expected \(N, 9\)"):
        SPEC.split_observation(np.zeros(shape))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("name", "state", "action[0].name: got 'state', expected a lower-case name like action"),
        ("name", "action.X", "action[0].name: got 'action.X'"),
        ("shape", [], "action[0].shape: got [], expected at least one axis"),
        ("shape", [0], "action[0].shape: got [0], expected a list of whole numbers, each at least"),
        ("shape", [True], "action[0].shape: got [True], expected a list of whole numbers"),
        ("shape", 7, "action[0].shape: got 7, expected a list of whole numbers"),
        ("unit", "", "action[0].unit: got '', expected a text that is not empty"),
        ("frame", None, "action[0].frame: got None, expected a text that is not empty"),
        ("names", ["x"], "action[0].names: got ['x'], expected 7 different names"),
        ("names", ["x"] * 7, "expected 7 different names, one per component, or none"),
        ("scale", 1, "action[0].scale: got an unknown key, expected one of frame, name"),
    ],
)
def test_bad_field_is_refused(key: str, value: object, message: str) -> None:
    data = SPEC.to_dict()
    data["action"][0][key] = value
    with pytest.raises(SpecError) as error:
        Spec.from_dict(data, "bundle/manifest.json:spec")
    assert str(error.value).startswith("bundle/manifest.json:spec:")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rate_hz", 0, "spec:rate_hz: got 0, expected a finite number above 0"),
        ("rate_hz", "10", "spec:rate_hz: got '10', expected a finite number above 0"),
        ("action", [], "spec:action: got [], expected a list of at least 1 of mappings"),
        ("goal", {}, "spec:goal: got {}, expected a list of mappings"),
        ("goal", [5], "spec:goal[0]: got 5, expected a mapping"),
        ("extra", 1, "spec:extra: got an unknown key, expected one of action, goal"),
    ],
)
def test_bad_spec_is_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(SpecError) as error:
        Spec.from_dict(SPEC.to_dict() | {key: value})
    assert message in str(error.value)


def test_a_name_is_used_once_and_the_constructor_checks_too() -> None:
    with pytest.raises(SpecError, match=r"observation\[1\].name: .* that no other field has"):
        Spec(SPEC.observation[:1] * 2, (), SPEC.action, 10.0)
    with pytest.raises(SpecError, match="rate_hz: got nan, expected a finite number above 0"):
        Spec(SPEC.observation, (), SPEC.action, float("nan"))
