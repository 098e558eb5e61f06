"""Values are whole spans: what may never be cut, in sentences of several languages and scripts."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.text.values import Atom, atoms, is_whole, whole_span, widen, widened

# A sentence with a value in it, and the value.
WHOLE = [
    ("My dentist is Dr. Holm.", "Dr. Holm"),
    ("My boss is Prof. Ada Linde.", "Prof. Ada Linde"),
    ("Our GP is Dr. Amara Okafor-Lind, who is kind.", "Dr. Amara Okafor-Lind"),
    ("The landlady is Mrs. A. B. Klein.", "Mrs. A. B. Klein"),
    ("My favourite author is J. R. R. Tolkien.", "J. R. R. Tolkien"),
    ("John F. Kennedy opened it.", "John F. Kennedy"),
    ("I write to M. Dupont on Mondays.", "M. Dupont"),
    ("The firm is called Hadley & Sons.", "Hadley & Sons"),
    ("I work with Ilka van der Meer.", "Ilka van der Meer"),
    ("She was born in Rio de Janeiro.", "Rio de Janeiro"),
    ("Our vet is Maria de la Cruz Ortega.", "Maria de la Cruz Ortega"),
    ("My bank is the Bank of Brellin.", "Bank of Brellin"),
    ("My king is Karl Gustaf XVI of course.", "Karl Gustaf XVI"),
    ("The heir is Tom Vale Jr., they say.", "Tom Vale Jr."),
    ("My email is kim.vale@example.org.", "kim.vale@example.org"),
    ("Write to <kim+notes@mail.example.co.uk>, please.", "kim+notes@mail.example.co.uk"),
    ("The wiki is at https://wiki.example.org/a/b?c=d#e.", "https://wiki.example.org/a/b?c=d#e"),
    ("See www.example.org/x_(y).", "www.example.org/x_(y)"),
    ("My handle is @kim_vale.", "@kim_vale"),
    ("The log is /var/log/app.log.", "/var/log/app.log"),
    ("The file is C:\\Users\\kim\\a.txt.", "C:\\Users\\kim\\a.txt"),
    ("The config is ~/.config/app.toml.", "~/.config/app.toml"),
    ("The server is at 10.0.0.17.", "10.0.0.17"),
    ("The NAS is at 192.168.0.4:8080.", "192.168.0.4:8080"),
    ("The MAC is 00:1B:44:11:3A:B7.", "00:1B:44:11:3A:B7"),
    ("The address is fe80::1ff:fe23:4567:890a.", "fe80::1ff:fe23:4567:890a"),
    ("My birthday is 1991-02-03.", "1991-02-03"),
    ("It ran at 2024-05-03T07:30:00Z.", "2024-05-03T07:30:00Z"),
    ("We met on 3 May 2024.", "3 May 2024"),
    ("We met on May 3rd, 2024.", "May 3rd, 2024"),
    ("We met on May 3rd.", "May 3rd"),
    ("We met on the 3rd of May.", "3rd of May"),
    ("We met on 03/05/2024.", "03/05/2024"),
    ("I started in March 2021.", "March 2021"),
    ("Ärger gab es am 3. Mai.", "3. Mai"),
    ("Wir trafen uns am 3.5.2024.", "3.5.2024"),
    ("Le rendez-vous est le 14 juillet 2023.", "14 juillet 2023"),
    ("La boda es el 4 de mayo de 1990.", "4 de mayo de 1990"),
    ("Он родился 5 мая 1990.", "5 мая 1990"),
    ("会议是2024年5月3日。", "2024年5月3日"),
    ("생일은 2024년 5월 3일입니다.", "2024년 5월 3일"),
    ("The bakery opens at 7:30 pm.", "7:30 pm"),
    ("We open at 7 a.m. on Mondays.", "7 a.m."),
    ("We are open 9–17 h.", "9–17 h"),
    ("We are open 9:00-17:30.", "9:00-17:30"),
    ("Der Termin ist um 9 Uhr.", "9 Uhr"),
    ("会议在上午9点。", "9点"),
    ("My phone is +44 20 7946 0958.", "+44 20 7946 0958"),
    ("Ring 0161 555 0142 for it.", "0161 555 0142"),
    ("Ring (0161) 555-0142 for it.", "(0161) 555-0142"),
    ("My IBAN is DE89 3704 0044 0532 0130 00.", "DE89 3704 0044 0532 0130 00"),
    ("My card is 4111 1111 1111 1111.", "4111 1111 1111 1111"),
    ("My postcode is SW1A 1AA.", "SW1A 1AA"),
    ("The plate is B-MX 4471.", "B-MX 4471"),
    ("We run v1.2.3-rc1 there.", "v1.2.3-rc1"),
    ("We run Python 3.12.4 there.", "Python 3.12.4"),
    ("The rent is € 1,250.00.", "€ 1,250.00"),
    ("The rent is €850.50 per month.", "€850.50"),
    ("The rent is 850 euros.", "850 euros"),
    ("It cost Rs 2.500,-.", "Rs 2.500,-"),
    ("It cost CHF 12'500.", "CHF 12'500"),
    ("It cost $3.5 million.", "$3.5 million"),
    ("Die Miete beträgt 1.250,00 €.", "1.250,00 €"),
    ("La note est de 1 250,50 €.", "1 250,50 €"),
    ("The cellar has -5 °C.", "-5 °C"),
    ("It weighs 12.5 kg.", "12.5 kg"),
    ("I run 10 km.", "10 km"),
    ("I get 25 % off.", "25 %"),
    ("Tom is 7 years old.", "7 years"),
    ("The warranty is for three years.", "three years"),
    ("The code is AB-1234/7.", "AB-1234/7"),
    ("The code is 55-K.", "55-K"),
    ("I live at 12 St. Mary Road.", "12 St. Mary Road"),
    ("I live at 221B Baker Street.", "221B Baker Street"),
    ("Ich wohne in der Hauptstr. 5.", "Hauptstr. 5"),
    ("Ich wohne in der Goethestraße 12a.", "Goethestraße 12a"),
    ("J'habite 12 rue de Rivoli.", "12 rue de Rivoli"),
    ("Vivo en Calle Mayor 5.", "Calle Mayor 5"),
    ("Ik woon in de Prinsengracht 263.", "Prinsengracht 263"),
    ('My book is "The Long Way".', "The Long Way"),
    ("Mein Buch heißt „Der lange Weg“.", "Der lange Weg"),
    ("本は『長い道の話』です。", "長い道の話"),
    ("犬の名前はゾルビックです。", "ゾルビック"),
    ("My favourite emoji is 👨‍👩‍👧‍👦.", "👨‍👩‍👧‍👦"),
    ("My password is x9:Kf!2#q.", "x9:Kf!2#q"),
    ("The language is C++.", "C++"),
    ("The pub is O'Brien's.", "O'Brien"),
]
# A span that is whole though other words stand beside it.
FREE = [
    ("My sister's dog is called Rex.", "Rex"),
    ("David's dog is called Rex.", "David"),
    ("Our block is A. Tom lives there.", "Tom"),
    ("On Friday Anna comes.", "Anna"),
    ("In May Anna moved.", "Anna"),
    ("Uncle Bob is a baker.", "Bob"),
    ("Uncle Bob is a baker.", "Uncle Bob"),
    ("Meine Schwester Quelia wohnt in Bonn.", "Quelia"),
    ("Mein Hund heißt Zorvik und frisst Käse.", "Zorvik"),
    ("The plane leaves from Terminal 2.", "2"),
    ("My PIN is PIN 4471.", "4471"),
    ("I like tea,coffee,milk.", "coffee"),
    ("My dog—Zorvik—is old.", "Zorvik"),
    ("My dog (Zorvik) is old.", "Zorvik"),
    ("My dog is **Zorvik**!", "Zorvik"),
    ("Dog: Zorvik", "Zorvik"),
    ("I have three cats and a red bike.", "red bike"),
    ("L'école d'Anna est à Lyon.", "Anna"),
    ("我的狗叫佐维克。", "佐维克"),
    ("제 개 이름은 조르빅입니다.", "조르빅"),
    ("كلبي اسمه زورفيك، وهو كبير.", "زورفيك"),
    ("मेरे कुत्ते का नाम ज़ोर्विक है।", "ज़ोर्विक"),
    ("Моя собака — Зорвик.", "Зорвик"),
    ("İstanbul'da oturuyorum.", "oturuyorum"),
    ("MY DOG IS CALLED ZORVIK.", "ZORVIK"),
    ("i live in oskamund with rex.", "oskamund"),
]
# A span that is a part of a value.
CUT = [
    ("My dentist is Dr. Holm.", "Dr"),
    ("My dentist is Dr. Holm.", "Holm"),
    ("My boss is Prof. Ada Linde.", "Prof. Ada"),
    ("my dentist is dr. holm", "dr"),
    ("I live at 12 St. Mary Road.", "12 St"),
    ("My birthday is 1991-02-03.", "1991-02"),
    ("My email is kim.vale@example.org.", "kim"),
    ("My email is kim.vale@example.org.", "example.org"),
    ("The plane leaves from Terminal 2.", "Terminal"),
    ("We run Python 3.12.4 there.", "Python"),
    ("The rent is 850 euros.", "850"),
    ("I am 41 years old.", "years"),
    ("My dog is well-known.", "known"),
    ("My dog is Zorvik.", "Zor"),
    ("The pub is O'Brien's.", "Brien"),
    ("犬の名前はゾルビックです。", "ゾル"),
    ("제 개 이름은 조르빅입니다.", "조르"),
    ("My favourite emoji is 👨‍👩‍👧‍👦.", "👨"),
    ("मेरे कुत्ते का नाम ज़ोर्विक है।", "ज़ोर्व"),
    ("The hotel is Zur Alten Post.", "Alten"),
    ("Ada Linde is my boss.", "Ada"),
]


def at(text: str, value: str) -> tuple[int, int]:
    start = text.index(value)
    return start, start + len(value)


@pytest.mark.parametrize(("text", "value"), WHOLE + FREE)
def test_a_whole_value(text: str, value: str) -> None:
    assert is_whole(text, *at(text, value))
    assert whole_span(text, value) is not None


@pytest.mark.parametrize(("text", "value"), CUT)
def test_a_cut_value(text: str, value: str) -> None:
    assert not is_whole(text, *at(text, value))
    assert whole_span(text, value) is None


@pytest.mark.parametrize(("text", "value"), WHOLE)
def test_no_cut_of_a_value_is_whole(text: str, value: str) -> None:
    """Not at any space, hyphen, dot or other sign inside it, nor inside a word; signs at its edges may be left out."""
    start, end = at(text, value)
    letters = [i for i in range(start, end) if text[i].isalnum() or ord(text[i]) > 0x2FFF]
    for cut in range(letters[0] + 1, letters[-1] + 1):
        assert not is_whole(text, start, cut), text[start:cut]
    soft = text[start:end].split()[0] in ("Bank", "Tom", "Python")
    for cut in [] if soft else range(letters[0] + 1, letters[-1] + 1):
        assert not is_whole(text, cut, end), text[cut:end]


@pytest.mark.parametrize(("text", "value"), WHOLE)
def test_a_cut_is_widened_to_the_value(text: str, value: str) -> None:
    start, end = at(text, value)
    for cut in range(start + 1, end):
        if not is_whole(text, start, cut):
            first, last = widen(text, start, cut)
            assert text[first:last].strip("().") == value.strip("().") or text[first:last].startswith(value)


@pytest.mark.parametrize(
    ("text", "value", "whole"),
    [
        ("My dentist is Dr. Holm.", "Dr", "Dr. Holm"),
        ("My email is kim.vale@example.org.", "Kim", "kim.vale@example.org"),
        ("My birthday is 1991-02-03.", "1991-02", "1991-02-03"),
        ("I live at 12 St. Mary Road.", "12 St", "12 St. Mary Road"),
        ("The rent is 850 euros.", "850", "850 euros"),
        ("My dog is called Zorvik.", '"zorvik."', "Zorvik"),
        ("My dog is called Zorvik.", "Rex", None),
        ("Dr. Holm and Dr. Vale live here.", "Dr", None),
        ("my dentist is dr. amara okafor", "dr", None),
        ("My dog is called Zorvik.", "", None),
        ("My dog is called Zorvik.", "?!", None),
    ],
)
def test_a_value_is_made_whole_where_that_is_certain(text: str, value: str, whole: str | None) -> None:
    assert widened(text, value) == whole


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("My dog is called  Zorvik  Rex.", "zorvik rex"),
        ("My book is “The Long Way”.", '"the long way"'),
        ("It is O’Brien.", "O'Brien"),
        ("We are open 9–17 h.", "9-17 h"),
        ("My dog is called Zorvik.", "  Zorvik.  "),
    ],
)
def test_a_value_is_looked_for_as_a_reader_would(text: str, value: str) -> None:
    assert whole_span(text, value) is not None


@pytest.mark.parametrize(
    "text",
    [
        "Wir treffen uns z. B. bei Oma, d. h. am 3. Mai um 9 Uhr in der Hauptstr. 5.",
        "Dr. J. R. Holm, Prof. Ada Linde and St. Mary live at No. 5, e.g. on 3 Sept. 2024 at 7 p.m. with Mr. Vale.",
    ],
)
def test_a_full_stop_inside_a_value_ends_no_sentence(text: str) -> None:
    """As a splitter of sentences reads `atoms`."""
    found = atoms(text)
    stops = [stop.start() + 1 for stop in re.finditer(r"\.\s(?=[A-Z0-9])", text)]
    assert stops
    for place in stops:
        inside = any(a.start < place < a.end or (a.kind == "abbreviation" and a.end == place) for a in found)
        assert inside, text[:place]


NAMES = ["Holm", "Okafor", "Linde-Maas", "O'Brien", "Zoë", "Łukasz", "Зорвик"]
DIGIT = st.integers(0, 9).map(str)


def digits(count: int) -> st.SearchStrategy[str]:
    return st.lists(DIGIT, min_size=count, max_size=count).map("".join)


VALUES = st.one_of(
    st.builds("{} {}".format, st.sampled_from(["Dr.", "Prof.", "Mrs.", "Herr", "Mme"]), st.sampled_from(NAMES)),
    st.builds("{}. {}. {}".format, st.sampled_from("ABKZ"), st.sampled_from("RTV"), st.sampled_from(NAMES)),
    st.builds("{}.{}@ex.org".format, st.sampled_from(["kim", "a1", "x_y"]), st.sampled_from(["vale", "b"])),
    st.builds("https://{}.org/{}".format, st.sampled_from(["a", "w-1"]), st.sampled_from(["x?y=1", "a/b.html", "c#d"])),
    st.builds("{:04}-{:02}-{:02}".format, st.integers(1000, 2999), st.integers(1, 12), st.integers(1, 28)),
    st.builds("{} {} {}".format, st.integers(1, 28), st.sampled_from(["May", "Oct", "März"]), st.integers(1900, 2099)),
    st.builds("{}:{:02} pm".format, st.integers(1, 12), st.integers(0, 59)),
    st.builds("0{} {} {}".format, digits(3), digits(3), digits(4)),
    st.builds("GB{} {} {} {}".format, digits(2), digits(4), digits(4), digits(4)),
    st.builds("v{}.{}.{}-rc1".format, st.integers(0, 30), st.integers(0, 30), st.integers(0, 30)),
    st.builds("€{},{}.50".format, st.integers(1, 999), digits(3)),
    st.builds("{} euros".format, st.integers(1, 9999)),
    st.builds("{}.{} kg".format, st.integers(1, 99), st.integers(0, 9)),
    st.builds("{}{}-{}".format, st.sampled_from(["AB", "Q"]), digits(3), digits(2)),
    st.builds("{} {} {}".format, st.integers(1, 300), st.sampled_from(["Mill", "St. Anne"]), st.just("Road")),
)  # fmt: skip
FRAMES = st.sampled_from(
    ["It is {}.", "I have {} here", "{} is what we want.", "well: {}, it says", 'so "{}" then', "({})"]
)


@given(VALUES, FRAMES)
def test_values_in_sentences_are_never_cut(value: str, frame: str) -> None:
    text, start = frame.format(value), frame.index("{")
    end = start + len(value)
    assert is_whole(text, start, end)
    for cut in range(start + 1, end):
        assert not is_whole(text, start, cut), text[start:cut]
        assert not is_whole(text, cut, end), text[cut:end]


ANY = st.text(max_size=60) | st.lists(
    st.sampled_from(["Dr", ".", " ", "Ada", "A", "3", "-", "Mai", "@", "x", "年", "ゾ", "\n", "'", '"', "€", ","]),
    max_size=30,
).map("".join)  # fmt: skip


@given(ANY)
def test_atoms_are_sorted_and_disjoint(text: str) -> None:
    found = atoms(text)
    assert all(0 <= a.start < a.end <= len(text) for a in found)
    assert all(left.end <= right.start for left, right in pairwise(found))


@given(ANY, st.integers(-3, 70), st.integers(-3, 70), ANY)
def test_nothing_raises_and_what_is_widened_is_whole_or_all(text: str, start: int, end: int, value: str) -> None:
    is_whole(text, start, end)
    span = whole_span(text, value)
    assert span is None or is_whole(text, *span)
    first, last = widen(text, min(start, end), max(start, end))
    assert 0 <= first <= len(text)
    assert last <= len(text)
    widened(text, value)


@pytest.mark.parametrize(
    "piece",
    [
        "a", "A", "1", "1 ", "Ada ", "Dr. ", "a.", "a,", "x@", "(", '"', "年", "3年", "1,", "A-", "A1 ", "http://",
        "'a", "\n", "12 St. ", "a,b;", "«", "1 1 ", "A. ", "@", "/", "Hauptstr. ", "rue a ",
    ],
)  # fmt: skip
def test_the_time_is_linear(piece: str) -> None:
    def seconds(size: int) -> float:
        text = (piece * size)[:size]
        before = time.perf_counter()
        atoms(text)
        return time.perf_counter() - before

    seconds(1000)
    assert seconds(100_000) < 6, "a 1 MB text takes at most ten times as long"


def test_an_atom_is_a_record() -> None:
    assert atoms("It is 7 km.") == [Atom(6, 10, "quantity")]
