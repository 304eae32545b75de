"""Makes `docs/settings.md` from the settings themselves: `python -m tests.gateway.settings_page`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.settings import BackendSettings, Settings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"

HEAD = """# Settings

What one gateway is told by its operator: URLs, secrets and bounds. They are read once, at start; `SIGHUP`
loads the policies again, never these. Where something may go is not a setting: that is the policy bundle's to
say, and settings name its places by their ids.

Each field can stand in `douane.yaml` in the working directory (or the file that `DOUANE_CONFIG` names), and
each plain one in the environment under the name in the second column; the environment wins over the file. A
field or a `DOUANE_` variable that does not exist stops the start, which then says what was probably meant.

Keys that must have signed a policy before it is loaded: [signed policies](signed-policies.md).

This page is made from `gateway/settings.py`: `python -m tests.gateway.settings_page` writes it, and a test
fails when the two differ.

"""

BACKENDS = """
## Backends

One entry of `backends` for each place of kind `openai`, `litellm` or a further `engine`, by the place's id:

| field | default | what it says |
|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = ["| field | variable | default | what it says |", "|---|---|---|---|"]
    for name, info in Settings.model_fields.items():
        variable = f"`DOUANE_{name.upper()}`" if plain(info) else "in the file only"
        rows.append(f"| `{name}` | {variable} | {default(info)} | {meaning(info)} |")
    further = [
        f"| `{name}` | {default(info)} | {meaning(info)} |"
        for name, info in BackendSettings.model_fields.items()
    ]
    return HEAD + "\n".join(rows) + "\n" + BACKENDS + "\n".join(further) + "\n"


def plain(info: FieldInfo) -> bool:
    """Whether a variable's text can hold the value: mappings can stand in the file only."""
    text = str(info.annotation)
    return not text.startswith("dict")


def default(info: FieldInfo) -> str:
    value: Any = info.default
    if value is PydanticUndefined:
        assert info.default_factory is not None
        return "see right" if info.default_factory is not dict else "none"
    if value is None or value == ():
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def meaning(info: FieldInfo) -> str:
    assert info.description, "a field without a description"
    return info.description.replace("|", "\\|")


def secrets_of(model: type[BaseModel]) -> set[str]:
    """Fields that hold a secret, by their type."""
    return {
        name
        for name, info in model.model_fields.items()
        if SecretStr in (info.annotation, *get_args(info.annotation))
    }


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
