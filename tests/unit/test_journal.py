"""What a run on many machines knows of its items, without a machine."""

from __future__ import annotations

import pytest

from lib_negtrans.runners.journal import KILLS, Answer, Journal, Owner

A, B, C = Owner("a", "one"), Owner("b", "one"), Owner("c", "two")


@pytest.fixture
def nodes():
    return {"one", "two"}


@pytest.fixture
def journal(nodes):
    return Journal(9, lambda: nodes)


def test_an_item_is_made_once_and_its_result_is_known_until_it_has_been_told(journal):
    assert journal.begin(3, A) == Answer(work=True)
    journal.end(3, b"made")
    assert journal.begin(3, B) == Answer(made=b"made")
    journal.forget([3, 4])
    assert journal.begin(3, B) == Answer()


def test_a_failure_is_told_to_who_asks_again(journal):
    journal.begin(3, A)
    journal.fail(3, "is broken.")
    assert journal.begin(3, B) == Answer(error="is broken.")


def test_an_item_whose_process_died_is_looked_for_and_done_alone_and_put_aside_after_the_second_time(journal):
    journal.begin(3, A)
    assert journal.begin(3, B) == Answer(work=True, alone=True, look=True)
    assert journal.begin(3, B) == Answer(work=True, alone=True, look=True)  # its own process asks: no death
    assert journal.begin(3, C) == Answer(error=KILLS)
    assert journal.begin(4, C) == Answer(work=True)


def test_the_death_of_a_machine_is_no_items_fault(journal, nodes):
    for owner in (C, A):
        journal.begin(3, C)
        nodes.discard("two")
        assert journal.begin(3, owner if owner == A else B) == Answer(work=True, look=True)
        nodes.add("two")
        journal.end(3, b"")
        journal = Journal(9, lambda: nodes)


def test_what_waits_beside_an_item_that_kills_is_not_put_aside(journal):
    """Two are written while a third ends the process; then each is done alone, and only the third dies again."""
    for index in (0, 1, 2):
        journal.begin(index, A)
    for index in (0, 1):
        assert journal.begin(index, B).alone
        journal.end(index, b"")
    assert journal.begin(2, B).alone
    assert journal.begin(2, C) == Answer(error=KILLS)
    assert journal.begin(0, C).made == journal.begin(1, C).made == b""


def test_a_new_journal_in_place_of_a_lost_one_has_every_output_looked_for():
    assert Journal(9, set, reborn=True).begin(3, A) == Answer(work=True, look=True)
