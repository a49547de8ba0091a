"""An invented catalogue: the same number always gives the same book, on every machine."""

from __future__ import annotations

from collections.abc import Iterable

from demo_project.library.models import Book

# Never assigned by the ISBN agencies, so no invented book bears the number of a real one.
PREFIX = "97999"

ADJECTIVES = (
    "Amber", "Borrowed", "Careful", "Distant", "Early", "Forgotten", "Gentle", "Hollow", "Inner",
    "Late", "Little", "Lost", "Narrow", "Northern", "Paper", "Quiet", "Restless", "Salt", "Second",
    "Silver", "Slow", "Unfinished", "Winter",
)  # fmt: skip
NOUNS = (
    "Almanac", "Archive", "Bridge", "Cartographer", "Clockmaker", "Compass", "Estuary", "Ferry",
    "Garden", "Harbour", "Island", "Lantern", "Letter", "Lighthouse", "Mirror", "Observatory",
    "Orchard", "Railway", "River", "Signal", "Staircase", "Theorem", "Voyage", "Weaver", "Well",
    "Window", "Workshop",
)  # fmt: skip
PLACES = (
    "Aldermoor", "Brackwater", "Castle Row", "Dunmere", "Eastgate", "Fallow Hill", "Greyhaven",
    "High Fen", "Ivy Lane", "Kestrel Bay", "Low Marsh", "Mill Street", "Newharbour", "Oldbridge",
    "Pender Isle", "Quarry Cross", "Redcliff", "Stonebrook", "Tidewater",
)  # fmt: skip
# Trees and birds with initials: nobody's name.
SURNAMES = (
    "Alder", "Avocet", "Beech", "Bittern", "Cedar", "Curlew", "Dunlin", "Elm", "Fieldfare",
    "Gannet", "Hazel", "Hornbeam", "Juniper", "Knot", "Larch", "Merlin", "Plover", "Redshank",
    "Rowan", "Siskin", "Spruce", "Teal", "Whimbrel", "Willow", "Wren", "Yew",
)  # fmt: skip
INITIALS = "ADHMR"
SUBJECTS = {
    "fiction": "The {adjective} {noun}",
    "history": "{place}: A History of the {adjective} {noun}",
    "travel": "By the {adjective} {noun} to {place}",
    "science": "The {adjective} {noun} at {place}, Explained",
    "crafts": "Building the {adjective} {noun}",
    "mystery": "The {noun} of {place}",
    "poetry": "{adjective} {noun}, {place}: Poems",
}


def books(numbers: Iterable[int]) -> list[Book]:
    """The books with these numbers, not saved."""
    return [book(number) for number in numbers]


def book(number: int) -> Book:
    """The book with this number, not saved."""
    # Strides that share no factor with the length of their list: neighbours differ, and everything occurs.
    subject = list(SUBJECTS)[number % len(SUBJECTS)]
    title = SUBJECTS[subject].format(
        adjective=ADJECTIVES[number * 7 % len(ADJECTIVES)],
        noun=NOUNS[(number * 5 + number // len(NOUNS)) % len(NOUNS)],
        place=PLACES[(number * 3 + number // len(ADJECTIVES)) % len(PLACES)],
    )
    author = number * 11 % (len(SURNAMES) * len(INITIALS))
    return Book(
        isbn=isbn(number),
        title=title,
        author=f"{INITIALS[author % len(INITIALS)]}. {SURNAMES[author // len(INITIALS)]}",
        subject=subject,
        year=1950 + number * 13 % 76,
        copies=1 + number % 3,
    )


def isbn(number: int) -> str:
    """An ISBN-13 with a right check digit."""
    digits = f"{PREFIX}{number:07d}"
    weighted = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(digits))
    return f"{digits}{-weighted % 10}"
