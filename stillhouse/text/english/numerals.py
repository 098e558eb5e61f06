"""English words for numbers, months, days, hours, units and money, and the one form of each.

In: nothing. Out: tables from a word in lower case to what it stands for. They are data; `text/numbers.py` reads them.
"""

from __future__ import annotations

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_FIRST = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth"
).split()

CARDINALS = {word: n for n, word in enumerate(_UNITS)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}
ORDINALS = {word: n for n, word in enumerate(_FIRST, 1)} | {
    word.removesuffix("y") + "ieth": 10 * n for n, word in enumerate(_TENS, 2)
}
MULTIPLIERS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "dozen": 12}
JOINING = "and"  # two hundred and fifty
NEGATIVE = frozenset(("minus", "negative"))
NO_NUMBER_BEFORE_ONE = frozenset("this that no every any some each which other only another".split())

MONTHS = {
    word: n
    for n, words in enumerate(
        "january jan;february feb;march mar;april apr;may;june jun;july jul;august aug;september sep sept;october oct;"
        "november nov;december dec".split(";"),
        1,
    )
    for word in words.split()
}
MONTH_NAMES = (
    "january february march april may june july august september october november december".split()
)  # the one form of a month that stands alone
MONTH_OR_VERB = "may"
NO_MONTH = frozenset("be have not also well i you we he she it they".split())  # behind it: the verb
WEEKDAYS = frozenset(
    "monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu fri sat sun".split()
)

HALVES_OF_A_DAY = {"am": 0, "pm": 12}
PARTS_OF_A_DAY = {"morning": 0, "afternoon": 12, "evening": 12}
OF_THE_DAY = "in"  # 7:30 in the evening
HOURS = {"noon": "12:00", "midday": "12:00", "midnight": "00:00"}
PARTS_OF_AN_HOUR = {("half", "past"): 30, ("quarter", "past"): 15, ("quarter", "to"): -15}
HOUR_SIGNS = frozenset(("o'clock", "oclock"))

# What stands behind a number, by its sign. A word may be two things: "pounds" are money and a weight.
UNITS = {
    word: tuple(sign.split("|"))
    for sign, words in {
        "kg": "kilogram kilograms kilogramme kilogrammes kilo kilos kgs", "g": "gram grams gramme grammes",
        "mg": "milligram milligrams", "km": "kilometre kilometres kilometer kilometers kms",
        "m": "metre metres meter meters", "cm": "centimetre centimetres centimeter centimeters",
        "mm": "millimetre millimetres millimeter millimeters", "l": "litre litres liter liters",
        "ml": "millilitre millilitres milliliter milliliters", "h": "hour hours hr hrs", "min": "minute minutes mins",
        "s": "second seconds sec secs", "mi": "mile miles", "ft": "foot feet", "inch": "inches", "lb": "lbs",
        "oz": "ounce ounces", "gbp|lb": "pound pounds", "eur": "euro euros", "usd": "dollar dollars", "jpy": "yen",
        "%": "percent", "mb": "megabyte megabytes", "gb": "gigabyte gigabytes", "tb": "terabyte terabytes",
        "day": "days", "week": "weeks", "month": "months", "year": "years yrs", "ha": "hectare hectares",
    }.items()
    for word in (*words.split(), *sign.split("|"))
    if word not in ("lb", "gbp") or sign in ("lb", "gbp")
}  # fmt: skip
UNITS |= {"gbp": ("gbp",)}
LONG_UNITS = {("per", "cent"): "%", ("degrees", "celsius"): "°c", ("degrees", "fahrenheit"): "°f",
              ("miles", "per"): "mi/", ("square", "metres"): "m2", ("square", "meters"): "m2"}  # fmt: skip
