"""Which statements a later one replaces, and which two can both be true."""

from __future__ import annotations

import pytest

from stillhouse.text.statements import read


def replaced(text: str) -> list[tuple[str, str]]:
    reading = read(text)
    return [(reading.statements[u.earlier].text, reading.statements[u.later].text) for u in reading.updates]


UPDATES = [
    ("My dog is called Rex.", "My dog is called Fido now, we renamed him."),
    ("My dog is called Rex.", "Rex is now called Fido."),
    ("The wifi password is plonk47.", "The wifi password was changed to brisk92."),
    ("The wifi password is plonk47.", "The wifi password is brisk92."),
    ("I live in Oskamund.", "I moved from Oskamund to Brellin."),
    ("Henry lives in Ghent.", "Henry has moved to Kiel."),
    ("I work for Tarnel Labs.", "I no longer work for Tarnel Labs."),
    ("Ilka works for Tarnel.", "Ilka left Tarnel for Vireo."),
    ("I drink coffee every day.", "I don't drink coffee anymore."),
    ("I live in Kiel with Ilka.", "I used to live in Kiel."),
    ("The rent is 850 euros.", "The rent went up to 900 euros."),
    ("Standup starts at 9:00.", "Standup now starts at 9:30."),
    ("The dentist appointment is on 14 March.", "The dentist appointment was moved to 20 March."),
    ("I am 33.", "I am 34 now."),
    ("Das WLAN-Passwort ist plonk47.", "Das WLAN-Passwort ist jetzt brisk92."),
    ("Я живу в Москве.", "Теперь я живу в Киеве."),
    ("我住在奥斯卡蒙德。", "我现在住在布雷林。"),
    ("Wifi: plonk47", "Wifi: brisk92"),
]
BOTH_TRUE = [
    ("My brother is called Ansgar.", "My brother is called Bert."),
    ("Anna's room number is 3.", "Bert's room number is 4."),
    ("The code for the shed is 5.", "The code for the garage is now 6."),
    ("The code for the shed is 5.", "The code for the garage is 5 now."),
    ("Henry is allergic to nuts.", "Henry is allergic to cats."),
    ("I like tea.", "I like coffee now."),
    ("I work at Tarnel.", "I work on Vireo now."),
    ("I am vegan.", "I am now 34."),
    ("I am vegan.", "I am married now."),
    ("My sister lives in Kiel.", "My brother lives in Ghent."),
    ("I live in Kiel.", "I live with Ilka."),
    ("My dog is called Rex.", "My cat is called Rex now."),
    ("I moved to Kiel in 2019.", "I moved to Ghent in 2021."),
    ("## Home\nThe door code is 5.", "## Office\nThe door code is 7."),
    ("| Monday | Yoga |", "| Monday | Choir |"),
]


@pytest.mark.parametrize(("earlier", "later"), UPDATES)
def test_a_later_statement_replaces_an_earlier_one(earlier: str, later: str) -> None:
    assert replaced(f"{earlier}\nMy tea is brenneth.\n{later}\n") == [(earlier, later)]


@pytest.mark.parametrize(("earlier", "later"), BOTH_TRUE)
def test_two_that_can_both_be_true_stay(earlier: str, later: str) -> None:
    assert replaced(f"{earlier}\n{later}\n") == []


def test_dates_go_before_places() -> None:
    text = "2024-05-01: The wifi password is brisk92.\n2023-01-01: The wifi password is plonk47.\n"
    assert replaced(text) == [("The wifi password is plonk47.", "The wifi password is brisk92.")]


def test_a_row_replaces_the_row_with_its_label() -> None:
    table = "| Code | Value |\n|---|---|\n| Door | 1 |\n| Bike | 2 |\n| Door | 3 |\n"
    assert replaced(table) == [("Door: 1", "Door: 3")]
    wide = "| P | Phone | Role |\n|-|-|-|\n| Marga | 4471 | plumber |\n| Ilka | 1 | x |\n| Marga | 4472 | plumber |\n"
    assert [later for _, later in replaced(wide)] == ["P: Marga; Phone: 4472; Role: plumber"]


def test_fields_side_by_side_are_a_list() -> None:
    assert replaced("Allergy: nuts\nAllergy: cats\n") == []


def test_all_earlier_ones_are_replaced_by_the_last() -> None:
    text = "The rent is 850 euros.\nThe rent is 860 euros.\nThe rent is now 900 euros.\n"
    assert replaced(text) == [(text.split("\n")[0], text.split("\n")[2]), (text.split("\n")[1], text.split("\n")[2])]
    reading = read(text)
    assert [s.text for s in reading.holding()] == ["The rent is now 900 euros."]
