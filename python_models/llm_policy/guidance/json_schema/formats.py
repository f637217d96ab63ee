"""The formats of JSON Schema (2020-12 Validation §7.3) as anchored regexes.

A regex accepts every value that the validator accepts, and few others: constraints that a regex can't express (a host
name's total length, punycode) are left to the validator. Formats without an entry are annotations.
"""

from __future__ import annotations

_DATE = (
    r"(?:\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
    r"|(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
_HOUR = r"(?:[01]\d|2[0-3])"
_OFFSET = rf"(?:[Zz]|[+-]{_HOUR}:[0-5]\d)"
_TIME = (
    rf"(?:{_HOUR}:[0-5]\d:[0-5]\d(?:\.\d+)?{_OFFSET}"
    rf"|23:59:60(?:\.\d+)?[Zz]|{_HOUR}:[0-5]\d:60(?:\.\d+)?[+-]{_HOUR}:[0-5]\d)"
)
"""A leap second ends a UTC day (RFC 3339 §5.7); for other offsets the validator checks which minute that is."""

_HEX = "[0-9A-Fa-f]"
_UUID = f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}"
_H16 = f"{_HEX}{{1,4}}"
_LS32 = f"(?:{_H16}:{_H16}|{_IPV4})"
_IPV6 = (
    f"(?:(?:{_H16}:){{6}}{_LS32}"
    f"|::(?:{_H16}:){{0,5}}{_LS32}"
    f"|{_H16}::(?:{_H16}:){{0,4}}{_LS32}"
    f"|(?:{_H16}:){{0,1}}{_H16}::(?:{_H16}:){{0,3}}{_LS32}"
    f"|(?:{_H16}:){{0,2}}{_H16}::(?:{_H16}:){{0,2}}{_LS32}"
    f"|(?:{_H16}:){{0,3}}{_H16}::(?:{_H16}:)?{_LS32}"
    f"|(?:{_H16}:){{0,4}}{_H16}::{_LS32}"
    f"|(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}"
    f"|(?:(?:{_H16}:){{0,6}}{_H16})?::)"
)
"""RFC 4291 §2.2 in the grammar of RFC 3986 §3.2.2; `::` may also replace a single group."""

_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOSTNAME = rf"{_LABEL}(?:\.{_LABEL})*"
_WIDE_LABEL = r"[^\x00-,/:-@[-^`{-\x7f.]+"
_IDN_HOSTNAME = rf"{_WIDE_LABEL}(?:[.\u3002\uff0e\uff61]{_WIDE_LABEL})*"

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_WIDE_ATEXT = r"(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]|[^\x00-\x7f])"
_QUOTED_LOCAL = r'"(?:[ !#-[\]-~]|\\[ -~])*"'
_ADDRESS_LITERAL = rf"\[(?:IPv6:{_IPV6}|{_IPV4})\]"
_EMAIL = rf"(?:{_ATEXT}+(?:\.{_ATEXT}+)*|{_QUOTED_LOCAL})@(?:{_HOSTNAME}|{_ADDRESS_LITERAL})"
_WIDE_QUOTED_LOCAL = r'"(?:[^\x00-\x1f"\\\x7f]|\\[ -~])*"'
_IDN_EMAIL = rf"(?:{_WIDE_ATEXT}+(?:\.{_WIDE_ATEXT}+)*|{_WIDE_QUOTED_LOCAL})@(?:{_IDN_HOSTNAME}|{_ADDRESS_LITERAL})"


def _uri(letters: str) -> tuple[str, str]:
    """RFC 3986 with these letters as `unreserved`: the patterns of an absolute URI and of any reference."""
    percent = f"%{_HEX}{{2}}"
    name = rf"(?:[{letters}0-9._~!$&'()*+,;=-]|{percent})"
    path_character = rf"(?:[{letters}0-9._~!$&'()*+,;=:@-]|{percent})"
    first_without_colon = rf"(?:[{letters}0-9._~!$&'()*+,;=@-]|{percent})"
    more = rf"(?:[{letters}0-9._~!$&'()*+,;=:@/?-]|{percent})*"
    user = rf"(?:(?:[{letters}0-9._~!$&'()*+,;=:-]|{percent})*@)?"
    literal = rf"\[(?:{_IPV6}|[vV]{_HEX}+\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\]"
    with_authority = rf"//{user}(?:{literal}|{name}*)(?::\d*)?(?:/{path_character}*)*"
    absolute_path = rf"/(?:{path_character}+(?:/{path_character}*)*)?"
    tail = rf"(?:\?{more})?(?:#{more})?"
    rootless = rf"{path_character}+(?:/{path_character}*)*"
    relative = rf"{first_without_colon}+(?:/{path_character}*)*"
    scheme = "[A-Za-z][A-Za-z0-9+.-]*:"
    whole = rf"{scheme}(?:{with_authority}|{absolute_path}|{rootless})?{tail}"
    return whole, rf"(?:{whole}|(?:{with_authority}|{absolute_path}|{relative})?{tail})"


_URI, _URI_REFERENCE = _uri("A-Za-z")
_BEYOND_ASCII = "\\u00a0-\\ud7ff\\ue000-\\ufdcf\\ufdf0-\\uffef\\u{10000}-\\u{efffd}\\u{f0000}-\\u{10fffd}"
_IRI, _IRI_REFERENCE = _uri("A-Za-z" + _BEYOND_ASCII)

_DURATION = (
    r"P(?:\d+W|(?:\d+Y(?:\d+M(?:\d+D)?)?|\d+M(?:\d+D)?|\d+D)(?:T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S))?"
    r"|T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S))"
)
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"

_TEMPLATE_LITERAL = rf'(?:[^\x00-\x20"%<>\\^`{{|}}\x7f]|%{_HEX}{{2}})'
_VARIABLE = rf"(?:[A-Za-z0-9_]|%{_HEX}{{2}})(?:\.?(?:[A-Za-z0-9_]|%{_HEX}{{2}}))*(?::[1-9][0-9]{{0,3}}|\*)?"
_URI_TEMPLATE = rf"(?:{_TEMPLATE_LITERAL}|\{{[+#./;?&=,!@|]?{_VARIABLE}(?:,{_VARIABLE})*\}})*"
"""RFC 6570 §2."""

FORMAT_PATTERNS: dict[str, str] = {
    name: f"^(?:{pattern})$"
    for name, pattern in {
        "date": _DATE,
        "time": _TIME,
        "date-time": f"{_DATE}[Tt]{_TIME}",
        "duration": _DURATION,
        "uuid": _UUID,
        "uri-template": _URI_TEMPLATE,
        "ipv4": _IPV4,
        "ipv6": _IPV6,
        "hostname": _HOSTNAME,
        "idn-hostname": _IDN_HOSTNAME,
        "email": _EMAIL,
        "idn-email": _IDN_EMAIL,
        "uri": _URI,
        "uri-reference": _URI_REFERENCE,
        "iri": _IRI,
        "iri-reference": _IRI_REFERENCE,
        "json-pointer": _POINTER,
        "relative-json-pointer": rf"(?:0|[1-9]\d*)(?:#|{_POINTER})",
    }.items()
}
"""Format → anchored regex in the syntax of `regex/syntax.py`."""

ASSERTED_WITHOUT_PATTERN = frozenset({"regex"})
"""Formats that the validator checks but no grammar enforces; they are reported."""
