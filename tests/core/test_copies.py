"""Conflict copies that an agent had begun to make when it was stopped: the file has both names then."""

from __future__ import annotations

from agent.core.entries import Entry, Mode, Row
from agent.core.plan import Verb, plan
from agent.core.reconcile import Rules
from tests.support.world import World, content

ONE, TWO, THREE = content("one"), content("two"), content("three")
COPY = "a.conflict-edge-19700101T000000Z-6f6e652e.txt"
NEXT = "a.conflict-edge-19700101T000001Z-6f6e652e.txt"


def conflict_beside(copy: Entry, *, sent: bool = False) -> tuple[World, dict[str, str]]:
    """A conflict of a.txt, and a file at the name of its copy: the world, and path -> where the plan's actions lead."""
    world = World(Rules(mode=Mode.TWO_WAY, agent="edge"))
    world.write("a.txt", ONE)
    world.put("a.txt", TWO)
    world.write(COPY, copy)
    if sent:
        world.put(COPY, copy)
    world.look_everywhere()

    def holds(path: str, entry: Entry) -> bool:
        row = world.rows.get(path, Row(path))
        side = row.local_side
        return row.remote_side is None and isinstance(side, Entry) and side.same_content(entry)

    made = plan(
        [world.rows[path] for path in sorted(world.dirty)],
        world.rules,
        taken=lambda path: path in world.local,
        holds=holds,
    )
    return world, {action.path: action.to for action in made.actions if action.verb is not Verb.UPLOAD}


def test_a_copy_that_a_stop_has_left_is_the_copy():
    _, leads = conflict_beside(ONE)
    assert leads == {"a.txt": COPY}


def test_another_content_at_the_name_of_the_copy_is_not_touched():
    _, leads = conflict_beside(THREE)
    assert leads == {"a.txt": NEXT}


def test_a_copy_that_others_have_already_is_an_earlier_one():
    _, leads = conflict_beside(ONE, sent=True)
    assert leads == {"a.txt": NEXT}
