"""The catalogue of what the cell handles: kinds of parts, and the parts and sockets of each kind.

World state messages carry names and poses; sizes and symmetries are looked up here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from hardware_configs.strict import Node, read_yaml

OBJECTS_FILE = Path(__file__).parent / "objects.yaml"
# Of a kind whose entry does not say.
SEATED_HEIGHT_M = 0.0015
NAME = r"[a-z][a-z0-9_]*"


class ObjectsError(ValueError):
    """The catalogue is not valid; one ``file:key: got X, expected Y`` per line."""


@dataclass(frozen=True)
class Kind:
    """A kind of parts and the sockets for it.

    Attributes:
        name: the kind's name.
        symmetry: turns about z by which the part fits its socket alike; 0 means any angle.
        part_width_m: width across the part where it is grasped.
        part_length_m: length along the part's z.
        hole_depth_m: from a socket's rim down to its floor, or from a post's top to its foot.
        grasp_offset_m: where the tool holds the part, xyz in the part's frame.
        grasp_symmetry: turns about z by which the tool holds the part alike; 0 means any angle.
        seated_height_m: a part no further than this from where its socket ends is all the way in.
    """

    name: str
    symmetry: int
    part_width_m: float
    part_length_m: float
    hole_depth_m: float
    grasp_offset_m: tuple[float, ...]
    grasp_symmetry: int
    seated_height_m: float


@dataclass(frozen=True)
class Objects:
    """The catalogue: the kind of each part and of each socket, by name."""

    parts: Mapping[str, Kind]
    sockets: Mapping[str, Kind]


def load_objects(path: Path = OBJECTS_FILE) -> Objects:
    """Reads the catalogue.

    Raises:
        ObjectsError: the file is not valid.
    """
    root, problems = read_yaml(path, f"{path.parent.name}/{path.name}", ObjectsError)
    kinds: dict[str, Kind] = {}
    parent = root.node("kinds")
    for name in list(parent.values):
        node = parent.node(name)
        symmetry = node.whole("symmetry", 0)
        kinds[name] = Kind(
            name=name,
            symmetry=symmetry,
            part_width_m=node.number("part_width_m", above=0),
            part_length_m=node.number("part_length_m", above=0),
            hole_depth_m=node.number("hole_depth_m", above=0),
            grasp_offset_m=node.numbers("grasp_offset_m", 3),
            grasp_symmetry=node.whole("grasp_symmetry", 0)
            if node.has("grasp_symmetry")
            else symmetry,
            seated_height_m=node.number("seated_height_m", above=0)
            if node.has("seated_height_m")
            else SEATED_HEIGHT_M,
        )
        node.finish()
    objects = Objects(
        _read_names(root.node("parts"), kinds), _read_names(root.node("sockets"), kinds)
    )
    root.finish()
    problems.raise_if_any(ObjectsError)
    return objects


def _read_names(node: Node, kinds: Mapping[str, Kind]) -> Mapping[str, Kind]:
    options = list(kinds) or [""]
    chosen = {name: node.choice(name, options) for name in list(node.values)}
    return MappingProxyType({name: kinds[kind] for name, kind in chosen.items() if kind in kinds})
