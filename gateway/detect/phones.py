"""Whether a candidate is a phone number that can be dialled."""

from __future__ import annotations

import phonenumbers


def is_phone(written: str, region: str) -> bool:
    """Whether this is a valid number, as dialled from `region` (an ISO 3166 country)."""
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(written, region))
    except phonenumbers.NumberParseException:
        return False
