"""Jinja filters that format values for the pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime, timezone
from typing import Any

from llm_policy.pricing import NANO_USD_PER_USD, usd

# Tables of a manifest, and of its hashes, whose keys are names that the operator has chosen.
NAME_TABLES = ("schemas", "schema hashes")
_UNITS = {"us": "µs", "ms": "ms", "s": "s", "usd": "USD", "bytes": "bytes"}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def format_time_ns(time_ns: int) -> str:
    """Unix time in nanoseconds as UTC to the second."""
    try:
        return datetime.fromtimestamp(time_ns / 1e9, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError):
        return f"{time_ns} ns"


def format_iso_time(text: str) -> str:
    """A time in ISO 8601 as UTC to the second; any other text unchanged."""
    try:
        time_s = int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())
    except (ValueError, OverflowError):
        return text
    return format_time_ns(time_s * 1_000_000_000)


def format_value(value: Any) -> str:
    """A number with thousands separators, a bool as yes or no, a missing value as a dash, anything else as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "—"
    if isinstance(value, int | float) and value == value and abs(value) < 1e15:
        return f"{int(value):,}" if value == int(value) else f"{value:,.9f}".rstrip("0")
    if isinstance(value, list):
        return "; ".join(format_value(each) for each in value) or "—"
    return str(value)


def format_usd(nano_usd: int) -> str:
    """Nano-dollars as US dollars: to the cent from $10 on, else as exact as needed, at most four places from a cent on.

    A single request costs less than a cent.
    """
    places = 9
    if abs(nano_usd) >= 10 * NANO_USD_PER_USD:
        places = 2
    elif abs(nano_usd) * 100 >= NANO_USD_PER_USD:
        places = 4
    whole, _, decimals = f"{usd(abs(nano_usd)):,.{places}f}".partition(".")
    return f"{'-' if nano_usd < 0 else ''}${whole}.{decimals.rstrip('0'):0<2}"


def format_day(day: date) -> str:
    """A day of the last year: `Nov 9`."""
    return f"{_MONTHS[day.month - 1]} {day.day}"


def short_hash(text: str) -> str:
    """The first 12 digits of a hash."""
    return text.removeprefix("sha256:")[:12]


def instance_name(source: str) -> str:
    """The instance in the CloudEvents source of an event."""
    return source.removeprefix("/llmstack/")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a tree with its dotted key."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def group_by_table(manifest: Mapping[str, Any]) -> dict[str, list[tuple[str, Any]]]:
    """A manifest's leaves by the dotted key of their table; those of the top level under `general`."""
    tables: dict[str, list[tuple[str, Any]]] = {}
    for key, value in flatten(manifest):
        table, _, name = key.rpartition(".")
        tables.setdefault(table or "general", []).append((name, value))
    return tables


def label_of(key: str) -> str:
    """The name of a key for people: `max_queue_delay_us` is `Max queue delay (µs)`."""
    words = key.split("_")
    if words[0] == "num" and len(words) > 1:
        words[0] = "number of"
    for position, word in enumerate(words):
        unit = _UNITS.get(word)
        if unit is None or position == 0:
            continue
        if words[position + 1 : position + 2] == ["per"]:
            words[position] = unit  # a price
        else:
            words = [*words[:position], *words[position + 1 :], f"({unit})"]
        break
    text = " ".join(words)
    return text[:1].upper() + text[1:]


def table_label(table: str) -> str:
    """The name of a manifest's table for people: `tasks.judge` is `Tasks: judge`."""
    section, _, rest = table.partition(".")
    return f"{label_of(section)}: {rest.replace('.', ' ')}" if rest else label_of(section)


def key_label(key: str) -> str:
    """The name of a dotted key for people: `tasks.judge.top_p` is `Tasks: judge, top p`."""
    table, _, name = key.rpartition(".")
    if not table:
        return label_of(name)
    last = name if table in NAME_TABLES else label_of(name)[:1].lower() + label_of(name)[1:]
    return f"{table_label(table)}{',' if '.' in table else ':'} {last}"


def omit(mapping: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """`mapping` without `keys`."""
    return {key: value for key, value in mapping.items() if key not in keys}


FILTERS = (
    format_time_ns,
    format_iso_time,
    format_value,
    format_usd,
    format_day,
    short_hash,
    instance_name,
    flatten,
    group_by_table,
    label_of,
    table_label,
    key_label,
    omit,
)
