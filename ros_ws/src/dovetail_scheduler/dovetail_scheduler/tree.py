"""The behaviour tree of an assembly: skills in order, checked before and after, retried, recovered.

Nothing here knows ROS. A Port starts skills and shows the world; the node has one that calls action
and services, a test one that follows a script. An insertion that fails is followed by ``recover``;
a part that is not standing free is fed anew before the next attempt; the number of attempts is
bounded by the skill's registry entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from py_trees.behaviour import Behaviour
from py_trees.common import Status
from py_trees.composites import Selector, Sequence
from py_trees.decorators import FailureIsSuccess, Retry

from dovetail_scheduler.journal import Journal, ProductRecord, SkillOutcome
from dovetail_scheduler.recipe import Insertion, Recipe
from policies.skills.predicates import at_home, gripper_empty, part_free, seated
from policies.skills.registry import Argument, ErrorCode, Skill
from policies.skills.world import World

# Robot time to wait for a fresh look at the world before judging that there is none.
WORLD_TIMEOUT_S = 3.0
# Robot time within which the effects of a skill have to show.
SETTLE_S = 1.0
POSTCONDITION = "POSTCONDITION"


class Call(Protocol):
    """A skill that was started."""

    def poll(self) -> SkillOutcome | None:
        """Its outcome, or None while it runs."""

    def cancel(self) -> None:
        """Asks it to end."""


class Port(Protocol):
    """How the tree acts on the robot and the cell."""

    def start(self, skill: Skill, arguments: Mapping[str, Argument]) -> Call:
        """Starts a skill."""

    def world(self) -> World | None:
        """The newest perceived world, or None when it is missing or stale."""

    def now_s(self) -> float:
        """Robot time."""


class RunSkill(Behaviour):
    """Runs one skill; fails unless it reports success and its effects hold afterwards."""

    def __init__(
        self, port: Port, journal: Journal, skill: Skill, arguments: Mapping[str, Argument]
    ) -> None:
        self._what = ", ".join(str(value) for value in arguments.values())
        super().__init__(f"{skill.name}({self._what})")
        self._port, self._journal = port, journal
        self._skill, self._arguments = skill, arguments
        self._call: Call | None = None
        self._outcome: SkillOutcome | None = None
        self._began_s = 0.0

    def initialise(self) -> None:
        """Starts to wait for a look at the world."""
        self._began_s = self._port.now_s()
        self._call, self._outcome = None, None

    def update(self) -> Status:
        """Checks the preconditions, follows the skill, then checks its effects."""
        if self._call is not None and self._outcome is None:
            self._outcome = self._call.poll()
            if self._outcome is None:
                return Status.RUNNING
            self._began_s = self._port.now_s()
        if self._outcome is not None and not self._outcome.success:
            return self._end(self._outcome)
        world = self._port.world()
        if world is None:
            if self._port.now_s() - self._began_s < WORLD_TIMEOUT_S:
                return Status.RUNNING
            return self._end(SkillOutcome(False, ErrorCode.STALE.value, "no fresh world state"))
        if self._outcome is None:
            return self._start(world)
        unmet = self._skill.unmet_effects(world, self._arguments)
        if unmet:
            # The reading may still be from before the skill's end.
            if self._port.now_s() - self._began_s < SETTLE_S:
                return Status.RUNNING
            text = "afterwards not true: " + ", ".join(map(str, unmet))
            self._outcome = replace(self._outcome, success=False, code=POSTCONDITION, message=text)
        return self._end(self._outcome)

    def terminate(self, new_status: Status) -> None:
        """Cancels the skill when the tree is stopped meanwhile."""
        if new_status == Status.INVALID and self._call is not None:
            self._call.cancel()
            self._call = None

    def _start(self, world: World) -> Status:
        unmet = self._skill.unmet_preconditions(world, self._arguments)
        if unmet:
            text = "not true: " + ", ".join(map(str, unmet))
            return self._end(SkillOutcome(False, ErrorCode.PRECONDITION.value, text))
        self._journal.note(f"{self._skill.name} {self._what}".rstrip() + " ...")
        self._call = self._port.start(self._skill, self._arguments)
        return Status.RUNNING

    def _end(self, outcome: SkillOutcome) -> Status:
        self._call = None
        self._journal.skill(self._skill.name, self._skill.kind, self._what, outcome)
        if self._journal.products:
            product = self._journal.products[-1]
            product.attempts[self._skill.name] += 1
            if self._skill.name == "feed_part" and outcome.success:
                product.refed.append(str(self._arguments["part"]))
        return Status.SUCCESS if outcome.success else Status.FAILURE


class Holds(Behaviour):
    """Whether something is true of the world, as soon as there is a fresh look at it."""

    def __init__(self, port: Port, name: str, test: Callable[[World], bool]) -> None:
        super().__init__(name)
        self._port, self._test = port, test
        self._began_s = 0.0

    def initialise(self) -> None:
        """Starts to wait for a look at the world."""
        self._began_s = self._port.now_s()

    def update(self) -> Status:
        """What is not perceived is not true."""
        world = self._port.world()
        if world is None and self._port.now_s() - self._began_s < WORLD_TIMEOUT_S:
            return Status.RUNNING
        return Status.SUCCESS if world is not None and self._test(world) else Status.FAILURE


class BeginProduct(Behaviour):
    """Opens the record of a product."""

    def __init__(self, port: Port, journal: Journal, index: int, count: int) -> None:
        super().__init__(f"begin product {index + 1}")
        self._port, self._journal, self._index, self._count = port, journal, index, count

    def update(self) -> Status:
        """Always succeeds."""
        self._journal.products.append(ProductRecord(self._index, seconds=-self._port.now_s()))
        self._journal.note(f"product {self._index + 1} of {self._count}")
        return Status.SUCCESS


class EndProduct(Behaviour):
    """Closes the record of a product, finished or not."""

    def __init__(self, port: Port, journal: Journal, completed: bool) -> None:
        super().__init__("finished" if completed else "not finished")
        self._port, self._journal, self._completed = port, journal, completed

    def update(self) -> Status:
        """Succeeds when the product was finished."""
        product = self._journal.products[-1]
        product.completed = self._completed
        product.seconds += self._port.now_s()
        state = "finished" if self._completed else "NOT finished"
        self._journal.note(f"product {product.index + 1} {state} ({product.seconds:.1f} s)")
        return Status.SUCCESS if self._completed else Status.FAILURE


class Assembly:
    """Builds the tree of an assembly.

    Args:
        port: acts and perceives.
        journal: takes the records.
        skills: the registry.
        recipe: of one product.
    """

    def __init__(
        self, port: Port, journal: Journal, skills: Mapping[str, Skill], recipe: Recipe
    ) -> None:
        self._port, self._journal = port, journal
        self._skills, self._recipe = skills, recipe

    def tree(self, count: int, seed: int, level: str) -> Behaviour:
        """All products in turn; one that fails does not keep the next from being tried."""
        products = [
            FailureIsSuccess(f"product {index + 1}", self._product(index, count, seed, level))
            for index in range(count)
        ]
        return Sequence("assembly", memory=True, children=products)

    def _product(self, index: int, count: int, seed: int, level: str) -> Behaviour:
        port, journal = self._port, self._journal
        load = {"seed": seed, "index": index, "level": level}
        work: list[Behaviour] = [self._ready(), self._retried("load_product", load)]
        work += [self._insertion(step) for step in self._recipe.steps]
        work.append(self._seated(*self._recipe.steps))
        work.append(EndProduct(port, journal, completed=True))
        attempt = Selector(
            "attempt",
            memory=True,
            children=[
                Sequence("assemble", memory=True, children=work),
                EndProduct(port, journal, completed=False),
            ],
        )
        begin = BeginProduct(port, journal, index, count)
        return Sequence(f"product {index + 1}", memory=True, children=[begin, attempt])

    def _insertion(self, step: Insertion) -> Behaviour:
        """Insert, and on failure recover and try again as often as the skill allows."""
        where = {"part": step.part, "socket": step.socket}
        insert = self._skills["insert_peg"]
        attempt = Sequence(
            f"attempt {step.part}",
            memory=True,
            children=[
                Selector(
                    f"{step.part} ready",
                    memory=True,
                    children=[
                        Holds(self._port, "free", lambda world: part_free(world, step.part)),
                        self._retried("feed_part", {"part": step.part}),
                    ],
                ),
                self._run("insert_peg", where),
                self._retried("go_home"),
            ],
        )
        # A failed attempt may have left the part in its socket: that is looked at after recovering.
        recover = Sequence(
            "recover",
            memory=True,
            children=[self._retried("recover"), self._seated(step)],
        )
        either = Selector(f"{step.part} in", memory=True, children=[attempt, recover])
        return Retry(f"insert {step.part}", either, num_failures=1 + insert.retries)

    def _ready(self) -> Behaviour:
        """At home with empty fingers, by recovering where that is not so already."""
        home = Holds(self._port, "at home", lambda world: at_home(world) and gripper_empty(world))
        return Selector("ready", memory=True, children=[home, self._retried("recover")])

    def _seated(self, *steps: Insertion) -> Behaviour:
        return Holds(
            self._port,
            "seated",
            lambda world: all(seated(world, step.part, step.socket) for step in steps),
        )

    def _retried(self, name: str, arguments: Mapping[str, Argument] | None = None) -> Behaviour:
        return Retry(
            f"{name} with retries",
            self._run(name, arguments or {}),
            num_failures=1 + self._skills[name].retries,
        )

    def _run(self, name: str, arguments: Mapping[str, Argument]) -> Behaviour:
        return RunSkill(self._port, self._journal, self._skills[name], arguments)
