from __future__ import annotations

from serve_app.ingress.held import RECENT_S, LastAnswers


def test_what_was_never_asked_is_news() -> None:
    assert not LastAnswers().nothing_new("a", 1, now=0)


def test_the_same_again_is_no_news() -> None:
    answers = LastAnswers()
    answers.answered("a", 1, now=0)
    assert answers.nothing_new("a", 1, now=0.1)
    assert not answers.nothing_new("a", 2, now=0.1)
    assert not answers.nothing_new("b", 1, now=0.1)


def test_who_asks_seldom_is_answered_at_once() -> None:
    answers = LastAnswers()
    answers.answered("a", 1, now=0)
    assert not answers.nothing_new("a", 1, now=RECENT_S + 0.1)


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    answers = LastAnswers(size=2)
    for number, poll in enumerate("abac"):
        answers.answered(poll, 1, now=number)
    assert len(answers) == 2
    assert answers.nothing_new("a", 1, now=3)
    assert not answers.nothing_new("b", 1, now=3)


def test_the_end_is_forgotten() -> None:
    answers = LastAnswers()
    answers.answered("a", 1, now=0)
    answers.forget("a")
    answers.forget("a")
    assert len(answers) == 0
