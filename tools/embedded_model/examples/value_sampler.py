"""Random values for the examples, from two disjoint sets: one for training, the held-out one for evaluation.

Most training words are assembled from syllables or tokens, so that the model can't memorise them and has to copy from
the prompt. Held-out words are real ones that training never uses; held-out numbers and dates belong to a residue class
that training leaves out.
"""

# ruff: noqa: SIM905 - words are easier to read and extend than hundreds of literals

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from datetime import date, timedelta

from embedded_model.examples.corpus import PEOPLE, PLACES, nouns

# Numbers and days with this residue are held out.
_MODULUS, _HELD_OUT_RESIDUE = 7, 3
_MIN_SPLIT_INTEGER = 100  # smaller numbers are too few to split, so both sets use them
_MAX_WORD_LENGTH = 14

_FIRST_DAY, _NUM_DAYS = date(2019, 1, 1), 3_650
_AMOUNT = re.compile(r"\d+\.\d[1-9]")

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


class ValueSampler:
    """Samples values with `random`, either held-out ones or those for training."""

    def __init__(self, rng: random.Random, is_held_out: bool, pieces: Sequence[str] = ()) -> None:
        """`pieces` are parts of words, such as a tokenizer's entries, from which training words are assembled."""
        self.random = rng
        self._is_held_out = is_held_out
        self._pieces = pieces

    def person(self) -> str:
        """A first and a last name."""
        if self._is_held_out:
            return f"{self.random.choice(HELD_OUT_FIRST_NAMES)} {self.random.choice(HELD_OUT_LAST_NAMES)}"
        first = self.random.choice(PEOPLE) if self.random.random() < 0.1 else self._word()
        return f"{first} {self._word()}"

    def place(self) -> str:
        """A town."""
        if self._is_held_out:
            return self.random.choice(HELD_OUT_PLACES)
        return self.random.choice(PLACES) if self.random.random() < 0.1 else self._word()

    def thing(self) -> str:
        """An object's name in lower case."""
        if self._is_held_out:
            return self.random.choice(HELD_OUT_THINGS)
        return self.random.choice(nouns()) if self.random.random() < 0.3 else self._word().lower()

    def label(self) -> str:
        """One or two nouns in lower case, for the name of a field."""
        source = HELD_OUT_THINGS if self._is_held_out else nouns()
        return " ".join(self.random.sample(source, self.random.choice((1, 1, 2))))

    def integer(self, minimum: int, maximum: int) -> int:
        """An integer within inclusive bounds."""
        return self._sample_in_split(lambda: self.random.randint(minimum, maximum), _integer_residue)

    def amount(self, limit: int) -> str:
        """An amount below `limit` with two decimal places. The last one isn't 0, so JSON writes it like the text."""
        return f"{self.integer(1, limit - 1)}.{self.random.randint(0, 9)}{self.random.randint(1, 9)}"

    def iso_date(self) -> str:
        """A date as YYYY-MM-DD."""
        day = self._sample_in_split(lambda: self.random.randrange(_NUM_DAYS), lambda day: day % _MODULUS)
        return (_FIRST_DAY + timedelta(days=day)).isoformat()

    def code(self, prefix: str, num_digits: int) -> str:
        """A reference such as ORD-4711."""
        number = self.integer(10 ** (num_digits - 1), 10**num_digits - 1)
        return f"{prefix}-{number}"

    def similar_amount(self, amount: str) -> str:
        """`amount` with one digit changed."""
        return self._change_digit(amount, self.is_allowed_amount)

    def similar_date(self, iso_date: str) -> str:
        """`iso_date` with one digit changed, or unchanged if no such date is in this set."""
        return self._change_digit(iso_date, self.is_allowed_date)

    def is_allowed_amount(self, text: str) -> bool:
        """Whether `amount` can return this text."""
        if not _AMOUNT.fullmatch(text) or text[0] == "0":
            return False
        return self._is_in_split(_integer_residue(int(text[:-3])))

    def is_allowed_date(self, text: str) -> bool:
        """Whether `iso_date` can return this text."""
        try:
            day = (date.fromisoformat(text) - _FIRST_DAY).days
        except ValueError:  # a day that its month doesn't have
            return False
        return 0 <= day < _NUM_DAYS and self._is_in_split(day % _MODULUS)

    def _change_digit(self, text: str, is_allowed: Callable[[str], bool]) -> str:
        changed = {
            text[:place] + digit + text[place + 1 :]
            for place in range(len(text))
            if text[place].isdigit()
            for digit in "0123456789"
        }
        return self.random.choice(sorted(other for other in changed - {text} if is_allowed(other)) or [text])

    def _is_in_split(self, residue: int) -> bool:
        return residue < 0 or (residue == _HELD_OUT_RESIDUE) is self._is_held_out

    def _sample_in_split(self, sample: Callable[[], int], residue: Callable[[int], int]) -> int:
        while True:
            value = sample()
            if self._is_in_split(residue(value)):
                return value

    def _word(self) -> str:
        """A capitalised random word that isn't held out."""
        while True:
            word = self._assemble_word()
            if len(word) <= _MAX_WORD_LENGTH and word not in _HELD_OUT:
                return word

    def _assemble_word(self) -> str:
        choice = self.random.choice
        if self._pieces and self.random.random() < 0.5:
            return "".join(choice(self._pieces) for _ in range(self.random.randint(1, 3))).capitalize()
        syllables = range(choice((1, 2, 2, 2, 3)))
        word = "".join(choice(_ONSETS) + choice(_VOWELS) + choice(_CODAS) for _ in syllables)
        if self.random.random() < 0.85:
            word = "".join(letter for letter in word if letter not in _ACCENTED)
        return word.capitalize()


_HELD_OUT = frozenset((*HELD_OUT_FIRST_NAMES, *HELD_OUT_LAST_NAMES, *HELD_OUT_PLACES)) | {
    thing.capitalize() for thing in HELD_OUT_THINGS
}


def _integer_residue(integer: int) -> int:
    """The residue that assigns an integer to one of the sets, or -1 for a small one, which both sets use."""
    return integer % _MODULUS if integer >= _MIN_SPLIT_INTEGER else -1
