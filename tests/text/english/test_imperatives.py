"""Other ways of asking: indirect questions by their grammar, and orders made of them; what is not understood stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.text.english.imperatives import as_request, indirect


@pytest.mark.parametrize(
    ("question", "inside"),
    [
        ("What is my dog called?", "what my dog is called"),
        ("What is Emma allergic to?", "what Emma is allergic to"),
        ("Where does Ida live?", "where Ida lives"),
        ("Where do I live?", "where I live"),
        ("Where is the saddle?", "where the saddle is"),
        ("Where is the umbrella kept?", "where the umbrella is kept"),
        ("Where is the server Drainibea hosted?", "where the server Drainibea is hosted"),
        ("In which city is the server Drainibea?", "in which city the server Drainibea is"),
        ("Where was I born?", "where I was born"),
        ("When does the christening start?", "when the christening starts"),
        ("Which novelist does Greta prefer?", "which novelist Greta prefers"),
        ("Which desk number does Ann Lee have?", "which desk number Ann Lee has"),
        ("What does my sister do for work?", "what my sister does for work"),
        ("Which port does the log server listen on?", "which port the log server listens on"),
        ("Which task does my brother carry?", "which task my brother carries"),
        ("Which ball does my brother catch?", "which ball my brother catches"),
        ("How many cups are in the garden?", "how many cups are in the garden"),
        ("Who leads the project Irene?", "who leads the project Irene"),
        ("Who or what is called Tutrai?", "who or what is called Tutrai"),
        ("Whose birthstone is opal?", "whose birthstone is opal"),
        ("Which food must Karen avoid?", "which food Karen must avoid"),
        ("What is 4711 the code for?", "what 4711 is the code for"),
        ("Can you tell me Oscar's job?", "Oscar's job"),
        ("Which food must my sister avoid?", None),
        ("Where did I put the key?", None),
        ("What is my tea made of, and what for?", None),
        ("Is it raining?", None),
        ("¿Cómo se llama mi perro?", None),
    ],
)
def test_a_question_inside_a_sentence(question: str, inside: str | None) -> None:
    assert indirect(question) == inside


@pytest.mark.parametrize(
    ("question", "turn", "order"),
    [
        ("What is the name of my dog?", 0, "Tell me the name of my dog."),
        ("What is Karen's job?", 0, "Tell me Karen's job."),
        ("What is Karen's job?", 1, "Do you know the job of Karen?"),
        ("What is the job of Karen?", 3, "Tell me Karen's job."),
        ("What is my sister's job?", 1, "Do you know my sister's job?"),
        ("Where does Ida live?", 0, "Tell me where Ida lives."),
        ("Where does Ida live?", 4, "Do you remember where Ida lives?"),
        ("Where did I put the key?", 0, "Tell me: Where did I put the key?"),
        ("Where did I put the key?", 3, "Remind me: Where did I put the key?"),
    ],
)
def test_a_question_as_an_order(question: str, turn: int, order: str) -> None:
    assert as_request(question, turn) == order


@given(st.text(max_size=80), st.integers(0, 20))
def test_any_text_can_be_asked_for(text: str, turn: int) -> None:
    order = as_request(text, turn)
    assert len(order) > len(text) // 2
    assert order[0].isupper()


WORDS = st.lists(
    st.sampled_from("What Which is does the my Emma's Emma dog live in to called name".split()), max_size=9
)


@given(WORDS, st.integers(0, 20))
def test_no_word_is_lost(words: list[str], turn: int) -> None:
    """All that a question names is still there, whatever its grammar."""
    question = " ".join(words) + "?"
    said = as_request(question, turn)
    for word in ("Emma", "dog", "call", "to"):
        assert said.count(word) >= question.count(word)
