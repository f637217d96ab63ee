"""Where the values of examples come from: one source for training, another for evaluation, with nothing in common.

Training values are made up, piece by piece, so that there is nothing to remember and copying is the only way to be
right. Held-out values are real words and names that training never uses, and numbers and dates of a residue class that
training leaves out.
"""

# ruff: noqa: SIM905 - words are easier to read and extend than hundreds of literals

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import TypeVar

from embedded_model.text import PEOPLE, PLACES, nouns

_Value = TypeVar("_Value")

# Numbers and days whose residue is this one belong to the evaluation.
_MODULUS, _HELD_OUT_RESIDUE = 7, 3
_SMALLEST_SPLIT_NUMBER = 100  # too few numbers lie below it to divide them
_MAX_WORD_LENGTH = 14

_FIRST_DAY, _NUM_DAYS = date(2019, 1, 1), 3_650
_CENTS = re.compile(r"\d+\.\d[1-9]")

_ONSETS = """
b bl br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p ph pl pr qu r s sch sh sk sl st str t th tr v w z
""".split()
_VOWELS = """
a a a e e e i i o o u y ai au ea ee ei ia ie io oa oo ou á é í ö ü ø
""".split()
# Most syllables end in a vowel.
_CODAS = ["", "", "", *"b ck d f g k l ll m n n nd ng nk nt p r r rd rk rt s ss st t th x z".split()]
_ACCENTED = frozenset("áéíöüø")

HELD_OUT_FIRST_NAMES = """
Agnieszka Alasdair Alessandra Anneliese Aoife Apolline Bartholomew Benedikta Bronwen Caspian Catriona Cordelia Desmond
Dimitra Eamon Eleonora Esmeralda Evander Finnegan Florian Gideon Giuseppe Gudrun Gwendolyn Hamish Henrike Horatio
Ignatius Ingeborg Isolde Jocasta Josephine Kazimir Lavinia Leopold Ludmila Magnus Marguerite Mordecai Nikolaus Octavia
Oleander Ottoline Pascal Persephone Philippa Quentin Rosalind Rufus Saoirse Siegfried Tabitha Thaddeus Ulrike Ursula
Valentina Wilhelmina Winifred Yevgenia Zebedee
""".split()
HELD_OUT_LAST_NAMES = """
Abernathy Ackermann Bellweather Birkenstock Blackwood Bonaventure Castellanos Chakraborty Cunningham Dankworth
Delacroix Drummond Eisenhower Fairweather Featherstone Fitzgerald Galbraith Goldstein Greenhalgh Hawthorne
Hollingsworth Huxtable Iglesias Jankowski Kirkpatrick Kowalczyk Lindqvist Lovelace MacAllister Marchetti Montgomery
Mukherjee Nightingale Nakamura Oberholzer Pemberton Petrov Quartermaine Ravenscroft Rosenbaum Rutherford Saltzman
Schwarzkopf Shackleton Silverstone Somerville Stravinsky Tennenbaum Thistlewood Underhill Vandenberg Wainwright
Weatherby Whitlock Wolstenholme Yamaguchi Zimmermann
""".split()
HELD_OUT_PLACES = """
Aberystwyth Ankara Antwerp Bratislava Bucharest Cartagena Casablanca Cologne Darjeeling Dresden Düsseldorf Eindhoven
Fukuoka Gdansk Gothenburg Graz Guadalajara Halifax Innsbruck Inverness Kathmandu Kraków Leipzig Ljubljana Luxembourg
Malmö Marrakesh Marseille Minneapolis Monterrey Nottingham Nuremberg Odense Oxford Palermo Penzance Pittsburgh Quito
Reykjavik Rosario Salzburg Samarkand Sarajevo Seville Stavanger Strasbourg Tallinn Tampere Thessaloniki Trondheim
Ulaanbaatar Valletta Vancouver Vilnius Windhoek Winnipeg Yokohama Zagreb Zanzibar
""".split()
HELD_OUT_THINGS = """
accordion anvil apron armchair backpack balaclava banjo barometer bassoon binoculars blender bookcase bracelet
broomstick candelabra canoe cardigan cello chandelier chisel clarinet compass corkscrew crowbar dehumidifier
dictionary drone dulcimer easel espresso fiddle flute gazebo gramophone greenhouse grill hammock harmonica harpsichord
headphones helmet kayak kimono lantern lawnmower mandolin marionette metronome microscope moccasins oboe paddle
parasol periscope pyjamas rucksack saxophone scissors skateboard spatula sprinkler stethoscope suitcase tambourine
telescope thermos toaster trampoline tricycle tripod trombone ukulele umbrella vacuum violin wardrobe wheelbarrow
xylophone
""".split()


class Words:
    """Values for one example after another, drawn by `random`; each call draws a fresh one."""

    def __init__(self, generator: random.Random, is_held_out: bool, pieces: Sequence[str] = ()) -> None:
        """`pieces` are bits of words that made-up ones may hold, such as a tokenizer's entries."""
        self.random = generator
        self._is_held_out = is_held_out
        self._pieces = pieces

    def person(self) -> str:
        """A first and a last name."""
        if self._is_held_out:
            return f"{self.random.choice(HELD_OUT_FIRST_NAMES)} {self.random.choice(HELD_OUT_LAST_NAMES)}"
        first = self.random.choice(PEOPLE) if self.random.random() < 0.1 else self._name()
        return f"{first} {self._name()}"

    def place(self) -> str:
        """A town."""
        if self._is_held_out:
            return self.random.choice(HELD_OUT_PLACES)
        return self.random.choice(PLACES) if self.random.random() < 0.1 else self._name()

    def thing(self) -> str:
        """Something that can be bought, carried or talked about, in lower case."""
        if self._is_held_out:
            return self.random.choice(HELD_OUT_THINGS)
        return self.random.choice(nouns()) if self.random.random() < 0.3 else self._name().lower()

    def label(self) -> str:
        """One or two nouns in lower case, as the name of a field has them."""
        source = HELD_OUT_THINGS if self._is_held_out else nouns()
        return " ".join(self.random.sample(source, self.random.choice((1, 1, 2))))

    def number(self, least: int, most: int) -> int:
        """A whole number from `least` to `most`."""
        return self._of_my_kind(lambda: self.random.randint(least, most), _number_residue)

    def cents(self, most: int) -> str:
        """An amount below `most` with two places, the last of them no zero: JSON writes it as the text does."""
        return f"{self.number(1, most - 1)}.{self.random.randint(0, 9)}{self.random.randint(1, 9)}"

    def day(self) -> str:
        """A date as YYYY-MM-DD."""
        number = self._of_my_kind(lambda: self.random.randrange(_NUM_DAYS), lambda day: day % _MODULUS)
        return (_FIRST_DAY + timedelta(days=number)).isoformat()

    def code(self, prefix: str, num_digits: int) -> str:
        """A reference such as ORD-4711."""
        number = self.number(10 ** (num_digits - 1), 10**num_digits - 1)
        return f"{prefix}-{number}"

    def near_cents(self, cents: str) -> str:
        """`cents` with one digit changed."""
        return self._change_digit(cents, range(len(cents)), self.is_my_cents)

    def near_day(self, day: str) -> str:
        """`day` with one digit changed; `day` itself where none of those dates may stand here."""
        return self._change_digit(day, range(len(day)), self.is_my_day)

    def is_my_cents(self, text: str) -> bool:
        """Whether `cents` may give this amount here."""
        return bool(_CENTS.fullmatch(text)) and text[0] != "0" and self._is_mine(_number_residue(int(text[:-3])))

    def is_my_day(self, text: str) -> bool:
        """Whether `day` may give this date here."""
        try:
            number = (date.fromisoformat(text) - _FIRST_DAY).days
        except ValueError:  # no month has that day
            return False
        return 0 <= number < _NUM_DAYS and self._is_mine(number % _MODULUS)

    def _change_digit(self, text: str, places: Sequence[int], is_right: Callable[[str], bool]) -> str:
        near = {
            text[:place] + digit + text[place + 1 :]
            for place in places
            if text[place].isdigit()
            for digit in "0123456789"
        }
        return self.random.choice(sorted(other for other in near - {text} if is_right(other)) or [text])

    def _is_mine(self, residue: int) -> bool:
        return residue < 0 or (residue == _HELD_OUT_RESIDUE) is self._is_held_out

    def _of_my_kind(self, draw: Callable[[], int], residue: Callable[[int], int]) -> int:
        while True:
            value = draw()
            if self._is_mine(residue(value)):
                return value

    def _name(self) -> str:
        """A made-up word with a capital, none of the held-out ones."""
        while True:
            word = self._spell()
            if len(word) <= _MAX_WORD_LENGTH and word not in _HELD_OUT:
                return word

    def _spell(self) -> str:
        choose = self.random.choice
        if self._pieces and self.random.random() < 0.5:
            return "".join(choose(self._pieces) for _ in range(self.random.randint(1, 3))).capitalize()
        word = "".join(
            choose(_ONSETS) + choose(_VOWELS) + choose(_CODAS) for _ in range(self.random.choice((1, 2, 2, 2, 3)))
        )
        if self.random.random() < 0.85:
            word = "".join(letter for letter in word if letter not in _ACCENTED)
        return word.capitalize()


_HELD_OUT = frozenset((*HELD_OUT_FIRST_NAMES, *HELD_OUT_LAST_NAMES, *HELD_OUT_PLACES)) | {
    thing.capitalize() for thing in HELD_OUT_THINGS
}


def _number_residue(number: int) -> int:
    """The residue that tells the two kinds apart; -1 for a small number, which both use."""
    return number % _MODULUS if number >= _SMALLEST_SPLIT_NUMBER else -1
