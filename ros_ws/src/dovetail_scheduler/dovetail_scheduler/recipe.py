"""What a finished product is made of, read as strictly as every other contract."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hardware_configs.strict import read_yaml
from policies.objects import Objects

FOLDER = Path(__file__).parent / "recipes"
NAME = r"[a-z][a-z0-9_]*"


class RecipeError(ValueError):
    """A recipe is not valid; one ``file:key: got X, expected Y`` per line."""


@dataclass(frozen=True)
class Insertion:
    """One step of a recipe: a part and the socket it belongs in."""

    part: str
    socket: str


@dataclass(frozen=True)
class Recipe:
    """The insertions of one product, in order."""

    name: str
    steps: tuple[Insertion, ...]


def load_recipe(path: Path, objects: Objects) -> Recipe:
    """Reads a recipe.

    Raises:
        RecipeError: the file is not valid, a part does not fit, or is used twice.
    """
    root, problems = read_yaml(path, path.name, RecipeError)
    steps: list[Insertion] = []
    for node in root.nodes("steps", at_least=1):
        step = Insertion(
            node.choice("part", tuple(objects.parts)), node.choice("socket", tuple(objects.sockets))
        )
        node.finish()
        part, socket = objects.parts.get(step.part), objects.sockets.get(step.socket)
        if part and socket and part != socket:
            node.wrong("socket", f"a {part.name} socket, as {step.part} is {part.name}")
        if step.part in {other.part for other in steps}:
            node.wrong("part", "a part that no other step has")
        if step.socket in {other.socket for other in steps}:
            node.wrong("socket", "a socket that no other step has")
        steps.append(step)
    recipe = Recipe(root.text("name", NAME, "a lower-case name"), tuple(steps))
    root.finish()
    problems.raise_if_any(RecipeError)
    return recipe
