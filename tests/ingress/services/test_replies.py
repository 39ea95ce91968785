from __future__ import annotations

from serve_app.ingress.services.replies import POLL_WINDOW_S, LastReplies


def test_what_was_never_asked_is_news() -> None:
    assert not LastReplies().is_unchanged("a", 1, now=0)


def test_the_same_again_is_no_news() -> None:
    answers = LastReplies()
    answers.record("a", 1, now=0)
    assert answers.is_unchanged("a", 1, now=0.1)
    assert not answers.is_unchanged("a", 2, now=0.1)
    assert not answers.is_unchanged("b", 1, now=0.1)


def test_who_asks_seldom_is_answered_at_once() -> None:
    answers = LastReplies()
    answers.record("a", 1, now=0)
    assert not answers.is_unchanged("a", 1, now=POLL_WINDOW_S + 0.1)


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    answers = LastReplies(size=2)
    for number, poll in enumerate("abac"):
        answers.record(poll, 1, now=number)
    assert len(answers) == 2
    assert answers.is_unchanged("a", 1, now=3)
    assert not answers.is_unchanged("b", 1, now=3)


def test_the_end_is_forgotten() -> None:
    answers = LastReplies()
    answers.record("a", 1, now=0)
    answers.forget("a")
    answers.forget("a")
    assert len(answers) == 0
