from __future__ import annotations

from collections import Counter

from tools.experiment.workloads.workload import Item, Question, Workload, is_heldout


def workload(questions: tuple[Question, ...] = ()) -> Workload:
    heldout = tuple(
        Item("", f"text {number}", label, str(number), record=number)
        for number, label in enumerate([0] * 50 + [1] * 10 + [2] * 2)
    )
    return Workload("w", ("a", "b", "c"), (), heldout, questions)


def test_about_a_fifth_of_the_groups_is_held_out_and_always_the_same() -> None:
    sides = [is_heldout(f"group {number}") for number in range(5000)]
    assert 0.18 < sum(sides) / len(sides) < 0.22
    assert sides == [is_heldout(f"group {number}") for number in range(5000)]
    assert is_heldout("group 0", share=1.0)
    assert not is_heldout("group 0", share=0.0)


def test_a_sample_has_of_every_class_as_many_as_there_are() -> None:
    sample = workload().heldout_sample(20)
    assert Counter(item.label for item in sample) == {0: 9, 1: 9, 2: 2}
    assert len(set(sample)) == 20


def test_a_larger_sample_holds_the_smaller_one() -> None:
    small, large = workload().heldout_sample(10), workload().heldout_sample(40)
    assert large[:10] == small
    assert len(workload().heldout_sample(1000)) == 62


def test_half_of_the_questions_are_programs_that_have_an_input() -> None:
    programs = tuple(Question(f"p{i}", "x = 1", python=True, given="1") for i in range(20))
    untestable = tuple(Question(f"u{i}", "x = 1", python=True) for i in range(20))
    others = tuple(Question(f"o{i}", "text", label=1) for i in range(20))
    sample = workload(programs + untestable + others).question_sample(16)
    assert len(sample) == len(set(sample)) == 16
    assert sum(bool(question.given) for question in sample) >= 8
    assert sum(question.label for question in sample) >= 4


def test_without_programs_the_questions_are_of_all_classes() -> None:
    others = tuple(Question(f"o{i}", "text", label=i % 2) for i in range(20))
    assert Counter(each.label for each in workload(others).question_sample(10)) == {0: 5, 1: 5}


def test_an_item_is_what_an_agent_reads() -> None:
    item = Item("given", "learnt", 0, "g", record=0)
    assert (item.example.prompt, item.example.completion) == ("given", "learnt")
