"""What can be said against a recipe's students before anything is captured for them or written.

In: a recipe and its teacher, open. Out: nothing, or `InputError` and `ModelError` that name the student's key. Networks
are built without weights for it. What only signals can show is found in training: examples that are too long, or
tokenizers that turn out to differ.

It does not know how students are made.
"""

from __future__ import annotations

from ..errors import InputError
from ..lora import check_sites
from ..teachers.local import Local
from ..trainer.ranks import Ranks
from .recipe import Recipe
from .student import Student, outline
from .teacher import OpenTeacher


def check_students(recipe: Recipe, teacher: OpenTeacher, here: Ranks) -> None:
    """Every student of the recipe. `ModelError`: a model that is not there, or that no adapter fits."""
    for name, student in recipe.students:
        where = f"students.{name}"
        _check_on_policy(student, teacher, here, where)
        _check_states(student, recipe, teacher, here, where)
        network = outline(
            student, teacher.base_ref(student.model), teacher.teacher.text_model, recipe.seed, teacher.home
        )
        if student.train.lora:
            check_sites(network, student.train.lora, f"{where}.train.lora")


def _check_on_policy(student: Student, teacher: OpenTeacher, here: Ranks, where: str) -> None:
    """Whether the student can write, where it is to."""
    if student.on_policy is None:
        return
    if here.world > 1:
        raise InputError(f"{where}.on_policy: the student writes in one process only; leave it out, or torchrun")
    if student.new_tokenizer:
        raise InputError(f"{where}.on_policy: takes a student with the teacher's own tokenizer; leave it out")
    if student.on_policy.takeover and not isinstance(teacher.teacher, Local):
        raise InputError(f"{where}.on_policy.takeover: an endpoint cannot take over in an answer; set it to 0")


def _check_states(student: Student, recipe: Recipe, teacher: OpenTeacher, here: Ranks, where: str) -> None:
    """Whether the student can match the teacher's inner states, where it is to."""
    if not student.train.hidden and not student.train.routing:
        return
    key = f"{where}.train.{'hidden' if student.train.hidden else 'routing'}"
    if recipe.traces is None:
        raise InputError(f"{key}: no traces of the teacher; give the recipe a [traces] table")
    if len(recipe.sets) > 1 or here.world > 1:
        raise InputError(f"{key}: inner states are matched by one student in one process; leave it out")
    single = isinstance(teacher.teacher, Local) and len(teacher.teacher.mixture.models) == 1
    if not single or student.new_tokenizer or student.on_policy:
        raise InputError(
            f"{key}: inner states are of one model on this machine, on stored signals, for a student with its "
            "tokenizer; leave it out"
        )
