"""The planner: renames, clashes, conflict copies, order; one scenario each, carried out in a world in memory."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from agent.core import names
from agent.core.entries import Entry, Gone, Kind, Local, Mode, Obstacle, Policy, Reason, Remote, Row, Verdict
from agent.core.plan import Verb, plan
from agent.core.reconcile import Rules
from tests.support.world import World, content

ONE, TWO, THREE = content("one"), content("two"), content("three")
TWO_WAY = Rules(mode=Mode.TWO_WAY, agent="edge")
COPY_OF_ONE = "conflict-edge-19700101T000000Z-6f6e652e"
FIFO = Obstacle(Reason.FIFO)


def world(mode: Mode = Mode.TWO_WAY, policy: Policy = Policy.KEEP_BOTH, **agreed: Entry) -> World:
    made = World(Rules(mode=mode, policy=policy, agent="edge", empty_directories=True))
    for path, entry in agreed.items():
        made.agree(path.replace("__", "/"), entry)
    return made


def steps(made) -> list[list[str]]:
    """A plan in words, stage by stage."""
    return [
        sorted(f"{action.verb} {action.path}{' -> ' + action.to if action.to else ''}" for action in stage)
        for stage in made.stages
    ]


def first_plan(made: World):
    made.look_everywhere()
    return made.plan()


def ends(made: World) -> dict[str, Entry | Obstacle]:
    """Converge; what both sides hold."""
    made.converge()
    assert not made.refused
    assert made.local.keys() == made.objects().keys()
    for path, entry in made.local.items():
        remote = made.objects()[path]
        assert isinstance(entry, Entry)
        assert isinstance(remote, Entry)
        assert entry.same(remote)
    return made.local


# ---- renames ----


def test_a_local_rename_is_a_rename_in_the_bucket():
    made = world(a=ONE)
    made.write("a", None)
    made.write("dir/b", ONE)
    assert steps(first_plan(made)) == [["move-remote a -> dir/b"]]
    assert ends(made).keys() == {"dir/b"}


def test_a_remote_rename_is_a_rename_in_the_directory():
    made = world(a=ONE)
    made.put("a", None)
    made.put("dir/b", ONE)
    assert steps(first_plan(made)) == [["move-local a -> dir/b"]]
    assert ends(made).keys() == {"dir/b"}


def test_a_rename_with_chmod_takes_the_new_bit_along():
    made = world(a=ONE)
    made.write("a", None)
    made.write("b", replace(ONE, executable=True))
    (action,) = first_plan(made).actions
    assert action.verb is Verb.MOVE_REMOTE
    assert action.entry
    assert action.entry.executable is True


def test_a_directory_rename_moves_each_file_and_sends_only_what_was_edited():
    made = world(old__x=ONE, old__y=TWO, old__z=THREE)
    for path in ("old/x", "old/y", "old/z"):
        made.write(path, None)
    made.write("new/x", ONE)
    made.write("new/y", content("edited"))
    made.write("new/z", THREE)
    assert steps(first_plan(made)) == [
        ["move-remote old/x -> new/x", "move-remote old/z -> new/z"],
        ["upload new/y"],
        ["delete-remote old/y"],
    ]
    assert ends(made).keys() == {"new/x", "new/y", "new/z"}


def test_equal_files_are_paired_by_their_last_component_first():
    made = world(old__x=ONE, old__y=ONE)
    made.write("old/x", None)
    made.write("old/y", None)
    made.write("a/y", ONE)
    made.write("b/x", ONE)
    assert steps(first_plan(made)) == [["move-remote old/x -> b/x", "move-remote old/y -> a/y"]]


def test_more_copies_than_sources_are_sent():
    made = world(a=ONE)
    made.write("a", None)
    made.write("b", ONE)
    made.write("c", ONE)
    assert steps(first_plan(made)) == [["move-remote a -> b"], ["upload c"]]


@pytest.mark.parametrize("entry", [content("empty", size=0), Entry(Kind.LINK, target="x")])
def test_what_has_no_bytes_is_not_moved(entry):
    made = world(a=entry)
    made.write("a", None)
    made.write("b", entry)
    assert steps(first_plan(made)) == [["upload b"], ["delete-remote a"]]


def test_content_behind_a_link_out_of_the_mapping_is_not_moved():
    made = world(a=ONE)
    made.remote["a"] = replace(made.remote["a"], via_link=True)
    made.write("a", None)
    made.write("b", ONE)
    assert steps(first_plan(made)) == [["upload b"], ["delete-remote a"]]


def test_a_rename_over_an_existing_file_is_sent():
    made = world(a=ONE, b=TWO)
    made.write("a", None)
    made.write("b", ONE)
    assert steps(first_plan(made)) == [["upload b"], ["delete-remote a"]]
    assert ends(made) == {"b": ONE}


def test_two_files_that_changed_places_are_two_edits():
    made = world(a=ONE, b=TWO)
    made.write("a", TWO)
    made.write("b", ONE)
    assert steps(first_plan(made)) == [["upload a", "upload b"]]


def test_a_file_that_was_renamed_here_and_edited_there_is_kept_under_both_names():
    made = world(a=ONE)
    made.write("a", None)
    made.write("b", ONE)
    made.put("a", TWO)
    assert steps(first_plan(made)) == [["download a", "upload b"]]
    assert ends(made) == {"a": TWO, "b": ONE}


def test_a_file_that_both_sides_renamed_differently_gets_both_names():
    made = world(a=ONE)
    made.write("a", None)
    made.write("b", ONE)
    made.put("a", None)
    made.put("c", ONE)
    assert steps(first_plan(made)) == [["download c", "upload b"]]
    assert ends(made).keys() == {"b", "c"}


def test_a_file_that_both_sides_renamed_alike_needs_nothing():
    made = world(a=ONE)
    made.write("a", None)
    made.write("b", ONE)
    made.put("a", None)
    made.put("b", ONE)
    assert first_plan(made).empty


def test_a_file_that_moves_into_a_directory_of_its_own_name_is_not_moved():
    made = world(a=ONE)
    made.put("a", None)
    made.put("a/b", ONE)
    assert steps(first_plan(made)) == [["delete-local a"], ["download a/b"]]
    assert ends(made).keys() == {"a/b"}


def test_a_safe_receivers_own_rename_is_undone_and_stays():
    made = world(Mode.PUSH_SAFE, a=ONE)
    made.put("a", None)
    made.put("b", ONE)
    assert steps(first_plan(made)) == [["upload a"]]
    made.converge()
    assert made.verdicts() == {"b": Verdict.DIVERGED}


def test_a_mirror_moves_without_an_ancestor():
    made = World(Rules(mode=Mode.PUSH_MIRROR))
    made.write("b", ONE)
    made.put("a", ONE)
    assert steps(first_plan(made)) == [["move-remote a -> b"]]


# ---- a file where a directory was, and the other way round ----


@pytest.mark.parametrize("mode", [Mode.TWO_WAY, Mode.PULL_SAFE, Mode.PULL_MIRROR])
def test_a_directory_that_became_a_file_remotely_is_cleared_first(mode):
    made = world(mode, a__x=ONE, a__y=TWO)
    made.put("a/x", None)
    made.put("a/y", None)
    made.put("a", THREE)
    assert steps(first_plan(made)) == [["delete-local a/x", "delete-local a/y"], ["download a"]]
    assert ends(made) == {"a": THREE}


@pytest.mark.parametrize("mode", [Mode.TWO_WAY, Mode.PUSH_SAFE, Mode.PUSH_MIRROR])
def test_a_file_that_became_a_directory_locally_is_deleted_in_the_bucket_first(mode):
    made = world(mode, a=ONE)
    made.write("a", None)
    made.write("a/x", TWO)
    assert steps(first_plan(made)) == [["delete-remote a"], ["upload a/x"]]
    assert ends(made) == {"a/x": TWO}


def test_a_symlink_that_became_a_file_is_an_edit():
    made = world(a=Entry(Kind.LINK, target="b"))
    made.write("a", ONE)
    assert steps(first_plan(made)) == [["upload a"]]


def test_a_local_file_against_a_remote_directory_becomes_a_conflict_copy():
    made = world()
    made.write("a", ONE)
    made.put("a/x", TWO)
    made.put("a/y", THREE)
    assert steps(first_plan(made)) == [[f"conflict-copy a -> a.{COPY_OF_ONE}"], ["download a/x", "download a/y"]]
    assert ends(made) == {"a/x": TWO, "a/y": THREE, f"a.{COPY_OF_ONE}": ONE}


def test_a_remote_file_against_a_local_directory_becomes_a_conflict_copy_in_the_bucket():
    made = world()
    made.put("a", ONE)
    made.write("a/x", TWO)
    assert steps(first_plan(made)) == [[f"conflict-copy a -> a.{COPY_OF_ONE}"]]
    assert ends(made) == {"a/x": TWO, f"a.{COPY_OF_ONE}": ONE}


def test_a_file_edited_there_that_became_a_directory_here_is_kept_as_a_conflict_copy():
    made = world(a=TWO)
    made.put("a", ONE)
    made.write("a", None)
    made.write("a/x", THREE)
    assert ends(made) == {"a/x": THREE, f"a.{COPY_OF_ONE}": ONE}


@pytest.mark.parametrize("policy", [Policy.REPORT, Policy.PREFER_LOCAL, Policy.PREFER_REMOTE, Policy.NEWER])
def test_under_other_policies_a_file_against_a_directory_is_a_conflict(policy):
    made = world(policy=policy)
    made.write("a", ONE)
    made.put("a/x", TWO)
    made.converge()
    assert made.local == {"a": ONE}
    assert made.objects() == {"a/x": TWO}
    assert made.verdicts() == {"a": Verdict.CONFLICT, "a/x": Verdict.CONFLICT}


@pytest.mark.parametrize("mode", [Mode.PUSH_SAFE, Mode.PULL_SAFE])
def test_in_safe_modes_a_file_against_a_directory_is_a_conflict_and_ends_with_its_cause(mode):
    made = world(mode)
    made.write("a", ONE)
    made.put("a/x", TWO)
    made.converge()
    assert made.verdicts() == {"a": Verdict.CONFLICT, "a/x": Verdict.CONFLICT}

    made.write("a", None)
    made.put("a/x", None)
    made.converge()
    assert made.verdicts() == {}


@pytest.mark.parametrize(("mode", "left"), [(Mode.PUSH_MIRROR, {"a": ONE}), (Mode.PULL_MIRROR, {"a/x": TWO})])
def test_in_mirror_modes_the_senders_state_wins(mode, left):
    made = world(mode)
    made.write("a", ONE)
    made.put("a/x", TWO)
    assert [step.split()[0][:6] for stage in steps(first_plan(made)) for step in stage] != []
    assert ends(made) == left


# ---- objects "a" and "a/b" ----


@pytest.mark.parametrize("mode", [Mode.TWO_WAY, Mode.PULL_SAFE, Mode.PULL_MIRROR])
def test_of_two_objects_the_directory_wins_where_nothing_is_there_yet(mode):
    made = world(mode)
    made.put("a", ONE)
    made.put("a/b", TWO)
    made.converge()
    assert made.local == {"a/b": TWO}
    assert made.objects() == {"a": ONE, "a/b": TWO}
    assert made.problems() == {"a": Reason.STRUCTURE_CLASH}


@pytest.mark.parametrize("mode", [Mode.TWO_WAY, Mode.PULL_SAFE, Mode.PULL_MIRROR])
def test_of_two_objects_the_file_wins_where_it_is_there(mode):
    made = world(mode, a=ONE, policy=Policy.REPORT)
    made.put("a/b", TWO)
    made.put("a/c", THREE)
    made.converge()
    assert made.local == {"a": ONE}
    assert made.problems() == {"a/b": Reason.STRUCTURE_CLASH, "a/c": Reason.STRUCTURE_CLASH}


def test_the_other_object_comes_when_the_clash_ends_without_a_full_look():
    made = world(a=ONE, policy=Policy.REPORT)
    for name in ("a/b", "a/c", "a/d"):
        made.put(name, TWO)
    made.converge()
    made.put("a", None)
    made.look("a")
    made.round()
    made.converge()
    assert made.local == {"a/b": TWO, "a/c": TWO, "a/d": TWO}
    assert not made.problems()


def test_with_keep_both_a_file_gives_way_to_a_directory_that_another_agent_has_sent():
    made = world(a=ONE)
    made.put("a/b", TWO)
    made.put("a/c", THREE)
    made.converge()
    copy = next(path for path in made.local if "conflict" in path)
    assert made.local == {copy: ONE, "a/b": TWO, "a/c": THREE}
    assert made.objects() == made.local
    assert not made.problems()
    assert not made.trash


def test_the_object_of_a_file_that_gives_way_is_renamed_and_the_file_follows_it():
    made = world(a=ONE)
    made.put("a/b", TWO)
    made.look_everywhere()
    assert [step.split()[0] for stage in steps(made.round()) for step in stage] == ["conflict-copy"]
    assert [step.split()[0] for stage in steps(first_plan(made)) for step in stage] == ["move-local", "download"]


def test_a_file_that_was_edited_is_sent_before_it_gives_way():
    made = world(a=ONE)
    made.write("a", THREE)
    made.put("a/b", TWO)
    made.converge()
    copy = next(path for path in made.local if "conflict" in path)
    assert made.local == {copy: THREE, "a/b": TWO}


def test_nothing_is_sent_into_a_directory_before_the_object_of_its_name_has_given_way():
    """Else a rename that fails would leave both in the bucket, where nobody may touch either of them."""
    made = world()
    made.write("a/b", TWO)
    made.put("a", ONE)
    made.look_everywhere()
    for action in made.plan().actions:
        if action.verb is not Verb.CONFLICT_COPY:
            made.run(action)
    assert made.objects().keys() == {"a"}
    assert ends(made).keys() == {f"a.{COPY_OF_ONE}", "a/b"}


def test_a_problem_says_what_stands_in_its_way():
    made = world()
    made.put("a", ONE)
    made.put("a/b", TWO)
    ((path, obstacle),) = first_plan(made).problems
    assert path == "a"
    assert "a/b" in obstacle.detail


def test_a_link_that_became_two_different_files_settles_with_the_version_that_the_policy_prefers():
    """The link had no executable bit; that isn't a bit that nobody has told."""
    made = world(policy=Policy.PREFER_LOCAL, a=Entry(Kind.LINK, target="b"))
    made.write("a", ONE)
    made.put("a", replace(TWO, executable=True))
    assert ends(made) == {"a": ONE}
    made.dirty.update(made.rows)
    assert made.plan().empty


# ---- what isn't to be touched ----


@pytest.mark.parametrize("mode", [Mode.TWO_WAY, Mode.PULL_SAFE, Mode.PULL_MIRROR])
def test_nothing_is_written_below_something_that_is_left_alone(mode):
    made = world(mode)
    made.write("a", FIFO)
    made.put("a/b", ONE)
    made.converge()
    assert made.local == {"a": FIFO}
    assert made.problems()["a/b"] is Reason.STRUCTURE_CLASH


@pytest.mark.parametrize("mode", [Mode.TWO_WAY, Mode.PULL_SAFE, Mode.PULL_MIRROR])
def test_a_directory_with_something_that_is_left_alone_is_not_replaced_by_a_file(mode):
    made = world(mode)
    made.write("a/b", FIFO)
    made.put("a", ONE)
    made.converge()
    assert made.local == {"a/b": FIFO}
    assert made.objects() == {"a": ONE}
    assert made.problems()["a"] is Reason.STRUCTURE_CLASH


@pytest.mark.parametrize("mode", list(Mode))
def test_a_directory_that_an_obstacle_hides_is_not_deleted_on_the_other_side(mode):
    made = world(mode, a__b=ONE, a__c=TWO)
    made.write("a/b", None)
    made.write("a/c", None)
    made.write("a", FIFO)
    made.converge()
    assert made.objects() == {"a/b": ONE, "a/c": TWO}


def test_a_local_side_that_contradicts_itself_is_looked_at_again():
    local = Row("a", None, Local(ONE), None)
    below = Row("a/b", None, Local(TWO), None)
    made = plan([local], TWO_WAY, clashes=[below])
    assert made.empty
    assert made.deferred == ("a", "a/b")
    assert not made.settled


# ---- entries of empty directories ----

EMPTY = Entry(Kind.DIRECTORY)


def test_the_entry_of_a_directory_goes_when_something_comes_into_it():
    made = world()
    made.agree("d/", EMPTY)
    made.put("d/x", ONE)
    made.converge()
    assert made.local == {"d/x": ONE}
    made.look_everywhere()
    made.converge()
    assert made.objects() == {"d/x": ONE}


def test_the_entry_of_a_directory_that_is_not_empty_here_is_left():
    made = world(d__x=ONE)
    made.put("d/", EMPTY)
    assert first_plan(made).empty


def test_a_file_against_an_empty_directory_is_a_clash_too():
    made = world()
    made.agree("d/", EMPTY)
    made.put("d", ONE)
    made.converge()
    assert made.problems() == {"d": Reason.STRUCTURE_CLASH}
    made.put("d/", None)
    made.converge()
    assert ends(made) == {"d": ONE}


# ---- conflict copies ----


def conflicting() -> World:
    made = world()
    made.write("dir/a.txt", ONE)
    made.put("dir/a.txt", TWO)
    return made


def test_keep_both_gives_the_name_to_the_remote_version():
    made = conflicting()
    (action,) = first_plan(made).actions
    assert (action.verb, action.local, action.bytes) == (Verb.CONFLICT_COPY, True, TWO.size)
    assert ends(made) == {"dir/a.txt": TWO, f"dir/a.{COPY_OF_ONE}.txt": ONE}


def test_a_copys_name_that_is_taken_moves_on_by_a_second():
    made = conflicting()
    made.agree(f"dir/a.{COPY_OF_ONE}.txt", THREE)
    assert set(ends(made)) == {
        "dir/a.txt",
        f"dir/a.{COPY_OF_ONE}.txt",
        "dir/a.conflict-edge-19700101T000001Z-6f6e652e.txt",
    }


def test_a_conflict_copy_gets_no_copy_itself():
    made = world()
    path = f"a.{COPY_OF_ONE}.txt"
    made.write(path, TWO)
    made.put(path, THREE)
    made.converge()
    assert made.verdicts() == {path: Verdict.CONFLICT}
    assert made.local == {path: TWO}


def test_a_name_with_ten_copies_gets_no_eleventh():
    made = conflicting()
    for number in range(10):
        made.agree(f"dir/a.conflict-edge-20200101T00000{number}Z-00000000.txt", THREE)
    made.converge()
    assert made.verdicts() == {"dir/a.txt": Verdict.CONFLICT}
    made.write("dir/a.conflict-edge-20200101T000000Z-00000000.txt", None)
    made.converge()
    made.dirty.add("dir/a.txt")
    made.converge()
    assert made.verdicts() == {}


def test_two_files_never_get_one_copys_name():
    stem = "x" * 250
    made = world()
    for end in "ab":
        made.write(stem + end, ONE)
        made.put(stem + end, TWO)
    targets = [action.to for action in first_plan(made).actions]
    assert len(set(targets)) == 2
    assert all(names.is_conflict_copy(target) for target in targets)


# ---- case ----


def test_on_a_case_insensitive_root_the_second_spelling_is_a_problem():
    made = world()
    made.case_insensitive = True
    for name in ("README", "readme", "Docs/a", "docs/b"):
        made.put(name, ONE)
    made.converge()
    assert set(made.local) == {"README", "Docs/a"}
    assert made.problems() == {"readme": Reason.CASE_CLASH, "docs/b": Reason.CASE_CLASH}


def test_on_a_case_insensitive_root_a_rename_by_case_is_deleted_first():
    made = world(readme=ONE)
    made.case_insensitive = True
    made.put("readme", None)
    made.put("README", ONE)
    assert steps(first_plan(made)) == [["delete-local readme"], ["download README"]]


def test_elsewhere_two_spellings_are_two_files():
    made = world()
    made.put("README", ONE)
    made.put("readme", TWO)
    assert ends(made).keys() == {"README", "readme"}


# ---- the plan itself ----


def test_deletes_come_last_and_transfers_know_their_bytes():
    made = world(a=ONE, b=TWO)
    made.write("a", None)
    made.put("b", None)
    made.write("c", THREE)
    made.put("d", content("four", size=9))
    found = first_plan(made)
    assert steps(found) == [["download d", "upload c"], ["delete-local b", "delete-remote a"]]
    assert {action.path: action.bytes for action in found.actions} == {"a": 0, "b": 0, "c": 5, "d": 9}
    assert {action.path: action.reason for action in found.actions} == {
        "a": "deleted locally",
        "b": "deleted remotely",
        "c": "created locally",
        "d": "created remotely",
    }


def test_a_plan_does_not_depend_on_the_order_of_the_rows():
    made = world(a=ONE, b__c=TWO)
    made.write("a", None)
    made.write("x", ONE)
    made.put("b", THREE)
    made.look_everywhere()
    rows = list(made.rows.values())
    assert plan(rows, made.rules) == plan(rows[::-1], made.rules)


def test_context_is_given_back_only_when_it_changes_and_gets_no_action_of_its_own():
    dirty = Row("a/b", None, None, Remote(TWO, 5))
    pending = Row("a/c", None, None, Remote(THREE, 6))
    made = plan([dirty], TWO_WAY, clashes=[pending])
    assert steps(made) == [["download a/b"]]
    assert not made.settled


def test_an_expired_object_changes_nothing():
    made = world(a=ONE)
    made.put("a", None, gone=Gone.EXPIRED)
    assert first_plan(made).empty
    made.converge()
    assert made.local == {"a": ONE}


def test_a_plan_for_nothing_is_empty():
    made = plan([], TWO_WAY)
    assert made.empty
    assert list(made.actions) == []


@pytest.mark.timeout(60)
def test_fifty_thousand_rows_of_any_kind_are_planned_in_one_go():
    """No timing assert: a quadratic planner would run into the time-out."""

    def sides(number: int) -> list[Row]:
        one, other = content(f"{number}"), content(f"{number}x")
        base = world(x=one).rows["x"].ancestor
        return [
            Row(f"new/{number}", None, Local(one), None),
            Row(f"old/{number}", base, None, Remote(one, number)),
            Row(f"both/{number}", None, Local(one), Remote(other, number)),
            Row(f"file/{number}", None, Local(one), None),
            Row(f"file/{number}/below", None, None, Remote(other, number)),
        ]

    rows = [row for number in range(10_000) for row in sides(number)]
    deep = [Row("/".join(["a"] * depth), None, None, Remote(ONE, depth)) for depth in range(1, 1000)]
    started = time.process_time()
    made = plan(rows + deep, TWO_WAY)
    print(f"{time.process_time() - started:.2f} s")
    assert [len(stage) for stage in made.stages] == [30_000, 10_001]
    assert len(made.problems) == 998
