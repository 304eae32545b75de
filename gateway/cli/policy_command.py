"""What the commands of `douane policy` share: how they end, and how they read a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click

from gateway.policy.load import Loaded, compile_files
from gateway.policy.problems import PolicyInvalid
from gateway.policy.source.directory import Files, read_directory

GOOD, FAILED, DENIED, INVALID = 0, 1, 2, 3


class InvalidUsage(click.UsageError):
    """A usage error; click's own would end with 2, which here means denied."""

    exit_code = INVALID


class PolicyCommand(click.Command):
    """A command whose usage errors are invalid input, like any other."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise InvalidUsage(error.format_message(), error.ctx) from None


class PolicyGroup(click.Group):
    command_class = PolicyCommand

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise InvalidUsage(error.format_message(), error.ctx) from None

    def resolve_command(
        self, *args: Any, **kwargs: Any
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(*args, **kwargs)
        except click.UsageError as error:
            raise InvalidUsage(error.format_message(), error.ctx) from None


def with_format(command: Callable[..., None]) -> Callable[..., None]:
    """The option that every command has."""
    return click.option(
        "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True
    )(command)


DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))


def load_or_exit(context: click.Context, directory: Path, form: str) -> Loaded:
    """The compiled bundle, or the problems and exit status 3."""
    return read_or_exit(context, directory, form)[1]


def read_or_exit(
    context: click.Context, directory: Path, form: str, *, named: bool = False
) -> tuple[Files, Loaded]:
    """The same, with its files. `named`: problems name the directory too, where there are two of them."""
    try:
        files = read_directory(directory)
        return files, compile_files(files)
    except PolicyInvalid as error:
        if named:
            error = PolicyInvalid(
                replace(problem, file=str(directory / problem.file)) for problem in error.problems
            )
        exit_invalid(context, error, form)


def exit_invalid(context: click.Context, error: PolicyInvalid, form: str) -> NoReturn:
    """Prints every problem and ends with status 3."""
    if form == "json":
        problems = [problem.wire() for problem in error.problems]
        click.echo(json.dumps({"valid": False, "problems": problems}, indent=2))
    else:
        for problem in error.problems:
            click.echo(problem.text(), err=True)
    context.exit(INVALID)
    raise AssertionError("exit returned")
