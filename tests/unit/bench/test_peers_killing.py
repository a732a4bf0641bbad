"""Who runs which task when a worker is killed."""

from bench.peers.killing import Course
from bench.peers.reports import Report


def begun(worker: str, task: int) -> Report:
    return Report(has_ended=False, worker=worker, task=task)


def ended(worker: str, task: int) -> Report:
    return Report(has_ended=True, worker=worker, task=task)


def test_a_worker_runs_what_it_began_and_did_not_end():
    course = Course(range(4))

    course.hear([begun("0", 1), begun("1", 2), begun("0", 3), ended("0", 1)])

    assert course.run_by("0") == {3}
    assert course.ended == 1
    assert course.undone == {0, 2, 3}


def test_a_task_that_another_worker_begins_is_back():
    course = Course(range(4))

    course.hear([begun("0", 1), begun("1", 1)])

    assert course.run_by("0") == set()


def test_tasks_of_the_warm_up_and_second_ends_do_not_count():
    course = Course(range(10, 12))

    course.hear([begun("0", 1), ended("0", 10), ended("1", 10), begun("0", 10)])

    assert (course.ended, course.run_by("0")) == (1, set())
